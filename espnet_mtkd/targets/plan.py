"""Which utterances share a batch, which batches a shard, and what it takes on disk."""

import dataclasses
from collections.abc import Sequence

import torch

from espnet_mtkd.data.audio import SAMPLE_RATE

MAX_PADDING = 0.05  # of a batch
MAX_SHARD_BYTES = 256_000_000
NUM_SHARDS = 64  # of a store that is neither very small nor very large
MIN_SHARD_BYTES = 32_000  # below it a shard's header counts


@dataclasses.dataclass(frozen=True)
class Utterance:
    """An utterance to extract: id, audio file, samples at 16 kHz, frames."""

    utt: str
    audio: str
    num_samples: int
    num_frames: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """How targets are computed and stored.

    Attributes:
        form: `codes` or `fp16`.
        num_codebooks: M, of `codes`.
        exact: only utterances of one length share a batch, so no teacher sees padding.
        batch_seconds: audio in a batch, padding included.
        shard_bytes: of a shard, about; None: by the size of the store.
        device: where the teachers run.
        dtype: of their computation.
        rank, world_size: this process's share of the shards.
    """

    form: str = "codes"
    num_codebooks: int = 16
    exact: bool = False
    batch_seconds: float = 60.0
    shard_bytes: int | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    rank: int = 0
    world_size: int = 1


def plan_batches(
    utts: Sequence[Utterance], batch_samples: int, exact: bool = False
) -> list[list[Utterance]]:
    """Batches of utterances of like length, the longest first.

    Args:
        utts: in any order; the plan depends on their set alone.
        batch_samples: samples in a batch, padding included; an utterance that is longer
            has one to itself.
        exact: no padding at all.

    Returns:
        Batches with at most `MAX_PADDING` of padding each.
    """
    batches, batch, total = [], [], 0
    for utt in sorted(utts, key=lambda u: (-u.num_samples, u.utt)):
        if batch:
            longest = batch[0].num_samples
            padded = longest * (len(batch) + 1)
            padding = 1 - (total + utt.num_samples) / padded
            if padded > batch_samples or padding > (0.0 if exact else MAX_PADDING):
                batches.append(batch)
                batch, total = [], 0
        batch.append(utt)
        total += utt.num_samples
    return [*batches, batch] if batch else batches


def plan_shards(
    batches, bytes_per_frame: int, shard_bytes: int | None = None
) -> list[list[list[Utterance]]]:
    """Shards of consecutive batches.

    Args:
        batches: of `plan_batches`.
        bytes_per_frame: that are stored.
        shard_bytes: the most that a shard holds, if it holds more than a batch. None:
            what makes 64 shards, for processes to share, but not below 32 kB, where
            headers would count, nor above 256 MB.
    """
    sizes = [bytes_per_frame * sum(u.num_frames for u in batch) for batch in batches]
    limit = shard_bytes or min(
        MAX_SHARD_BYTES, max(MIN_SHARD_BYTES, -(-sum(sizes) // NUM_SHARDS))
    )
    shards, size = [], 0
    for batch, num_bytes in zip(batches, sizes, strict=True):
        if not shards or size + num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(batch)
        size += num_bytes
    return shards


def shard_ends(plan: dict) -> list[int | None]:
    """For each batch of some shards the number of the one that it completes, or None.

    Args:
        plan: number of a shard -> its batches.
    """
    ends = []
    for number, shard in plan.items():
        ends += [None] * (len(shard) - 1) + [number]
    return ends


def share_of(shards, rank: int, world_size: int) -> set[int]:
    """Numbers of the shards that are one process's, so that all end at the same time.

    The longest shard first, each to the process that has the least to do so far: two
    processes' loads differ by one shard at most (Graham, 1969).

    Args:
        shards: of `plan_shards`.
        rank: of the process, from 0.
        world_size: processes.
    """
    sizes = [sum(u.num_samples for batch in shard for u in batch) for shard in shards]
    loads = [0] * world_size
    share = set()
    for number in sorted(range(len(shards)), key=lambda i: -sizes[i]):
        process = loads.index(min(loads))
        loads[process] += sizes[number]
        if process == rank:
            share.add(number)
    return share


def disk_need(teachers, num_samples: int) -> str:
    """What the targets would take on disk (`--teacher_mode cached`), as a sentence.

    Args:
        teachers: loaded ones.
        num_samples: of a data directory, at 16 kHz.
    """
    specs = [spec for teacher in teachers for spec in teacher.targets]
    frames = [num_samples // spec.frame_shift for spec in specs]
    codes = Settings.num_codebooks
    fp16 = sum(2 * spec.dim * n for spec, n in zip(specs, frames, strict=True))
    return (
        f"{num_samples / SAMPLE_RATE / 3600:.2f} h; stored targets would take "
        f"{codes * sum(frames) / 1e6:.1f} MB as {codes} codes, {fp16 / 1e6:.1f} MB as "
        "fp16"
    )
