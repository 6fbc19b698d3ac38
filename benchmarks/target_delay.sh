#!/usr/bin/env bash
# What --target_delay does to a streaming student: stage 1 and 2 for each delay, in 20 and
# 16 epochs. In a recipe's directory, after its ladder (whose data and targets are taken),
# with the recipe's options for mtkd.sh:
#
#     ../../../benchmarks/target_delay.sh --train_set train --valid_set valid \
#         --test_sets test --lang en --token_type char --max_wav_duration 30 --ngpu 0
#
# Then exp/asr_contextual_block_conformer_delay*/RESULTS.md have the error rates.
set -euo pipefail

for delay in 0 2 5; do
    ./mtkd.sh --encoder contextual_block_conformer --teacher_mode cached \
        --mtkd_args "--max_epoch 20 --target_delay ${delay}" \
        --head_args "--max_epoch 4 --optim_conf lr=0.003" \
        --finetune_args "--max_epoch 12 --optim_conf lr=0.0005" \
        --mtkd_tag "contextual_block_conformer_delay${delay}" \
        --asr_tag "contextual_block_conformer_delay${delay}" "$@"
done
