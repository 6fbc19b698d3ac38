#!/usr/bin/env bash
# Makes the links of a recipe: ESPnet's asr.sh and what it calls, and our mtkd.sh.
set -euo pipefail

template=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=common.sh
. "${template}/common.sh"
help_message=$(cat << EOF
Usage: $0 <target-dir>
  e.g. $0 egs2/asterisk/mtkd1

Links ESPnet's asr.sh, utils, steps, scripts, pyscripts, path.sh, cmd.sh, db.sh and the
scheduler's conf/*.conf, and this project's mtkd.sh and ladder.sh, into <target-dir>. A
file of your own (a changed cmd.sh, say) is left as it is. ESPnet is the one that
tools/setup.sh found (ESPNET_ROOT, or its own copy); or, where egs2/TEMPLATE/mtkd1 and
the recipe were copied into an ESPnet checkout, that one.
EOF
)
if [ $# -ne 1 ] || [ "$1" = --help ]; then
    echo "${help_message}"
    [ "${1:-}" = --help ] && exit 0
    fail "1 positional argument is required."
fi

dir=$1
root=$(cd "${template}/../../.." && pwd)
if [ -f "${root}/egs2/TEMPLATE/asr1/asr.sh" ]; then  # inside an ESPnet checkout
    asr1=${root}/egs2/TEMPLATE/asr1
elif [ -f "${root}/tools/env.sh" ]; then
    # shellcheck source=/dev/null
    . "${root}/tools/env.sh"
    asr1=${ESPNET_ROOT}/egs2/TEMPLATE/asr1
else
    fail "neither ${root}/tools/env.sh (run ${root}/tools/setup.sh) nor" \
        "${root}/egs2/TEMPLATE/asr1 (of an ESPnet checkout) is there"
fi

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
for name in pbs queue slurm; do
    link "${asr1}/conf/${name}.conf" "${dir}/conf/${name}.conf"
done
link ../../TEMPLATE/mtkd1/mtkd.sh "${dir}/mtkd.sh"
link ../../TEMPLATE/mtkd1/ladder.sh "${dir}/ladder.sh"
link ../../../TEMPLATE/mtkd1/local/path.sh "${dir}/local/path.sh"
