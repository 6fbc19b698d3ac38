"""Live teachers in a shorter data type: are they still the same?"""

from collections.abc import Iterable

import torch

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.targets.embeddings import check_difference

OPTION = "--teacher_dtype"
SECONDS = 60.0  # of audio that is compared, as in a batch of the extraction


@torch.no_grad()
def check_live_precision(
    teachers, batches: Iterable, device: str, seconds: float = SECONDS
) -> None:
    """Refuse a live teacher that another data type than float32 breaks.

    The measure is that of the extraction, see `check_precision`; the audio is that of
    the first batches.

    Args:
        teachers: `TeacherPool`, or a `TargetMemory` around one.
        batches: gives (utterance ids, batch) as ESPnet's data loaders do; not touched
            where all teachers compute in float32.
        device: where the teachers run.
        seconds: of audio, at least, where there is so much.

    Raises:
        ConfigError: naming teacher, target and error.
    """
    pool = getattr(teachers, "teacher", teachers)
    lowered = [
        teacher
        for teacher in getattr(pool, "teachers", [])
        if getattr(teacher, "dtype", torch.float32) != torch.float32
    ]
    if not lowered:
        return
    frames = {}  # (teacher, target) -> pairs of (N, E): in float32, and as it is
    missing = seconds
    for _, batch in batches:
        lengths_B = batch["speech_lengths"].cpu()
        speech_BN = batch["speech"].to(device)
        for teacher in lowered:
            for name, pair in both_ways(teacher, speech_BN, lengths_B).items():
                frames.setdefault((teacher, name), []).append(pair)
        missing -= int(lengths_B.sum()) / SAMPLE_RATE
        if missing <= 0:
            break
    for (teacher, name), pairs in frames.items():
        exact_NE, found_NE = map(torch.cat, zip(*pairs, strict=True))
        if len(exact_NE) > 1:  # there is a deviation to standardise by
            check_difference(teacher, name, exact_NE, found_NE, OPTION)


def both_ways(teacher, speech_BN, lengths_B) -> dict[str, tuple]:
    """Valid frames of a batch: target -> (N, E) in float32, and in the own data type.

    Args:
        teacher: `S3PRLTeacher`.
        speech_BN, lengths_B: waveforms, and their samples on the host.
    """
    found = teacher(speech_BN, lengths_B)
    dtype, teacher.dtype = teacher.dtype, torch.float32
    try:
        exact = teacher(speech_BN, lengths_B)
    finally:
        teacher.dtype = dtype
    return {name: (valid(*exact[name]), valid(*found[name])) for name in found}


def valid(target_BTE, lengths_B):
    """(B, T, E), (B,) -> (N, E): the frames of all utterances, padding left out."""
    pairs = zip(target_BTE, lengths_B.tolist(), strict=True)
    return torch.cat([row_TE[:n] for row_TE, n in pairs])
