#!/usr/bin/env bash
# Two Whisper encoders teach a small transducer to recognise 250 learners of English, half
# of them children: the ladder of results on one hour of transcribed speech. No GPU needed.
#
# Time on two CPU cores, two encoders after each other in one thread: see RESULTS.md.
# Disk: 0.3 GB of audio, 0.1 GB of targets (16 bytes a frame and teacher), 3 GB of models.
set -e
set -u
set -o pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

train_set=train_1h # train_1h, or train (2.6 h), whose unlabelled audio is then less.
rows="scratch single teachers kd unlabelled"
pretrain_epochs=15
head_epochs=3
finetune_epochs=12
python=python3

help_message=$(cat << EOF
Usage: $0 [options of ladder.sh and mtkd.sh]

Options:
    --train_set # train_1h or train, all 2.6 hours (default="${train_set}").
    --rows      # Of the ladder (default="${rows}").
    --pretrain_epochs # Epochs of stage 1 (default="${pretrain_epochs}").
    --head_epochs     # Epochs of stage 2 with the encoder frozen (default="${head_epochs}").
    --finetune_epochs # Epochs of stage 2 after that (default="${finetune_epochs}").
    --python    # Python to execute espnet commands (default="${python}").
    --help      # This text, then that of ladder.sh and of mtkd.sh.
All other options are ladder.sh's and mtkd.sh's.
EOF
)

command="egs2/speechocean762/mtkd1/run.sh ${*@Q}"
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
options=()
help=false
while [ $# -gt 0 ]; do
    case $1 in
        --train_set | --rows | --python \
            | --pretrain_epochs | --head_epochs | --finetune_epochs)
            [ $# -gt 1 ] || { log "Error: $1 needs a value"; exit 2; }
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --help | -h) help=true; shift ;;
        *) options+=("$1"); shift ;;
    esac
done
case ${train_set} in
    train_1h) unlabelled="train_rest" ;;
    train) unlabelled="" ;;
    *) log "Error: --train_set: expected train_1h or train, found '${train_set}'"; exit 2 ;;
esac
if "${help}"; then
    echo "${help_message}"
    ../../TEMPLATE/mtkd1/ladder.sh --help
    [ ! -e utils/parse_options.sh ] || ./mtkd.sh --help
    exit 0
fi

# (inside an ESPnet checkout its own environment is used)
[ ! -x "${root}/tools/setup.sh" ] || "${root}/tools/setup.sh"
"${root}/egs2/TEMPLATE/mtkd1/setup.sh" .
# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./db.sh
for model in tiny.en base; do
    dir=downloads/whisper_$(echo "${model}" | tr . _)
    ${python} -m espnet_mtkd.bin.mtkd_fetch_whisper --model "${model}" --out_dir "${dir}"
done
[ -z "${KATHLEEN:-}" ] || unlabelled+=" kathleen"
[ -z "${PICOVOICE_S2I:-}" ] || unlabelled+=" picovoice_s2i"

note="250 Mandarin speakers who read English, half of them children; the test set is"
note+=" what data/test holds. Not comparable with LibriSpeech. The teachers, Whisper's"
note+=" encoders, were trained on transcribed speech."

# data/ is made by stage 1 of the first row
./ladder.sh --rows "${rows}" --expdir "exp_${train_set}" \
    --single_teachers "conf/teacher_whisper_tiny_en.yaml conf/teacher_whisper_base.yaml" \
    --kd_teacher_tag teacher_whisper_base \
    --unlabelled_sets "$(for name in ${unlabelled}; do printf 'data/%s ' "${name}"; done)" \
    --pretrain_epochs "${pretrain_epochs}" \
    --head_epochs "${head_epochs}" --finetune_epochs "${finetune_epochs}" \
    --note "${note}" --command "${command}" --python "${python}" \
    --train_set "${train_set}" --valid_set dev --test_sets test \
    --lang en --token_type char --max_wav_duration 20 \
    --ngpu 0 --nj 2 --inference_nj 2 "${options[@]}"
