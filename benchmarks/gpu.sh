#!/usr/bin/env bash
# Does all of this work on a GPU, and how fast? A table in Markdown.
#   benchmarks/gpu.sh                     # at most 9 minutes on one H100
#   benchmarks/gpu.sh --device cpu        # the same in small: at most 5 minutes on two cores
#   benchmarks/gpu.sh --only "step loss"   # some parts (--help lists them)
set -euo pipefail

cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh >&2
exec tools/venv/bin/python benchmarks/gpu.py "$@"
