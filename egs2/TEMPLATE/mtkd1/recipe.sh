#!/usr/bin/env bash
# What the recipes' run.sh have in common. They source it in the recipe's directory, have
# set their own options as variables, and help_message.

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
fail() {
    log "Error: $*"
    exit 2
}

root=$(cd ../../.. && pwd)
options=()  # of ladder.sh and mtkd.sh
help=false
command=    # for RESULTS.md

# Sets the run.sh's own options, and options, help and command.
parse_own_options() {  # <names> <arguments of run.sh ...>
    local names=$1 word
    shift
    command="${PWD#"${root}"/}/run.sh"
    for word in "$@"; do
        case ${word} in
            '' | *[!A-Za-z0-9_./=-]*) word=${word@Q} ;;
        esac
        command+=" ${word}"
    done
    while [ $# -gt 0 ]; do
        if [[ $1 = --* && " ${names} " = *" ${1#--} "* ]]; then
            [ $# -gt 1 ] || fail "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift 2
        else
            case $1 in
                --help | -h) help=true ;;
                *) options+=("$1") ;;
            esac
            shift
        fi
    done
}

# Where --help was given: the help of run.sh, ladder.sh and mtkd.sh, and the end.
help_if_asked() {
    "${help}" || return 0
    # shellcheck disable=SC2154  # run.sh's
    echo "${help_message}"
    ../../TEMPLATE/mtkd1/ladder.sh --help
    if [ -e utils/parse_options.sh ]; then
        ./mtkd.sh --help
    else
        echo "(mtkd.sh's own help needs the set-up: run ${root}/tools/setup.sh)"
    fi
    exit 0
}

# The environment (inside an ESPnet checkout its own is used), the recipe's links, PATH.
set_up() {
    [ ! -x "${root}/tools/setup.sh" ] || "${root}/tools/setup.sh"
    "${root}/egs2/TEMPLATE/mtkd1/setup.sh" .
    # shellcheck source=/dev/null
    . ./path.sh
}

# Whisper tiny.en and base -> downloads/whisper_{tiny_en,base}
fetch_whisper() {
    local model
    for model in tiny.en base; do
        # shellcheck disable=SC2154  # run.sh's
        ${python} -m espnet_mtkd.bin.mtkd_fetch_whisper --model "${model}" \
            --out_dir "downloads/whisper_${model//./_}"
    done
}
