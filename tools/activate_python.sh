#!/usr/bin/env bash
# Sourced by ESPnet's path.sh: puts the project's virtual environment first on PATH.

_mtkd_venv=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)/venv
if [ ! -f "${_mtkd_venv}/.complete" ]; then
    echo "error: ${_mtkd_venv} is missing or half-made: run ${_mtkd_venv%/venv}/setup.sh" >&2
    return 2
fi
export VIRTUAL_ENV=${_mtkd_venv}
unset PYTHONHOME
case :${PATH}: in
    :"${_mtkd_venv}"/bin:*) ;;
    *) export PATH=${_mtkd_venv}/bin:${PATH} ;;
esac
unset _mtkd_venv
