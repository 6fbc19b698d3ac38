#!/usr/bin/env bash
# LibriSpeech -> data/{train_clean_100,dev,dev_clean,dev_other,test_clean,test_other}
#
# By ESPnet's own egs2/librispeech_100/asr1/local, called where it lies in ESPnet's tree.
# The corpus is ${LIBRISPEECH}/LibriSpeech, from db.sh or the environment; parts of it that
# are missing there are downloaded from OpenSLR 12 and checked by its MD5 sums.
#
#                                                        download    on disk
#   train-clean-100, dev-*, test-* (100.6 + 21.2 h)         7.7 GB     7.7 GB
#   --unlabelled "train-clean-360 train-other-500" (860 h)  53.6 GB    53.6 GB
# While a part is unpacked its archive is there too.
# shellcheck disable=SC2034,SC2154  # common.sh reads and sets them

. ../../TEMPLATE/mtkd1/common.sh
declare_options << 'EOF'
stage      | 1 | First stage: 1 downloads, 2 prepares, 3 makes dev.
stop_stage | 4 | Last stage: 4 is that of --unlabelled.
unlabelled |   | Parts whose audio is prepared without its transcripts, which are never opened, e.g.
           |   | "train-clean-360 train-other-500" -> data/train_clean_360 ...
data_url   | www.openslr.org/resources/12 | Where the archives are.
EOF
usage='[--unlabelled "train-clean-360 train-other-500"]'
more_help='Environment:
    LIBRISPEECH  # Folder that holds LibriSpeech/, filled where parts are missing
                 # (default: that of db.sh).'
log "$0 $*"
parse_options own "$@"

librispeech_env=${LIBRISPEECH:-}
. ./path.sh || exit 1
. ./cmd.sh || exit 1
. ./db.sh || exit 1
# The environment wins over db.sh
LIBRISPEECH=${librispeech_env:-${LIBRISPEECH:-downloads}}
corpus=${LIBRISPEECH}/LibriSpeech
# path.sh tells of ESPnet's tree: ESPNET_ROOT, or the one that this recipe lies in.
espnet_local=${ESPNET_ROOT:-${MAIN_ROOT}}/egs2/librispeech_100/asr1/local

labelled="dev-clean test-clean dev-other test-other train-clean-100"
declare -A bytes=(
    [dev-clean]=337926286 [dev-other]=314305928
    [test-clean]=346663984 [test-other]=328757843
    [train-clean-100]=6387309499
    [train-clean-360]=23049477885 [train-other-500]=30593501606
)
declare -A md5=(
    [dev-clean]=42e2234ba48799c1f50f24a7926300a1
    [dev-other]=c8d0bcc9cca99d4f8b62fcc847357931
    [test-clean]=32fa31d27d2e1cad72775fee3f4849a9
    [test-other]=fb5a50374b501bb3bac4815ee91d3135
    [train-clean-100]=2a93770f6d5c6c964bc36631d331a522
    [train-clean-360]=c0e676e450a7ff2f54aeade5171606fa
    [train-other-500]=d1a0fd59409feb2c614ce4d30c387708
)
for part in ${unlabelled}; do
    case ${part} in
        train-clean-360 | train-other-500) ;;
        *)
            fail "--unlabelled: expected train-clean-360 or train-other-500," \
                "found '${part}'" ;;
    esac
done
if [ ! -x "${espnet_local}/data_prep.sh" ]; then
    fail "no such file: ${espnet_local}/data_prep.sh: is ESPNET_ROOT a whole ESPnet?"
fi
if [ ! -d "${corpus}" ] && [ -d "${LIBRISPEECH}/dev-clean" ]; then
    fail "LIBRISPEECH: expected the folder that holds LibriSpeech, found LibriSpeech" \
        "itself: ${LIBRISPEECH}"
fi

fetch() {  # <part>
    local part=$1 archive=${LIBRISPEECH}/$1.tar.gz had_archive=false found
    if [ -f "${corpus}/${part}/.complete" ] \
        || { [ -d "${corpus}/${part}" ] && [ ! -f "${archive}" ]; }; then
        log "${corpus}/${part} is there, nothing to do"
        return
    fi
    mkdir -p "${LIBRISPEECH}" || exit 6
    [ ! -f "${archive}" ] || had_archive=true
    if [ "$(df -Pk "${LIBRISPEECH}" | awk 'NR == 2 {print $4}')" \
        -lt $((2 * bytes[${part}] / 1024)) ]; then
        log "Error: less than $((2 * bytes[${part}] / 1000000)) MB free in ${LIBRISPEECH}," \
            "which ${part} takes, packed and unpacked"
        exit 6
    fi
    log "${part}, $((bytes[${part}] / 1000000)) MB; log: ${LIBRISPEECH}/${part}.log"
    if ! "${espnet_local}/download_and_untar.sh" "${LIBRISPEECH}" "${data_url}" "${part}" \
        > "${LIBRISPEECH}/${part}.log"; then
        log "Error: $(tail -n 1 "${LIBRISPEECH}/${part}.log")"
        exit 4
    fi
    found=$(md5sum < "${archive}")
    if [ "${found%% *}" != "${md5[${part}]}" ]; then
        log "Error: ${archive}: expected MD5 ${md5[${part}]}, found ${found%% *}:" \
            "remove it, if this script did not, and run this again"
        # What is left would be taken for whole by the next run.
        rm -f "${corpus}/${part}/.complete"
        "${had_archive}" || rm -rf "${archive}" "${corpus:?}/${part}"
        exit 4
    fi
    # An archive of the user's own stays.
    "${had_archive}" || rm -f "${archive}"
}

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    log "stage 1: the corpus -> ${corpus}"
    for part in ${labelled}; do
        fetch "${part}"
    done
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: ${corpus} -> data/*"
    if ! command -v flac > /dev/null; then
        # ESPnet's script refuses to work without the command flac, which nothing of it
        # calls any more: soundfile reads the files.
        mkdir -p data/.bin
        printf '#!/bin/sh\necho "flac is missing: apt-get install flac (Debian)" >&2\nexit 1\n' \
            > data/.bin/flac
        chmod +x data/.bin/flac
        PATH=${PATH}:${PWD}/data/.bin
    fi
    for part in ${labelled}; do
        "${espnet_local}/data_prep.sh" "${corpus}/${part}" "data/${part//-/_}" || exit 4
    done
fi

if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ]; then
    log "stage 3: data/{dev_clean,dev_other} -> data/dev"
    utils/combine_data.sh --extra_files utt2num_frames data/dev data/dev_clean data/dev_other
fi

if [ "${stage}" -le 4 ] && [ "${stop_stage}" -ge 4 ]; then
    for part in ${unlabelled}; do
        log "stage 4: audio of ${part}, no transcript -> data/${part//-/_}"
        fetch "${part}"
        local/prepare_unlabelled.sh "${corpus}/${part}" "data/${part//-/_}"
    done
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
