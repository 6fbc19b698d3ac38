#!/usr/bin/env bash

# Set bash to 'debug' mode, it will exit on :
# -e 'error', -u 'undefined variable', -o ... 'error in pipeline', -x 'print commands',
set -e
set -u
set -o pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

# General configuration
stage=1              # Processes starts from the specified stage.
stop_stage=10000     # Processes is stopped at the specified stage.
skip_stages=         # Stages to be skipped, e.g. "7 10".
skip_data_prep=false # Skip data preparation (stages 1 to 5).
skip_train=false     # Skip training (stages 6 to 11).
skip_eval=false      # Skip decoding and scoring (stages 12 and 13).
skip_packing=true    # Skip packing (stage 14).
skip_upload_hf=true  # Skip uploading to Hugging Face (stage 15).
ngpu=1               # The number of gpus ("0" uses cpu, otherwise use gpu).
num_nodes=1          # The number of nodes.
nj=32                # The number of parallel jobs.
inference_nj=32      # The number of parallel jobs in decoding.
num_threads=         # Threads of a training on the CPU (default: all cores).
gpu_inference=false  # Whether to decode on gpu.
dumpdir=dump         # Directory to dump features.
expdir=exp           # Directory to save experiments.
python=python3       # Python to execute espnet commands.
seed=0               # Random seed of both trainings.

# Data and tokens, as in asr.sh
local_data_opts=      # Options for local/data.sh.
speed_perturb_factors= # Perturbation factors, e.g. "0.9 1.0 1.1" (separated by space).
audio_format=flac     # Audio format of the dump.
fs=16k                # Sampling rate; teachers expect 16 kHz.
min_wav_duration=0.1  # Minimum duration in second.
max_wav_duration=20   # Maximum duration in second.
lang=noinfo           # The language type of corpus.
token_type=bpe        # Tokenization type (char or bpe).
nbpe=500              # The number of BPE vocabulary.
bpemode=unigram       # Mode of BPE (unigram or bpe).
train_set=            # Name of training set.
valid_set=            # Name of validation set.
test_sets=            # Names of test sets.
unlabelled_sets=      # Data directories without text, for stage 1 alone.
unlabelled_ratio=1.0  # Hours of them for each hour of the training set, in each epoch.

# Stage 1: distillation from the teachers' embeddings
teachers=conf/teachers.yaml # YAML list of teachers; "none" trains from scratch.
train_config=conf/train_mtkd.yaml # Config of mtkd_train.
teacher_mode=live     # live: teachers run during training; cached: targets are stored first.
targets_dir=          # Directory of stored targets (default: in ${expdir}).
extract_args=         # Arguments for mtkd_extract, e.g. "--num_codebooks 8".
extract_nj=           # Jobs of mtkd_extract (default: the number of gpus, or 1).
mtkd_args=            # Arguments for mtkd_train, e.g. "--max_epoch 10".
mtkd_tag=             # Suffix of the directory of stage 1.
mtkd_exp=             # Directory of stage 1. If given, mtkd_tag is ignored.
pretrained_checkpoint=valid.loss.best.pth # File of stage 1 that is handed over.

# Stage 2: ESPnet's transducer ASR training
encoder=conformer     # conformer or contextual_block_conformer (streaming).
asr_config=           # Config of asr_train (default: conf/train_asr_${encoder}_transducer.yaml).
asr_args=             # Arguments for asr_train, e.g. "--max_epoch 10".
asr_tag=              # Suffix of the directory of stage 2.
asr_exp=              # Directory of stage 2. If given, asr_tag is ignored.
head_args="--max_epoch 4 --optim_conf lr=0.003" # Arguments for a first part with the encoder frozen.
finetune_args="--optim_conf lr=0.0005" # Arguments for training on from a pre-trained encoder.
feats_normalize=global_mvn # global_mvn or utterance_mvn.
kd_teacher_exp=       # Directory of a trained teacher transducer; empty: no path distillation.
kd_teacher_model=valid.loss.ave.pth # Its model file.
kd_args=              # Arguments of the distillation, e.g. "--path_kd_conf weight=0.5".
paths_dir=            # Directory of its best paths (default: ${expdir}/mtkd_paths_<teacher>).
paths_args=           # Arguments for mtkd_extract_paths, e.g. "--num_tokens 8".
pseudo_labels=false   # The teacher transducer transcribes the unlabelled sets for stage 11.
pseudo_args=          # Arguments for mtkd_pseudo_label, e.g. "--min_confidence 0.8".

# Decoding
inference_config=conf/decode_asr.yaml # Config of asr_inference.
inference_args=       # Arguments for asr_inference.
inference_asr_model=valid.loss.ave.pth # Model file to decode with.
stream_decode=        # Decode chunk by chunk too (default: with contextual_block_conformer).
stream_args="--search_type default --beam_size 5" # Arguments for mtkd_asr_stream.

# Publishing
license=              # Licence of the model, for its card, e.g. "cc-by-4.0".
language=             # ISO codes of what it recognises (default: lang).
pack_args=            # Arguments for mtkd_pack, e.g. "--limits 'Read speech.'".
hf_repo=              # Hugging Face repository to upload to, "user/model".
dry_run=false         # Write what would be uploaded into expdir, and upload nothing.
upload_args=          # Arguments for mtkd_upload, e.g. "--private true".

help_message=$(cat << EOF
Usage: $0 --train_set <train_set_name> --valid_set <valid_set_name> --test_sets <test_set_names>

Trains one student: its encoder on the embeddings of the teachers (stages 6 to 9), then
the whole transducer by ESPnet's asr.sh (stages 10 to 13). Stages 1 to 5 and 11 to 13 are
asr.sh's own, under its numbers. A stage that was finished with the same settings says so
and does nothing.

Stages:
    1  local/data.sh                                -> data/<set>
    2  speed perturbation                           -> data/<train_set>_sp
    3  format wav.scp                               -> ${dumpdir}/raw/<set>
    4  remove long and short data                   -> ${dumpdir}/raw/<set>
    5  token list                                   -> data/<lang>_token_list
    6  lengths and feature statistics (asr.sh's 10) -> ${expdir}/asr_stats_*
    7  try each teacher, look at all audio          -> ${expdir}/mtkd_stats
       (and format the unlabelled sets)             -> ${dumpdir}/raw/unlabelled_<set>
    8  store the teachers' targets (--teacher_mode cached)
                                                    -> ${expdir}/mtkd_targets
    9  pre-train the encoder on the teachers        -> ${expdir}/mtkd_<tag>
    10 check that stage 11 takes over the encoder whole
    11 pseudo-labels by --kd_teacher_exp            -> ${dumpdir}/raw/<train_set>_pseudo_<teacher>
       its best paths                               -> ${expdir}/mtkd_paths_<teacher>
       train the transducer                         -> ${expdir}/asr_<tag>
    12 decode (streaming students chunk by chunk    -> ${expdir}/asr_<tag>/<decoding>/<set>
       too: <decoding> is decode_stream)
    13 score                                        -> ${expdir}/asr_<tag>/RESULTS.md
    14 pack both with a model card (--skip_packing false)
                                                    -> ${expdir}/asr_<tag>/*.zip
    15 upload that (--skip_upload_hf false)         -> --hf_repo
       (with --dry_run true)                        -> ${expdir}/hf_<user>_<model>

Options:
    # General configuration
    --stage          # Processes starts from the specified stage (default="${stage}").
    --stop_stage     # Processes is stopped at the specified stage (default="${stop_stage}").
    --skip_stages    # Stages to be skipped (default="${skip_stages}").
    --skip_data_prep # Skip data preparation, stages 1 to 5 (default="${skip_data_prep}").
    --skip_train     # Skip training, stages 6 to 11 (default="${skip_train}").
    --skip_eval      # Skip decoding and scoring, stages 12 and 13 (default="${skip_eval}").
    --skip_packing   # Skip packing, stage 14 (default="${skip_packing}").
    --skip_upload_hf # Skip uploading, stage 15 (default="${skip_upload_hf}").
    --ngpu           # The number of gpus ("0" uses cpu, otherwise use gpu, default="${ngpu}").
    --num_nodes      # The number of nodes (default="${num_nodes}").
    --nj             # The number of parallel jobs (default="${nj}").
    --inference_nj   # The number of parallel jobs in decoding (default="${inference_nj}").
    --num_threads    # Threads of a training on the CPU (default: all cores).
    --gpu_inference  # Whether to perform gpu decoding (default="${gpu_inference}").
    --dumpdir        # Directory to dump features (default="${dumpdir}").
    --expdir         # Directory to save experiments (default="${expdir}").
    --python         # Specify python to execute espnet commands (default="${python}").
    --seed           # Random seed of both trainings (default="${seed}").

    # Data and tokens, as in asr.sh
    --local_data_opts  # The options given to local/data.sh (default="${local_data_opts}").
    --speed_perturb_factors # Speed perturbation factors, e.g. "0.9 1.0 1.1" (default="${speed_perturb_factors}").
    --audio_format     # Audio format of the dump: wav or flac (default="${audio_format}").
    --fs               # Sampling rate; teachers expect 16 kHz (default="${fs}").
    --min_wav_duration # Minimum duration in second (default="${min_wav_duration}").
    --max_wav_duration # Maximum duration in second (default="${max_wav_duration}").
    --lang             # The language type of corpus (default="${lang}").
    --token_type       # Tokenization type, char or bpe (default="${token_type}").
    --nbpe             # The number of BPE vocabulary (default="${nbpe}").
    --bpemode          # Mode of BPE, unigram or bpe (default="${bpemode}").
    --train_set        # Name of training set (required).
    --valid_set        # Name of validation set (required).
    --test_sets        # Names of test sets (required).
    --unlabelled_sets  # Data directories without text (default="${unlabelled_sets}"), e.g.
                       # "data/es data/fr", whose audio joins stage 1.
    --unlabelled_ratio # Hours of them an hour of the training set (default="${unlabelled_ratio}").

    # Stage 1: distillation from the teachers' embeddings
    --teachers     # YAML list of teachers, or "none" to train from scratch (default="${teachers}").
    --train_config # Config of mtkd_train (default="${train_config}").
    --teacher_mode # live or cached (default="${teacher_mode}"). live: teachers run during training,
                   # their targets are kept in memory; cached: targets are stored first
                   # (stage 8), training loads no teacher.
    --targets_dir  # Directory of stored targets (default: ${expdir}/mtkd_targets, and extract_args).
    --extract_args # Arguments for mtkd_extract, e.g. "--num_codebooks 8" (default="${extract_args}").
                   # By default 16 bytes a frame and layer: 2.9 MB an hour for each.
    --extract_nj   # Jobs of mtkd_extract, by cmd.sh's cuda_cmd (default: the number of gpus, or 1).
    --mtkd_args    # Arguments for mtkd_train, e.g. "--max_epoch 10" (default="${mtkd_args}").
                   # They overwrite those of the config.
    --mtkd_tag     # Suffix of the directory of stage 1 (default: of student, teachers and options).
    --mtkd_exp     # Directory of stage 1; if given, mtkd_tag is ignored (default="${mtkd_exp}").
    --pretrained_checkpoint # File of stage 1 that is handed over (default="${pretrained_checkpoint}").

    # Stage 2: ESPnet's transducer ASR training
    --encoder      # conformer or contextual_block_conformer, the streaming one (default="${encoder}").
    --asr_config   # Config of asr_train (default="conf/train_asr_<encoder>_transducer.yaml").
                   # Stage 1 takes the student's frontend and encoder from it.
    --asr_args     # Arguments for asr_train (default="${asr_args}").
    --asr_tag      # Suffix of the directory of stage 2 (default: of the options that change it).
    --asr_exp      # Directory of stage 2; if given, asr_tag is ignored (default="${asr_exp}").
    --head_args    # Arguments of asr_train for a first part of stage 11 (default="${head_args}"),
                   # in which the pre-trained encoder is frozen and the decoder learns to
                   # use it; empty: no such part, and little is left of the pre-training.
    --finetune_args # Arguments of asr_train for what follows (default="${finetune_args}"),
                   # the training of a student whose encoder was pre-trained.
    --feats_normalize # global_mvn or utterance_mvn (default="${feats_normalize}").
    --kd_teacher_exp # Directory of a teacher transducer (default="${kd_teacher_exp}"): one with the
                   # same tokens, whose best alignment paths the student learns from, e.g. one
                   # over a foundation model: train it by this script, with --teachers none
                   # --asr_config conf/train_teacher_transducer.yaml.
    --kd_teacher_model # Its model file (default="${kd_teacher_model}").
    --kd_args      # Arguments of the distillation (default="${kd_args}"), e.g.
                   # "--path_kd_conf weight=0.5 --path_kd_conf time_shift=2"; keys: weight,
                   # temperature, time_shift (frames), variant (topk or collapsed).
    --paths_dir    # Directory of the paths (default="${expdir}/mtkd_paths_<teacher>").
    --paths_args   # Arguments for mtkd_extract_paths, e.g. "--num_tokens 8" (default="${paths_args}").
    --pseudo_labels # Train stage 11 on the unlabelled sets too (default="${pseudo_labels}"), with
                   # transcripts of the teacher transducer.
    --pseudo_args  # Arguments for mtkd_pseudo_label (default="${pseudo_args}"), e.g.
                   # "--min_confidence 0.8".

    # Decoding
    --inference_config    # Config of asr_inference (default="${inference_config}").
    --inference_args      # Arguments for asr_inference (default="${inference_args}").
    --inference_asr_model # Model file to decode with (default="${inference_asr_model}").
    --stream_decode       # true or false (default: true for contextual_block_conformer):
                          # decode chunk by chunk too, by mtkd_asr_stream.
    --stream_args         # Arguments for mtkd_asr_stream (default="${stream_args}").

    # Publishing
    --license     # Licence of the model (required by stage 14), an id of the Hugging Face hub,
                  # e.g. "cc-by-4.0".
    --language    # ISO codes of what the model recognises (default: that of --lang).
    --pack_args   # Arguments for mtkd_pack (default="${pack_args}"), e.g.
                  # "--dataset user/corpus --limits 'Read speech.'".
    --hf_repo     # Hugging Face repository to upload to (required by stage 15), "user/model".
    --dry_run     # Write what would be uploaded into a directory, and ask no hub (default="${dry_run}").
    --upload_args # Arguments for mtkd_upload (default="${upload_args}"), e.g. "--private true".
EOF
)

fail() {
    log "Error: $*"
    exit 2
}
log "$0 $*"
[ -e utils/parse_options.sh ] || fail "expected a recipe's directory that setup.sh has set up," \
    "found no utils/parse_options.sh in $(pwd): run egs2/TEMPLATE/mtkd1/setup.sh egs2/<corpus>/mtkd1" \
    "from the top, then this command in egs2/<corpus>/mtkd1"
_head_args=${head_args}  # the defaults
_finetune_args=${finetune_args}
. utils/parse_options.sh

[ $# -eq 0 ] || { log "${help_message}"; fail "no positional arguments are expected, found: $*"; }

. ./path.sh
. ./cmd.sh

for name in train_set valid_set test_sets; do
    [ -n "${!name}" ] || fail "--${name} is required"
done
case ${encoder} in
    conformer | contextual_block_conformer) ;;
    *) fail "--encoder: expected conformer or contextual_block_conformer, found '${encoder}'" ;;
esac
: "${asr_config:=conf/train_asr_${encoder}_transducer.yaml}"
for name in asr_config inference_config; do
    [ -f "${!name}" ] || fail "--${name}: no such file: ${!name}"
done
if [ "${teachers}" != none ]; then
    for name in teachers train_config; do
        [ -f "${!name}" ] || fail "--${name}: no such file: ${!name}"
    done
fi
case ${teacher_mode} in
    live | cached) ;;
    *) fail "--teacher_mode: expected live or cached, found '${teacher_mode}'" ;;
esac
for dset in ${unlabelled_sets}; do
    [ -f "${dset}/wav.scp" ] || [ "${stage}" -le 1 ] \
        || fail "--unlabelled_sets: no such file: ${dset}/wav.scp"
done
if [ -z "${stream_decode}" ]; then
    stream_decode=false
    [ "${encoder}" != contextual_block_conformer ] || stream_decode=true
fi
case ${stream_decode} in
    true | false) ;;
    *) fail "--stream_decode: expected true or false, found '${stream_decode}'" ;;
esac
if [ -n "${kd_teacher_exp}" ] && [ ! -f "${kd_teacher_exp}/${kd_teacher_model}" ]; then
    fail "--kd_teacher_exp: no such file: ${kd_teacher_exp}/${kd_teacher_model}: train it first"
fi
case ${pseudo_labels} in
    false) ;;
    true)
        [ -n "${kd_teacher_exp}" ] && [ -n "${unlabelled_sets}" ] \
            || fail "--pseudo_labels true needs --kd_teacher_exp and --unlabelled_sets" ;;
    *) fail "--pseudo_labels: expected true or false, found '${pseudo_labels}'" ;;
esac
case ${expdir} in
    *:*) fail "--expdir: ESPnet's --init_param splits paths at ':', found '${expdir}'" ;;
esac
if [ -z "${num_threads}" ]; then
    if [ "${ngpu}" -eq 0 ]; then num_threads=$(nproc); else num_threads=1; fi
fi

# ======================== Names of the experiments ========================
_sp=
[ -z "${speed_perturb_factors}" ] || _sp=_sp
_train=${dumpdir}/raw/${train_set}${_sp}
_valid=${dumpdir}/raw/${valid_set}
_tokens=${token_type}
[ "${token_type}" != bpe ] || _tokens=bpe${nbpe}
_teachers=$(basename "${teachers}" .yaml)
_student=$(basename "${asr_config}" .yaml)
_student=${_student#train_asr_}
_student=${_student%_transducer}
_seed=
[ "${seed}" = 0 ] || _seed=_seed${seed}
# An option's value as a part of a name: "--max_epoch 1" -> "_max_epoch1".
_args_tag() { echo "$*" | sed -e "s/--/\_/g" -e "s/[ |=/]//g"; }
if [ -z "${mtkd_tag}" ]; then
    mtkd_tag=${_student}_${_teachers}
    [ "${teacher_mode}" = live ] || mtkd_tag+=_cached$(_args_tag "${extract_args}")
    [ -z "${unlabelled_sets}" ] || mtkd_tag+=_unlabelled
    for dset in ${unlabelled_sets}; do mtkd_tag+=_$(basename "${dset}"); done
    mtkd_tag+=$(_args_tag "${mtkd_args}")${_seed}
fi
: "${mtkd_exp:=${expdir}/mtkd_${mtkd_tag}}"
if [ -z "${asr_tag}" ]; then
    asr_tag=${mtkd_tag}
    [ "${teachers}" != none ] || asr_tag=${_student}_scratch${_seed}
    [ -z "${kd_teacher_exp}" ] || asr_tag+=_kd$(_args_tag "${paths_args}" "${kd_args}")
    ! "${pseudo_labels}" || asr_tag+=_pseudo$(_args_tag "${pseudo_args}")
    asr_tag+=$(_args_tag "${asr_args}")
    [ "${head_args}" = "${_head_args}" ] || asr_tag+=_head$(_args_tag "${head_args}")
    [ "${finetune_args}" = "${_finetune_args}" ] || asr_tag+=_finetune$(_args_tag "${finetune_args}")
    asr_tag+=_${_tokens}${_sp}
fi
: "${asr_exp:=${expdir}/asr_${asr_tag}}"

asr_stats_dir=${expdir}/asr_stats_raw_${lang}_${_tokens}${_sp}
# What stock ESPnet does not know runs through this package.
with_plugin="${python} -m espnet_mtkd.bin.mtkd_espnet"
train_python=${python}
decode_python=${python}
stats_config=${asr_config}
if grep -q '^frontend: *mtkd_teacher' "${asr_config}"; then
    # Of stage 6 a teacher transducer needs the lengths, which are the student's.
    train_python=${with_plugin}
    decode_python=${with_plugin}
    stats_config=conf/train_asr_${encoder}_transducer.yaml
    feats_normalize=utterance_mvn
elif [[ -n "${kd_teacher_exp}" || "${asr_args} ${head_args} ${finetune_args}" = *--transducer_loss* ]]; then
    train_python=${with_plugin}
fi
: "${paths_dir:=${expdir}/mtkd_paths_$(basename "${kd_teacher_exp}")}"
mtkd_stats_dir=${expdir}/mtkd_stats
: "${targets_dir:=${expdir}/mtkd_targets$(_args_tag "${extract_args}")}"
: "${extract_nj:=$((ngpu > 1 ? ngpu : 1))}"
_with=${unlabelled_sets:+_unlabelled}
_unlabelled=()  # formatted, as are ${_train} and ${_valid}
for dset in ${unlabelled_sets}; do
    _unlabelled+=("${dumpdir}/raw/unlabelled_$(basename "${dset}")")
done

# ======================== How a stage is run ========================
"${skip_data_prep}" && skip_stages+=" 1 2 3 4 5 "
"${skip_train}" && skip_stages+=" 2 4 5 6 7 8 9 10 11 "
"${skip_eval}" && skip_stages+=" 12 13 "
"${skip_packing}" && skip_stages+=" 14 "
"${skip_upload_hf}" && skip_stages+=" 15 "
[ "${teachers}" = none ] && skip_stages+=" 7 8 9 10 "
[ "${teacher_mode}" = live ] && skip_stages+=" 8 "

# A stage's key is a digest of all that its result depends on, the key of the stage
# before it included. The key is written when the stage has ended well; a stage whose
# key stands already has nothing to do.
key=
run_stage() {  # <number> <key file> <title> <what it depends on> <command ...>
    local number=$1 file=$2 title=$3 depends=$4
    shift 4
    key=$(printf '%s\n' "${key}" "${number}" "${depends}" | sha256sum | cut -c 1-16)
    if [ "${stage}" -gt "${number}" ] || [ "${stop_stage}" -lt "${number}" ] \
        || [[ " ${skip_stages} " =~ [[:space:]]${number}[[:space:]] ]]; then
        return 0
    fi
    if [ -f "${file}" ] && [ "$(<"${file}")" = "${key}" ]; then
        log "Stage ${number}: ${title}: finished before"
        return 0
    fi
    log "Stage ${number}: ${title}"
    local start=${SECONDS}
    mkdir -p "$(dirname "${file}")"
    "$@"
    echo "${key}" > "${file}.tmp"
    mv "${file}.tmp" "${file}"
    mkdir -p "${expdir}"
    printf '%s\t%s\t%s\t%s\n' "${asr_exp##*/}" "${number}" "${title}" \
        "$((SECONDS - start))" >> "${expdir}/stage_times.tsv"
}

# What YAML files say, without comments and empty lines.
settings() {
    local file
    for file in "$@"; do
        [ ! -f "${file}" ] || sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "${file}"
    done
}

# A training resumes from its checkpoint, but only one that began with these settings.
same_settings() {  # <directory>
    local file=$1/.settings
    mkdir -p "$1"
    if [ -f "$1/checkpoint.pth" ] && [ "$(cat "${file}" 2>/dev/null)" != "${key}" ]; then
        fail "$1 holds a training with other settings, data or configs: remove it," \
            "or give this one another name (--mtkd_tag, --asr_tag)"
    fi
    echo "${key}" > "${file}"
}

# Shows the epochs and ESPnet's estimate of the time left while a training runs.
with_progress() {  # <log file> <command ...>
    local logfile=$1 watcher status=0
    shift
    tail -q -n 0 -F "${logfile}" 2>/dev/null \
        > >(sed -u -n -e 's/.*INFO: \([0-9/]*\)epoch started/    epoch \1/p') &
    watcher=$!
    MTKD_NUM_THREADS=${num_threads} "$@" || status=$?
    kill "${watcher}" 2>/dev/null || true
    wait "${watcher}" 2>/dev/null || true
    return "${status}"
}

# Runs a command, and every ten seconds beside it a function that tells of it.
watched() {  # <function> <command ...>
    local watch=$1 watcher status=0
    shift
    while sleep 10; do "${watch}" || true; done &
    watcher=$!
    "$@" || status=$?
    kill "${watcher}" 2>/dev/null || true
    wait "${watcher}" 2>/dev/null || true
    return "${status}"
}

# Shows the last line of a log, a progress bar's.
with_last_line() {  # <log file> <command ...>
    local logfile=$1
    shift
    # shellcheck disable=SC2317,SC2329  # watched calls it
    tell_last_line() {
        tail -n 1 "${logfile}" 2>/dev/null | tr '\r' '\n' | tail -n 1 | sed 's/^/    /'
    }
    watched tell_last_line "$@"
}

# Shows how many utterances are decoded and the time that the rest will take.
with_count() {  # <number in all> <pattern> <log files' glob> <command ...>
    local total=$1 pattern=$2 glob=$3 begin=${SECONDS}
    shift 3
    # shellcheck disable=SC2317,SC2329  # watched calls it
    tell_count() {
        local count left
        # shellcheck disable=SC2086
        count=$(cat ${glob} 2>/dev/null | grep -c "${pattern}" || true)
        [ "${count}" -gt 0 ] || return 0
        left=$(( (SECONDS - begin) * (total - count) / count ))
        echo "    ${count} of ${total} utterances, about ${left} s left"
    }
    watched tell_count "$@"
}

asr() {  # <stage of asr.sh> <further options ...>
    local number=$1 interpreter=${python}
    shift
    case ${number} in
        10 | 11) interpreter=${train_python} ;;
        12) interpreter=${decode_python} ;;
    esac
    ./asr.sh --stage "${number}" --stop_stage "${number}" \
        --ngpu "${ngpu}" --num_nodes "${num_nodes}" --nj "${nj}" \
        --inference_nj "${inference_nj}" --gpu_inference "${gpu_inference}" \
        --dumpdir "${dumpdir}" --expdir "${expdir}" --python "${interpreter}" \
        --local_data_opts "${local_data_opts}" \
        --speed_perturb_factors "${speed_perturb_factors}" \
        --audio_format "${audio_format}" --fs "${fs}" --lang "${lang}" \
        --min_wav_duration "${min_wav_duration}" \
        --max_wav_duration "${max_wav_duration}" \
        --token_type "${token_type}" --nbpe "${nbpe}" --bpemode "${bpemode}" \
        --use_lm false --feats_normalize "${feats_normalize}" \
        --train_set "${train_set}" --valid_set "${valid_set}" --test_sets "${test_sets}" \
        --asr_config "${asr_config}" --asr_stats_dir "${asr_stats_dir}" \
        --asr_exp "${asr_exp}" --asr_args "${asr_args} --seed ${seed}" \
        --inference_config "${inference_config}" --inference_args "${inference_args}" \
        --inference_asr_model "${inference_asr_model}" "$@"
}

# ======================== Main stages start from here. ========================
SECONDS=0
done_dir=${dumpdir}/.done_${train_set}${_sp}
_sets="${train_set} ${valid_set} ${test_sets} ${fs} ${audio_format}"

run_stage 1 "${done_dir}/1" "data preparation: local/data.sh -> data" \
    "${_sets} ${local_data_opts} $(cat local/*)" asr 1
run_stage 2 "${done_dir}/2" "speed perturbation: data -> data" \
    "${speed_perturb_factors}" asr 2
run_stage 3 "${done_dir}/3" "format wav.scp: data -> ${dumpdir}/raw/org" "" asr 3
run_stage 4 "${done_dir}/4" "remove long/short data: ${dumpdir}/raw/org -> ${dumpdir}/raw" \
    "${min_wav_duration} ${max_wav_duration}" asr 4
audio_key=${key}
run_stage 5 "${done_dir}/5_${lang}_${_tokens}" "token list: ${dumpdir}/raw -> data" \
    "${lang} ${token_type} ${nbpe} ${bpemode}" asr 5
run_stage 6 "${asr_stats_dir}/.done" \
    "lengths and feature statistics: ${dumpdir}/raw -> ${asr_stats_dir}" \
    "$(settings "${stats_config}" | awk '/^[^ ]/ { f = /^frontend/ } f')" \
    asr 10 --asr_config "${stats_config}" --feats_normalize global_mvn
data_key=${key}
key=${audio_key}  # of tokens teachers and stage 1 know nothing

# What asr.sh's stages 3 and 4 do, for a set that has no text.
format_unlabelled() {  # <data directory> <formatted>
    local opts=()
    [ -f "$1/wav.scp" ] || fail "--unlabelled_sets: no such file: $1/wav.scp"
    [ ! -f "$1/segments" ] || opts+=(--segments "$1/segments")
    # shellcheck disable=SC2154  # train_cmd is set by cmd.sh
    scripts/audio/format_wav_scp.sh --nj "${nj}" --cmd "${train_cmd}" \
        --audio-format "${audio_format}" --fs "${fs}" "${opts[@]}" \
        "$1/wav.scp" "$2/org"
    awk -v fs="${fs/k/000}" -v min="${min_wav_duration}" -v max="${max_wav_duration}" \
        '$2 > fs * min && $2 < fs * max' "$2/org/utt2num_samples" > "$2/utt2num_samples"
    utils/filter_scp.pl "$2/utt2num_samples" "$2/org/wav.scp" > "$2/wav.scp"
    echo raw > "$2/feats_type"
    echo "${audio_format}" > "$2/audio_format"
}

check_teachers_and_audio() {
    local dset
    for dset in ${unlabelled_sets}; do
        format_unlabelled "${dset}" "${dumpdir}/raw/unlabelled_$(basename "${dset}")"
    done
    ${python} -m espnet_mtkd.bin.mtkd_doctor --teachers "${teachers}" \
        --data_dir "${_train}" "${_valid}" "${_unlabelled[@]}" \
        --out_dir "${mtkd_stats_dir}" --nj "${nj}"
}
run_stage 7 "${mtkd_stats_dir}/.done_${_teachers}${_with}" \
    "teachers and audio: ${teachers}, ${dumpdir}/raw -> ${mtkd_stats_dir}" \
    "$(settings "${teachers}") ${unlabelled_sets}" check_teachers_and_audio

# Every job takes its share of the shards; the last to end writes the manifests.
extract_targets() {
    local local_jobs=1
    # shellcheck disable=SC2154  # cuda_cmd is set by cmd.sh
    case ${cuda_cmd} in
        run.pl* | */run.pl*) local_jobs=${extract_nj} ;;
    esac
    log "log: ${targets_dir}/log/extract.*.log"
    # shellcheck disable=SC2086
    with_last_line "${targets_dir}/log/extract.1.log" \
        ${cuda_cmd} --gpu "$((ngpu > 0 ? 1 : 0))" JOB=1:"${extract_nj}" \
            "${targets_dir}/log/extract.JOB.log" \
            env LOCAL_WORLD_SIZE="${local_jobs}" LOCAL_RANK='$[JOB-1]' \
            ${python} -m espnet_mtkd.bin.mtkd_extract --teachers "${teachers}" \
                --data_dir "${_train}" "${_valid}" "${_unlabelled[@]}" \
                --shape_dir "${mtkd_stats_dir}" --out_dir "${targets_dir}" \
                --ngpu "$((ngpu > 0 ? 1 : 0))" \
                --rank '$[JOB-1]' --world_size "${extract_nj}" ${extract_args}
    ${python} -m espnet_mtkd.bin.mtkd_extract --out_dir "${targets_dir}" --info
}
run_stage 8 "${targets_dir}/.done_${_teachers}${_with}" \
    "targets: ${teachers}, ${dumpdir}/raw -> ${targets_dir}" \
    "${extract_args}" extract_targets

pretrain() {
    local normalize="--normalize ${feats_normalize}"
    if [ "${feats_normalize}" = global_mvn ]; then
        normalize+=" --normalize_conf stats_file=${asr_stats_dir}/train/feats_stats.npz"
    fi
    local dset inputs=()
    [ "${teacher_mode}" = live ] || inputs+=(--targets_dir "${targets_dir}")
    if [ ${#_unlabelled[@]} -gt 0 ]; then
        inputs+=(--unlabelled_ratio "${unlabelled_ratio}" --unlabelled_wav_scp)
        for dset in "${_unlabelled[@]}"; do inputs+=("${dset}/wav.scp"); done
        inputs+=(--unlabelled_shape_file)
        for dset in "${_unlabelled[@]}"; do
            inputs+=("${mtkd_stats_dir}/$(basename "${dset}")/speech_shape")
        done
    fi
    same_settings "${mtkd_exp}"
    log "log: ${mtkd_exp}/train.log"
    # shellcheck disable=SC2086,SC2154  # cuda_cmd is set by cmd.sh
    with_progress "${mtkd_exp}/train.log" \
        env OMP_NUM_THREADS="${num_threads}" \
        ${python} -m espnet2.bin.launch \
            --cmd "${cuda_cmd} --name ${mtkd_exp}/train.log" \
            --log "${mtkd_exp}/train.log" \
            --ngpu "${ngpu}" \
            --num_nodes "${num_nodes}" \
            --init_file_prefix "${mtkd_exp}/.dist_init_" \
            --multiprocessing_distributed true -- \
            ${python} -m espnet_mtkd.bin.mtkd_train \
                --config "${train_config}" \
                --student_config "${asr_config}" \
                --teachers "${teachers}" \
                ${normalize} \
                --train_data_path_and_name_and_type "${_train}/wav.scp,speech,sound" \
                --valid_data_path_and_name_and_type "${_valid}/wav.scp,speech,sound" \
                --train_shape_file "${mtkd_stats_dir}/$(basename "${_train}")/speech_shape" \
                --valid_shape_file "${mtkd_stats_dir}/$(basename "${_valid}")/speech_shape" \
                "${inputs[@]}" \
                --resume true \
                --output_dir "${mtkd_exp}" \
                --seed "${seed}" ${mtkd_args}
}
run_stage 9 "${mtkd_exp}/.done" \
    "pre-training: ${dumpdir}/raw, ${teachers} -> ${mtkd_exp}" \
    "$(settings "${train_config}" "${asr_config}") ${mtkd_args} ${seed} ${teacher_mode} \
${unlabelled_ratio}" pretrain

check_handover() {
    ${python} -m espnet_mtkd.bin.mtkd_handover \
        --checkpoint "${mtkd_exp}/${pretrained_checkpoint}" \
        --mtkd_config "${mtkd_exp}/config.yaml" --asr_config "${asr_config}" \
        --wav_scp "${_valid}/wav.scp"
}
run_stage 10 "${mtkd_exp}/.done_handover_${asr_exp##*/}" \
    "hand-over: ${mtkd_exp}/${pretrained_checkpoint} -> the encoder of ${asr_config}" \
    "${pretrained_checkpoint}" check_handover

if [ "${teachers}" = none ]; then
    key=${data_key}
    head_args=
    finetune_args=
else
    key="${data_key} ${key}"
fi
# A random decoder's gradients, at a learning rate that suits it, undo the pre-training in
# one epoch; so it may learn first, on the frozen encoder.
train_part() {  # <asr_exp> <initial parameters> <arguments of asr_train>
    same_settings "$1"
    with_progress "$1/train.log" asr 11 --asr_exp "$1" --asr_args "$3 --seed ${seed}" \
        --train_set "${kd_train_set}" --asr_stats_dir "${kd_stats_dir}" \
        ${2:+--pretrained_model "$2"}
}
# The teacher's transcripts of the unlabelled sets, and lengths of the whole.
label_unlabelled() {
    asr 12 --asr_exp "${kd_teacher_exp}" --test_sets "${_unlabelled[*]##*/}" \
        --python "${with_plugin}" \
        --inference_asr_model "${kd_teacher_model}" --inference_tag decode_unlabelled
    # shellcheck disable=SC2086
    ${python} -m espnet_mtkd.bin.mtkd_pseudo_label --labelled "${_train}" \
        --unlabelled "${_unlabelled[@]}" --out_dir "${dumpdir}/raw/${kd_train_set}${_sp}" \
        --decode_dir "${kd_teacher_exp}/decode_unlabelled" ${pseudo_args}
    asr 10 --asr_config "${stats_config}" --feats_normalize global_mvn \
        --train_set "${kd_train_set}" --asr_stats_dir "${kd_stats_dir}"
    # The encoder was pre-trained on features normalised by the labelled set's statistics.
    cp "${asr_stats_dir}/train/feats_stats.npz" "${kd_stats_dir}/train/"
}
extract_paths() {
    # shellcheck disable=SC2086,SC2154  # cuda_cmd is set by cmd.sh
    with_last_line "${paths_dir}/log/extract_paths.log" \
        ${cuda_cmd} --gpu "$((ngpu > 0 ? 1 : 0))" "${paths_dir}/log/extract_paths.log" \
            ${python} -m espnet_mtkd.bin.mtkd_extract_paths --asr_exp "${kd_teacher_exp}" \
                --model_file "${kd_teacher_model}" \
                --data_dir "${dumpdir}/raw/${kd_train_set}${_sp}" \
                --shape_dir "${mtkd_stats_dir}" --out_dir "${paths_dir}" \
                --ngpu "$((ngpu > 0 ? 1 : 0))" ${paths_args}
}
# What stage 11 trains on: the training set, or what pseudo-labels make of it.
kd_train_set=${train_set}
kd_stats_dir=${asr_stats_dir}
if [ -n "${kd_teacher_exp}" ]; then
    student_key=${key}
    key="${data_key} $(cat "${kd_teacher_exp}/.done_train" 2>/dev/null || true) ${kd_teacher_model}"
    if "${pseudo_labels}"; then
        kd_train_set+=_pseudo_$(basename "${kd_teacher_exp}")
        kd_stats_dir+=_pseudo_$(basename "${kd_teacher_exp}")
        run_stage 11 "${dumpdir}/raw/${kd_train_set}${_sp}/.done" \
            "pseudo-labels: ${kd_teacher_exp}, ${unlabelled_sets} -> ${dumpdir}/raw/${kd_train_set}${_sp}" \
            "${unlabelled_sets} $(settings "${inference_config}") ${inference_args} ${pseudo_args}" \
            label_unlabelled
    fi
    run_stage 11 "${paths_dir}/.done_${kd_train_set}${_sp}" \
        "best paths: ${kd_teacher_exp}, ${dumpdir}/raw/${kd_train_set}${_sp} -> ${paths_dir}" \
        "${paths_args}" extract_paths
    key="${student_key} ${key}"
    asr_args+=" --path_targets_dir ${paths_dir} ${kd_args}"
fi
train_transducer() {
    local init=
    [ "${teachers}" = none ] || init=${mtkd_exp}/${pretrained_checkpoint}:encoder:encoder
    if [ -n "${head_args}" ]; then
        log "first the decoder, encoder frozen -> ${asr_exp}/head"
        train_part "${asr_exp}/head" "${init}" "${asr_args} --freeze_param encoder ${head_args}"
        init=${asr_exp}/head/valid.loss.best.pth
    fi
    train_part "${asr_exp}" "${init}" "${asr_args} ${finetune_args}"
}
run_stage 11 "${asr_exp}/.done_train" "transducer training: ${dumpdir}/raw -> ${asr_exp}" \
    "$(settings "${asr_config}") ${asr_args} ${head_args} ${finetune_args} ${seed}" \
    train_transducer

decode() {
    local total=0 dset
    for dset in ${test_sets}; do
        total=$((total + $(wc -l < "${dumpdir}/raw/${dset}/wav.scp")))
    done
    with_count "${total}" "best hypo" "${asr_exp}/*/*/logdir/asr_inference.*.log" asr 12
}
run_stage 12 "${asr_exp}/.done_decode" "decoding: ${asr_exp} -> ${asr_exp}" \
    "$(settings "${inference_config}") ${inference_args} ${inference_asr_model}" decode
run_stage 13 "${asr_exp}/.done_score" "scoring: ${asr_exp} -> ${asr_exp}/RESULTS.md" \
    "" asr 13
# Utterance by utterance, as the references are; but as if each were heard while spoken.
decode_streaming() {
    local dset
    for dset in ${test_sets}; do
        mkdir -p "${asr_exp}/decode_stream/${dset}"
        log "log: ${asr_exp}/decode_stream/${dset}/stream.log"
        # shellcheck disable=SC2086,SC2154  # decode_cmd is set by cmd.sh
        ${decode_cmd} "${asr_exp}/decode_stream/${dset}/stream.log" \
            ${python} -m espnet_mtkd.bin.mtkd_asr_stream \
                --asr_train_config "${asr_exp}/config.yaml" \
                --asr_model_file "${asr_exp}/${inference_asr_model}" \
                --wav_scp "${dumpdir}/raw/${dset}/wav.scp" \
                --out "${asr_exp}/decode_stream/${dset}/text" \
                --endpoint_silence inf --max_segment inf ${stream_args}
        grep -e latency -e RTF "${asr_exp}/decode_stream/${dset}/stream.log"
    done
}
if [ "${stream_decode}" = true ]; then
    run_stage 12 "${asr_exp}/.done_decode_stream" \
        "streaming decoding: ${asr_exp} -> ${asr_exp}/decode_stream" \
        "${stream_args} ${inference_asr_model}" decode_streaming
    run_stage 13 "${asr_exp}/.done_score_stream" \
        "scoring: ${asr_exp}/decode_stream -> ${asr_exp}/RESULTS.md" "" \
        asr 13 --inference_tag decode_stream
fi
packed_model=${asr_exp}/${asr_exp##*/}_${inference_asr_model%.*}.zip
pack_student() {
    local words=() opts=()
    [ -n "${license}" ] || fail "--license is required by stage 14: the model's, e.g. cc-by-4.0"
    [ "${teachers}" = none ] || opts+=(--mtkd_exp "${mtkd_exp}" --mtkd_model_file "${pretrained_checkpoint}")
    [ -z "${kd_teacher_exp}" ] || opts+=(--kd_teacher_exp "${kd_teacher_exp}")
    eval "words=(${pack_args})"  # quotes in it count
    # shellcheck disable=SC2086
    ${python} -m espnet_mtkd.bin.mtkd_pack --asr_exp "${asr_exp}" \
        --asr_model_file "${inference_asr_model}" "${opts[@]}" --out "${packed_model}" \
        --license "${license}" --language ${language:-${lang}} \
        --corpus "$(basename "$(dirname "${PWD}")")" \
        --inference_config "${inference_config}" --inference_args="${inference_args}" \
        "${words[@]}"
}
upload_student() {
    [ -n "${hf_repo}" ] || fail "--hf_repo is required by stage 15: user/model"
    # shellcheck disable=SC2086
    ${python} -m espnet_mtkd.bin.mtkd_upload --archive "${packed_model}" \
        --hf_repo "${hf_repo}" --dry_run "${dry_run}" \
        --out_dir "${expdir}/hf_${hf_repo//\//_}" ${upload_args}
}
run_stage 14 "${asr_exp}/.done_pack" "packing: ${asr_exp} -> ${packed_model}" \
    "${license} ${language:-${lang}} ${pack_args}" pack_student
run_stage 15 "${asr_exp}/.done_upload" "uploading: ${packed_model} -> ${hf_repo}" \
    "${hf_repo} ${dry_run} ${upload_args}" upload_student

log "Successfully finished. [elapsed=${SECONDS}s]"
