"""What Whisper's 30 s window is worth: targets with and without it, and their cost.

    cd egs2/asterisk/mtkd1; python ../../../benchmarks/whisper_window.py

Whisper was trained on windows of 30 s, padded with silence. Without the padding an
utterance of 3 s is a tenth of the work; its targets are other ones. For each teacher
and layer, over the same utterances, in standardised dimensions: cosine of the two
targets of a frame (mean), and their squared difference over the squared norm, for the
median frame and over all of them (which a few frames of very large values decide); and
the ratio of the times.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from espnet_mtkd.targets.embeddings import read_audio
from espnet_mtkd.targets.plan import Utterance
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.s3prl import S3PRLTeacher


@torch.inference_mode()
def embed_all(teacher, waves) -> tuple[dict[str, torch.Tensor], float]:
    """Target name -> (frames of all utterances, E), and seconds."""
    rows = {spec.name: [] for spec in teacher.targets}
    start = time.perf_counter()
    for wave in waves:
        out = teacher(wave[None], torch.tensor([len(wave)]))
        for name, (target, num_frames) in out.items():
            rows[name].append(target[0, : int(num_frames)])
    seconds = time.perf_counter() - start
    return {name: torch.cat(parts) for name, parts in rows.items()}, seconds


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", default="conf/teachers.yaml")
    parser.add_argument("--wav_scp", type=Path, default="dump/raw/valid/wav.scp")
    parser.add_argument("--num_threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)

    import soundfile

    from espnet_mtkd.data.kaldi import read_wav_scp

    waves = [
        read_audio(Utterance(utt, audio, soundfile.info(audio).frames, 0))
        for utt, audio in read_wav_scp(args.wav_scp).items()
    ]
    seconds = sum(map(len, waves)) / 16000
    print(f"{len(waves)} utterances, mean {seconds / len(waves):.1f} s")
    for config in parse_teachers(args.teachers):
        short = S3PRLTeacher(config)
        padded = S3PRLTeacher(
            dataclasses.replace(
                config, extra_conf={**(config.extra_conf or {}), "pad_to_30s": True}
            )
        )
        found, short_s = embed_all(short, waves)
        exact, padded_s = embed_all(padded, waves)
        for name, y in found.items():
            mean, std = exact[name].mean(0), exact[name].std(0)
            x, y = (exact[name] - mean) / std, (y - mean) / std
            difference, norm = (x - y).square().sum(1), x.square().sum(1)
            median = float((difference / norm).median())
            error = float(difference.sum() / norm.sum())
            cosine = float(F.cosine_similarity(x, y, dim=1).mean())
            print(
                f"{name}: cosine {cosine:.3f}, squared difference {median:.3f} "
                f"(median), {error:.3f} (all); padded {padded_s:.1f} s, not padded "
                f"{short_s:.1f} s: {padded_s / short_s:.1f} x as fast"
            )


if __name__ == "__main__":
    main()
