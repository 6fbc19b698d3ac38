#!/usr/bin/env bash
# Asterisk's English prompts (one speaker, 0.3 h) -> data/{train,valid,test}, and a small
# part of each in data/{train,valid,test}_smoke.
#
# The prompts come, in this order, from
#   - ${ASTERISK}, where it holds them already (any layout: core-sounds-en.txt or
#     .txt.gz and the folder of *.g722 are searched for);
#   - Debian's packages, where there is apt (it checks their signatures; no root needed);
#   - upstream's tarball, release 1.6.1 (sha256 pinned).
# Set ASTERISK in db.sh or in the environment to use a copy of your own.
# Needs 10 MB of download, 200 MB of disk, less than a minute.
# shellcheck disable=SC2034,SC2154  # common.sh reads and sets them

. ../../TEMPLATE/mtkd1/common.sh
declare_options << 'EOF'
stage          | 1 | First stage: 1 fetches the prompts, 2 prepares the data directories, 3 does both
               |   | for the languages of --unlabelled.
stop_stage     | 3 | Last stage.
max_train_utts | 0 | Utterances to keep in train, from the shorter 3/4; 0: all.
max_test_utts  | 0 | Utterances to keep in valid and in test, 0: all.
unlabelled     |   | Languages whose audio is fetched too, without its transcripts, separated by commas:
               |   | es, fr, it, ru -> data/<language>.
python         | python3 | Python with av, soundfile and numpy.
EOF
usage="[--max_train_utts <n>] [--max_test_utts <n>] [--unlabelled es,fr,it,ru]"
more_help='Environment:
    ASTERISK         # Folder with the prompts, filled when empty (default="downloads").'
log "$0 $*"
parse_options own "$@"

asterisk_env=${ASTERISK:-}
. ./path.sh || exit 1
. ./cmd.sh || exit 1
. ./db.sh || exit 1
# The environment wins over db.sh
ASTERISK=${asterisk_env:-${ASTERISK:-downloads}}

release=1.6.1
tarball=asterisk-core-sounds-en-g722-${release}.tar.gz
tarball_url=https://downloads.asterisk.org/pub/telephony/sounds/releases/${tarball}
tarball_sha256=59891033e764d9dffc5ccdd78e845a1c8ea6bed0b434128bb0199c63ef591770
fetched=${ASTERISK}/asterisk-core-sounds-en
part=${ASTERISK}/.asterisk.part  # of an unfinished run, or of this one
rm -rf "${part}"

has_prompts() {
    [ -d "$1" ] || return 1
    [ -n "$(find "$1/" -name 'core-sounds-en.txt*' -print -quit)" ] \
        && [ -n "$(find "$1/" -path '*/digits/1.g722' -print -quit)" ]
}

fetch_debian() {
    # $1: empty folder to unpack into; $2: packages. Returns 1 where apt cannot give them.
    local packages=$2
    local apt_options="-q=2" deb
    command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then
        # No sandbox: its user may not write here
        apt_options+=" -o APT::Sandbox::User=root"
    fi
    mkdir -p "$1"/apt/{lists,cache/archives}/partial "$1"/debs
    # shellcheck disable=SC2086
    if ! (cd "$1/debs" && apt-get ${apt_options} download ${packages}) > "$1/apt/log" 2>&1
    then
        log "apt has no usable package lists, reading them into a folder of our own"
        apt_options+=" -o Dir::State::lists=$1/apt/lists -o Dir::Cache=$1/apt/cache"
        # shellcheck disable=SC2086
        { apt-get ${apt_options} update \
            && (cd "$1/debs" && apt-get ${apt_options} download ${packages}); } \
            > "$1/apt/log" 2>&1 || {
            log "apt cannot give the packages: $(grep -m1 '^E:' "$1/apt/log")"
            rm -rf "$1/apt" "$1/debs"
            return 1
        }
    fi
    for deb in "$1"/debs/*.deb; do
        dpkg-deb -x "${deb}" "$1"
    done
    rm -rf "$1/apt" "$1/debs"
}

fetch_language() {
    # $1: language. Its G.722 prompts, from Debian alone -> ${ASTERISK}/unlabelled/$1
    local target=${ASTERISK}/unlabelled/$1 folder=${ASTERISK}/.asterisk.part
    if [ -d "${target}" ]; then
        log "stage 3: ${target} is there, nothing to do"
        return
    fi
    rm -rf "${folder}"
    mkdir -p "${folder}" "${ASTERISK}/unlabelled"
    folder=$(cd "${folder}" && pwd)
    if ! fetch_debian "${folder}" "asterisk-core-sounds-$1-g722"; then
        rm -rf "${folder}"
        log "Error: no prompts in '$1' from Debian's packages; --unlabelled needs apt"
        exit 4
    fi
    mv "${folder}" "${target}"
}

fetch_upstream() {
    # $1: folder to unpack into.
    log "downloading ${tarball_url}"
    mkdir -p "$1"
    if command -v curl > /dev/null; then
        curl -fsSL --retry 2 -o "$1/${tarball}" "${tarball_url}" || return 1
    elif command -v wget > /dev/null; then
        wget -q -O "$1/${tarball}" "${tarball_url}" || return 1
    else
        log "neither curl nor wget is there"
        return 1
    fi
    if ! echo "${tarball_sha256}  $1/${tarball}" | sha256sum --status -c -; then
        log "Error: ${tarball} has not the sha256 ${tarball_sha256}"
        return 1
    fi
    tar -xzf "$1/${tarball}" -C "$1"
    rm -f "$1/${tarball}"
}

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    log "stage 1: the prompts -> ${ASTERISK}"
    if has_prompts "${ASTERISK}"; then
        log "stage 1: ${ASTERISK} has them, nothing to do"
    else
        mkdir -p "${ASTERISK}" || exit 6
        if [ "$(df -Pk "${ASTERISK}" | awk 'NR == 2 {print $4}')" -lt 204800 ]; then
            log "Error: less than 200 MB free in ${ASTERISK}"
            exit 6
        fi
        # Unpacked beside its place and renamed: what has the name is whole
        mkdir "${part}"
        part=$(cd "${part}" && pwd)
        if ! fetch_debian "${part}" \
            "asterisk-core-sounds-en asterisk-core-sounds-en-g722"; then
            rm -rf "${part}"
            if ! fetch_upstream "${part}"; then
                rm -rf "${part}"
                log "Error: no prompts from Debian's packages nor from upstream;" \
                    "set ASTERISK to a folder that holds ${tarball}, unpacked"
                exit 4
            fi
        fi
        if ! has_prompts "${part}"; then
            log "Error: no core-sounds-en.txt or no G.722 prompts in what was fetched"
            exit 4
        fi
        rm -rf "${fetched}"
        mv "${part}" "${fetched}"
    fi
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: ${ASTERISK} -> data/{train,valid,test}"
    # Beside what was fetched lie the other languages.
    source=${ASTERISK}
    [ ! -d "${fetched}" ] || source=${fetched}
    "${python}" local/prepare_asterisk.py --source "${source}" --data_dir data \
        --max_train_utts "${max_train_utts}" --max_test_utts "${max_test_utts}"
    for dset in train valid test; do
        # Its warning about a single speaker is no news here
        if ! utils/validate_data_dir.sh --no-feats "data/${dset}" > data/.validate 2>&1
        then
            log "Error: $(tail -n 1 data/.validate)"
            exit 4
        fi
        rm -f data/.validate
    done
    # For a smoke run, a few of each, from the whole list
    for part in train:100 valid:16 test:24; do
        dset=${part%:*}
        all=$(wc -l < "data/${dset}/text")
        few=$((all < ${part#*:} ? all : ${part#*:}))
        utils/subset_data_dir.sh "data/${dset}" "${few}" "data/${dset}_smoke"
    done
fi

if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ]; then
    for language in ${unlabelled//,/ }; do
        log "stage 3: prompts in '${language}', audio alone -> data/${language}"
        fetch_language "${language}"
        "${python}" local/prepare_unlabelled.py --data_dir "data/${language}" \
            --source "${ASTERISK}/unlabelled/${language}" --prefix "${language}"
    done
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
