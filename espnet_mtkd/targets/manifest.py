"""What a manifest may say: it may be anybody's, and names files that are opened."""

import re

from espnet_mtkd.errors import shown

FORMAT = 1
NUMBERS = {"layer": 0, "dim": 1, "frame_shift": 1, "num_channels": 1}  # and the least
PER_UTTERANCE = ("num_samples", "num_frames", "offsets")
DTYPES = ("uint8", "uint16", "float16")
MAX = 2**53  # of any number


def shard_name(number: int) -> str:
    """File name of the shard of that number."""
    return f"shard_{number:05d}.safetensors"


def find_fault(manifest: dict) -> str | None:
    """What keeps a manifest from being one of this format; None: nothing.

    Args:
        manifest: JSON's values.
    """
    kinds = {"fingerprint": dict, "targets": list, "shards": list, "utts": list}
    for key, kind in {**kinds, **dict.fromkeys(PER_UTTERANCE, list)}.items():
        if not isinstance(manifest.get(key), kind):
            found = shown(manifest.get(key))
            return f"{key}: expected a {kind.__name__}, found {found}"
    return (
        _fault_of_targets(manifest["targets"])
        or _fault_of_shards(manifest["shards"])
        or _fault_of_utterances(manifest)
    )


def _is_number(value, least: int = 0) -> bool:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and least <= value < MAX


def _fault_of_targets(targets: list) -> str | None:
    if not targets:
        return "targets: expected at least one, found none"
    names = set()
    for target in targets:
        known = {*NUMBERS, "name", "dtype", "frame_centre"}
        if not isinstance(target, dict) or not set(target) <= known:
            return f"targets: found {shown(target)}"
        for key, least in NUMBERS.items():
            if not _is_number(target.get(key), least):
                return f"targets: {key}: found {shown(target.get(key))}"
        name, centre = target.get("name"), target.get("frame_centre")
        if not isinstance(name, str) or name in names:
            return f"targets: name: found {shown(name)}, no string or a second time"
        names.add(name)
        if target.get("dtype") not in DTYPES:
            return f"targets: dtype: found {shown(target.get('dtype'))}"
        is_number = isinstance(centre, (int, float)) and not isinstance(centre, bool)
        if centre is not None and not (is_number and abs(centre) < MAX):
            return f"targets: frame_centre: found {shown(centre)}"
    return None


def _fault_of_shards(shards: list) -> str | None:
    for number, shard in enumerate(shards):
        if not isinstance(shard, dict) or shard.get("file") != shard_name(number):
            return f"shards: expected {shard_name(number)}, found {shown(shard)}"
        for key in ("num_utts", "num_bytes"):
            if not _is_number(shard.get(key)):
                return f"shards: {key}: found {shown(shard.get(key))}"
        digest = shard.get("sha256")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            return f"shards: sha256: found {shown(digest)}"
    return None


def _fault_of_utterances(manifest: dict) -> str | None:
    utts, total = manifest["utts"], sum(s["num_utts"] for s in manifest["shards"])
    if not all(isinstance(utt, str) for utt in utts) or len(set(utts)) < len(utts):
        return "utts: expected strings, none of them twice"
    if len(utts) != total:
        return f"utts: expected {total}, as the shards have, found {len(utts)}"
    for key in PER_UTTERANCE:
        values = manifest[key]
        if len(values) != total or not all(map(_is_number, values)):
            return f"{key}: expected {total} numbers, found {shown(values)}"
    return None
