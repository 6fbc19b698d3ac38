"""Teachers in a shorter data type than float32: are they still the same?"""

import math
from collections.abc import Iterable

import torch

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.normalize import MIN_STD, find_outliers

MAX_ERROR = 0.1  # relative, of the standardised frames
SECONDS = 60.0  # of audio that is compared, as in a batch of the extraction


@torch.no_grad()
def check_precision(teacher, speech) -> None:
    """Refuse a teacher that another data type than float32 breaks, before extraction.

    Args:
        teacher: `S3PRLTeacher`.
        speech: (B, N) waveforms where it runs, and (B,) samples on the host.

    Raises:
        ConfigError: naming teacher, target and error.
    """
    if teacher.dtype == torch.float32:
        return
    for name, (exact_NE, found_NE) in both_ways(teacher, *speech).items():
        check_difference(teacher, name, exact_NE, found_NE, "--dtype")


@torch.no_grad()
def check_live_precision(
    teachers, batches: Iterable, device: str, seconds: float = SECONDS
) -> None:
    """Refuse a live teacher that another data type than float32 breaks.

    The audio is that of the first batches.

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
        check_difference(teacher, name, exact_NE, found_NE, "--teacher_dtype")


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


def check_difference(teacher, target: str, exact_NE, found_NE, option: str) -> None:
    """Refuse a target that the teacher's data type has made another one.

    Args:
        teacher: with `config` and `dtype`.
        target: its name.
        exact_NE, found_NE: (N, E) frames of it in float32 and in that type.
        option: by which the type was given.

    Raises:
        ConfigError: naming teacher, target and error.
    """
    if len(exact_NE) < 2 or not bool(exact_NE.isfinite().all()):
        return  # nothing to standardise by; or said with its utterance when it is used
    error = standardised_error(exact_NE, found_NE)
    if not error <= MAX_ERROR:  # NaN neither
        raise ConfigError(
            f"teacher '{teacher.config.name}': '{target}' in {teacher.dtype} is off by "
            f"{error:.1%} from float32 (at most {MAX_ERROR:.0%} is "
            f"accepted): use {option} float32"
        )


def standardised_error(exact_NE: torch.Tensor, found_NE: torch.Tensor) -> float:
    """Distance of two versions of a target's frames, by the norm of the exact ones.

    Both are standardised as the student's targets are, outliers left out: else a few
    dimensions and frames that are many times larger than the others would hide them.
    A value that is not finite is infinitely far, in an outlier too.

    Args:
        exact_NE, found_NE: (N, E), N at least 2; the first is finite.
    """
    if not bool(found_NE.isfinite().all()):
        return math.inf
    is_ordinary = ~find_outliers(exact_NE.float())
    exact, found = (x.double()[is_ordinary] for x in (exact_NE, found_NE))
    std_E = exact.std(0, unbiased=False).clamp(min=MIN_STD)
    norm = ((exact - exact.mean(0)) / std_E).norm()
    return float(((exact - found) / std_E).norm() / norm)
