# shellcheck shell=bash
# What the recipes' run.sh have in common. They source it in the recipe's directory, declare
# their own options, and change `usage` and `about` where these need more words.
# shellcheck disable=SC2034,SC2154  # common.sh reads usage, sets the options

root=$(cd ../../.. && pwd)
# shellcheck source=common.sh
. "${root}/egs2/TEMPLATE/mtkd1/common.sh"

# Sets the run.sh's own options; the rest, for ladder.sh and mtkd.sh, is in `options`; and
# `command`, for RESULTS.md.
command=
parse_run_options() {  # <arguments of run.sh ...>
    local word
    command="${PWD#"${root}"/}/run.sh"
    for word in "$@"; do
        case ${word} in
            '' | *[!A-Za-z0-9_./=-]*) word=${word@Q} ;;
        esac
        command+=" ${word}"
    done
    parse_options pass "$@"
}

# The help of run.sh, ladder.sh and mtkd.sh.
usage="[options of ladder.sh and mtkd.sh]"
more_help="
All other options are ladder.sh's, and mtkd.sh's for every row:
"
show_help() {
    show_usage
    ../../TEMPLATE/mtkd1/ladder.sh --help
    echo
    ../../TEMPLATE/mtkd1/mtkd.sh --help
}

# The value of one of ladder.sh's options, as it was given to run.sh; else a default.
given_or() {  # <option> <default>
    local value=$2 i
    for i in "${!options[@]}"; do
        case ${options[i]} in
            "--$1") value=${options[i + 1]:-} ;;
            "--$1="*) value=${options[i]#*=} ;;
        esac
    done
    echo "${value}"
}

# --plan true only prints the rows: nothing has to be there for it.
is_plan() { [ "$(given_or plan false)" = true ]; }

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
    ! is_plan || return 0
    for model in tiny.en base; do
        ${python} -m espnet_mtkd.bin.mtkd_fetch_whisper --model "${model}" \
            --out_dir "downloads/whisper_${model//./_}"
    done
}

# For rows with its transcripts Whisper base with its decoder -> downloads/whisper_base_decoder
fetch_decoder() {  # <rows>
    ! is_plan || return 0
    [[ " $1 " != *@(" all "|text" ")* ]] || ${python} -m espnet_mtkd.bin.mtkd_fetch_whisper --model base \
        --decoder --out_dir downloads/whisper_base_decoder
}

# Arguments for ESPnet's warmuplr in place of the configs' one cycle, whose keys it has not.
warmuplr() {  # <updates until the peak>
    echo "--scheduler warmuplr --scheduler_conf warmup_steps=$1 --scheduler_conf max_lr=null" \
        "--scheduler_conf total_steps=null --scheduler_conf pct_start=null"
}
