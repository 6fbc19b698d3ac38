#!/usr/bin/env bash
# The ladder of results: mtkd.sh once for every row, encoder and seed, then RESULTS.md.
# shellcheck disable=SC2034,SC2154  # common.sh reads and sets them
template=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=common.sh
. "${template}/common.sh"
declare_options << 'EOF'
rows             | scratch teachers kd | Which rows, in this order.
encoders         | conformer contextual_block_conformer | Which students.
seeds            | 0       | Random seeds, e.g. "0 1 2": every row once for each.
teachers         | conf/teachers.yaml | Teachers of all rows but scratch and single.
single_teachers  |         | YAML files of one teacher each, for the row single.
kd_teacher_config | conf/train_teacher_transducer.yaml | Config of the teacher transducer.
kd_teacher_args  |         | Arguments for its training, e.g. "--max_epoch 12".
kd_teacher_tag   | teacher | Its experiment is <expdir>/asr_<tag>.
unlabelled_sets  |         | Data directories without text, for the rows unlabelled and pseudo.
pretrain_epochs  | 60      | Epochs of stage 1.
head_epochs      | 8       | Epochs of stage 2 in which the pre-trained encoder is frozen.
finetune_epochs  | 32      | Epochs of stage 2 after that. From scratch stage 2 has as many epochs as both
                 |         | together, or what --scratch_args says.
head_lr          | 0.003   | Learning rate with the frozen encoder.
finetune_lr      | 0.0005  | Learning rate after that.
mtkd_args        |         | Arguments for mtkd_train in stage 1, after the ladder's own.
asr_args         |         | Arguments for asr_train in stage 2.
head_args        |         | Arguments for its part with the encoder frozen.
finetune_args    |         | Arguments for the part after that.
scratch_args     |         | Arguments for a stage 2 from scratch.
expdir           | exp     | Directory of the experiments and of RESULTS.md.
python           | python3 | Python to execute espnet commands.
note             |         | A sentence below the table of results.
command          |         | That the results were made by, to stand in RESULTS.md.
EOF

usage="[options] [options of mtkd.sh, for every row]"
about=$(cat << END
Rows, each of them one student more for every encoder and seed:
    scratch     no teacher: the measure of all others
    single      each teacher of --single_teachers alone, stored targets
    live        all teachers, run during training
    teachers    all teachers, stored targets
    kd          + path distillation from the teacher transducer
    unlabelled  + unlabelled audio in stage 1
    pseudo      + its pseudo-labels, by the teacher transducer, in stage 2

RESULTS.md in --expdir grows with each row; --stop_stage 0 makes it of what is there.
END
)
parse_options pass "$@"
for name in "${options[@]}"; do
    [[ ${name} = --* ]] || continue
    name=${name%%=*}
    name=--$(tr - _ <<< "${name#--}")
    case ${name} in
        --encoder | --seed) fail "${name}: the ladder's option is ${name}s" ;;
        --mtkd_tag | --mtkd_exp | --asr_tag | --asr_exp)
            fail "${name}: the ladder names its experiments itself" ;;
        --asr_config | --kd_teacher_exp | --pseudo_labels | --teacher_mode)
            fail "${name}: would be that of all rows, which are told apart by it: call mtkd.sh" ;;
    esac
done
for name in pretrain_epochs head_epochs finetune_epochs; do
    case ${!name} in
        '' | 0 | *[!0-9]*) fail "--${name}: expected a number above 0, found '${!name}'" ;;
    esac
done
seeds=$(xargs -n 1 <<< "${seeds}" | awk '!seen[$0]++' | xargs)
for e in ${encoders}; do
    case ${e} in
        conformer | contextual_block_conformer) ;;
        *) fail "--encoders: expected conformer or contextual_block_conformer, found '${e}'" ;;
    esac
done
needs_teacher=false
for name in ${rows}; do
    case ${name} in
        scratch | live | teachers) ;;
        single) [ -n "${single_teachers}" ] || fail "the row single needs --single_teachers" ;;
        kd) needs_teacher=true ;;
        unlabelled | pseudo)
            needs_teacher=true
            [ -n "${unlabelled_sets}" ] || fail "the row ${name} needs --unlabelled_sets" ;;
        *) fail "--rows: expected scratch, single, live, teachers, kd, unlabelled, pseudo;" \
            "found '${name}'" ;;
    esac
done

[ -e mtkd.sh ] || fail "expected a recipe's directory that setup.sh has set up, found no" \
    "mtkd.sh in $(pwd): run egs2/TEMPLATE/mtkd1/setup.sh egs2/<corpus>/mtkd1 from the top," \
    "then this command in egs2/<corpus>/mtkd1"
# shellcheck source=/dev/null
. ./path.sh

scratch=(
    --teachers none
    --asr_args "--max_epoch $((head_epochs + finetune_epochs))${asr_args:+ ${asr_args}}${scratch_args:+ ${scratch_args}}"
)
taught=(
    --mtkd_args "--max_epoch ${pretrain_epochs}${mtkd_args:+ ${mtkd_args}}"
    --asr_args "${asr_args}"
    --head_args "--max_epoch ${head_epochs} --optim_conf lr=${head_lr} --scheduler_conf warmup_steps=50${head_args:+ ${head_args}}"
    --finetune_args "--max_epoch ${finetune_epochs} --optim_conf lr=${finetune_lr} --scheduler_conf warmup_steps=100${finetune_args:+ ${finetune_args}}"
)
stored=(--teachers "${teachers}" --teacher_mode cached)
kd=(--kd_teacher_exp "${expdir}/asr_${kd_teacher_tag}")
unlabelled=(--unlabelled_sets "${unlabelled_sets}")

# Whether the test sets of a directory of stage 2 are scored; with a file: since that.
is_scored() {  # <directory> [<file>]
    local newer=()
    [ ! -e "${2:-}" ] || newer=(-newer "$2")
    [ -n "$(find "$1/.done" -name '13_*' "${newer[@]}" -print -quit 2> /dev/null)" ]
}
trained=()
reported=0  # how many of them RESULTS.md speaks of
# RESULTS.md of the rows so far, those that are not scored left out and named.
report() {
    local row words key stamp=${expdir}/.done_report scored=() missing=
    reported=${#trained[@]}
    for row in "${trained[@]}"; do
        if is_scored "${row#*=}"; then
            scored+=("${row}")
        else
            missing+="${missing:+; }${row%%=*}"
        fi
    done
    [ -z "${missing}" ] || log "Not scored yet (stage 13): ${missing}"
    [ ${#scored[@]} -gt 0 ] || return 0
    words="${note}${missing:+${note:+ }Rows not finished: ${missing}.}"
    # Of these rows, by this command, and no stage has run since?
    key="${command} ${words} ${scored[*]}"
    if [ -f "${expdir}/RESULTS.md" ] && [ -f "${expdir}/curves.png" ] \
        && [ -f "${stamp}" ] && [ "$(<"${stamp}")" = "${key}" ] \
        && [ ! "${expdir}/stage_times.tsv" -nt "${stamp}" ]; then
        log "${expdir}/RESULTS.md: finished before"
        return 0
    fi
    echo "${key}" > "${stamp}.tmp"  # before the report: a stage that ends meanwhile is newer
    scripts/utils/show_asr_result.sh "${expdir}" > "${expdir}/results_espnet.md"
    ${python} -m espnet_mtkd.bin.mtkd_report --expdir "${expdir}" --rows "${scored[@]}" \
        --espnet_results "${expdir}/results_espnet.md" --command "${command}" \
        --note "${words}"
    mv "${stamp}.tmp" "${stamp}"
}
# A ladder that is stopped has a table of the rows that are finished.
add_row() {  # <student>: <row> <directory of stage 2>
    trained+=("$1=$2")
    if is_scored "$2" "${expdir}/RESULTS.md"; then report; fi
}
# <encoder> <title> <tag of stage 2> <tag of stage 1> <options ...>
row() {
    local e=$1 title=$2 tag=$3 mtkd_tag=$4 seed end
    shift 4
    for seed in ${seeds}; do
        log "======== ${e}: ${title}, seed ${seed} ========"
        end=
        [ "${seed}" = 0 ] || end=_seed${seed}
        run_child ./mtkd.sh --expdir "${expdir}" --python "${python}" "$@" \
            --encoder "${e}" --seed "${seed}" \
            --mtkd_tag "${e}_${mtkd_tag}${end}" --asr_tag "${e}_${tag}${end}" \
            "${options[@]}"
        add_row "${e}: ${title}" "${expdir}/asr_${e}_${tag}${end}"
    done
}

if "${needs_teacher}"; then
    log "======== teacher transducer ========"
    run_child ./mtkd.sh --expdir "${expdir}" --python "${python}" --teachers none \
        --asr_config "${kd_teacher_config}" --asr_tag "${kd_teacher_tag}" \
        --asr_args "${kd_teacher_args}" "${options[@]}"
    add_row "teacher: teacher transducer" "${expdir}/asr_${kd_teacher_tag}"
fi
all=$(basename "${teachers}" .yaml)
for e in ${encoders}; do
    for name in ${rows}; do
        case ${name} in
            scratch) row "${e}" "from scratch" scratch none "${scratch[@]}" ;;
            single)
                for file in ${single_teachers}; do
                    one=$(basename "${file}" .yaml)
                    row "${e}" "${one#teacher_} alone" "${one}" "${one}" \
                        "${taught[@]}" --teachers "${file}" --teacher_mode cached
                done ;;
            live)
                row "${e}" "all teachers, live" "${all}" "${all}" \
                    "${taught[@]}" --teachers "${teachers}" ;;
            teachers)
                row "${e}" "all teachers" "${all}_stored" "${all}_stored" \
                    "${taught[@]}" "${stored[@]}" ;;
            kd)
                row "${e}" "+ path KD" "${all}_kd" "${all}_stored" \
                    "${taught[@]}" "${stored[@]}" "${kd[@]}" ;;
            unlabelled)
                row "${e}" "+ unlabelled audio" "${all}_unlabelled" "${all}_unlabelled" \
                    "${taught[@]}" "${stored[@]}" "${kd[@]}" "${unlabelled[@]}" ;;
            pseudo)
                row "${e}" "+ pseudo-labels" "${all}_pseudo" "${all}_unlabelled" \
                    "${taught[@]}" "${stored[@]}" "${kd[@]}" "${unlabelled[@]}" \
                    --pseudo_labels true ;;
        esac
    done
done

[ "${reported}" = ${#trained[@]} ] || report
