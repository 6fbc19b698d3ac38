#!/usr/bin/env bash
# The *.flac of a part of LibriSpeech -> a Kaldi directory without text. The transcripts
# that lie beside them are not opened.
set -euo pipefail
export LC_ALL=C

if [ $# -ne 2 ]; then
    echo "Usage: $0 <part> <data directory>, e.g. $0 LibriSpeech/train-clean-360 data/train_clean_360"
    exit 2
fi
part=$1
dir=$2

temporary=${dir}.part
rm -rf "${temporary}"
mkdir -p "${temporary}"
find -L "${part}" -name '*.flac' \
    | awk -F/ '{ id = $NF; sub(/\.flac$/, "", id); print id, $0 }' \
    | sort > "${temporary}/wav.scp"
if [ ! -s "${temporary}/wav.scp" ]; then
    echo "error: no *.flac in ${part}" >&2
    exit 4
fi
# <speaker>-<chapter>-<number>; a chapter counts as a speaker, as in ESPnet's recipe.
if ! awk '{ if (split($1, p, "-") != 3) { print $1; exit 1 } print $1, p[1] "-" p[2] }' \
    "${temporary}/wav.scp" > "${temporary}/utt2spk"; then
    echo "error: ${part}: expected names like 19-198-0000.flac, found" \
        "$(tail -n 1 "${temporary}/utt2spk").flac" >&2
    exit 4
fi
repeated=$(cut -d ' ' -f 1 "${temporary}/wav.scp" | uniq -d | head -n 1)
if [ -n "${repeated}" ]; then
    echo "error: ${part}: two files are called ${repeated}.flac" >&2
    exit 4
fi
utils/utt2spk_to_spk2utt.pl "${temporary}/utt2spk" > "${temporary}/spk2utt"
rm -rf "${dir}"
mv "${temporary}" "${dir}"
echo "${dir}: $(wc -l < "${dir}/wav.scp") utterances"
