#!/usr/bin/env bash
# speechocean762 (OpenSLR 101) -> data/{train,train_1h,train_rest,dev,test}, and audio of
# other corpora, without its text, -> data/<name>.
#
# The corpus comes from ${SPEECHOCEAN762}, where it is unpacked already (its own WAV files
# or a re-encoded copy: wav, flac, ogg, opus), or from openslr.org.
# Needs 0.6 GB of download and 1.2 GB of disk; a minute where the corpus is there.
# shellcheck disable=SC2034,SC2154  # common.sh reads and sets them

. ../../TEMPLATE/mtkd1/common.sh
declare_options << 'EOF'
stage      | 1 | First stage: 1 fetches the corpus, 2 prepares the data directories.
stop_stage | 2 | Last stage.
python     | python3 | Python with soundfile and tqdm.
data_url   | https://www.openslr.org/resources/101/speechocean762.tar.gz | Archive of the corpus.
EOF
usage="[--stage 1] [--stop_stage 2]"
more_help='Environment, or db.sh:
    SPEECHOCEAN762 # Folder with WAVE, train and test; downloads/speechocean762 is filled
                   # when it is empty.
    KATHLEEN       # Folders of audio that become data/kathleen and data/picovoice_s2i,
    PICOVOICE_S2I  # unlabelled (see README.md); not used when empty.'
log "$0 $*"
parse_options own "$@"

corpus_env=${SPEECHOCEAN762:-}
. ./path.sh
. ./db.sh
corpus=${corpus_env:-${SPEECHOCEAN762:-}}
corpus=${corpus:-downloads/speechocean762}

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    if [ -f "${corpus}/train/wav.scp" ]; then
        log "stage 1: ${corpus} has the corpus, nothing to do"
    else
        log "stage 1: ${data_url} -> ${corpus}"
        parent=$(dirname "${corpus}")
        part=${parent}/.speechocean762.part
        mkdir -p "${part}" || exit 6
        if [ "$(df -Pk "${part}" | awk 'NR == 2 {print $4}')" -lt 2000000 ]; then
            log "Error: less than 2 GB free in ${parent}"
            exit 6
        fi
        # -C -: a download that was cut goes on where it ended
        curl -fL --retry 3 -C - -o "${part}/corpus.tar.gz" "${data_url}" || {
            log "Error: no ${data_url}; fetch it by hand, unpack it and set" \
                "SPEECHOCEAN762 to the folder that holds WAVE, train and test"
            exit 4
        }
        rm -rf "${part}/unpacked"
        mkdir "${part}/unpacked"
        tar -xzf "${part}/corpus.tar.gz" -C "${part}/unpacked" || {
            rm -f "${part}/corpus.tar.gz"
            log "Error: ${data_url} gave no whole archive; it was removed: run this again"
            exit 4
        }
        found=$(find "${part}/unpacked" -path '*/train/wav.scp' -print -quit)
        if [ -z "${found}" ]; then
            log "Error: no train/wav.scp in what ${data_url} gave"
            exit 4
        fi
        rm -rf "${corpus}"
        mv "$(dirname "$(dirname "${found}")")" "${corpus}"
        rm -rf "${part}"
    fi
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: ${corpus} -> data"
    unlabelled=()
    [ -z "${KATHLEEN:-}" ] || unlabelled+=("kathleen=${KATHLEEN}")
    [ -z "${PICOVOICE_S2I:-}" ] || unlabelled+=("picovoice_s2i=${PICOVOICE_S2I}")
    "${python}" local/prepare_speechocean762.py --corpus "${corpus}" --data_dir data \
        --unlabelled "${unlabelled[@]}"
    for dset in train train_1h dev test; do
        utils/validate_data_dir.sh --no-feats "data/${dset}"
    done
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
