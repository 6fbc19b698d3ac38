#!/usr/bin/env bash
# Sets up what is missing, then runs all tests, the recipe's smoke run among them.
#   tests/run.sh                 everything; half an hour, set-up included
#   tests/run.sh -n 2 --dist loadfile   in two processes, a file in one
#   tests/run.sh -m 'not slow'   without the recipe
#   tests/run.sh tests/objective/test_align.py -k linear
# All arguments go to pytest.
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "${root}"
tools/setup.sh

# The tests' tensors are tiny; more threads would only wait for one another. The recipe
# chooses its own number.
export OMP_NUM_THREADS=1
export MPLBACKEND=Agg
# Those of the libraries, also at the interpreter's end, after pytest's summary.
export PYTHONWARNINGS=ignore
# The modules of another environment must not be found in place of ours.
unset PYTHONPATH PYTHONHOME
exec tools/venv/bin/python -m pytest --durations=15 "$@"
