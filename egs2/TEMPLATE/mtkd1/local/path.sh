# shellcheck shell=bash
# Sourced last by ESPnet's path.sh, which sets OMP_NUM_THREADS=1: right for many jobs
# beside each other, but not for one training on the CPU.
export OMP_NUM_THREADS=${MTKD_NUM_THREADS:-1}
