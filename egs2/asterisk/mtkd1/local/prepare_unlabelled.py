#!/usr/bin/env python3
"""A folder of G.722 prompts in any language -> a Kaldi directory without text."""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

from prepare_asterisk import (
    MAX_SECONDS,
    MIN_SECONDS,
    SAMPLE_RATE,
    Utterance,
    decode_g722,
    write_flac,
    write_kaldi_dir,
)
from tqdm import tqdm


def stamp(source: Path, data_dir: Path, prefix: str) -> str:
    """Digest of all that decides what `prepare` writes."""
    sizes = [
        f"{p.relative_to(source)} {p.stat().st_size}" for p in source.rglob("*.g722")
    ]
    code = [p.read_text() for p in sorted(Path(__file__).parent.glob("prepare_*.py"))]
    text = "\n".join([str(data_dir), prefix, *sorted(sizes), *code])
    return hashlib.sha256(text.encode()).hexdigest()


def is_prepared(data_dir: Path, expected: str) -> bool:
    """Whether an earlier run wrote the same, and no audio file is missing."""
    try:
        found = (data_dir / ".stamp").read_text()
        lines = (data_dir / "wav.scp").read_text().splitlines()
    except FileNotFoundError:
        return False
    return found == expected and all(Path(x.split()[1]).is_file() for x in lines)


def prepare(source: Path, data_dir: Path, prefix: str) -> float | None:
    """Decode all prompts that are neither too short nor too long.

    Tones and silence are left out by their folder's name.

    Args:
        source: searched for `*.g722`.
        data_dir: made anew where it is not what is asked for; the audio lies in its
            folder `audio`.
        prefix: of utterance ids, and the speaker's name.

    Returns:
        Hours kept; None where all was there already.

    Raises:
        ValueError: two prompts of one name, or none at all.
    """
    key = stamp(source, data_dir, prefix)
    if is_prepared(data_dir, key):
        return None
    part = data_dir.with_name(f".{data_dir.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    utterances, left_out = {}, []
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
        folder = path.parent.name
        name = path.stem if folder.startswith(prefix) else f"{folder}-{path.stem}"
        utt = f"{prefix}-{name}"
        if utt in utterances:
            raise ValueError(f"two prompts are called {utt}")
        write_flac(part / "audio" / f"{utt}.flac", samples)
        utterances[utt] = Utterance(utt, None, len(samples))
    if left_out:
        print(f"left out, not decodable: {', '.join(left_out)}")
    if not utterances:
        raise ValueError(f"no usable *.g722 in {source}")
    kaldi = part / "kaldi"
    write_kaldi_dir(kaldi, list(utterances.values()), f"{data_dir}/audio", prefix)
    for path in kaldi.iterdir():
        path.rename(part / path.name)
    kaldi.rmdir()
    (part / ".stamp").write_text(key)
    shutil.rmtree(data_dir, ignore_errors=True)
    part.rename(data_dir)
    return sum(u.seconds for u in utterances.values()) / 3600


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
    if hours is None:
        print(f"{args.data_dir}: already prepared, nothing to do")
    else:
        print(f"{args.data_dir}: {hours:.2f} h of audio")
    return 0


if __name__ == "__main__":
    sys.exit(main())
