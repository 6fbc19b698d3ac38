#!/usr/bin/env bash
# Makes everything that the recipes and the tests need, under tools/.

set -euo pipefail

readonly ESPNET_VERSION=202611
readonly ESPNET_SHA256=eb5816c4d2e4a18eaa2afacc2f8cf74f93e5534dec0fdcee0b2c89b6f7ddd1fd
readonly SCTK_VERSION=2.4.10-20151007-1312Z+dfsg2-3.1  # Debian 12's
readonly SCTK_SHA256_AMD64=5fe1eab7c08f814d1fc130e73fa7b434be68d92a7503db2e2c6b880ab26f603e
readonly SCTK_SHA256_ARM64=ac429fbb906d241311c722ac429f0cabba6ea5e730f5f401f96b424eac234c26
readonly PYTHON_RANGE="3.11 to 3.13"
readonly VENV_GB=8   # free space that the environment needs, with its bytecode
readonly CACHE_GB=6  # free space that uv's cache needs where it lies elsewhere
# Raise it when a change of this script must make existing environments anew.
readonly SETUP_FORMAT=1
readonly EXIT_USAGE=2
readonly EXIT_DISK=6

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${root}/tools
venv=${tools}/venv
tmp=${tools}/.setup.tmp
log_file=${tools}/setup.log
readonly root tools venv tmp log_file

usage() {
    cat << EOF
Usage: tools/setup.sh [--bundled-espnet] [--help]

Makes, and does nothing but check where it is already there:
  tools/venv      virtual environment with the versions of tools/requirements.txt and
                  with this package in editable form
  tools/espnet    ESPnet ${ESPNET_VERSION}, its source distribution unpacked (not with ESPNET_ROOT)
  tools/sctk      sclite, where it is neither on PATH nor installed and apt may not install it
  tools/env.sh    where ESPnet and sclite are, to be sourced
About 3 minutes and ${VENV_GB} GB the first time. It can be interrupted and run again.

Options:
  --bundled-espnet  use tools/espnet again after an earlier run with ESPNET_ROOT
  -h, --help        show this text and exit

Environment:
  ESPNET_ROOT  your own ESPnet checkout, used as it is, never written to
               (default: that of the last run; at first, tools/espnet)
  PYTHON       CPython ${PYTHON_RANGE} to make the environment from (default: python3,
               else python3.13, python3.12, python3.11)

Output of the commands it runs: tools/setup.log
Exit codes: 0 ready; ${EXIT_USAGE} something is missing, in one line with how to get it; ${EXIT_DISK} disk space
EOF
}

log() {
    echo "setup: $*"
}

die() {
    local code=$1
    shift
    echo "setup: error: $*" >&2
    exit "${code}"
}

# --- waiting for long commands ------------------------------------------------

child=

on_exit() {
    if [ -n "${child}" ]; then
        kill "${child}" 2> /dev/null || true
        wait "${child}" 2> /dev/null || true
    fi
    [ -z "${locked:-}" ] || rm -rf "${tmp}"
}

# run_step SECONDS WHAT COMMAND...: run a command, its output in the log file, and
# tell every 15 s how far it is. The command runs in the background, as bash would
# otherwise put off a signal until the command has ended.
run_step() {
    local expected_s=$1 what=$2 start_s=${SECONDS} next_s=$((SECONDS + 15))
    local elapsed_s left_s status=0
    shift 2
    log "${what} (about ${expected_s} s)"
    printf '\n== %s: %s\n' "$(date '+%F %T')" "$*" >> "${log_file}"
    "$@" < /dev/null >> "${log_file}" 2>&1 &
    child=$!
    while kill -0 "${child}" 2> /dev/null; do
        if ((SECONDS >= next_s)); then
            elapsed_s=$((SECONDS - start_s))
            left_s=$((expected_s - elapsed_s))
            if ((left_s > 0)); then
                log "    ${elapsed_s} s so far, about ${left_s} s left"
            else
                log "    ${elapsed_s} s so far, longer than usual"
            fi
            next_s=$((SECONDS + 15))
        fi
        sleep 0.3
    done
    wait "${child}" || status=$?
    child=
    return "${status}"
}

# fail WHAT: end with the reason why the last command failed, as far as its output tells.
fail() {
    local reason last code=${EXIT_USAGE}
    last=$(tail -n 40 "${log_file}")
    if grep -qiE 'no space left|disk quota exceeded' <<< "${last}"; then
        reason="the disk is full: free ${VENV_GB} GB under ${tools} and run it again"
        code=${EXIT_DISK}
    elif grep -qiE 'resolv|connect|timed out|unreachable|proxy|certificate|sending request|no matching distribution' \
        <<< "${last}"; then
        reason="the package index cannot be reached: check the network, or name a mirror in PIP_INDEX_URL"
    else
        reason=$(grep -vE '^[[:space:]]*$' <<< "${last}" | tail -n 1)
    fi
    die "${code}" "$1: ${reason} (all output: ${log_file})"
}

# --- what is there ------------------------------------------------------------

# The requirements and what the environment's absolute paths depend on; $1: X.Y
venv_stamp() {
    echo "format ${SETUP_FORMAT}"
    echo "python $1"
    echo "root ${root}"
    echo "requirements $(sha256sum < "${tools}/requirements.txt")"
}

package_stamp() {
    {
        cat "${root}/setup.py"
        grep '^__version__' "${root}/espnet_mtkd/__init__.py"
    } | sha256sum
}

# python_version COMMAND: its version as X.Y, nothing where it does not run.
python_version() {
    "$1" -ISc 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null || true
}

venv_is_complete() {
    [ -f "${venv}/.complete" ] || return 1
    venv_python=$(python_version "${venv}/bin/python")
    [ "$(venv_stamp "${venv_python}")" = "$(cat "${venv}/.complete")" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$(python_version "${PYTHON}")" = "${venv_python}" ]
}

package_is_installed() {
    [ -f "${venv}/.package" ] && [ "$(package_stamp)" = "$(cat "${venv}/.package")" ]
}

bundled_espnet_is_complete() {
    [ "$(cat "${tools}/espnet/.complete" 2> /dev/null)" = "${ESPNET_SHA256}" ]
}

# An unpacked ESPnet needs its bytecode for the Python that is in use; an own checkout
# is left alone.
espnet_is_compiled() {
    [ "${espnet_root}" != "${tools}/espnet" ] \
        || [ -f "${tools}/espnet/.compiled-${venv_python}" ]
}

env_text() {
    echo "# shellcheck shell=bash disable=SC2034"
    echo "# Made by tools/setup.sh."
    printf 'ESPNET_ROOT=%q\n' "${espnet_root}"
    printf 'MTKD_SCLITE_DIR=%q\n' "${sclite_dir}"
}

# A shim comes after site-packages in sys.path, so a real package of its name wins.
pth_text() {
    printf '%s\n' "${espnet_root}" "${tools}/shims"
}

pth_file() {
    echo "${venv}/lib/python${venv_python}/site-packages/espnet_tree.pth"
}

everything_is_there() {
    venv_is_complete && package_is_installed && espnet_is_compiled \
        && { [ "${espnet_root}" != "${tools}/espnet" ] || bundled_espnet_is_complete; } \
        && [ -x "${sclite_dir}/sclite" ] \
        && [ "$(env_text)" = "$(cat "${tools}/env.sh" 2> /dev/null)" ] \
        && [ "$(pth_text)" = "$(cat "$(pth_file)" 2> /dev/null)" ]
}

# --- what it takes ------------------------------------------------------------

check_commands() {
    local name
    for name in git:git perl:perl flock:util-linux sha256sum:coreutils tar:tar gzip:gzip; do
        command -v "${name%%:*}" > /dev/null \
            || die "${EXIT_USAGE}" "${name%%:*} is missing: apt-get install ${name##*:} (Debian)"
    done
    perl -MFile::Basename -MGetopt::Long -MPOSIX -e 1 2> /dev/null \
        || die "${EXIT_USAGE}" "perl's standard modules are missing: apt-get install perl (Debian)"
}

# Sets python, the interpreter to make the environment from.
find_python() {
    local name version found=
    python=
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        version=$(python_version "${name}")
        case ${version} in
            3.11 | 3.12 | 3.13)
                python=${name}
                break
                ;;
            ?*) found="${found:+${found}, }${name} is ${version}" ;;
        esac
    done
    if [ -z "${python}" ] && [ -n "${PYTHON:-}" ]; then
        die "${EXIT_USAGE}" "PYTHON=${PYTHON} does not run or is of another version${found:+ (${found})}:" \
            "name a CPython ${PYTHON_RANGE}"
    elif [ -z "${python}" ]; then
        die "${EXIT_USAGE}" "CPython ${PYTHON_RANGE} is missing${found:+ (${found})}:" \
            "apt-get install python3 python3-venv (Debian 12 or 13), or name one in PYTHON"
    fi
    "${python}" -Ic 'import ensurepip, venv' 2> /dev/null \
        || die "${EXIT_USAGE}" "Python's venv module is missing:" \
            "apt-get install python3-venv (Debian; python${version}-venv for a Python beside it)"
}

free_mb() {
    df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'
}

check_disk() {
    local cache=${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-/}/.cache}/uv} mb
    mb=$(free_mb "${tools}")
    ((mb >= VENV_GB * 1000)) \
        || die "${EXIT_DISK}" "${tools} has ${mb} MB free and needs ${VENV_GB} GB:" \
            "free some, or clone the project on a larger disk"
    while [ ! -d "${cache}" ]; do
        cache=$(dirname "${cache}")
    done
    [ "$(stat -c %d "${cache}")" != "$(stat -c %d "${tools}")" ] || return 0
    mb=$(free_mb "${cache}")
    ((mb >= CACHE_GB * 1000)) \
        || die "${EXIT_DISK}" "uv's cache (${cache}) has ${mb} MB free and needs ${CACHE_GB} GB:" \
            "free some, or name another folder in UV_CACHE_DIR"
}

# --- environment --------------------------------------------------------------

# uv does not read pip's configuration: hand it a mirror and a certificate named there.
hand_pip_settings_to_uv() {
    local index cert
    index=${PIP_INDEX_URL:-$("${venv}/bin/python" -m pip config get global.index-url 2> /dev/null || true)}
    cert=${PIP_CERT:-$("${venv}/bin/python" -m pip config get global.cert 2> /dev/null || true)}
    if [ -n "${index}" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
        export UV_DEFAULT_INDEX=${index}
    fi
    if [ -n "${cert}" ] && [ -z "${SSL_CERT_FILE:-}" ]; then
        export SSL_CERT_FILE=${cert}
    fi
}

make_venv() {
    local uv
    # The stamp goes first: what is then left of the folder is never taken for whole.
    rm -f "${venv}/.complete"
    rm -rf "${venv}"
    check_disk
    venv_python=$(python_version "${python}")
    run_step 10 "virtual environment, Python ${venv_python}" "${python}" -m venv "${venv}" \
        || fail "the virtual environment cannot be made"
    uv=$(grep -oE '^uv==[^ ;]+' "${tools}/requirements.txt")
    run_step 5 "installer (${uv})" "${venv}/bin/python" -m pip install --quiet \
        --disable-pip-version-check --retries 2 "${uv}" \
        || fail "${uv} cannot be installed"
    hand_pip_settings_to_uv
    # --no-deps: the lock is whole, and espnet_model_zoo would bring another ESPnet.
    run_step 150 "packages of tools/requirements.txt, 3 GB to download" \
        "${venv}/bin/uv" pip install --no-progress --python "${venv}/bin/python" \
        --no-deps --compile-bytecode -r "${tools}/requirements.txt" \
        || fail "the packages of tools/requirements.txt cannot be installed"
    venv_stamp "${venv_python}" > "${venv}/.complete"
}

install_package() {
    run_step 3 "espnet_mtkd, editable" "${venv}/bin/uv" pip install --no-progress \
        --python "${venv}/bin/python" --no-deps --no-build-isolation --editable "${root}" \
        || fail "espnet_mtkd cannot be installed"
    package_stamp > "${venv}/.package"
}

# --- ESPnet -------------------------------------------------------------------

# Sets espnet_root from the command line, the environment or the last run.
choose_espnet() {
    local given=${ESPNET_ROOT:-} origin=ESPNET_ROOT version file
    if [ "${bundled_espnet}" = true ]; then
        given=
    elif [ -z "${given}" ] && [ -f "${tools}/env.sh" ]; then
        # shellcheck source=/dev/null
        given=$(. "${tools}/env.sh" && echo "${ESPNET_ROOT}")
        origin="the ESPNET_ROOT of the last run"
        # The tree was moved or copied with what an earlier set-up left in it.
        [ "${given##*/tools/}" != espnet ] || given=
    fi
    espnet_root=${tools}/espnet
    if [ -z "${given}" ] || [ "${given}" -ef "${tools}/espnet" ]; then
        return
    fi
    for file in espnet2/__init__.py egs2/TEMPLATE/asr1/asr.sh; do
        [ -f "${given}/${file}" ] \
            || die "${EXIT_USAGE}" "${origin} (${given}) is no ESPnet checkout, ${file} is missing:" \
                "name another, or use ESPnet ${ESPNET_VERSION} by tools/setup.sh --bundled-espnet"
    done
    espnet_root=$(cd -P "${given}" && pwd)
    case ${espnet_root} in
        *[[:space:]:]*) die "${EXIT_USAGE}" "ESPNET_ROOT has a blank or a colon in its path (${espnet_root})," \
            "which ESPnet's scripts cannot bear: move it" ;;
    esac
    version=$(cat "${espnet_root}/version.txt" 2> /dev/null \
        || cat "${espnet_root}/espnet/version.txt" 2> /dev/null || true)
    [ "${version}" = "${ESPNET_VERSION}" ] || espnet_warning="ESPnet in ${espnet_root} is version \
${version:-unknown}; this package was tried with ${ESPNET_VERSION}"
}

unpack_espnet() {
    tar --no-same-owner -xzf "${tmp}/espnet-${ESPNET_VERSION}.tar.gz" -C "${tmp}" \
        && [ -f "${tmp}/espnet-${ESPNET_VERSION}/egs2/TEMPLATE/asr1/asr.sh" ] \
        && echo "${ESPNET_SHA256}" > "${tmp}/espnet-${ESPNET_VERSION}/.complete" \
        && rm -rf "${tools}/espnet" \
        && mv "${tmp}/espnet-${ESPNET_VERSION}" "${tools}/espnet"
}

# ESPnet's wheels have no recipes; the source distribution has them all. On Python 3.11,
# which ESPnet does not declare but which runs it, pip must be told to fetch it all the same.
make_bundled_espnet() {
    mkdir -p "${tmp}"
    echo "espnet==${ESPNET_VERSION} --hash=sha256:${ESPNET_SHA256}" > "${tmp}/espnet.txt"
    run_step 15 "ESPnet ${ESPNET_VERSION}, 36 MB to download" "${venv}/bin/python" -m pip download \
        --quiet --disable-pip-version-check --retries 2 --no-deps --no-binary espnet \
        --ignore-requires-python --require-hashes --dest "${tmp}" -r "${tmp}/espnet.txt" \
        || fail "ESPnet ${ESPNET_VERSION} cannot be downloaded"
    run_step 5 "unpacking ESPnet" unpack_espnet || fail "ESPnet cannot be unpacked"
}

compile_bundled_espnet() {
    # A file that this Python cannot compile is no matter as long as nobody imports it.
    run_step 20 "bytecode of ESPnet" "${venv}/bin/python" -m compileall -q -j 0 \
        "${tools}/espnet/espnet" "${tools}/espnet/espnet2" || true
    touch "${tools}/espnet/.compiled-${venv_python}"
}

# --- sclite -------------------------------------------------------------------

# Sets sclite_dir, empty where there is none. Debian's package keeps it out of PATH.
find_sclite() {
    local file
    sclite_dir=
    for file in "$(command -v sclite || true)" \
        "$(dpkg -L sctk 2> /dev/null | grep '/bin/sclite$' || true)" \
        "${tools}/sctk/usr/lib/sctk/bin/sclite" "${tools}/sctk/bin/sclite"; do
        if [ -x "${file}" ]; then
            sclite_dir=$(dirname "${file}")
            return
        fi
    done
}

apt_install() {  # <package>
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get -o DPkg::Lock::Timeout=60 install -y --no-install-recommends "$1")
    "${install[@]}" || { apt-get update && "${install[@]}"; }
}

# The package as apt knows it, or else Debian 12's from the machine's own mirror (checked
# by its digest): Debian 13 has no sctk, and the one of Debian 12 runs there.
download_sctk_package() {
    local arch sha256 mirror
    apt-get download sctk && return
    arch=$(dpkg --print-architecture)
    case ${arch} in
        amd64) sha256=${SCTK_SHA256_AMD64} ;;
        arm64) sha256=${SCTK_SHA256_ARM64} ;;
        *)
            echo "no digest of sctk for ${arch} is known"
            return 1
            ;;
    esac
    # shellcheck disable=SC2016
    for mirror in $(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u); do
        /usr/lib/apt/apt-helper download-file \
            "${mirror%/}/pool/main/s/sctk/sctk_${SCTK_VERSION//+/%2b}_${arch}.deb" \
            "sctk_${arch}.deb" "SHA256:${sha256}" && return
    done
    return 1
}

unpack_sclite() {
    mkdir "${tmp}/sctk" \
        && cd "${tmp}/sctk" \
        && download_sctk_package \
        && dpkg -x sctk_*.deb "${tmp}/sctk/root" \
        && rm -rf "${tools}/sctk" \
        && mv "${tmp}/sctk/root" "${tools}/sctk"
}

make_sclite() {
    find_sclite
    if [ -z "${sclite_dir}" ] && command -v apt-get > /dev/null; then
        if [ "$(id -u)" -eq 0 ]; then
            run_step 15 "sclite, by apt-get install sctk" apt_install sctk || true
            find_sclite
        fi
        if [ -z "${sclite_dir}" ]; then
            run_step 10 "sclite, by unpacking Debian's sctk to tools/sctk" unpack_sclite || true
            find_sclite
        fi
    fi
    [ -n "${sclite_dir}" ] \
        || die "${EXIT_USAGE}" "sclite is missing: apt-get install sctk (Debian), or build" \
            "https://github.com/usnistgov/SCTK and put its bin folder on PATH (what was tried: ${log_file})"
}

# For speed perturbation and for pipes in a wav.scp; recipes that need it say so themselves.
make_sox() {
    if command -v sox > /dev/null || ! command -v apt-get > /dev/null || [ "$(id -u)" -ne 0 ]; then
        return 0
    fi
    run_step 10 "sox, by apt-get install sox" apt_install sox || true
}

# ------------------------------------------------------------------------------

bundled_espnet=false
espnet_warning=
while [ $# -gt 0 ]; do
    case $1 in
        --bundled-espnet) bundled_espnet=true ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "${EXIT_USAGE}" "unknown argument $1: see tools/setup.sh --help" ;;
    esac
    shift
done

case ${root} in
    *[[:space:]:]*) die "${EXIT_USAGE}" "the path of the project has a blank or a colon (${root})," \
        "which Kaldi's scripts cannot bear: move it" ;;
esac

# Containers often switch bytecode off, and then each process compiles ESPnet anew;
# modules of another environment must not be found in place of those installed here.
unset PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME PYTHONPYCACHEPREFIX
# The environment must not be made from itself.
PATH=:${PATH}:
PATH=${PATH//":${venv}/bin:"/:}
PATH=${PATH#:}
PATH=${PATH%:}

choose_espnet
# shellcheck source=/dev/null
sclite_dir=$(. "${tools}/env.sh" 2> /dev/null && echo "${MTKD_SCLITE_DIR:-}" || true)
if everything_is_there; then
    [ -z "${espnet_warning}" ] || log "warning: ${espnet_warning}" >&2
    exit 0
fi

check_commands
if ! venv_is_complete; then
    find_python
fi
exec 9> "${tools}/.setup.lock"
if ! flock -n 9; then
    log "another set-up is at work here; waiting for it"
    flock 9
    choose_espnet
fi
locked=true
trap on_exit EXIT
trap 'log "interrupted; run it again to go on" >&2; exit 130' INT
trap 'log "terminated; run it again to go on" >&2; exit 143' TERM HUP
rm -rf "${tmp}"
mkdir -p "${tmp}"
: > "${log_file}"

[ -z "${espnet_warning}" ] || log "warning: ${espnet_warning}" >&2
make_sclite
if everything_is_there; then
    exit 0
fi
make_sox
if ! venv_is_complete; then
    find_python
    make_venv
fi
package_is_installed || install_package
if [ "${espnet_root}" = "${tools}/espnet" ]; then
    bundled_espnet_is_complete || make_bundled_espnet
    espnet_is_compiled || compile_bundled_espnet
fi
pth_text > "$(pth_file)"
env_text > "${tmp}/env.sh"
mv "${tmp}/env.sh" "${tools}/env.sh"
log "ready in ${SECONDS} s: Python ${venv_python} in ${venv}, ESPnet in ${espnet_root}, sclite in ${sclite_dir}"
