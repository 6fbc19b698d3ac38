#!/usr/bin/env bash
# A smoke test on the seven utterances that ESPnet's CI uses: do all stages run? Two Whisper
# encoders teach a small transducer, one epoch a training. A few minutes on two cores.
set -e
set -u
set -o pipefail

rows="scratch live"
python=python3

help_message=$(cat << EOF
Usage: $0 [options of ladder.sh and mtkd.sh]

Options:
    --rows   # Of the ladder (default="${rows}").
    --python # Python to execute espnet commands (default="${python}").
    --help   # This text, then that of ladder.sh.
All other options are ladder.sh's and mtkd.sh's.
EOF
)

command="egs2/mini_an4/mtkd1/run.sh ${*@Q}"
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --rows | --python)
            [ $# -gt 1 ] || { echo "Error: $1 needs a value"; exit 2; }
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --help | -h)
            echo "${help_message}"
            ../../TEMPLATE/mtkd1/ladder.sh --help
            exit 0
            ;;
        *) options+=("$1"); shift ;;
    esac
done

# (inside an ESPnet checkout its own environment is used)
[ ! -x "${root}/tools/setup.sh" ] || "${root}/tools/setup.sh"
"${root}/egs2/TEMPLATE/mtkd1/setup.sh" .
# shellcheck source=/dev/null
. ./path.sh

if [ "${rows}" != scratch ]; then
    for model in tiny.en base; do
        dir=downloads/whisper_$(echo "${model}" | tr . _)
        ${python} -m espnet_mtkd.bin.mtkd_fetch_whisper --model "${model}" --out_dir "${dir}"
    done
fi

./ladder.sh --rows "${rows}" --encoders conformer --python "${python}" \
    --note "Four training utterances, one epoch: the error rates mean nothing." \
    --command "${command}" --kd_teacher_tag teacher_whisper_base \
    --pretrain_epochs 1 --head_epochs 1 --finetune_epochs 1 \
    --train_set train_nodev --valid_set train_dev --test_sets "test test_seg" \
    --lang en --token_type char --inference_args "--beam_size 1" \
    --ngpu 0 --nj 2 --inference_nj 2 "${options[@]}"
