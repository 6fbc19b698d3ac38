"""Teachers tried on noise, before anything is distilled from them."""

import time

import torch

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers.s3prl import S3PRLTeacher, read_teachers

HEALTH_SECONDS = 4  # of noise, on which a teacher is tried
ROW = "{:24} {:16} {:>8} {:>6} {:>5} {:>8} {:>9} {:>6} {:>10}"
COLUMNS = (
    "target upstream params/M hidden dim shift/ms centre/ms weight x-realtime".split()
)


def check_teachers(teachers) -> list[S3PRLTeacher]:
    """Load each teacher, try it on noise, and print one row for each of its targets.

    Args:
        teachers: see `parse_teachers`.

    Returns:
        The loaded teachers.

    Raises:
        ConfigError: a teacher cannot be loaded or gives values that are not finite.
    """
    configs = read_teachers(teachers)
    print(ROW.format(*COLUMNS))
    noise = torch.randn(1, HEALTH_SECONDS * SAMPLE_RATE) * 0.05
    loaded = []
    for config in configs:
        teacher = S3PRLTeacher(config)
        loaded.append(teacher)
        try_teacher(teacher, noise)
    return loaded


def try_teacher(teacher: S3PRLTeacher, noise_BN: torch.Tensor) -> None:
    """Print one row for each target of a teacher, with its speed on noise.

    Args:
        teacher: a loaded one.
        noise_BN: (1, N), `HEALTH_SECONDS` at 16 kHz.

    Raises:
        ConfigError: values that are not finite.
    """
    config = teacher.config
    length_B = torch.tensor([noise_BN.size(1)])
    start = time.perf_counter()
    out = teacher(noise_BN, length_B)
    speed = HEALTH_SECONDS / (time.perf_counter() - start)
    for spec in teacher.targets:
        target, _ = out[spec.name]
        if not bool(target.isfinite().all()):
            raise ConfigError(
                f"teacher '{config.name}': hidden state {spec.layer} of "
                f"'{config.upstream}' is not finite on {HEALTH_SECONDS} s of noise:"
                " the checkpoint is damaged, or needs a wider data type"
            )
        print(
            ROW.format(
                spec.name,
                config.upstream,
                f"{teacher.num_parameters / 1e6:.1f}",
                teacher.num_layers,
                spec.dim,
                f"{spec.frame_shift / SAMPLE_RATE * 1000:g}",
                f"{spec.frame_centre / SAMPLE_RATE * 1000:.1f}",
                f"{spec.weight:g}",
                f"{speed:.0f}",
            )
        )
