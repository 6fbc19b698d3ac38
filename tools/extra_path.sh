#!/usr/bin/env bash
# Sourced by ESPnet's path.sh: puts sclite on PATH.

_mtkd_env=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)/env.sh
if [ ! -f "${_mtkd_env}" ]; then
    echo "error: ${_mtkd_env} is missing: run ${_mtkd_env%/env.sh}/setup.sh" >&2
    return 2
fi
# shellcheck source=/dev/null
. "${_mtkd_env}"
case :${PATH}: in
    *:"${MTKD_SCLITE_DIR}":*) ;;
    *) export PATH=${PATH}:${MTKD_SCLITE_DIR} ;;
esac
unset _mtkd_env
