#!/usr/bin/env bash
# Sets up what is missing, then runs all tests, the recipe's smoke run among them.
#   tests/run.sh                 everything; at most 25 minutes on two cores, set-up included
#   tests/run.sh -n 0            in one process, one test after the other
#   tests/run.sh -m 'not slow'   without the recipe
#   tests/run.sh tests/test_align.py -k linear
# All arguments go to pytest.
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "${root}"
tools/setup.sh

workers=$(nproc)  # before OMP_NUM_THREADS, which it heeds
# The tests' tensors are tiny; more threads would only wait for one another. The recipe
# chooses its own number.
export OMP_NUM_THREADS=1
export MPLBACKEND=Agg
# Those of the libraries, also at the interpreter's end, after pytest's summary.
export PYTHONWARNINGS=ignore
# The modules of another environment must not be found in place of ours.
unset PYTHONPATH PYTHONHOME
# A process a core; the tests of a file, which share what they build, stay in one.
exec tools/venv/bin/python -m pytest --durations=15 -n "${workers}" --dist loadfile "$@"
