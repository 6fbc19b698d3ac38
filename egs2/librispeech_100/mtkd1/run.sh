#!/usr/bin/env bash
# LibriSpeech-100: HuBERT, WavLM, wav2vec 2.0 and data2vec, all Large, teach a transducer of
# 30 M parameters, with text for 100 hours and, if you like, 860 hours of audio without.
#
# What it takes, by arithmetic; nothing of it was measured. Assumed speeds, in seconds of
# audio a second on one GPU: a teacher 500, stage 1 of the student 1000, stage 2 520
# (ESPnet's own: 60 epochs of 303.8 h in 35 h on an A100), decoding 20. Hours of audio:
# train 100.6, dev 10.7, test 10.5, unlabelled 860.3; 50 frames/s of a teacher, 25 of the
# student, 5.4 tokens/s. docs/reproduce_librispeech.md says more.
#
# Stage 1, corpus: 7.7 GB + 53.6 GB unlabelled; stages 3 and 7, FLAC again: as much once more
# Stage 7, teachers fetched: 4 * 317e6 * 4 / 1e9 = 5.1 GB
# Stage 8, targets of train and dev: 16 * 50 * 3600 * 4 * 111.3 / 1e9 = 1.3 GB
#          in time: 4 * 111.3 / 500 = 0.9 GPU-h
#          of the unlabelled audio: 16 * 50 * 3600 * 4 * 860.3 / 1e9 = 9.9 GB
#          in time: 4 * 860.3 / 500 = 6.9 GPU-h
# Stage 9, pre-training: 60 * 100.6 / 1000 = 6.0 GPU-h
#          with unlabelled audio: 2 * 60 * 100.6 / 1000 = 12.1 GPU-h
# Stage 11, transducer: (8 + 62) * 100.6 / 520 = 13.5 GPU-h
#          each training's checkpoints: 15 * 30e6 * 4 / 1e9 = 1.8 GB
#          teacher transducer: 30 * 100.6 * (1 / 500 + 1 / 520) = 11.8 GPU-h
#          best paths: 36 * (25 + 5.4) * 3600 * 100.6 / 1e9 = 0.4 GB
#          in time: 100.6 / 500 = 0.2 GPU-h
#          pseudo-labels: 860.3 / 20 + 860.3 / 500 = 44.7 GPU-h
#          best paths of all: 36 * (25 + 5.4) * 3600 * 960.9 / 1e9 = 3.8 GB
#          in time: 960.9 / 500 = 1.9 GPU-h
# Stage 12, decoding, each row: (10.7 + 10.5) / 20 = 1.1 GPU-h
# shellcheck disable=SC2034,SC2154  # recipe.sh reads and sets them

cd "$(dirname "$0")" || exit
. ../../TEMPLATE/mtkd1/recipe.sh
declare_options << 'EOF'
rows       | scratch teachers kd | Rows of results, see below. unlabelled, pseudo and text need 54 GB
           |                     | more of download.
unlabelled | train-clean-360 train-other-500 | Parts of LibriSpeech without text.
python     | python3             | Python to execute espnet commands.
EOF
usage='[--rows "scratch single teachers kept kd unlabelled pseudo text"] [options of ladder.sh and mtkd.sh]'
parse_run_options "$@"
set_up
fetch_decoder "${rows}"

unlabelled_sets=
case " ${rows} " in
    *" unlabelled "* | *" pseudo "* | *" text "*)
        local/data.sh --stage 4 --unlabelled "${unlabelled}"
        for part in ${unlabelled}; do unlabelled_sets+="data/${part//-/_} "; done ;;
esac

exec ./ladder.sh --rows "${rows}" --python "${python}" \
    --command "${command}" \
    --single_teachers "conf/teacher_hubert.yaml conf/teacher_wavlm.yaml conf/teacher_wav2vec2.yaml conf/teacher_data2vec.yaml" \
    --kd_teacher_tag teacher_hubert --unlabelled_sets "${unlabelled_sets}" \
    --pretrain_epochs 60 --head_epochs 8 --finetune_epochs 62 \
    --head_lr 0.002 --finetune_lr 0.001 \
    --train_set train_clean_100 --valid_set dev \
    --test_sets "test_clean test_other dev_clean dev_other" \
    --lang en --token_type bpe --nbpe 500 --max_wav_duration 30 \
    --ngpu 1 --nj 16 --gpu_inference true --inference_nj 4 \
    --stream_args "--search_type tsd --beam_size 5 --num_streams 16" "${options[@]}"
