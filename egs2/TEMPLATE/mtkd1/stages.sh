# shellcheck shell=bash disable=SC2034,SC2154  # mtkd.sh reads and sets them
# How mtkd.sh runs a stage: what its result depends on, whether that has changed, who else
# is at it, and what is shown meanwhile. mtkd.sh sources it.

# ======================== What a result depends on ========================
# depends[<stage>] is a list of
#     <option>                        its value
#     yaml:<label>:<file>[:<key>+...] what a YAML file says, or these of its top-level keys
#     audio:<data directory>          its recordings: wav.scp, segments, size and time of
#                                     each file, which utterances have text
#     text:<data directory>           its text
#     speakers:<data directory>       its utt2spk
#     sets:<key file>                 the data sets, as long as they are there
#     file:<label>:<file>             size and time of a file
#     files:<label>:<folder>          the scripts in a folder
#     weights:<label>:<YAML file>     size and time of the files at its path_or_url; of an
#                                     ESPnet directory those of config and models alone
#     stage:<stage>                   all that this stage depends on
# As a whole these are the fields of a stage, one a line: name, tab, value. They are written
# where the stage ends well; a stage whose fields stand already has nothing to do.
declare -A depends
declare -A output  # of some: what a finished stage has left

fields=()            # set by collect_fields
declare -A seen      # stages whose fields are in it
declare -A data_memo # <data directory> -> its fields, found once

digest() { sha256sum | cut -c 1-16; }
digest_of() { echo "$(wc -l < "$1") lines, sha256 $(digest < "$1")"; }

add_field() {  # <name> <value>
    local value=${2//$'\t'/ }
    fields+=("$1"$'\t'"${value//$'\n'/ }")
}

# All that a stage depends on -> the variable key, sorted.
stage_key() {  # <stage>
    fields=()
    seen=()
    collect_fields "$1"
    key=$(printf '%s\n' "${fields[@]}" | LC_ALL=C sort -u)
}

collect_fields() {  # <stage>
    [ -z "${seen[$1]:-}" ] || return 0
    seen[$1]=yes
    local word kind label rest keys
    for word in ${depends[$1]}; do
        IFS=: read -r kind label rest keys <<< "${word}"
        case ${kind} in
            stage) collect_fields "${label}" ;;
            yaml) add_yaml "${label}" "${rest}" "${keys}" ;;
            audio | text | speakers) add_data "${kind}" "${label}" ;;
            file) add_file "${label}" "${rest}" ;;
            files) add_scripts "${label}" "${rest}" ;;
            weights) add_weights "${label}" "${rest}" ;;
            sets) add_field "data sets" "$(known_sets "${label}")" ;;
            *)
                add_field "--${kind}" "${!kind}"
                [[ ${kind} != *_args ]] || add_files_in "--${kind}" "${!kind}" ;;
        esac
    done
}

add_file() {  # <label> <file>: its size and time, "" where it is not there
    add_field "$1" "$(stat -L -c '%s bytes of %y' "$2" 2> /dev/null || true)"
}
add_files_in() {  # <label> <arguments>: a language model, say
    local word
    for word in ${2//=/ }; do
        [ ! -f "${word}" ] || add_file "$1: ${word}" "${word}"
    done
}
add_weights() {  # <label> <YAML file>
    local path file
    while read -r path; do
        [ -e "${path}" ] || continue
        local which=(-maxdepth 1 -type f)
        [ ! -f "${path}/config.yaml" ] || which+=('(' -name config.yaml -o -name 'valid.*' ')')
        [ ! -f "${path}/meta.yaml" ] || which=(-name config.yaml -o -name meta.yaml -o -name '*.pth')
        while read -r file; do add_file "$1: ${file}" "${file}"; done \
            < <(find -L "${path}" "${which[@]}" | LC_ALL=C sort)
    done < <(sed -n -E "s/.*path_or_url: *[\"']?([^\"',}#]*[^\"',}# ]).*/\1/p" "$2" 2> /dev/null)
}
# The sets that stage 1 was run for; and those that are asked for now and not there.
known_sets() {  # <key file>
    local recorded name
    recorded=$(sed -n 's/^data sets\t//p' "$1" 2> /dev/null || true)
    for name in "${_sets[@]}"; do
        [[ " ${recorded} " = *" ${name} "* ]] || [ -f "data/${name}/wav.scp" ] \
            || recorded+="${recorded:+ }${name}"
    done
    echo "${recorded}"
}

# A field for each top-level key (or item) of a YAML file, without comments.
add_yaml() {  # <label> <file> <keys, or nothing for all>
    local line
    while IFS= read -r line; do fields+=("${line}"); done < <(
        [ ! -f "$2" ] || sed -E -e "/[\"']/!s/(^|[[:space:]])#.*\$//" -e '/^[[:space:]]*(#|$)/d' \
            -e '/^(---|\.\.\.)[[:space:]]*$/d' -e 's/[[:space:]]+$//' "$2" \
            | awk -v label="$1" -v keys="+$3+" '
                function flush() {
                    if (name != "" && (keys == "++" || index(keys, "+" name "+")))
                        print label ": " name "\t" value
                }
                /^[^ \t]/ {
                    flush()
                    value = $0
                    name = "item " ++items
                    if ($0 !~ /^-/) {
                        name = $0
                        sub(/:.*/, "", name)
                        gsub(/["\047 \t]/, "", name)
                        sub(/^[^:]*:[ \t]*/, "", value)
                    }
                    next
                }
                { value = value " /" $0 }
                END { flush() }'
    )
}

# Scripts of the recipe, without what an editor leaves and what only sets the environment.
add_scripts() {  # <label> <folder>
    local file
    while read -r file; do
        add_field "$1: ${file}" "$(digest_of "${file}")"
    done < <(find -L "$2" -type f \( -name '[!.]*.sh' -o -name '[!.]*.py' -o -name '[!.]*.pl' \) \
        ! -path "$2/path.sh" ! -path "$2/cmd.sh" | LC_ALL=C sort)
}

add_data() {  # <audio or text> <data directory>
    local line
    [ -n "${data_memo[$2]:-}" ] || data_memo[$2]=$(data_fields "$2")
    while IFS= read -r line; do
        case $1:${line} in
            text:"$2/text"$'\t'* | speakers:"$2/utt2spk"$'\t'*) fields+=("${line}") ;;
            text:* | speakers:*) ;;
            audio:"$2/text"$'\t'* | audio:"$2/utt2spk"$'\t'*) ;;
            audio:?*) fields+=("${line}") ;;
        esac
    done <<< "${data_memo[$2]}"
}

# A directory that is gone is as it was when it was formatted.
data_fields() {  # <data directory>
    local dir=$1 name recorded states
    recorded=$(cat "${dumpdir}"/.done/3_* 2> /dev/null | grep "^${dir}/" | LC_ALL=C sort -u || true)
    if [ ! -f "${dir}/wav.scp" ]; then
        echo "${recorded}"
        return 0
    fi
    for name in wav.scp segments text utt2spk; do
        [ ! -f "${dir}/${name}" ] \
            || printf '%s\t%s\n' "${dir}/${name}" "$(digest_of "${dir}/${name}")"
    done
    [ ! -f "${dir}/text" ] || printf '%s\t%s\n' "${dir}/text, utterances" \
        "$(awk 'NF > 1 { print $1 }' "${dir}/text" | digest)"
    # Paths, without an offset, and what in a pipe may be one.
    states=$(
        sed -E -e 's/^[^[:space:]]+[[:space:]]+//' -e 's/:[0-9]+$//' "${dir}/wav.scp" \
            | awk '{ print } /\|[ \t]*$/ { gsub(/[ \t|<"\047]+/, "\n"); print }' | sort -u \
            | { xargs -r -d '\n' stat -L -c '%n %s %.9Y' 2> /dev/null || true; }
    )
    if [ -z "${states}" ]; then  # all removed, now that they are formatted?
        grep "^${dir}/wav.scp, its files" <<< "${recorded}" || true
    else
        printf '%s\t%s\n' "${dir}/wav.scp, its files" "$(digest <<< "${states}")"
    fi
}

# Names of fields that differ, with both values: at most three.
differing_fields() {  # <old> <new>
    awk -F '\t' '
        NR == FNR { old[$1] = $2; order[++n] = $1; next }
        { new[$1] = $2; if (!($1 in old)) order[++n] = $1 }
        END {
            for (i = 1; i <= n; i++) {
                name = order[i]
                is_old = (name in old)
                is_new = (name in new)
                if (is_old && is_new && old[name] "" == new[name] "") continue
                if (++found > 3) { printf "; and others"; exit }
                printf("%s%s: was %s, is %s", (found > 1 ? "; " : ""), name, shown(old, is_old, name), shown(new, is_new, name))
            }
        }
        function shown(values, is_there, name) { return is_there ? "\"" values[name] "\"" : "not there" }
    ' <(echo "$1") <(echo "$2")
}

# ======================== One at a time ========================
declare -A lock_of  # <lock file> -> its file descriptor

# Takes a lock of a directory, for as long as this script and its children live.
lock() {  # <directory> <wait or refuse>
    local file=$1/.lock fd holder tries=20
    [ -z "${lock_of[${file}]:-}" ] || return 0
    mkdir -p "$1"
    exec {fd}>> "${file}"
    if ! flock -n "${fd}"; then
        # (whoever has just taken it is about to write its name)
        until holder=$(tail -n 1 "${file}") && [ -n "${holder}" ] || ((--tries == 0)); do
            sleep 0.1
        done
        [[ ${holder} =~ "host $(uname -n), pid "([0-9]+) ]] && ! kill -0 "${BASH_REMATCH[1]}" 2> /dev/null \
            && holder+="; it is gone, but what it started still runs"
        if [ "$2" = refuse ]; then
            fail "$1: another run is at it (${holder}): wait for it, end it, or give this" \
                "one another name (--mtkd_tag, --asr_tag)"
        fi
        log "$1: another run is at it (${holder}): waiting for it"
        flock "${fd}" &  # (in the background: so a signal ends this)
        wait "$!"
    fi
    echo "host $(uname -n), pid $$, since $(date '+%Y-%m-%d %H:%M:%S')" > "${file}"
    lock_of[${file}]=${fd}
}
unlock() {  # <directory>
    local file=$1/.lock fd
    fd=${lock_of[${file}]:-}
    [ -n "${fd}" ] || return 0
    exec {fd}>&-
    unset "lock_of[${file}]"
}

# ======================== A stage ========================
planning=false      # say what would run, and run nothing
has_run=false       # whether the last stage had something to do
data_is_there=true  # false while planning, where stage 1 has yet to make it
is_asked() {  # <number>: whether the options let it run
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] \
        && ! [[ " ${skip_stages} " =~ [[:space:]]$1[[:space:]] ]]
}
# Runs a function, unless it ended well before and nothing that it depends on has changed.
run_stage() {  # <stage> <key file> <directory to lock> <title> <function> <arguments ...>
    local id=$1 file=$2 where=$3 title=$4 number=${1%%[!0-9]*} why how=wait
    shift 4
    has_run=false
    is_asked "${number}" || return 0
    [ "${where}" != "${mtkd_exp}" ] && [ "${where}" != "${asr_exp}" ] || how=refuse
    [ "${id}" != 10 ] || how="wait"  # it only looks: rows that share stage 1 come to it together
    stage_key "${id}"
    why=$(reason_to_run "${number}" "${file}" "${id}")
    if [ -n "${why}" ] && ! "${planning}"; then
        lock "${where}" "${how}"
        why=$(reason_to_run "${number}" "${file}" "${id}")  # whoever had it may have ended it
    fi
    if [ -n "${why}" ] && "${data_is_there}"; then
        case ${id} in
            9 | 11) same_settings "${where}" ;;
        esac
    fi
    if "${planning}" && ! "${dry_run}"; then
        return 0
    elif [ -z "${why}" ]; then
        log "Stage ${number}: ${title}: finished before"
    elif "${planning}"; then
        measure "${number}" "${title}"
        log "Stage ${number}: ${title}: would run: ${why}; ${measured}"
    else
        log "Stage ${number}: ${title}"
        [ "${why}" = "not finished yet" ] || log "(again: ${why})"
        mkdir -p "$(dirname "${file}")"
        rm -f "${file}"  # until it has ended well
        begin_attempt "${file}"
        run_child "$@"
        has_run=true
        echo "${key}" > "${file}.tmp"
        mv "${file}.tmp" "${file}"
        end_attempt "${number}" "${title}"
    fi
    "${planning}" || unlock "${where}"
}
reason_to_run() {  # <number> <key file> <stage>: nothing, where the stage is finished
    if [ ! -f "$2" ]; then
        echo "not finished yet"
    elif [ -n "${output[$3]:-}" ] && [ ! -e "${output[$3]}" ]; then
        echo "its result is gone: ${output[$3]}"
    elif "${force}"; then
        echo "--force true"
    elif is_given stage && [ "${stage}" = "$1" ]; then
        echo "asked for by --stage $1"
    elif [ "$(< "$2")" != "${key}" ]; then
        differing_fields "$(< "$2")" "${key}"
    fi
}

# An attempt that is left before its end, by an error or a signal, keeps its time and the
# stage's key, for the attempt that finishes the stage.
attempt=()  # file for that, seconds of the attempts before, SECONDS at the beginning
begin_attempt() {  # <key file>
    local file before=0
    file=$(dirname "$1")/.spent_$(basename "$1")
    if [ -f "${file}" ] && [ "$(tail -n +2 "${file}")" = "${key}" ]; then
        before=$(head -n 1 "${file}")
    fi
    [[ ${before} =~ ^[0-9]+$ ]] || before=0
    attempt=("${file}" "${before}" "${SECONDS}")
    trap keep_attempt EXIT
}
seconds_spent() { echo "$((attempt[1] + SECONDS - attempt[2]))"; }
keep_attempt() {
    { printf '%s\n' "$(seconds_spent)" "${key}" > "${attempt[0]}"; } 2> /dev/null || true
}
end_attempt() {  # <number> <title>
    trap - EXIT
    mkdir -p "${expdir}"
    add_line "${expdir}/stage_times.tsv" \
        "${asr_exp##*/}"$'\t'"$1"$'\t'"$2"$'\t'"$(seconds_spent)"
    rm -f "${attempt[0]}"
}
# Appends a line, in the place of a last one that has no end.
add_line() {  # <file> <line>
    (
        exec 9>> "$1"
        flock 9
        [ ! -s "$1" ] || [ "$(tail -c 1 "$1" | wc -l)" -eq 1 ] \
            || truncate -s "-$(tail -n 1 "$1" | wc -c)" "$1"
        printf '%s\n' "$2" >&9
    )
}
whole_lines() { head -n "$(wc -l < "$1")" "$1"; }  # <file>: without a last one that has no end

# A training resumes from its checkpoint, but only one that began with these settings.
same_settings() {  # <directory>
    local old
    old=$(cat "$1/.settings" 2> /dev/null || true)
    [ -f "$1/checkpoint.pth" ] && [ "${old}" != "${key}" ] || return 0
    if [[ ${old} = *$'\t'* ]]; then
        old=$(differing_fields "${old}" "${key}")
    else
        old="it has no record of them that this version reads"
    fi
    fail "$1 holds a training with other settings: ${old}: give this one another name" \
        "(--mtkd_tag, --asr_tag), or remove that directory"
}
keep_settings() {  # <directory>
    same_settings "$1"
    mkdir -p "$1"
    echo "${key}" > "$1/.settings"
}

# ======================== How long, how much ========================
expected_s=0     # what the stages that would run took before, together
declare -A left_folders  # and the folders that they left on disk
unmeasured=()    # stages that have never ended well
# What a stage took the last time, in this experiment or another of this --expdir.
# Sets `measured`, words for the plan.
measure() {  # <number> <title>
    local found seconds folder kb=0
    found=$(whole_lines "${expdir}/stage_times.tsv" 2> /dev/null \
        | awk -F '\t' -v number="$1" -v title="$2" '
        NF != 4 || $4 !~ /^[0-9]+$/ { next }
        { what = $3; sub(/:.*/, "", what); wanted = title; sub(/:.*/, "", wanted) }
        $2 == number && what == wanted { last = $4 "\t" $3 }
        $2 == number && $3 == title { own = $4 "\t" $3 }
        END { print own == "" ? last : own }' || true)
    measured="not measured yet"
    if [ -z "${found}" ]; then
        unmeasured+=("$1")
        return 0
    fi
    seconds=${found%%$'\t'*}
    folder=${found##* }
    if [[ ${found} = *" -> "* ]] && [ -d "${folder}" ] && [ -z "${left_folders[${folder}]:-}" ]; then
        left_folders[${folder}]=yes
        kb=$(kilobytes "${folder}")
    fi
    measured="took $(duration "${seconds}") before"
    [ "${kb}" -lt 1024 ] || measured+=", $(megabytes "${kb}")"
    expected_s=$((expected_s + seconds))
}
# Of all of them, what lies in two once.
kilobytes() {  # <folders>
    [ $# -gt 0 ] || set -- /dev/null
    { du -skcD "$@" 2> /dev/null || true; } | awk 'END { print $1 + 0 }'
}
duration() {  # <seconds>
    if [ "$1" -lt 120 ]; then
        echo "$1 s"
    elif [ "$1" -lt 7200 ]; then
        echo "$((($1 + 30) / 60)) min"
    else
        awk -v s="$1" 'BEGIN { printf("%.1f h\n", s / 3600) }'
    fi
}
megabytes() { echo "$((($1 + 512) / 1024)) MB"; }  # <KiB>
tell_expected() {
    local before='' missing
    if [ "${expected_s}" -gt 0 ]; then
        before="about $(duration "${expected_s}") and $(megabytes "$(kilobytes "${!left_folders[@]}")")"
    fi
    if [ ${#unmeasured[@]} -eq 0 ]; then
        [ -z "${before}" ] || log "In all ${before}, as it was before"
        return 0
    fi
    missing="stages $(printf '%s\n' "${unmeasured[@]}" | sort -nu | paste -s -d ' ')"
    if [ -n "${before}" ]; then
        log "Measured before: ${before}; not measured yet: ${missing}"
    else
        log "Not measured yet: ${missing}"
    fi
}

# ======================== Progress ========================
# Runs a command, and tells beside it how far it is, by what a function puts into `told`: in
# a terminal in one line that changes, elsewhere in a line every 30 seconds.
watched() {  # <function> <command ...>
    local watch=$1 watcher status=0
    shift
    show_progress "${watch}" &
    watcher=$!
    "$@" || status=$?
    kill "${watcher}" 2> /dev/null || true
    wait "${watcher}" 2> /dev/null || true
    [ ! -t 1 ] || printf '\r\033[K'
    return "${status}"
}
show_progress() {  # <function>
    local begin told shown='' every=${MTKD_PROGRESS_S:-30} columns
    begin=$(date +%s)
    [ ! -t 1 ] || every=2
    # (Left behind for a moment, sleep must not hold what this script's output is piped to.)
    while sleep "${every}" > /dev/null 2>&1; do
        told=
        "$1" "${begin}" 2> /dev/null || true
        [ -n "${told}" ] && [ "${told}" != "${shown}" ] || continue
        shown=${told}
        if [ -t 1 ]; then
            columns=$(terminal_width)
            printf '\r\033[K    %s\r' "${told:0:$((columns > 10 ? columns - 5 : 5))}"
        else
            echo "    ${told}"
        fi
    done
}
terminal_width() {  # 80, where it is not known
    local size
    size=$({ stty size < /dev/tty; } 2> /dev/null || true)
    [[ ${size} = *" "[1-9]* ]] && echo "${size#* }" || echo 80
}
is_new() { [ "$(stat -L -c %Y "$1" 2> /dev/null || echo 0)" -ge "$2" ]; }  # <file> <since>

# The epoch and batch at which a training is, and ESPnet's estimate of the time left.
with_progress() {  # <log file> <command ...>
    local logfile=$1
    shift
    # shellcheck disable=SC2317,SC2329  # watched calls it
    tell_epoch() {
        is_new "${logfile}" "$1" || return 0
        told=$(tail -n 5000 "${logfile}" | awk '
            /INFO: [0-9]+\/[0-9]+epoch started/ {
                now = $0
                sub(/.*INFO: /, "", now)
                left = ""
                if (now ~ /finish: /) {
                    left = now
                    sub(/.*finish: /, "", left)
                    sub(/ and [0-9.]+ seconds$/, "", left)
                    gsub(/\.[0-9]+ seconds/, " seconds", left)
                    left = ", about " left " left"
                }
                sub(/epoch.*/, "", now)
                batch = ""
            }
            /[0-9]epoch:train:[0-9]+-[0-9]+batch:/ {
                batch = $0
                sub(/.*epoch:train:[0-9]+-/, "", batch)
                sub(/batch:.*/, "", batch)
                batch = ", batch " batch
            }
            END { if (now != "") print "epoch " now batch left }')
    }
    MTKD_NUM_THREADS=${num_threads} watched tell_epoch "$@"
}

# The last line of a log, a progress bar's (not what ESPnet says of a package that it can do
# without).
with_last_line() {  # <log file> <command ...>
    local logfile=$1
    shift
    # shellcheck disable=SC2317,SC2329  # watched calls it
    tell_last_line() {
        is_new "${logfile}" "$1" || return 0
        told=$(tail -n 1 "${logfile}" | tr '\r' '\n' | grep -v 'Flash Attention' | tail -n 1)
    }
    watched tell_last_line "$@"
}

# How many utterances are done, and the time that the rest will take, by how fast they are
# since the first. Files of before are not counted.
with_count() {  # <number in all> <pattern of their lines> <files' glob> <command ...>
    local total=$1 pattern=$2 glob=$3 first='' since=
    shift 3
    # shellcheck disable=SC2317,SC2329  # watched calls it
    tell_count() {
        local count now seconds
        # shellcheck disable=SC2086
        count=$(find -L ${glob} -newermt "@$1" -exec cat {} + | grep -c "${pattern}" || true)
        [ "${count}" -le "${total}" ] || count=${total}
        [ "${count}" -gt 0 ] || return 0
        now=$(date +%s)
        : "${first:=${count}}" "${since:=${now}}"
        told="${count} of ${total} utterances"
        [ "${count}" -gt "${first}" ] || return 0
        seconds=$(((now - since) * (total - count) / (count - first)))
        told+=", about $(duration "$((seconds > 0 ? seconds : 0))") left"
    }
    watched tell_count "$@"
}
