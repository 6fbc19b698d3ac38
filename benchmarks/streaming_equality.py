"""Chunk-by-chunk decoding against ESPnet's own of the whole utterance: tokens and WER.

    cd egs2/asterisk/mtkd1; python ../../../benchmarks/streaming_equality.py \\
        --asr_exp exp/asr_contextual_block_conformer_teachers_kd \\
        --data_dir dump/raw/test dump/raw/valid dump/raw/train

The whole: ESPnet's features of the utterance, its
encoder's `forward_infer` in one call, its BeamSearchTransducer. In chunks: ours, in
chunks of random length from 1 sample to half a second.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm


def whole(model, search, wave: np.ndarray):
    """Encoder output (T, D) and best hypothesis's token ids, by ESPnet alone."""
    speech_1N = torch.from_numpy(wave)[None]
    feats, lengths = model._extract_feats(speech_1N, torch.tensor([len(wave)]))
    if model.normalize is not None:
        feats, lengths = model.normalize(feats, lengths)
    h_1TD, _, _ = model.encoder(feats, lengths, None, is_final=True, infer_mode=True)
    return h_1TD[0], search(h_1TD[0])[0].yseq[1:]


def in_chunks(speech2text, wave: np.ndarray, rng) -> list[int]:
    """Token ids of an utterance that comes in chunks."""
    stream = speech2text.open_stream()
    begin = 0
    while begin < len(wave):
        length = int(rng.integers(1, 8000))
        stream.accept(wave[begin : begin + length])
        begin += length
    return stream.finish()[-1].token_ids


@torch.no_grad()
def main():
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--asr_exp", type=Path, required=True)
    parser.add_argument("--model_file", default="valid.loss.ave.pth")
    parser.add_argument("--data_dir", type=Path, nargs="+", required=True)
    parser.add_argument("--num_utts", type=int, default=200)
    parser.add_argument("--search_type", default="default", help="or tsd")
    parser.add_argument("--beam_size", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)

    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer
    from rapidfuzz.distance import Levenshtein

    from espnet_mtkd.data.kaldi import read_lines, read_wav_scp
    from espnet_mtkd.streaming import Speech2TextStreamingTransducer

    speech2text = Speech2TextStreamingTransducer(
        args.asr_exp / "config.yaml",
        args.asr_exp / args.model_file,
        search_type=args.search_type,
        beam_size=args.beam_size,
        endpoint_silence=float("inf"),
        max_segment=float("inf"),
    )
    model = speech2text.asr_model
    search = BeamSearchTransducer(
        model.decoder,
        model.joint_network,
        args.beam_size,
        search_type=args.search_type,
        max_sym_exp=5,  # of tsd: the streaming decoder's 4 tokens a frame
    )
    token_list = model.token_list

    entries, texts = {}, {}
    for folder in args.data_dir:
        entries.update(read_wav_scp(folder / "wav.scp"))
        texts.update(read_lines(folder / "text", "transcripts"))
    rng = np.random.default_rng(0)
    num_equal = num_words = 0
    num_errors = np.zeros(2, int)
    taken = dict(itertools.islice(entries.items(), args.num_utts))
    for utt, path in tqdm(taken.items()):
        wave = soundfile.read(path, dtype="float32")[0]
        ids = [whole(model, search, wave)[1], in_chunks(speech2text, wave, rng)]
        num_equal += ids[0] == ids[1]
        words = texts[utt].split()
        num_words += len(words)
        for i, found in enumerate(ids):
            text = speech2text.tokens2text([token_list[j] for j in found])
            num_errors[i] += Levenshtein.distance(words, text.split())
    wer = 100 * num_errors / num_words
    print(f"{num_equal} of {len(taken)} utterances: the same tokens")
    print(
        f"WER of the whole {wer[0]:.2f} %, in chunks {wer[1]:.2f} % ({num_words} words)"
    )


if __name__ == "__main__":
    main()
