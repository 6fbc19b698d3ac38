# shellcheck shell=bash
# What the scripts of the recipes share; they source it: an error ends them; messages;
# options, declared as a table; commands that end when the script is ended.
# shellcheck disable=SC2034  # for those who source it

set -euo pipefail
SECONDS=0

# Both name the place in the script that they are called from.
log() { say "$*"; }
fail() {  # <what was expected, found, and what to do>
    say "Error: $*"
    exit 2
}
say() {
    local fname=${BASH_SOURCE[2]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[1]}:${FUNCNAME[2]}) $*"
}

# ======================== Options ========================
option_names=()         # in the order of the table
declare -A option_help  # <name> -> its text, "" where none; headings are "#<number>"
declare -A option_default

# Reads a table of options from standard input and sets a variable for each:
#     # heading
#     name | default | help
#          |         | more of it
declare_options() {
    local name default text last=
    while IFS='|' read -r name default text; do
        read -r name <<< "${name}"
        read -r default <<< "${default}"
        text=${text# }
        if [ -z "${name}${default}${text}" ]; then
            continue
        elif [[ ${name} = \#* ]]; then
            last=#${#option_names[@]}
            option_names+=("${last}")
            option_help[${last}]=${name}
        elif [ -n "${name}" ]; then
            last=${name}
            option_names+=("${name}")
            option_default[${name}]=${default}
            option_help[${name}]=${text}
            printf -v "${name}" %s "${default}"
        else
            option_help[${last}]+=$'\n'${text}
        fi
    done
}

# The declared options as --help shows them, with their defaults.
print_options() {
    local name text
    for name in "${option_names[@]}"; do
        text=${option_help[${name}]//$'\n'/ }
        if [[ ${name} = \#* ]]; then
            [ "${name}" = "#0" ] || echo
            echo "    ${text}"
            continue
        fi
        if [ -n "${option_default[${name}]}" ] || ! [[ ${text} =~ default|required ]]; then
            text="${text%.} (default=\"${option_default[${name}]}\")."
        fi
        fold -s -w 70 <<< "${text}" | sed -e 's/ *$//' \
            -e "1s/^/$(printf '    --%-16s # ' "${name}")/" -e "2,\$s/^/$(printf '%23s# ' '')/"
    done
}

# What --help says: how it is called, what it does, the options, what else there is.
usage=
about=
more_help=
show_usage() {
    echo "Usage: $0 ${usage}"
    echo
    [ -z "${about}" ] || printf '%s\n\n' "${about}"
    echo "Options:"
    print_options
    [ -z "${more_help}" ] || echo "${more_help}"
}
show_help() { show_usage; }

# Sets the variables of declared options, `--name value` or `--name=value`. What is not
# declared goes to the array `options`, for another script, after `pass`; it is refused
# after `own`. --help calls the function `show_help`.
given_options=()  # names of what was given
options=()
parse_options() {  # <own or pass> <arguments ...>
    local mode=$1 name value
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h) show_help; exit 0 ;;
            --?*) ;;
            *)
                [ "${mode}" = pass ] || fail "no positional arguments are expected, found: $1"
                options+=("$1")
                shift
                continue ;;
        esac
        name=${1#--}
        name=${name%%=*}
        name=${name//-/_}
        if [[ -z ${option_default[${name}]+declared} ]]; then
            [ "${mode}" = pass ] || fail "no such option: --${name}$(closest_options "${name}")"
            options+=("$1")
            shift
            continue
        fi
        if [[ $1 = *=* ]]; then
            value=${1#*=}
            shift
        else
            [ $# -gt 1 ] || fail "--${name} needs a value"
            value=$2
            shift 2
        fi
        case ${option_default[${name}]}:${value} in
            true:true | true:false | false:true | false:false) ;;
            true:* | false:*) fail "--${name}: expected true or false, found '${value}'" ;;
        esac
        printf -v "${name}" %s "${value}"
        given_options+=("${name}")
    done
}
# Whether an option was given, be it with its default.
is_given() { [[ " ${given_options[*]} " = *" $1 "* ]]; }

closest_options() {  # <name>: " (do you mean ...?)", or nothing
    local name found=
    for name in "${!option_default[@]}"; do
        if [[ ${name} = *"${1:0:5}"* || ${1} = *"${name}"* || ${name} = *"${1#*_}" ]]; then
            found+=" --${name}"
        fi
    done
    [ -z "${found}" ] || echo " (do you mean${found}?)"
}

# ======================== Child processes ========================
# Runs a command in a process group of its own; what ends this script ends that group.
# Not in a condition (||, if): there bash would go on after an error in the command.
child_group=
run_child() {
    local status=0
    set -m
    "$@" < /dev/null &
    child_group=$!
    set +m
    wait "${child_group}" || status=$?
    sweep TERM  # a watcher's sleep, say
    child_group=
    return "${status}"
}
# Ends what is left of the group, within five seconds.
sweep() {  # <signal>
    local i
    kill "-$1" -- "-${child_group}" 2> /dev/null || return 0
    for i in {1..100}; do
        sleep 0.05
        kill -0 -- "-${child_group}" 2> /dev/null || return 0
        # A shell that waits for its own child does not see SIGINT.
        [ "${i}" -ne 20 ] || kill -TERM -- "-${child_group}" 2> /dev/null || true
    done
    kill -KILL -- "-${child_group}" 2> /dev/null || true
}

end_children() {  # <signal> <its number>
    trap '' INT TERM HUP
    [ -z "${child_group}" ] || sweep "$1"
    log "Ended by SIG$1; run the same command again: it goes on from what is finished"
    exit $((128 + $2))
}
trap 'end_children INT 2' INT
trap 'end_children TERM 15' TERM
trap 'end_children HUP 1' HUP
