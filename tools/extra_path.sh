#!/usr/bin/env bash
# Sourced by ESPnet's path.sh: puts sclite and ESPnet's spm_train on PATH.

_mtkd_env=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)/env.sh
if [ ! -f "${_mtkd_env}" ]; then
    echo "error: ${_mtkd_env} is missing: run ${_mtkd_env%/env.sh}/setup.sh" >&2
    return 2
fi
# shellcheck source=/dev/null
. "${_mtkd_env}"
for _mtkd_dir in "${MTKD_SCLITE_DIR}" "${ESPNET_ROOT}/tools/sentencepiece_commands"; do
    case :${PATH}: in
        *:"${_mtkd_dir}":*) ;;
        *) export PATH=${PATH}:${_mtkd_dir} ;;
    esac
done
unset _mtkd_env _mtkd_dir
