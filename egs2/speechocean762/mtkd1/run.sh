#!/usr/bin/env bash
# Two Whisper encoders teach a small transducer to recognise 250 learners of English, half
# of them children: the ladder of results on one hour of transcribed speech. No GPU needed.
#
# Time on two CPU cores, two encoders after each other in one thread: see RESULTS.md.
# Disk: 0.3 GB of audio, 0.1 GB of targets (16 bytes a frame and teacher), 3 GB of models.
# shellcheck disable=SC2034,SC2154  # recipe.sh reads and sets them

cd "$(dirname "$0")" || exit
. ../../TEMPLATE/mtkd1/recipe.sh
declare_options << 'EOF'
train_set | train_1h | train_1h, or train, all 2.6 hours, whose unlabelled audio is then less.
python    | python3  | Python to execute espnet commands.
EOF
parse_run_options "$@"
case ${train_set} in
    train_1h) unlabelled="train_rest" ;;
    train) unlabelled="" ;;
    *) fail "--train_set: expected train_1h or train, found '${train_set}'" ;;
esac
rows=$(given_or rows "scratch single teachers kept unlabelled text")
set_up
fetch_whisper
fetch_decoder "${rows}"
# shellcheck source=/dev/null
. ./db.sh
[ -z "${KATHLEEN:-}" ] || unlabelled+=" kathleen"
[ -z "${PICOVOICE_S2I:-}" ] || unlabelled+=" picovoice_s2i"

note="250 Mandarin speakers who read English, half of them children; the test set is"
note+=" what data/test holds. Not comparable with LibriSpeech. The teachers, Whisper's"
note+=" encoders, were trained on transcribed speech."

# From scratch: settings tuned on dev, without which it learns nothing (README.md,
# docs/ablation.md), and 1.5 times as many epochs as the others have in both stages together.
scratch_args="--max_epoch 45 --batch_bins 400000 --model_conf ctc_weight=1.0"
scratch_args+=" --optim_conf lr=0.0007 $(warmuplr 400)"

# data/ is made by stage 1 of the first row
exec ./ladder.sh --rows "${rows}" --expdir "exp_${train_set}" \
    --single_teachers "conf/teacher_whisper_tiny_en.yaml conf/teacher_whisper_base.yaml" \
    --kd_teacher_tag teacher_whisper_base --kd_teacher_args "--max_epoch 12" \
    --unlabelled_sets "$(for name in ${unlabelled}; do printf 'data/%s ' "${name}"; done)" \
    --pretrain_epochs 15 --head_epochs 3 --finetune_epochs 12 --scratch_args "${scratch_args}" \
    --note "${note}" --command "${command}" --python "${python}" \
    --train_set "${train_set}" --valid_set dev --test_sets test \
    --lang en --token_type char --max_wav_duration 20 \
    --ngpu 0 --nj 2 --inference_nj 2 "${options[@]}"
