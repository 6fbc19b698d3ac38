#!/usr/bin/env bash
# A smoke test on the seven utterances that ESPnet's CI uses: do all stages run? Two Whisper
# encoders teach a small transducer, one epoch a training. A few minutes on two cores.
# shellcheck disable=SC2034,SC2154  # recipe.sh reads and sets them

cd "$(dirname "$0")" || exit
. ../../TEMPLATE/mtkd1/recipe.sh
declare_options << 'EOF'
rows   | scratch live | Of the ladder.
python | python3      | Python to execute espnet commands.
EOF
parse_run_options "$@"
set_up
[ "${rows}" = scratch ] || fetch_whisper

exec ./ladder.sh --rows "${rows}" --encoders conformer --python "${python}" \
    --note "Four training utterances, one epoch: the error rates mean nothing." \
    --command "${command}" --kd_teacher_tag teacher_whisper_base \
    --pretrain_epochs 1 --head_epochs 1 --finetune_epochs 1 \
    --train_set train_nodev --valid_set train_dev --test_sets "test test_seg" \
    --lang en --token_type char --inference_args "--beam_size 1" \
    --ngpu 0 --nj 2 --inference_nj 2 "${options[@]}"
