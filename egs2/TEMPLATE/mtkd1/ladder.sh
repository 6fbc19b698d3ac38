#!/usr/bin/env bash
# The ladder of results: mtkd.sh once for every row, encoder and seed, then RESULTS.md and
# report.html.
# shellcheck disable=SC2034,SC2154  # common.sh reads and sets them
template=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=common.sh
. "${template}/common.sh"
declare_options << 'EOF'
rows             |         | Which rows, in this order (default: "scratch teachers kd", or all of
                 |         | --rows_config where that is given). all: those of --rows_config.
rows_config      |         | YAML files of further rows, e.g. conf/ablation.yaml (default:
                 |         | conf/ladder.yaml, if there is one). How they are written stands in
                 |         | egs2/TEMPLATE/mtkd1/conf/ladder.yaml, whose rows are always known.
plan             | false   | Print the rows: name, title, directories, options; run none.
jobs             |         | Rows beside each other (default: on the CPU as many as cores and rows, at
                 |         | most 4; 1 on GPUs, and where --num_threads is given). --num_threads is
                 |         | shared out; each has --ngpu GPUs of its own, of CUDA_VISIBLE_DEVICES or
                 |         | of all.
encoders         | conformer contextual_block_conformer | Which students.
seeds            | 0       | Random seeds, e.g. "0 1 2": every row once for each.
teachers         | conf/teachers.yaml | Teachers of all rows but scratch and single.
single_teachers  |         | YAML files of one teacher each, for the row single.
kd_teacher_config | conf/train_teacher_transducer.yaml | Config of the teacher transducer.
kd_teacher_args  |         | Arguments for its training, e.g. "--max_epoch 12".
kd_teacher_tag   | teacher | Its experiment is <expdir>/asr_<tag>.
unlabelled_sets  |         | Data directories without text, for the rows unlabelled, pseudo and text.
pseudo_whisper   | downloads/whisper_base_decoder | Whisper with its decoder, for the row text.
pretrain_epochs  | 60      | Epochs of stage 1.
head_epochs      | 8       | Epochs of stage 2 in which the pre-trained encoder is frozen.
finetune_epochs  | 32      | Epochs of stage 2 after that. From scratch stage 2 has as many epochs as both
                 |         | together, or what --scratch_args says.
head_lr          | 0.003   | Learning rate with the frozen encoder.
finetune_lr      | 0.001   | Learning rate after that.
mtkd_args        |         | Arguments for mtkd_train in stage 1, after the ladder's own.
asr_args         |         | Arguments for asr_train in stage 2.
head_args        |         | Arguments for its part with the encoder frozen.
finetune_args    |         | Arguments for the part after that.
scratch_args     |         | Arguments for a stage 2 from scratch.
expdir           | exp     | Directory of the experiments, of RESULTS.md and report.html.
python           | python3 | Python to execute espnet commands.
note             |         | A sentence below the table of results.
command          |         | That the results were made by, to stand in RESULTS.md.
report_mb        | 10      | Largest size of report.html in MB; audio fills what is left.
EOF

usage="[options] [options of mtkd.sh, for every row]"
about=$(cat << END
Rows, each of them one student more for every encoder and seed:
    scratch     no teacher: the measure of all others
    single      each teacher of --single_teachers alone, stored targets
    live        all teachers, run during training
    teachers    all teachers, stored targets
    loo         each teacher of --teachers left out, the others as in teachers
    kept        + the teachers' loss kept on in stage 2
    kd          + path distillation from the teacher transducer
    unlabelled  + unlabelled audio in stage 1
    pseudo      + its pseudo-labels, by the teacher transducer, in stage 2
    text        or its transcripts by Whisper, in stage 2

RESULTS.md and report.html in --expdir grow with each row: a browser shows how far it is.
--stop_stage 0 makes them of what is there. Further rows, ablations say: --rows_config. With
several --jobs, what rows have in common (data, targets, a stage 1 of the same options, the
teacher transducer) is done once and first; the ladder tells how far each is, whose output is
in <expdir>/log_ladder. A row that fails stops no other.
END
)
parse_options pass "$@"
[ -e mtkd.sh ] || fail "expected a recipe's directory that setup.sh has set up, found no" \
    "mtkd.sh in $(pwd): run egs2/TEMPLATE/mtkd1/setup.sh egs2/<corpus>/mtkd1 from the top," \
    "then this command in egs2/<corpus>/mtkd1"
# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./cmd.sh

values=()
for name in "${option_names[@]}"; do values+=("${name}=${!name}"); done
more=()
! "${plan}" || more=(--plan)
# shellcheck disable=SC2086
exec ${python} -m espnet_mtkd.bin.mtkd_ladder --template "${template}" \
    --cuda_cmd "${cuda_cmd:-}" "${more[@]}" --set "${values[@]}" -- "${options[@]}"
