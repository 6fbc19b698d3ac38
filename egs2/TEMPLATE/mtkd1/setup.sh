#!/usr/bin/env bash
# Makes the links of a recipe: ESPnet's asr.sh and what it calls, and our mtkd.sh.
set -euo pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
help_message=$(cat << EOF
Usage: $0 <target-dir>
  e.g. $0 egs2/asterisk/mtkd1

Links ESPnet's asr.sh, utils, steps, scripts, pyscripts, path.sh, cmd.sh and db.sh, and
this project's mtkd.sh and ladder.sh, into <target-dir>. A file of your own (a changed cmd.sh, say) is
left as it is. ESPnet is found as tools/setup.sh found it (ESPNET_ROOT, or its own copy).
EOF
)
if [ $# -ne 1 ] || [ "$1" = --help ]; then
    echo "${help_message}"
    [ "${1:-}" = --help ] && exit 0
    log "Error: 1 positional argument is required."
    exit 2
fi

dir=$1
template=$(cd "$(dirname "$0")" && pwd)
root=$(cd "${template}/../../.." && pwd)
if [ ! -f "${root}/tools/env.sh" ]; then
    log "Error: ${root}/tools/env.sh is missing: run ${root}/tools/setup.sh"
    exit 2
fi
# shellcheck source=/dev/null
. "${root}/tools/env.sh"
asr1=${ESPNET_ROOT}/egs2/TEMPLATE/asr1

mkdir -p "${dir}/conf" "${dir}/local"
link() {
    local source=$1 target=$2
    if [ -L "${target}" ] && [ "$(readlink "${target}")" = "${source}" ]; then
        return 0
    elif [ -e "${target}" ] && [ ! -L "${target}" ]; then
        log "${target} is a file of your own: left as it is"
    else
        ln -sfn "${source}" "${target}"
    fi
}
# (links are made anew each time: ESPNET_ROOT may have changed)
for name in asr.sh path.sh cmd.sh db.sh utils steps scripts pyscripts; do
    link "${asr1}/${name}" "${dir}/${name}"
done
link ../../TEMPLATE/mtkd1/mtkd.sh "${dir}/mtkd.sh"
link ../../TEMPLATE/mtkd1/ladder.sh "${dir}/ladder.sh"
link ../../../TEMPLATE/mtkd1/local/path.sh "${dir}/local/path.sh"
