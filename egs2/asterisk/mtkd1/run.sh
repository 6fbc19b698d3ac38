#!/usr/bin/env bash
# Two Whisper encoders teach a small transducer; the same transducer, trained alone, is
# the measure. Real speech (Asterisk's English prompts), real ESPnet, no GPU needed.
# shellcheck disable=SC2034,SC2154  # recipe.sh reads and sets them

cd "$(dirname "$0")" || exit
. ../../TEMPLATE/mtkd1/recipe.sh
declare_options << 'EOF'
budget    | default     | Which rows, how long: smoke, default, ladder or full.
languages | es,fr,it,ru | Whose prompts are the unlabelled audio.
python    | python3     | Python to execute espnet commands.
EOF
usage="[--budget smoke|default|ladder|full] [options of ladder.sh and mtkd.sh]"
about='  smoke    from scratch, two teachers kept on in stage 2, with 1 epoch a training: do all
           stages run? (a few minutes)
  default  the same two rows, trained (38 minutes on two cores)
  ladder   from scratch; two teachers; kept on in stage 2, or with path distillation from a teacher transducer;
           with two hours of unlabelled audio in stage 1; with its pseudo-labels in stage
           2; both encoders
  full     the ladder, each teacher alone, live teachers; both encoders'
parse_run_options "$@"
encoders=conformer
rows="scratch kept"
expdir=exp
note="One speaker, about 0.2 hours of training audio: not comparable with LibriSpeech."
note+=" The teachers, Whisper's encoders, were trained on transcribed speech."
budget_options=()
case ${budget} in
    smoke)
        expdir=exp_smoke
        note="One epoch a training shows that all stages run; the error rates mean nothing."
        budget_options=(--pretrain_epochs 1 --head_epochs 1 --finetune_epochs 1
            --train_set train_smoke --valid_set valid_smoke --test_sets test_smoke
            --extract_args "--form fp16"
            --inference_args "--beam_size 1") ;;
    default)
        # Half as large batches as the configs' are twice as many updates; targets in fp16 need
        # no codebooks. The row from scratch, which trains as long as the other in both stages,
        # is better with the configs' batches and warmuplr (docs/ablation.md).
        small="--batch_bins 100000"
        budget_options=(--pretrain_epochs 24 --head_epochs 3 --finetune_epochs 17
            --mtkd_args "${small}" --head_args "${small}" --finetune_args "${small}"
            --scratch_args "--max_epoch 36 $(warmuplr 300)" --extract_args "--form fp16") ;;
    ladder) rows="scratch teachers kept kd unlabelled pseudo" ;;
    full) rows="scratch single live teachers kept kd unlabelled pseudo" ;;
    *) fail "--budget: expected smoke, default, ladder or full, found '${budget}'" ;;
esac
case ${budget} in
    ladder | full) encoders="conformer contextual_block_conformer" ;;
esac

rows=$(given_or rows "${rows}")
expdir=$(given_or expdir "${expdir}")

set_up
fetch_whisper
fetch_decoder "${rows}"
if ! is_plan && [[ " ${rows} " = *" unlabelled "* || " ${rows} " = *" pseudo "* \
    || " ${rows} " = *" text "* ]]; then
    local/data.sh --stage 3 --unlabelled "${languages}" --python "${python}"
fi

exec ./ladder.sh --rows "${rows}" --encoders "${encoders}" --expdir "${expdir}" \
    --single_teachers "conf/teacher_whisper_tiny_en.yaml conf/teacher_whisper_base.yaml" \
    --kd_teacher_tag teacher_whisper_base \
    --unlabelled_sets "data/${languages//,/ data/}" \
    --note "${note}" --command "${command}" --python "${python}" \
    --train_set train --valid_set valid --test_sets test \
    --lang en --token_type char --max_wav_duration 30 \
    --ngpu 0 --nj 2 --inference_nj 2 "${budget_options[@]}" "${options[@]}"
