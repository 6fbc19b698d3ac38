#!/usr/bin/env bash
# local/data.sh of a corpus of your own: a folder of recordings, and a table of what is said.
# The table's lines have file, speaker and text, with tabs between; audio is what ffmpeg reads
# (of wav, FLAC, mp3 and Ogg it is not needed). A tenth of the speakers (of the lines, where they
# are fewer than ten) is for validation, another for test. Recordings without a line become the
# set `untranscribed`.
# shellcheck disable=SC1091

set -euo pipefail
. ./path.sh
audio=
table=
. utils/parse_options.sh
[ -d "${audio}" ] || { echo "error: --audio: no such folder: '${audio}'" >&2; exit 2; }
[ -f "${table}" ] || { echo "error: --table: no such file: '${table}'" >&2; exit 2; }
audio=$(cd "${audio}" && pwd)
[[ ${audio} != *[[:space:]]* ]] || { echo "error: --audio: a folder without spaces, found '${audio}'" >&2; exit 2; }

rm -rf data/train data/valid data/test data/untranscribed
mkdir -p data/train data/valid data/test data/untranscribed
find "${audio}" -type f | grep -iE '\.(wav|flac|mp3|ogg|opus)$' | LC_ALL=C sort > data/files
awk -F '\t' -v audio="${audio}" '
    FNR == 1 { part++ }
    part == 1 { there[$0] = 1; next }
    NF != 3 {
        printf("error: %s, line %d: expected file, speaker and text, with tabs between\n", FILENAME, FNR) > "/dev/stderr"
        exit failed = 4
    }
    $1 ~ /[ \\|]/ {
        printf("error: %s, line %d: expected a file name without spaces and bars, found %s: rename it\n", FILENAME, FNR, $1) > "/dev/stderr"
        exit failed = 4
    }
    !((audio "/" $1) in there) {
        printf("error: %s, line %d: no such recording: %s/%s\n", FILENAME, FNR, audio, $1) > "/dev/stderr"
        exit failed = 4
    }
    {
        line[++lines] = $0
        if (!($2 in number)) number[$2] = speakers++
    }
    END {
        if (failed) exit failed
        for (i = 1; i <= lines; i++) {
            split(line[i], x, "\t")
            place = (speakers < 10 ? i : number[x[2]]) % 10
            dir = "data/" (place == 8 ? "valid" : place == 9 ? "test" : "train")
            id = x[2] "-" x[1]
            gsub(/[^A-Za-z0-9_.-]/, "_", id)
            speaker = x[2]
            gsub(/[^A-Za-z0-9_.-]/, "_", speaker)
            print id, audio "/" x[1] > (dir "/wav.scp")
            print id, x[3] > (dir "/text")
            print id, speaker > (dir "/utt2spk")
            delete there[audio "/" x[1]]
        }
        for (file in there) {
            id = substr(file, length(audio) + 2)
            gsub(/[^A-Za-z0-9_.-]/, "_", id)
            print id, file > "data/untranscribed/wav.scp"
            print id, id > "data/untranscribed/utt2spk"
        }
    }' data/files "${table}"
for dir in data/train data/valid data/test; do
    utils/fix_data_dir.sh "${dir}"
    utils/validate_data_dir.sh --no-feats "${dir}"
done
[ ! -s data/untranscribed/wav.scp ] || utils/fix_data_dir.sh data/untranscribed
