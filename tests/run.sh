#!/usr/bin/env bash
# Sets up what is missing, then runs all tests, the recipe's smoke run among them.
#   tests/run.sh                 everything, in two processes
#   tests/run.sh --quick         in less than three minutes, before a commit
#   tests/run.sh tests/objective/test_align.py -k linear
# All arguments go to pytest.
set -euo pipefail

# (In conftest.py's order: xdist's own puts files of few tests last, the longest ones.)
parallel=(-n 2 --dist loadfile --no-loadscope-reorder)
quick=()
if [ "${1:-}" = --quick ]; then
    quick=("${parallel[@]}" -m 'not slow and not whole' --durations=5)
    shift
elif [ $# -eq 0 ]; then
    set -- "${parallel[@]}"
fi
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
exec tools/venv/bin/python -m pytest --durations=15 "${quick[@]}" "$@"
