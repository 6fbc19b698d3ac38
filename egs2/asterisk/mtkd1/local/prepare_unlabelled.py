#!/usr/bin/env python3
"""A folder of G.722 prompts in any language -> a Kaldi directory without text."""

import argparse
import shutil
import sys
from pathlib import Path

from prepare_asterisk import (
    MAX_SECONDS,
    MIN_SECONDS,
    SAMPLE_RATE,
    _write_flac,
    decode_g722,
)
from tqdm import tqdm


def prepare(source: Path, data_dir: Path, prefix: str) -> float:
    """Decode all prompts that are neither too short nor too long.

    Tones and silence are left out by their folder's name.

    Args:
        source: searched for `*.g722`.
        data_dir: made anew; the audio lies in its folder `audio`.
        prefix: of utterance ids, and the speaker's name.

    Returns:
        Hours kept.

    Raises:
        ValueError: two prompts of one name, or none at all.
    """
    part = data_dir.with_name(f".{data_dir.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    scp, total, left_out = {}, 0, []
    for path in tqdm(sorted(source.rglob("*.g722")), f"prompts in {prefix}"):
        if "silence" in path.parts:
            continue
        try:
            samples = decode_g722(path)
        except ValueError as e:
            left_out.append(f"{path.relative_to(source)} ({e})")
            continue
        if not MIN_SECONDS <= len(samples) / SAMPLE_RATE <= MAX_SECONDS:
            continue
        name = (
            path.stem
            if path.parent.name.startswith(prefix)
            else (f"{path.parent.name}-{path.stem}")
        )
        utt = f"{prefix}-{name}"
        if utt in scp:
            raise ValueError(f"two prompts are called {utt}")
        _write_flac(part / "audio" / f"{utt}.flac", samples)
        scp[utt] = data_dir / "audio" / f"{utt}.flac"
        total += len(samples)
    if left_out:
        print(f"left out, not decodable: {', '.join(left_out)}")
    if not scp:
        raise ValueError(f"no usable *.g722 in {source}")
    utts = sorted(scp, key=str.encode)
    (part / "wav.scp").write_text("".join(f"{u} {scp[u]}\n" for u in utts))
    (part / "utt2spk").write_text("".join(f"{u} {prefix}\n" for u in utts))
    (part / "spk2utt").write_text(f"{prefix} {' '.join(utts)}\n")
    shutil.rmtree(data_dir, ignore_errors=True)
    part.rename(data_dir)
    return total / SAMPLE_RATE / 3600


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="unpacked prompts")
    parser.add_argument("--data_dir", type=Path, required=True, help="output")
    parser.add_argument("--prefix", required=True, help="of utterance ids")
    args = parser.parse_args()
    try:
        hours = prepare(args.source, args.data_dir, args.prefix)
    except ValueError as e:
        print(f"error: {e}", file=sys.stderr)
        return 4
    print(f"{args.data_dir}: {hours:.2f} h of audio")
    return 0


if __name__ == "__main__":
    sys.exit(main())
