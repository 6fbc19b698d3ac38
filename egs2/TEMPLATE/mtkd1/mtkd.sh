#!/usr/bin/env bash
# Trains one student: its encoder on the embeddings of the teachers, then the transducer by
# ESPnet's asr.sh. Options: options.txt; how a stage is run: stages.sh.
# shellcheck disable=SC2154  # declare_options sets the options, cmd.sh the commands
# shellcheck disable=SC2034,SC2329  # stages.sh reads what is set here, calls the stages

template=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=common.sh
. "${template}/common.sh"
# shellcheck source=stages.sh
. "${template}/stages.sh"
declare_options < "${template}/options.txt"
_head_args=${head_args}  # the defaults
_finetune_args=${finetune_args}

usage="--train_set <train_set_name> --valid_set <valid_set_name> --test_sets <test_set_names>"
about=$(cat << END
Trains one student: its encoder on the embeddings of the teachers (stages 6 to 9), then
the whole transducer by ESPnet's asr.sh (stages 10 to 13). Stages 1 to 5 and 11 to 13 are
asr.sh's own, under its numbers. A stage that was finished with the same settings and data
says so and does nothing.

Stages:
    1  local/data.sh                                -> data/<set>
    2  speed perturbation, where asked for          -> data/<train_set>_sp
    3  format wav.scp, make it mono, each set       -> <dumpdir>/raw/org/<set>
                                                       (test sets: <dumpdir>/raw/<set>)
    4  remove long and short data                   -> <dumpdir>/raw/<set>
    5  token list                                   -> data/<lang>_token_list
    6  lengths and feature statistics (asr.sh's 10) -> <expdir>/asr_stats_*
    7  format the unlabelled sets                   -> <dumpdir>/raw/unlabelled_<set>
       try each teacher, look at all audio          -> <expdir>/mtkd_stats
    8  store the teachers' targets (--teacher_mode cached)
                                                    -> <expdir>/mtkd_targets
    9  pre-train the encoder on the teachers        -> <expdir>/mtkd_<tag>
    10 check that stage 11 takes over the encoder whole
    11 transcripts by --pseudo_whisper              -> <expdir>/mtkd_text/<whisper>.txt
       pseudo-labels: these, --pseudo_text's        -> <dumpdir>/raw/<train_set>_pseudo_text_<name>
       or those of --kd_teacher_exp                 -> <dumpdir>/raw/<train_set>_pseudo_<teacher>
       its best paths                               -> <expdir>/mtkd_paths_<teacher>
       train the transducer                         -> <expdir>/asr_<tag>
    12 decode (streaming students chunk by chunk    -> <expdir>/asr_<tag>/<decoding>/<set>
       too: <decoding> is decode_stream)
    13 score                                        -> <expdir>/asr_<tag>/RESULTS.md
    14 pack both with a model card (--skip_packing false)
                                                    -> <expdir>/asr_<tag>/*.zip
    15 upload that (--skip_upload_hf false)         -> --hf_repo
       (with --dry_run true)                        -> <expdir>/hf_<user>_<model>
END
)
log "$0 $*"
parse_options own "$@"
[ -e utils/parse_options.sh ] || fail "expected a recipe's directory that setup.sh has set up," \
    "found no utils/parse_options.sh in $(pwd): run egs2/TEMPLATE/mtkd1/setup.sh egs2/<corpus>/mtkd1" \
    "from the top, then this command in egs2/<corpus>/mtkd1"
. ./path.sh
. ./cmd.sh

# ======================== Options against each other ========================
is_one_of() {  # <option> <values ...>
    local name=$1 value
    shift
    for value in "$@"; do [ "${!name}" != "${value}" ] || return 0; done
    fail "--${name}: expected $(printf '%s' "$1"; printf ' or %s' "${@:2}"), found '${!name}'"
}
is_number() {  # <option> <least>
    [[ ${!1} =~ ^[0-9]{1,9}$ ]] && [ "$((10#${!1}))" -ge "$2" ] \
        || fail "--$1: expected a number from $2, found '${!1}'"
    printf -v "$1" %s "$((10#${!1}))"
}
is_decimal() {  # <option>
    [[ ${!1} =~ ^[0-9]*\.?[0-9]+$ ]] || fail "--$1: expected a number, found '${!1}'"
}
is_plain() {  # <option>: ESPnet's scripts take words apart at spaces
    [[ ${!1} != *[[:space:]:*?\'\"\$]* ]] \
        || fail "--$1: expected a name without spaces, quotes, ':', '*', '?' and '\$'," \
            "found '${!1}'"
}
tidy_list() {  # <option>: its words once each, without './' before and '/' behind them
    local word found=
    for word in ${!1}; do
        while [[ ${word} = ./* ]]; do word=${word#./}; done
        while [[ ${word} = ?*/ ]]; do word=${word%/}; done
        [[ " ${found} " = *" ${word} "* ]] || found+="${found:+ }${word}"
    done
    printf -v "$1" %s "${found}"
}
is_file() { [ -f "${!1}" ] || fail "--$1: no such file: ${!1}"; }  # <option>

set -f  # a '*' in a value is no pattern
for name in train_set valid_set test_sets unlabelled_sets expdir dumpdir kd_teacher_exp \
    targets_dir paths_dir mtkd_exp asr_exp; do
    tidy_list "${name}"
done
set +f
for name in train_set valid_set test_sets; do
    [ -n "${!name}" ] || fail "--${name} is required"
    for dset in ${!name}; do
        [[ ${dset} =~ ^[A-Za-z0-9_.+-]+$ && ${dset} != org && ${dset} != unlabelled_* ]] \
            || fail "--${name}: expected names of directories in data/, of letters, digits and" \
                "'_', '.', '+', '-' (not 'org', nor 'unlabelled_...'), found '${dset}'"
    done
done
for dset in ${unlabelled_sets}; do is_plain dset; done
for name in train_set valid_set expdir dumpdir mtkd_tag mtkd_exp asr_tag asr_exp targets_dir \
    paths_dir kd_teacher_exp kd_teacher_model pseudo_text pseudo_whisper teachers train_config asr_config lang \
    inference_config inference_asr_model pretrained_checkpoint; do
    is_plain "${name}"
done
if [ "${train_set}" = "${valid_set}" ] || [[ " ${test_sets} " = *" ${train_set} "* ]]; then
    fail "--train_set: expected a set of its own, found '${train_set}' among the others too"
fi
is_one_of encoder conformer contextual_block_conformer
is_one_of teacher_mode live cached
if [ -n "${teacher_dtype}" ]; then
    is_one_of teacher_dtype float32 bfloat16 float16
    [ "${teacher_mode}" = live ] || fail "--teacher_dtype: expected nothing with --teacher_mode" \
        "cached, found '${teacher_dtype}': give --extract_args \"--dtype ${teacher_dtype}\" instead"
fi
is_one_of feats_normalize global_mvn utterance_mvn
is_one_of token_type bpe char
is_one_of audio_format flac wav
[[ ${channel} = mean || ${channel} =~ ^[0-9]+$ ]] \
    || fail "--channel: expected mean or a number from 0, found '${channel}'"
for name in stage stop_stage ngpu seed; do is_number "${name}" 0; done
for name in nj inference_nj num_nodes nbpe; do is_number "${name}" 1; done
for name in num_threads extract_nj; do
    [ -z "${!name}" ] || is_number "${name}" 1
done
for name in min_wav_duration max_wav_duration unlabelled_ratio; do is_decimal "${name}"; done
awk -v a="${min_wav_duration}" -v b="${max_wav_duration}" 'BEGIN { exit !(a < b) }' \
    || fail "--max_wav_duration: expected more than --min_wav_duration ${min_wav_duration}," \
        "found ${max_wav_duration}"
for name in ${speed_perturb_factors}; do
    [[ ${name} =~ ^[0-9]*\.?[0-9]+$ ]] || fail "--speed_perturb_factors: expected numbers," \
        "separated by spaces, found '${speed_perturb_factors}'"
    [[ ${name} =~ [1-9] ]] || fail "--speed_perturb_factors: expected numbers above 0, found '${name}'"
done
_repeated=$(tr -s ' ' '\n' <<< "${speed_perturb_factors}" | awk 'NF && ++found[$1 + 0] == 2')
[ -z "${_repeated}" ] || fail "--speed_perturb_factors: ${_repeated} stands there twice"
for name in ${skip_stages}; do
    [[ ${name} =~ ^[1-9][0-9]?$ ]] || fail "--skip_stages: expected numbers of stages," \
        "separated by spaces, found '${skip_stages}'"
done
is_one_of bpemode unigram bpe
[ "${fs}" != 16000 ] || fs=16k
: "${stream_decode:=$([ "${encoder}" = conformer ] && echo false || echo true)}"
is_one_of stream_decode true false
: "${asr_config:=conf/train_asr_${encoder}_transducer.yaml}"
is_file asr_config
is_file inference_config
if [ "${teachers}" != none ]; then
    is_file teachers
    is_file train_config
    is_one_of fs 16k 16000
fi
_rate=${fs/k/000}  # samples a second
for dset in ${unlabelled_sets}; do
    [ -f "${dset}/wav.scp" ] || [ "${stage}" -le 1 ] \
        || fail "--unlabelled_sets: no such file: ${dset}/wav.scp"
done
if [ -n "${kd_teacher_exp}" ] && [ ! -f "${kd_teacher_exp}/${kd_teacher_model}" ]; then
    fail "--kd_teacher_exp: no such file: ${kd_teacher_exp}/${kd_teacher_model}: train it first"
fi
if "${pseudo_labels}" && { [ -z "${kd_teacher_exp}" ] || [ -z "${unlabelled_sets}" ]; }; then
    fail "--pseudo_labels true needs --kd_teacher_exp and --unlabelled_sets"
fi
if [ -n "${keep_teachers}" ] && [ "${teachers}" = none ]; then
    fail "--keep_teachers: expected nothing with --teachers none, which has no stage 1 whose" \
        "teachers could be kept, found '${keep_teachers}'"
fi
if [[ " ${keep_teachers}" = *" unlabelled="* && ! "${keep_teachers} " =~ unlabelled=[0.]+" " ]] \
    && [ -z "${unlabelled_sets}" ]; then
    fail "--keep_teachers: 'unlabelled' needs --unlabelled_sets, found '${keep_teachers}'"
fi
# An option's value as a part of a name: "--max_epoch 1" -> "_max_epoch1".
# What a shell or ESPnet could take for a pattern, or a list, is left out of names.
_args_tag() { echo "$*" | sed -e "s/--/_/g" -e "s/[^A-Za-z0-9_.,+-]//g"; }
# Other audio has another --dumpdir, and so statistics, targets and transcripts of its own.
_dump_tag() {
    local name
    name=$(basename "${dumpdir}")
    [ "${name}" = dump ] || echo "_${name}"
}
if [ -n "${pseudo_whisper}" ]; then
    [ -z "${pseudo_text}" ] || fail "--pseudo_whisper: expected no --pseudo_text beside it, which has" \
        "transcripts of the same audio: leave one of them out"
    for name in model.bin tokenizer.json; do
        [ -f "${pseudo_whisper}/${name}" ] || fail "--pseudo_whisper: expected a Whisper in" \
            "CTranslate2's form, found no ${pseudo_whisper}/${name}: fetch one (mtkd_fetch_whisper" \
            "--model base --decoder --out_dir ${pseudo_whisper})"
    done
    [[ ${lang} = @(noinfo|en) || " ${transcribe_args}" = *" --language"* ]] \
        || transcribe_args="--language ${lang}${transcribe_args:+ ${transcribe_args}}"
    pseudo_text=$(basename "${pseudo_whisper}")$(_args_tag "${transcribe_args}").txt
    pseudo_text=${expdir}/mtkd_text$(_dump_tag)/${pseudo_text}
fi
if [ -n "${pseudo_text}" ]; then
    "${pseudo_labels}" && fail "--pseudo_text, --pseudo_whisper: expected no --pseudo_labels true beside it, which has" \
        "the teacher transducer transcribe the same audio: leave one of them out"
    [ -n "${unlabelled_sets}" ] || fail "--pseudo_text, --pseudo_whisper: expected --unlabelled_sets," \
        "whose transcripts they have, found none: give their data directories"
    # What stages 3 to 7 format has to be there before it can be transcribed.
    [ "${stop_stage}" -lt 11 ] || [ -n "${pseudo_whisper}" ] || is_file pseudo_text
fi
if "${pseudo_alone}" && ! "${pseudo_labels}" && [ -z "${pseudo_text}" ]; then
    fail "--pseudo_alone true needs --pseudo_whisper, --pseudo_text or --pseudo_labels true"
fi
if [ -z "${num_threads}" ]; then
    if [ "${ngpu}" -eq 0 ]; then num_threads=$(nproc); else num_threads=1; fi
fi

# ======================== Names ========================
_sp=${speed_perturb_factors:+_sp}
_train=${dumpdir}/raw/${train_set}${_sp}
_valid=${dumpdir}/raw/${valid_set}
_tokens=${token_type}
[[ "${asr_args} ${head_args} ${finetune_args}" != *--@(frontend|encoder|normalize)* ]] \
    || depends[10]+=" asr_args head_args finetune_args"
[ "${token_type}" != bpe ] || _tokens=bpe${nbpe}
_teachers=$(basename "${teachers}" .yaml)
_student=$(basename "${asr_config}" .yaml)
_student=${_student#train_asr_}
_student=${_student%_transducer}
_seed=
[ "${seed}" = 0 ] || _seed=_seed${seed}

# A data directory's name is its last part; of those that share it, the whole path.
declare -A unlabelled_name
for dset in ${unlabelled_sets}; do
    unlabelled_name[${dset}]=$(basename "${dset}")
    for other in ${unlabelled_sets}; do
        if [ "${other%/}" != "${dset%/}" ] && [ "$(basename "${other}")" = "$(basename "${dset}")" ]; then
            unlabelled_name[${dset}]=${dset//\//_}
        fi
    done
done
_repeated=$(printf '%s\n' "${unlabelled_name[@]}" | sort | uniq -d)
[ -z "${_repeated}" ] || fail "--unlabelled_sets: two of them would be called '${_repeated}': rename one"
_unlabelled=()  # formatted, as are ${_train} and ${_valid}
for dset in ${unlabelled_sets}; do _unlabelled+=("${dumpdir}/raw/unlabelled_${unlabelled_name[${dset}]}"); done
_sets=("${train_set}" "${valid_set}")  # each once
for dset in ${test_sets}; do
    [[ " ${_sets[*]} " = *" ${dset} "* ]] || _sets+=("${dset}")
done
# Formatted: asr.sh keeps the validation set as it was before stage 4 for decoding.
test_set_name() { [ "$1" = "${valid_set}" ] && echo "org/$1" || echo "$1"; }

if [ -z "${mtkd_tag}" ]; then
    mtkd_tag=${_student}_${_teachers}
    [ "${teacher_mode}" = live ] || mtkd_tag+=_cached$(_args_tag "${extract_args}")
    [ -z "${teacher_dtype}" ] || mtkd_tag+=_${teacher_dtype}
    [ -z "${unlabelled_sets}" ] || mtkd_tag+=_unlabelled
    for dset in ${unlabelled_sets}; do mtkd_tag+=_${unlabelled_name[${dset}]}; done
    mtkd_tag+=$(_args_tag "${mtkd_args}")${_seed}
fi
: "${mtkd_exp:=${expdir}/mtkd_${mtkd_tag}}"
if [ -z "${asr_tag}" ]; then
    asr_tag=${mtkd_tag}
    [ "${teachers}" != none ] || asr_tag=${_student}_scratch${_seed}
    [ -z "${kd_teacher_exp}" ] || asr_tag+=_kd$(_args_tag "${paths_args}" "${kd_args}")
    [ -z "${keep_teachers}" ] || asr_tag+=_keep$(_args_tag "${keep_teachers}")
    _name=$(basename "${pseudo_text}")
    [ -z "${pseudo_text}" ] || asr_tag+=_pseudo_text_${_name%.txt}$(_args_tag "${pseudo_args}")
    ! "${pseudo_labels}" || asr_tag+=_pseudo$(_args_tag "${pseudo_args}")
    ! "${pseudo_alone}" || asr_tag+=_alone
    asr_tag+=$(_args_tag "${asr_args}")
    [ "${head_args}" = "${_head_args}" ] || asr_tag+=_head$(_args_tag "${head_args}")
    [ "${finetune_args}" = "${_finetune_args}" ] || asr_tag+=_finetune$(_args_tag "${finetune_args}")
    asr_tag+=_${_tokens}${_sp}
fi
: "${asr_exp:=${expdir}/asr_${asr_tag}}"
for name in mtkd_exp asr_exp; do
    dset=${!name##*/}
    [ "${#dset}" -le 230 ] || fail "${!name}: a name of ${#dset} characters, more than files may" \
        "have: give a shorter one (--mtkd_tag, --asr_tag)"
done

_dump=$(_dump_tag)
asr_stats_dir=${expdir}/asr_stats_raw_${lang}_${_tokens}${_sp}${_dump}
# Stage 11 trains by this package's task, which is ESPnet's and saves what ESPnet's saves;
# a teacher transducer is decoded through this package too.
with_plugin="${python} -m espnet_mtkd.bin.mtkd_espnet"
decode_python=${python}
stats_config=${asr_config}
if grep -q '^frontend: *mtkd_teacher' "${asr_config}"; then
    # Of stage 6 a teacher transducer needs the lengths, which are the student's.
    decode_python=${with_plugin}
    stats_config=conf/train_asr_${encoder}_transducer.yaml
    feats_normalize=utterance_mvn
fi
# Of the arguments stage 6 needs those of the front end, if it is this config's.
stats_args="--seed ${seed}"
if [ "${stats_config}" = "${asr_config}" ] && [[ ${asr_args} = *--frontend* ]]; then
    stats_args="${asr_args} ${stats_args}"
fi
: "${paths_dir:=${expdir}/mtkd_paths_$(basename "${kd_teacher_exp}")${_dump}}"
mtkd_stats_dir=${expdir}/mtkd_stats${_dump}
: "${targets_dir:=${expdir}/mtkd_targets$(_args_tag "${extract_args}")${_dump}}"
: "${extract_nj:=$((ngpu > 1 ? ngpu : 1))}"
# As asr.sh calls the directory of a decoding, but without the slashes of paths.
inference_tag=$(basename "${inference_config}" .yaml)$(_args_tag "${inference_args}")
_model=${inference_asr_model%.*}
inference_tag+=_asr_model_${_model//\//_}
packed_model=${asr_exp}/${asr_exp##*/}_${inference_asr_model%.*}.zip
# What stage 11 trains on: the training set, or what pseudo-labels make of it.
kd_train_set=${train_set}
kd_stats_dir=${asr_stats_dir}
pseudo=
! "${pseudo_labels}" || pseudo=_pseudo_$(basename "${kd_teacher_exp}")
if [ -n "${pseudo_text}" ]; then
    pseudo=$(basename "${pseudo_text}")
    pseudo=_pseudo_text_${pseudo%.txt}
fi
! "${pseudo_alone}" || pseudo+=_alone
kd_train_set+=${pseudo}
kd_stats_dir+=${pseudo}
if [ "${teachers}" = none ]; then
    head_args=
    finetune_args=
fi
kd_asr_args=
[ -z "${kd_teacher_exp}" ] || kd_asr_args=" --path_targets_dir ${paths_dir} ${kd_args}"
kept_args=
if [ -n "${keep_teachers}" ]; then
    kept_args="--keep_teachers_from ${mtkd_exp}/${pretrained_checkpoint}"
    for name in ${keep_teachers}; do kept_args+=" --keep_teachers_conf ${name}"; done
fi

"${skip_data_prep}" && skip_stages+=" 1 2 3 4 5 "
"${skip_train}" && skip_stages+=" 2 6 7 8 9 10 11 "
"${skip_eval}" && skip_stages+=" 12 13 "
"${skip_packing}" && skip_stages+=" 14 "
"${skip_upload_hf}" && skip_stages+=" 15 "
[ -n "${speed_perturb_factors}" ] || skip_stages+=" 2 "
[ "${teachers}" != none ] || skip_stages+=" 8 9 10 "
[ "${teacher_mode}" = cached ] || skip_stages+=" 8 "

# ======================== What each stage depends on ========================
depends=(
    [audio]="fs audio_format channel min_wav_duration max_wav_duration speed_perturb_factors
        audio:data/${train_set} audio:data/${valid_set}"
    [text]="text:data/${train_set} text:data/${valid_set}"
    [unlabelled]="unlabelled_sets"
    [teacher]="kd_teacher_exp kd_teacher_model file:teacher_transducer:${kd_teacher_exp}/${kd_teacher_model}"
    [1]="local_data_opts files:scripts:local sets:${dumpdir}/.done/1"
    [2]="speed_perturb_factors audio:data/${train_set} text:data/${train_set}"
    [4]="stage:audio stage:text"
    [5]="stage:4 lang token_type"
    [6]="stage:5 yaml:--asr_config:${stats_config}:frontend+frontend_conf"
    [7]="stage:audio stage:unlabelled yaml:--teachers:${teachers} weights:--teachers:${teachers}"
    [8]="stage:7 extract_args"
    [9]="stage:7 teacher_mode feats_normalize mtkd_args seed yaml:--train_config:${train_config}
        yaml:--asr_config:${asr_config}:frontend+frontend_conf+encoder+encoder_conf"
    [10]="stage:9 pretrained_checkpoint yaml:--asr_config:${asr_config}"
    [11_pseudo]="stage:teacher stage:unlabelled stage:5 pseudo_args inference_args
        yaml:--inference_config:${inference_config}"
    [11_text]="stage:unlabelled text:data/${train_set} pseudo_whisper transcribe_args
        file:whisper:${pseudo_whisper}/model.bin"
    [11_paths]="stage:teacher stage:5 paths_args"
    [11]="stage:6 feats_normalize asr_args pseudo_labels pseudo_text pseudo_alone seed yaml:--asr_config:${asr_config}
        weights:--asr_config:${asr_config}"
    [12]="stage:11 inference_asr_model"
    [14]="stage:11 inference_asr_model inference_args yaml:--inference_config:${inference_config}
        license language lang pack_args"
    [15]="stage:14 hf_repo upload_args dry_run"
)
for dset in "${_sets[@]}"; do
    depends[3_${dset}]="fs audio_format channel audio:data/${dset} text:data/${dset} speakers:data/${dset}"
done
depends[3_${train_set}]+=" speed_perturb_factors"
for dset in ${test_sets}; do
    depends[4_${dset}]="stage:3_${dset} min_wav_duration"
    depends[12_${dset}]="stage:12 fs audio_format channel audio:data/${dset}
        inference_args yaml:--inference_config:${inference_config}"
    depends[13_${dset}]="stage:12_${dset} text:data/${dset} speakers:data/${dset}"
    depends[12stream_${dset}]="stage:12 fs audio_format channel audio:data/${dset} stream_args"
    depends[13stream_${dset}]="stage:12stream_${dset} text:data/${dset} speakers:data/${dset}"
    depends[14]+=" stage:13_${dset}"
    ! "${stream_decode}" || depends[14]+=" stage:13stream_${dset}"
done
for dset in ${unlabelled_sets}; do
    depends[7_${dset}]="fs audio_format channel min_wav_duration max_wav_duration cut_unlabelled
        audio:${dset}"
    depends[unlabelled]+=" stage:7_${dset}"
done
[ "${stats_args}" = "--seed ${seed}" ] || depends[6]+=" asr_args"
[ "${token_type}" != bpe ] || depends[5]+=" nbpe bpemode"
[ -z "${unlabelled_sets}" ] || depends[9]+=" unlabelled_ratio"
[ "${teacher_mode}" = live ] || depends[9]+=" stage:8"
[ -z "${teacher_dtype}" ] || depends[9]+=" teacher_dtype"
[ "${teachers}" = none ] || depends[11]+=" stage:9 pretrained_checkpoint head_args finetune_args"
[ -z "${keep_teachers}" ] || depends[11]+=" keep_teachers"
if [ -n "${pseudo_whisper}" ]; then
    depends[11_pseudo]="stage:11_text stage:5 pseudo_args"
elif [ -n "${pseudo_text}" ]; then
    depends[11_pseudo]="stage:unlabelled stage:5 pseudo_text pseudo_args
        file:pseudo_text:${pseudo_text} file:confidences:${pseudo_text}.confidence"
fi
depends[11_pseudo]+=" pseudo_alone"
[ -z "${pseudo}" ] || depends[11]+=" stage:11_pseudo"
if [ -n "${kd_teacher_exp}" ]; then
    [ -z "${pseudo}" ] || depends[11_paths]+=" stage:11_pseudo"
    depends[11]+=" stage:11_paths kd_args"
fi

output=([4]="${_train}/wav.scp")
for dset in "${_sets[@]}"; do output[4_${dset}]=${dumpdir}/raw/${dset}/wav.scp; done
output[3_${train_set}]=${dumpdir}/raw/org/${train_set}${_sp}/wav.scp
output[3_${valid_set}]=${dumpdir}/raw/org/${valid_set}/wav.scp
for dset in ${unlabelled_sets}; do
    output[7_${dset}]=${dumpdir}/raw/unlabelled_${unlabelled_name[${dset}]}/wav.scp
done

# ======================== The stages ========================
asr() {  # <stage of asr.sh> <further options ...>
    local number=$1 interpreter=${python}
    shift
    case ${number} in
        10 | 11) interpreter=${with_plugin} ;;
        12) interpreter=${decode_python} ;;
    esac
    # (lm_train_text, bpe_train_text: asr.sh looks for those of the set without _sp)
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
        --lm_train_text "${dumpdir}/raw/org/${train_set}${_sp}/text" \
        --bpe_train_text "${dumpdir}/raw/org/${train_set}${_sp}/text" \
        --use_lm false --feats_normalize "${feats_normalize}" \
        --train_set "${train_set}" --valid_set "${valid_set}" --test_sets "${test_sets}" \
        --asr_config "${asr_config}" --asr_stats_dir "${asr_stats_dir}" \
        --asr_exp "${asr_exp}" --asr_args "${asr_args}${kd_asr_args} --seed ${seed}" \
        --inference_config "${inference_config}" --inference_args "${inference_args}" \
        --inference_asr_model "${inference_asr_model}" --inference_tag "${inference_tag}" "$@"
}
mtkd() { ${python} -m "espnet_mtkd.bin.mtkd_$1" "${@:2}"; }  # <command> <arguments ...>
num_utterances() {  # <formatted sets>
    local dset
    for dset in "$@"; do cat "${dumpdir}/raw/${dset}/wav.scp"; done | wc -l
}

# Stage 2: data/${train_set} -> data/${train_set}_sp
perturb() {
    asr 2
    [ ! -f "data/${train_set}_sp/wav.scp" ] \
        || mtkd format_audio --data_dir "data/${train_set}_sp" --perturbed
}

# Stage 3, one set: data/<set> -> ${dumpdir}/raw/org/<set>, of a test set ${dumpdir}/raw/<set>
format_set() {  # <set>
    check_ends "data/$1"
    case $1 in
        "${train_set}")
            asr 3 --skip_train true --train_set "" --valid_set "$1${_sp}" \
                --eval_valid_set true --test_sets "" --speed_perturb_factors ""
            make_mono "${dumpdir}/raw/org/$1${_sp}" ;;
        "${valid_set}")
            asr 3 --skip_train true --eval_valid_set true --test_sets ""
            make_mono "${dumpdir}/raw/org/$1" ;;
        *)
            asr 3 --skip_train true --test_sets "$1"
            rm -f "${dumpdir}/.done/4_train_"*"_valid_$1" ;;  # it was there as a validation set
    esac
}
# What was cut becomes a file that looks whole, so it is looked for before.
check_ends() { [ ! -f "$1/wav.scp" ] || mtkd preflight --ends "$1"; }  # <data directory>
make_mono() { mtkd format_audio --data_dir "$1" --channel "${channel}"; }  # <formatted set>

# Says which utterances stage 4 took away, and why: at most ten.
tell_left_out() {  # <formatted set>
    local org=${dumpdir}/raw/org/$1 left
    [ -f "${org}/utt2num_samples" ] && [ -f "${org}/text" ] || return 0
    left=$(awk -v min="${min_wav_duration}" -v max="${max_wav_duration}" -v rate="${_rate}" '
        FILENAME ~ /text$/ { if (NF > 1) has_text[$1] = 1; next }
        FNR == 1 { files++ }
        files == 1 { kept[$1] = 1; next }
        { total++ }
        !($1 in kept) {
            why = "one more file lacks it"
            if (!($1 in has_text)) why = "no text"
            if ($2 <= min * rate) why = "not longer than --min_wav_duration"
            if ($2 >= max * rate) why = "longer than --max_wav_duration"
            if (++n <= 10) list = list sprintf("\n    %s (%.1f s): %s", $1, $2 / rate, why)
        }
        END { if (n) printf("%d of %d utterances are left out:%s%s", n, total, list, n > 10 ? "\n    ..." : "") }
        ' "${org}/text" "${dumpdir}/raw/$1/wav.scp" "${org}/utt2num_samples")
    [ -z "${left}" ] || log "Warning: $1: ${left}"
}

# Stage 4: ${dumpdir}/raw/org/<set> -> ${dumpdir}/raw/<set>
remove_long_and_short() {
    asr 4
    # Other pairs of training and validation set, and the latter as a test set, have one of
    # these directories too: what they left there is gone.
    rm -f "${dumpdir}/.done/4_train_"*"_valid_${valid_set}" "${dumpdir}/.done"/[34]_test_"${valid_set}" \
        "${dumpdir}/.done/4_train_${train_set}${_sp}_valid_"*
    tell_left_out "${_train##*/}"
    tell_left_out "${valid_set}"
    mtkd preflight --asr_config "${asr_config}" \
        --lengths "${_train}/utt2num_samples" "${_valid}/utt2num_samples"
}

# Stage 4, a test set: ${dumpdir}/raw/<set> -> the same, mono. asr.sh takes no utterance away
# from it, so those on which decoding would end are refused here.
prepare_test_set() {  # <set>
    local dir=${dumpdir}/raw/$1 short long
    asr 4 --skip_train true --test_sets "$1"
    make_mono "${dir}"
    [ -f "${dir}/utt2num_samples" ] || return 0
    if grep -q '^ *upstream: *whisper' "${asr_config}"; then
        # A teacher transducer over Whisper hears no more.
        long=$(awk '$2 > 30 * 16000 && ++n <= 10 { printf("%s%s", (n > 1 ? ", " : ""), $1) }' \
            "${dir}/utt2num_samples")
        [ -z "${long}" ] || fail "${dir}: utterances above 30 s, more than ${asr_config}'s Whisper" \
            "hears: ${long}: cut them (segments), or take them out of data/$1"
    fi
    short=$(awk -v least="${min_wav_duration}" -v rate="${_rate}" \
        '$2 < rate * least && ++n <= 10 { printf("%s%s (%d samples)", (n > 1 ? ", " : ""), $1, $2) }' \
        "${dir}/utt2num_samples")
    [ -z "${short}" ] || fail "${dir}: utterances below --min_wav_duration ${min_wav_duration} s," \
        "on which decoding would end: ${short}: take them out of data/$1" \
        "(utils/subset_data_dir.sh --utt-list), or lower that option, to 0.1 at least"
}

# Stage 6: ${dumpdir}/raw -> <directory>
collect_stats() {  # <training set> <directory>
    with_count "$(num_utterances "$1${_sp}" "${valid_set}")" '' "$2/logdir/stats.*/*/speech_shape" \
        asr 10 --train_set "$1" --asr_stats_dir "$2" \
            --asr_config "${stats_config}" --asr_args "${stats_args}" --feats_normalize global_mvn
}

# Stage 7, what asr.sh's stages 3 and 4 do, for a set that has no text.
format_unlabelled() {  # <data directory>
    local out=${dumpdir}/raw/unlabelled_${unlabelled_name[$1]} opts=()
    [ -f "$1/wav.scp" ] || fail "--unlabelled_sets: no such file: $1/wav.scp"
    check_ends "$1"
    [ ! -f "$1/segments" ] || opts+=(--segments "$1/segments")
    scripts/audio/format_wav_scp.sh --nj "${nj}" --cmd "${train_cmd}" \
        --audio-format "${audio_format}" --fs "${fs}" "${opts[@]}" \
        "$1/wav.scp" "${out}/org"
    mtkd format_audio --data_dir "${out}/org" --channel "${channel}" --out_dir "${out}" \
        --min_duration "${min_wav_duration}" --max_duration "${max_wav_duration}" \
        --cut "${cut_unlabelled}"
    echo raw > "${out}/feats_type"
    echo "${audio_format}" > "${out}/audio_format"
}

# Stage 7: ${teachers}, ${dumpdir}/raw -> ${mtkd_stats_dir}
check_teachers_and_audio() {
    mtkd doctor --teachers "${teachers}" --data_dir "${_train}" "${_valid}" "${_unlabelled[@]}" \
        --out_dir "${mtkd_stats_dir}" --nj "${nj}"
}

# ${extract_nj} jobs share the shards; the last to end writes the manifests.
extract_jobs() {  # <module> <log, without .JOB.log> <arguments ...>
    local module=$1 logs=$2 local_jobs=1
    shift 2
    case ${cuda_cmd} in
        run.pl* | */run.pl*) local_jobs=${extract_nj} ;;
    esac
    log "log: ${logs}.*.log"
    # shellcheck disable=SC2086
    with_last_line "${logs}.1.log" \
        ${cuda_cmd} --gpu "$((ngpu > 0 ? 1 : 0))" JOB=1:"${extract_nj}" "${logs}.JOB.log" \
            env LOCAL_WORLD_SIZE="${local_jobs}" LOCAL_RANK='$[JOB-1]' \
            ${python} -m "espnet_mtkd.bin.${module}" --ngpu "$((ngpu > 0 ? 1 : 0))" \
                --rank '$[JOB-1]' --world_size "${extract_nj}" "$@"
}

# Stage 8: ${teachers}, ${dumpdir}/raw -> ${targets_dir}
extract_targets() {
    # shellcheck disable=SC2086
    extract_jobs mtkd_extract "${targets_dir}/log/extract" --teachers "${teachers}" \
        --data_dir "${_train}" "${_valid}" "${_unlabelled[@]}" \
        --shape_dir "${mtkd_stats_dir}" --out_dir "${targets_dir}" ${extract_args}
    mtkd extract --out_dir "${targets_dir}" --info
}

# Stage 9: ${dumpdir}/raw, ${teachers} or ${targets_dir} -> ${mtkd_exp}
normalize_args() {
    echo "--normalize ${feats_normalize}$([ "${feats_normalize}" != global_mvn ] \
        || echo " --normalize_conf stats_file=${asr_stats_dir}/train/feats_stats.npz")"
}
pretrain() {
    local normalize
    normalize=$(normalize_args)
    local dset inputs=()
    [ "${teacher_mode}" = live ] || inputs+=(--targets_dir "${targets_dir}")
    [ -z "${teacher_dtype}" ] || inputs+=(--teacher_dtype "${teacher_dtype}")
    if [ ${#_unlabelled[@]} -gt 0 ]; then
        inputs+=(--unlabelled_ratio "${unlabelled_ratio}" --unlabelled_wav_scp)
        for dset in "${_unlabelled[@]}"; do inputs+=("${dset}/wav.scp"); done
        inputs+=(--unlabelled_shape_file)
        for dset in "${_unlabelled[@]}"; do
            inputs+=("${mtkd_stats_dir}/$(basename "${dset}")/speech_shape")
        done
    fi
    keep_settings "${mtkd_exp}"
    log "log: ${mtkd_exp}/train.log"
    # shellcheck disable=SC2086
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

# Stage 10: ${mtkd_exp}/${pretrained_checkpoint} -> the encoder of ${asr_config}
check_handover() {
    mtkd handover --checkpoint "${mtkd_exp}/${pretrained_checkpoint}" \
        --mtkd_config "${mtkd_exp}/config.yaml" --asr_config "${asr_config}" \
        --asr_args="$(normalize_args) ${asr_args} ${head_args} ${finetune_args}" \
        --wav_scp "${_valid}/wav.scp"
}

# Stage 11: ${pseudo_whisper}, the unlabelled sets -> ${pseudo_text}
transcribe_by_whisper() {
    local logfile=${pseudo_text%.txt}.log
    mkdir -p "$(dirname "${pseudo_text}")"
    log "log: ${logfile}"
    # shellcheck disable=SC2086
    with_last_line "${logfile}" \
        ${cuda_cmd} --gpu "$((ngpu > 0 ? 1 : 0))" "${logfile}" \
            ${python} -m espnet_mtkd.bin.mtkd_transcribe --model "${pseudo_whisper}" \
                --data_dir "${_unlabelled[@]}" --like "data/${train_set}/text" \
                --out "${pseudo_text}" --ngpu "$((ngpu > 0 ? 1 : 0))" --nj "${nj}" \
                --num_threads "${num_threads}" ${transcribe_args}
    grep 'transcripts kept' "${logfile}" || true
}

# Stage 11: the transcripts of the unlabelled sets, and lengths of the whole
# -> ${dumpdir}/raw/${kd_train_set}, ${kd_stats_dir}
label_unlabelled() {
    local decoded=${dumpdir}/raw/${kd_train_set}${_sp} which=()
    if [ -n "${pseudo_text}" ]; then
        which=(--text "${pseudo_text}")
    else
        decoded=${kd_teacher_exp}/decode_unlabelled
        transcribe_unlabelled
        which=(--asr_exp "${kd_teacher_exp}" --model_file "${kd_teacher_model}"
            --decode_dir "${decoded}" --ngpu "$((ngpu > 0 ? 1 : 0))")
    fi
    ! "${pseudo_alone}" || which+=(--alone)
    log "log: ${decoded}/pseudo_label.log"
    # shellcheck disable=SC2086
    with_last_line "${decoded}/pseudo_label.log" \
        ${cuda_cmd} --gpu "$((ngpu > 0 ? 1 : 0))" "${decoded}/pseudo_label.log" \
            ${python} -m espnet_mtkd.bin.mtkd_pseudo_label "${which[@]}" \
                --labelled "${_train}" --unlabelled "${_unlabelled[@]}" \
                --out_dir "${dumpdir}/raw/${kd_train_set}${_sp}" \
                --shape_dir "${mtkd_stats_dir}" --nj "${nj}" ${pseudo_args}
    grep -E 'transcripts kept|no transcript is kept|utterances are in ' "${decoded}/pseudo_label.log" || true
    collect_stats "${kd_train_set}" "${kd_stats_dir}"
    # The encoder was pre-trained on features normalised by the labelled set's statistics.
    cp "${asr_stats_dir}/train/feats_stats.npz" "${kd_stats_dir}/train/"
}
transcribe_unlabelled() {
    with_count "$(num_utterances "${_unlabelled[@]##*/}")" "best hypo" \
        "${kd_teacher_exp}/decode_unlabelled/unlabelled_*/logdir/asr_inference.*.log" \
        asr 12 --asr_exp "${kd_teacher_exp}" --test_sets "${_unlabelled[*]##*/}" \
            --python "${with_plugin}" \
            --inference_asr_model "${kd_teacher_model}" --inference_tag decode_unlabelled
}

# Stage 11: ${kd_teacher_exp}, ${dumpdir}/raw/${kd_train_set} -> ${paths_dir}
extract_paths() {
    # shellcheck disable=SC2086
    extract_jobs mtkd_extract_paths "${paths_dir}/log/extract_paths" \
        --asr_exp "${kd_teacher_exp}" --model_file "${kd_teacher_model}" \
        --data_dir "${dumpdir}/raw/${kd_train_set}${_sp}" \
        --shape_dir "${mtkd_stats_dir}" --out_dir "${paths_dir}" ${paths_args}
}

# Stage 11: a random decoder's gradients, at a learning rate that suits it, undo the
# pre-training in one epoch; so it may learn first, on the frozen encoder.
train_transducer() {
    local init=
    [ "${teachers}" = none ] || init=${mtkd_exp}/${pretrained_checkpoint}:encoder:encoder
    if [ -n "${head_args}" ]; then
        log "first the decoder, encoder frozen -> ${asr_exp}/head"
        train_part "${asr_exp}/head" "${init}" "--freeze_param encoder ${head_args}"
        init=${asr_exp}/head/valid.loss.best.pth
    fi
    train_part "${asr_exp}" "${init}" "${kept_args} ${finetune_args}"
}
train_part() {  # <asr_exp> <initial parameters> <arguments of asr_train>
    keep_settings "$1"
    with_progress "$1/train.log" asr 11 --asr_exp "$1" \
        --asr_args "${asr_args}${kd_asr_args} $3 --seed ${seed}" \
        --train_set "${kd_train_set}" --asr_stats_dir "${kd_stats_dir}" \
        ${2:+--pretrained_model "$2"}
}

# Stage 12: ${asr_exp}, ${dumpdir}/raw/<set> -> ${asr_exp}/<decoding>/<set>
decode() {  # <set>
    local dset
    dset=$(test_set_name "$1")
    with_count "$(num_utterances "${dset}")" "best hypo" \
        "${asr_exp}/${inference_tag}/${dset}/logdir/asr_inference.*.log" \
        asr 12 --test_sets "$1"
}
# Utterance by utterance, as the references are; but as if each were heard while spoken.
decode_streaming() {  # <set>
    local dset out
    dset=$(test_set_name "$1")
    out=${asr_exp}/decode_stream/${dset}
    mkdir -p "${out}"
    log "log: ${out}/stream.log"
    # shellcheck disable=SC2086
    with_count "$(num_utterances "${dset}")" '' "${out}/text" \
        ${decode_cmd} "${out}/stream.log" \
            ${python} -m espnet_mtkd.bin.mtkd_asr_stream \
                --asr_train_config "${asr_exp}/config.yaml" \
                --asr_model_file "${asr_exp}/${inference_asr_model}" \
                --wav_scp "${dumpdir}/raw/${dset}/wav.scp" --out "${out}/text" \
                --endpoint_silence inf --max_segment inf ${stream_args}
    grep -e latency -e RTF "${out}/stream.log" || true
}

# Stage 13: ${asr_exp}/<decoding>/<set> -> ${asr_exp}/RESULTS.md
score() {  # <set> <further options ...>
    asr 13 --test_sets "$1" "${@:2}"
    # Which of the decodings of this student counts in tables and on the card
    echo "${inference_tag}" > "${asr_exp}/decoding"
}

# Stage 14: ${asr_exp}, ${mtkd_exp} -> ${packed_model}
pack_student() {
    local words=() opts=()
    [ "${teachers}" = none ] || opts+=(--mtkd_exp "${mtkd_exp}" --mtkd_model_file "${pretrained_checkpoint}")
    [ -z "${kd_teacher_exp}" ] || opts+=(--kd_teacher_exp "${kd_teacher_exp}")
    mapfile -d '' -t words < <(xargs -r printf '%s\0' <<< "${pack_args}")  # quotes in it count
    # shellcheck disable=SC2086
    mtkd pack --asr_exp "${asr_exp}" \
        --asr_model_file "${inference_asr_model}" "${opts[@]}" --out "${packed_model}" \
        --license "${license}" --language ${language:-${lang}} \
        --corpus "$(basename "$(dirname "${PWD}")")" \
        --inference_config "${inference_config}" --inference_args="${inference_args}" \
        "${words[@]}"
}

# Stage 15: ${packed_model} -> ${hf_repo}
upload_student() {
    # shellcheck disable=SC2086
    mtkd upload --archive "${packed_model}" --hf_repo "${hf_repo}" --dry_run "${dry_run}" \
        --out_dir "${expdir}/hf_${hf_repo//\//_}" ${upload_args}
}

# ======================== Before anything runs ========================
# Seconds, for what would else be said after hours.
preflight() {
    local name arguments=()
    for name in perl flock awk sha256sum; do
        command -v "${name}" > /dev/null || fail "${name} is not on PATH: install it"
    done
    if [ -n "${speed_perturb_factors}" ] && { is_asked 2 || is_asked 3; }; then
        command -v sox > /dev/null || fail "--speed_perturb_factors needs sox, which is not on" \
            "PATH: install it (Debian: apt-get install sox)"
    fi
    if is_asked 13 && ! command -v sclite > /dev/null; then
        log "Warning: sclite is not on PATH; stage 13 needs it (Debian: apt-get install sctk)"
    fi
    if [ -n "${pseudo_whisper}" ] && is_asked 11; then
        ${python} -c "import ctranslate2" 2> /dev/null || fail "--pseudo_whisper needs CTranslate2," \
            "which ${python} has not: pip install ctranslate2"
    fi
    if is_asked 14; then
        [ -n "${license}" ] || fail "--license is required by stage 14: the model's, e.g. cc-by-4.0"
        arguments+=(--license "${license}")
    fi
    if is_asked 15; then
        [ -n "${hf_repo}" ] || fail "--hf_repo is required by stage 15: user/model"
    fi
    for name in "${dumpdir}" "${expdir}"; do
        has_space "${name}"
    done
    for name in 8 9 11; do
        if is_asked "${name}"; then check_gpus; break; fi
    done
    if ! is_asked 1; then
        for name in "${_sets[@]}"; do
            is_asked 3 || break
            [ -f "data/${name}/wav.scp" ] || fail "no such file: data/${name}/wav.scp: run stage 1," \
                "whose local/data.sh makes it, or correct --train_set, --valid_set, --test_sets"
        done
    fi
    if [ "${teachers}" != none ] && { is_asked 7 || is_asked 8 || is_asked 9; }; then
        arguments+=(--teachers "${teachers}")
    fi
    [ -z "${keep_teachers}" ] || arguments+=(--keep_teachers "${keep_teachers}")
    if [ -f "${_train}/utt2num_samples" ] && [ -f "${_valid}/utt2num_samples" ]; then
        arguments+=(--asr_config "${asr_config}")
        arguments+=(--lengths "${_train}/utt2num_samples" "${_valid}/utt2num_samples")
    fi
    check_files "${arguments[@]}"
}
check_files() {  # <further arguments>: of the data directories that are there
    local name dirs=()
    for name in "${_sets[@]/#/data/}" ${unlabelled_sets}; do
        [ ! -f "${name}/wav.scp" ] || dirs+=("${name}")
    done
    if [ -n "${pseudo}" ]; then
        set -- "$@" --distinct
        for name in "data/${train_set}" ${unlabelled_sets}; do
            [ ! -f "${name}/wav.scp" ] || set -- "$@" "${name}"
        done
    fi
    [ $# -eq 0 ] && [ ${#dirs[@]} -eq 0 ] || mtkd preflight "$@" --data_dir "${dirs[@]}"
}
has_space() {  # <directory that is there, or will be>
    local dir=$1 free
    while [ ! -d "${dir}" ]; do dir=$(dirname "${dir}"); done
    [ -w "${dir}" ] || fail "$1: ${dir} cannot be written to"
    free=$(df -Pk "${dir}" | awk 'NR == 2 { print $4 }')
    if [ "${free}" -lt 524288 ]; then
        log "Error: ${dir}: $((free / 1024)) MB free, expected at least 512 MB: free some"
        exit 6
    fi
}
# Where a scheduler starts the jobs, this machine needs no GPU.
check_gpus() {
    local found
    [ "${ngpu}" -gt 0 ] || return 0
    case ${cuda_cmd} in
        run.pl* | */run.pl* | stdout.pl* | */stdout.pl*) ;;
        *) return 0 ;;
    esac
    found=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU' || true)
    [ -n "${CUDA_VISIBLE_DEVICES+set}" ] || [ "${found}" -lt "${ngpu}" ] || return 0
    found=$(${python} -c "import torch; print(torch.cuda.device_count())" 2> /dev/null | tail -n 1 || true)
    [[ ${found} =~ ^[0-9]+$ ]] || found=0
    [ "${found}" -ge "${ngpu}" ] || fail "--ngpu: expected ${ngpu} GPU(s) on this machine," \
        "found ${found}: give --ngpu 0 to train on the CPU, or let a scheduler start the jobs" \
        "(cmd_backend in cmd.sh)"
}

# ======================== Main stages start from here. ========================
all_stages() {
    local dset name role
    local done_data=${dumpdir}/.done done_asr=${asr_exp}/.done
    run_stage 1 "${done_data}/1" "${dumpdir}" "data preparation: local/data.sh -> data" asr 1
    if "${has_run}"; then  # the data directories are new
        data_memo=()
        ! is_asked 3 || check_files
    fi
    run_stage 2 "${done_data}/2_${train_set}" "${dumpdir}" \
        "speed perturbation: data/${train_set} -> data/${train_set}_sp" perturb
    for dset in "${_sets[@]}"; do
        name=${dset}
        role='test'
        [ "${dset}" != "${valid_set}" ] || role=valid
        if [ "${dset}" = "${train_set}" ]; then
            ! "${skip_train}" || continue
            name+=${_sp}
            role=train
        fi
        run_stage "3_${dset}" "${done_data}/3_${role}_${name}" "${dumpdir}" \
            "format wav.scp: data/${name} -> ${dumpdir}/raw" format_set "${dset}"
    done
    if ! "${skip_train}"; then
        run_stage 4 "${done_data}/4_train_${train_set}${_sp}_valid_${valid_set}" "${dumpdir}" \
            "remove long/short data: ${dumpdir}/raw/org -> ${dumpdir}/raw" remove_long_and_short
    fi
    for dset in ${test_sets}; do
        [ "${dset}" != "${valid_set}" ] || continue
        run_stage "4_${dset}" "${done_data}/4_test_${dset}" "${dumpdir}" \
            "one channel, no short utterance: ${dumpdir}/raw/${dset}" prepare_test_set "${dset}"
    done
    if ! "${skip_train}"; then
        run_stage 5 "${done_data}/5_${lang}_${_tokens}" "${dumpdir}" \
            "token list: ${dumpdir}/raw -> data" asr 5
    fi
    run_stage 6 "${asr_stats_dir}/.done" "${asr_stats_dir}" \
        "lengths and feature statistics: ${dumpdir}/raw -> ${asr_stats_dir}" \
        collect_stats "${train_set}" "${asr_stats_dir}"
    for dset in ${unlabelled_sets}; do
        name=unlabelled_${unlabelled_name[${dset}]}
        run_stage "7_${dset}" "${done_data}/3_${name}" "${dumpdir}" \
            "format unlabelled audio: ${dset} -> ${dumpdir}/raw/${name}" format_unlabelled "${dset}"
    done
    local with=${unlabelled_sets:+_unlabelled}
    if [ "${teachers}" != none ]; then
        run_stage 7 "${mtkd_stats_dir}/.done_${_teachers}${with}" "${mtkd_stats_dir}" \
            "teachers and audio: ${teachers}, ${dumpdir}/raw -> ${mtkd_stats_dir}" \
            check_teachers_and_audio
    fi
    run_stage 8 "${targets_dir}/.done_${_teachers}${with}" "${targets_dir}" \
        "targets: ${teachers}, ${dumpdir}/raw -> ${targets_dir}" extract_targets
    run_stage 9 "${mtkd_exp}/.done" "${mtkd_exp}" \
        "pre-training: ${dumpdir}/raw, ${teachers} -> ${mtkd_exp}" pretrain
    run_stage 10 "${mtkd_exp}/.done_handover_${asr_exp##*/}" "${mtkd_exp}" \
        "hand-over: ${mtkd_exp}/${pretrained_checkpoint} -> the encoder of ${asr_config}" \
        check_handover
    if [ -n "${pseudo_whisper}" ]; then
        run_stage 11_text "${pseudo_text%.txt}.done" "$(dirname "${pseudo_text}")" \
            "transcripts: ${pseudo_whisper}, ${unlabelled_sets} -> ${pseudo_text}" \
            transcribe_by_whisper
    fi
    if [ -n "${pseudo}" ]; then
        run_stage 11_pseudo "${dumpdir}/raw/${kd_train_set}${_sp}/.done" "${kd_stats_dir}" \
            "pseudo-labels: ${pseudo_text:-${kd_teacher_exp}}, ${unlabelled_sets} -> ${dumpdir}/raw/${kd_train_set}${_sp}" \
            label_unlabelled
    fi
    if [ -n "${kd_teacher_exp}" ]; then
        run_stage 11_paths "${paths_dir}/.done_${kd_train_set}${_sp}" "${paths_dir}" \
            "best paths: ${kd_teacher_exp}, ${dumpdir}/raw/${kd_train_set}${_sp} -> ${paths_dir}" \
            extract_paths
    fi
    run_stage 11 "${done_asr}/11" "${asr_exp}" \
        "transducer training: ${dumpdir}/raw -> ${asr_exp}" train_transducer
    local streamed=
    ! "${stream_decode}" || streamed=${test_sets}
    for dset in ${test_sets}; do
        run_stage "12_${dset}" "${done_asr}/12_${dset}" "${asr_exp}" \
            "decoding: ${asr_exp}, ${dset}" decode "${dset}"
    done
    for dset in ${streamed}; do
        run_stage "12stream_${dset}" "${done_asr}/12stream_${dset}" "${asr_exp}" \
            "streaming decoding: ${asr_exp}, ${dset}" decode_streaming "${dset}"
    done
    for dset in ${test_sets}; do
        run_stage "13_${dset}" "${done_asr}/13_${dset}" "${asr_exp}" \
            "scoring: ${dset} -> ${asr_exp}/RESULTS.md" score "${dset}"
    done
    for dset in ${streamed}; do
        run_stage "13stream_${dset}" "${done_asr}/13stream_${dset}" "${asr_exp}" \
            "scoring: ${dset}, streamed -> ${asr_exp}/RESULTS.md" \
            score "${dset}" --inference_tag decode_stream
    done
    run_stage 14 "${done_asr}/14" "${asr_exp}" "packing: ${asr_exp} -> ${packed_model}" pack_student
    run_stage 15 "${done_asr}/15" "${asr_exp}" "uploading: ${packed_model} -> ${hf_repo}" upload_student
}

main() {
    preflight
    planning=true
    if is_asked 1 && [ ! -f "${dumpdir}/.done/1" ]; then data_is_there=false; fi
    if "${dry_run}" && is_asked 15; then  # of these two, what they write is the plan
        local asked=${skip_stages}
        skip_stages+=" 14 15 "
        all_stages
        skip_stages="${asked} $(seq -s ' ' 13) "
    else
        all_stages
        if "${dry_run}"; then
            tell_expected
            return 0
        fi
    fi
    planning=false
    data_is_there=true
    all_stages

    log "Successfully finished. [elapsed=${SECONDS}s]"
}
main; exit 0  # (one line, read before it begins: this file may be edited while it runs)
