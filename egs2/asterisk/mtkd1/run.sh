#!/usr/bin/env bash
# Two Whisper encoders teach a small transducer; the same transducer, trained alone, is
# the measure. Real speech (Asterisk's English prompts), real ESPnet, no GPU needed.
set -e
set -u
set -o pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

budget=default  # smoke: all stages in minutes; default: two rows; ladder; full: all rows.
encoder=         # One or several; when empty, conformer, and both with ladder and full.
seeds=0
languages=es,fr,it,ru # Whose prompts are the unlabelled audio.
pretrain_epochs=60   # Epochs of stage 1.
head_epochs=8        # Epochs of stage 2 with the encoder frozen (with teachers).
finetune_epochs=32   # Epochs of stage 2 after that; from scratch: both, at once.
python=python3

help_message=$(cat << EOF
Usage: $0 [--budget smoke|default|ladder|full] [options of mtkd.sh]

  smoke    both rows with 1 epoch a training: proves that all stages run (10 min)
  default  from scratch, two teachers (less than an hour on two cores)
  ladder   from scratch; two teachers; with path distillation from a teacher transducer;
           with two hours of unlabelled audio in stage 1; with its pseudo-labels in stage 2
  full     the ladder, and one row for each teacher alone and one with live teachers

Options:
    --budget  # Which rows, how long (default="${budget}").
    --encoder # conformer, contextual_block_conformer or "both names"; by default conformer,
              # and both with ladder and full.
    --seeds   # Random seeds, e.g. "0 1 2": every row once for each (default="${seeds}").
    --pretrain_epochs # Epochs of stage 1 (default="${pretrain_epochs}").
    --head_epochs     # Epochs of stage 2 in which the pre-trained encoder is frozen
                      # (default="${head_epochs}").
    --finetune_epochs # Epochs of stage 2 after that (default="${finetune_epochs}"). From
                      # scratch stage 2 has as many epochs as both together.
    --python  # Python to execute espnet commands (default="${python}").
    --help    # This text, then mtkd.sh's.
All other options are mtkd.sh's, for every row: --stage, --stop_stage, --ngpu, --nj, ...
EOF
)

command="egs2/asterisk/mtkd1/run.sh ${*@Q}"
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
options=()
help=false
while [ $# -gt 0 ]; do
    case $1 in
        --budget | --encoder | --seeds | --python | \
            --pretrain_epochs | --head_epochs | --finetune_epochs)
            [ $# -gt 1 ] || { log "Error: $1 needs a value"; exit 2; }
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --help | -h) help=true; shift ;;
        *) options+=("$1"); shift ;;
    esac
done
for name in pretrain_epochs head_epochs finetune_epochs; do
    case ${!name} in
        '' | 0 | *[!0-9]*)
            log "Error: --${name}: expected a number above 0, found '${!name}'"; exit 2 ;;
    esac
done
case ${budget} in
    smoke | default) encoder=${encoder:-conformer} ;;
    ladder | full) encoder=${encoder:-conformer contextual_block_conformer} ;;
    *) log "Error: --budget: expected smoke, default, ladder or full, found '${budget}'"; exit 2 ;;
esac
for e in ${encoder}; do
    case ${e} in
        conformer | contextual_block_conformer) ;;
        *) log "Error: --encoder: expected conformer or contextual_block_conformer, found '${e}'"; exit 2 ;;
    esac
done

if "${help}"; then
    echo "${help_message}"
    if [ -e utils/parse_options.sh ]; then
        ./mtkd.sh --help
    else
        echo "(mtkd.sh's own help needs the set-up: run ${root}/tools/setup.sh)"
    fi
    exit 0
fi

"${root}/tools/setup.sh"
"${root}/egs2/TEMPLATE/mtkd1/setup.sh" .
# shellcheck source=/dev/null
. ./path.sh

for model in tiny.en base; do
    dir=downloads/whisper_$(echo "${model}" | tr . _)
    ${python} -m espnet_mtkd.bin.mtkd_fetch_whisper --model "${model}" --out_dir "${dir}"
done

expdir=exp
note="One speaker, about 0.2 hours of training audio: not comparable with LibriSpeech."
note+=" The teachers, Whisper's encoders, were trained on transcribed speech."
common=(
    --train_set train --valid_set valid --test_sets test
    --lang en --token_type char --max_wav_duration 30
    --ngpu 0 --nj 2 --inference_nj 2 --python "${python}"
)
if [ "${budget}" = smoke ]; then
    expdir=exp_smoke
    pretrain_epochs=1
    head_epochs=1
    finetune_epochs=1
    note="One epoch a training shows that all stages run; the error rates mean nothing."
    common+=(--inference_args "--beam_size 1")
fi
common+=(--expdir "${expdir}")
scratch=(--asr_args "--max_epoch $((head_epochs + finetune_epochs))")
taught=(
    --mtkd_args "--max_epoch ${pretrain_epochs}"
    --head_args "--max_epoch ${head_epochs} --optim_conf lr=0.003 --scheduler_conf warmup_steps=50"
    --finetune_args "--max_epoch ${finetune_epochs} --optim_conf lr=0.0005 --scheduler_conf warmup_steps=100"
)

rows=()
# <encoder> <name> <teachers> [<suffix of stage 2's tag> <of stage 1's> <options ...>]
row() {
    local e=$1 name=$2 teachers=$3 suffix=${4:-} mtkd_suffix=${5:-} seed end
    local args=("${scratch[@]}")
    shift $(($# > 5 ? 5 : $#))
    [ "${teachers}" = scratch ] || args=("${taught[@]}")
    for seed in ${seeds}; do
        log "======== ${e}: ${name}, seed ${seed} ========"
        end=
        [ "${seed}" = 0 ] || end=_seed${seed}
        ./mtkd.sh "${common[@]}" "${args[@]}" "$@" --encoder "${e}" \
            --teachers "$(teachers_file "${teachers}")" --seed "${seed}" \
            --mtkd_tag "${e}_${teachers}${mtkd_suffix}${end}" \
            --asr_tag "${e}_${teachers}${suffix}${end}" "${options[@]}"
        rows+=("${e}: ${name}=${expdir}/asr_${e}_${teachers}${suffix}${end}")
    done
}

teachers_file() {
    if [ "$1" = scratch ]; then echo none; else echo "conf/$1.yaml"; fi
}

ladder=false
if [ "${budget}" = ladder ] || [ "${budget}" = full ]; then
    ladder=true
    local/data.sh --stage 3 --unlabelled "${languages}" --python "${python}"
    log "======== teacher transducer: Whisper base ========"
    ./mtkd.sh "${common[@]}" --teachers none --asr_tag teacher_whisper_base \
        --asr_config conf/train_teacher_transducer.yaml "${options[@]}"
    rows+=("teacher: Whisper base, fine-tuned=${expdir}/asr_teacher_whisper_base")
fi
stored=(--teacher_mode cached)
kd=(--kd_teacher_exp "${expdir}/asr_teacher_whisper_base")
unlabelled=(--unlabelled_sets "$(printf 'data/%s ' ${languages//,/ })")
for e in ${encoder}; do
    row "${e}" "from scratch" scratch
    if [ "${budget}" = full ]; then
        row "${e}" "Whisper tiny.en" teacher_whisper_tiny_en "" "" "${stored[@]}"
        row "${e}" "Whisper base" teacher_whisper_base "" "" "${stored[@]}"
    fi
    if [ "${budget}" != ladder ]; then
        row "${e}" "two teachers, live" teachers
    fi
    if "${ladder}"; then
        row "${e}" "two teachers" teachers _stored _stored "${stored[@]}"
        row "${e}" "+ path KD" teachers _kd _stored "${stored[@]}" "${kd[@]}"
        row "${e}" "+ unlabelled audio" teachers _unlabelled _unlabelled \
            "${stored[@]}" "${kd[@]}" "${unlabelled[@]}"
        row "${e}" "+ pseudo-labels" teachers _pseudo _unlabelled \
            "${stored[@]}" "${kd[@]}" "${unlabelled[@]}" --pseudo_labels true
    fi
done

for r in "${rows[@]}"; do
    if [ ! -f "${r#*=}/.done_score" ]; then
        log "No RESULTS.md yet: ${r#*=} is not scored (stage 13)"
        exit 0
    fi
done
scripts/utils/show_asr_result.sh "${expdir}" > "${expdir}/results_espnet.md"
${python} -m espnet_mtkd.bin.mtkd_report --expdir "${expdir}" --rows "${rows[@]}" \
    --espnet_results "${expdir}/results_espnet.md" --note "${note}" \
    --command "${command}"
