#!/usr/bin/env bash
# ESPnet's mini_an4 (7 utterances of CMU's AN4) -> data/{train_nodev,train_dev,test,test_seg}
#
# From the archive in ESPnet's tree, by ESPnet's own local/data_prep.py there. The sets are
# those of its asr1: train_dev is the first utterance of train, test_seg is test by segments.
. ../../TEMPLATE/mtkd1/common.sh

declare_options < /dev/null
parse_options own "$@"
. ./path.sh || exit 1

# path.sh tells of ESPnet's tree: ESPNET_ROOT, or the one that this recipe lies in.
asr1=${ESPNET_ROOT:-${MAIN_ROOT}}/egs2/mini_an4/asr1
if [ ! -f "${asr1}/downloads.tar.gz" ]; then
    fail "no such file: ${asr1}/downloads.tar.gz: is ESPNET_ROOT a whole ESPnet?"
fi

log "stage 1: ${asr1}/downloads.tar.gz -> downloads/an4"
tar -xzf "${asr1}/downloads.tar.gz" downloads/an4

log "stage 2: downloads/an4 -> data"
mkdir -p data/{train,test}
python3 "${asr1}/local/data_prep.py" downloads/an4 sph2pipe
for x in train test; do
    # Its pipes through sph2pipe, which few have, are not needed: soundfile reads *.sph.
    sed -i -E 's/^([^ ]+) sph2pipe .* ([^ ]+\.sph) \|$/\1 \2/' "data/${x}/wav.scp"
    for f in text wav.scp utt2spk; do
        sort "data/${x}/${f}" -o "data/${x}/${f}"
    done
    utils/utt2spk_to_spk2utt.pl "data/${x}/utt2spk" > "data/${x}/spk2utt"
done
utils/subset_data_dir.sh --first data/train 1 data/train_dev
utils/subset_data_dir.sh --last data/train "$(($(wc -l < data/train/text) - 1))" data/train_nodev

rm -rf data/test_seg
utils/copy_data_dir.sh data/test data/test_seg
awk '{ print $1 "_org", $2 }' data/test/wav.scp > data/test_seg/wav.scp
printf '%s\n' "fcaw-cen8-b fcaw-cen8-b_org 0.0 2.9" "mmxg-cen8-b mmxg-cen8-b_org 0.0 2.3" \
    > data/test_seg/segments

log "Successfully finished. [elapsed=${SECONDS}s]"
