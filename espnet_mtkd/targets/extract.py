"""From audio to a store of targets: one teacher over one data directory."""

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import sha256_of
from espnet_mtkd.targets.codebooks import CODEBOOKS
from espnet_mtkd.targets.embeddings import (
    check_precision,
    embed,
    load_batches,
    progress,
)
from espnet_mtkd.targets.fingerprint import teacher_fingerprint
from espnet_mtkd.targets.plan import Settings, Utterance, plan_batches, plan_shards
from espnet_mtkd.targets.quantizer import Codebooks
from espnet_mtkd.targets.store import StoredTarget
from espnet_mtkd.targets.writer import ShardWriter, StoreWriter


def to_fp16(name: str, utt: str, target: torch.Tensor) -> np.ndarray:
    """Embeddings as fp16.

    Raises:
        ConfigError: a value does not fit.
    """
    half = target.half()
    if not bool(half.isfinite().all()):
        raise ConfigError(
            f"'{name}' has values up to {float(target.abs().max()):.3g} (utterance "
            f"{utt}), more than fp16 holds: use --form codes"
        )
    return half.cpu().numpy()


def extract(
    teacher,
    utts: Sequence[Utterance],
    folder: Path,
    settings: Settings,
    codebooks: dict[str, Codebooks] | None = None,
) -> bool:
    """Write this process's share of a store, and the manifest if nothing is missing.

    Args:
        teacher: `S3PRLTeacher`.
        utts: of the data directory.
        folder: `<teacher's folder>/<data directory's name>`.
        settings: see there.
        codebooks: of the targets; None stores fp16.

    Returns:
        Whether the store is finished.

    Raises:
        TargetStoreError: the folder holds targets of another teacher or data.
        DiskError: too little space, said before anything is written; or no space in the
            middle, after which the same command goes on.
    """
    targets = stored_targets(teacher, codebooks)
    fingerprint = {
        **teacher_fingerprint(teacher),
        "form": "fp16" if codebooks is None else "codes",
        "exact": settings.exact,
        "dtype": str(teacher.dtype).removeprefix("torch."),
        "codebooks": None
        if codebooks is None
        else sha256_of(folder.parent / CODEBOOKS),
    }
    batches = plan_batches(
        utts, round(settings.batch_seconds * SAMPLE_RATE), settings.exact
    )
    shards = plan_shards(
        batches, sum(t.bytes_per_frame for t in targets), settings.shard_bytes
    )
    data = [[[u.utt, u.num_samples] for b in shard for u in b] for shard in shards]
    writer = StoreWriter(folder, fingerprint, data, targets, shards)
    with contextlib.closing(writer) as store:
        if store.is_finished:
            return True
        plan = store.take_share(settings.rank, settings.world_size)
        if plan:
            run(teacher, store, plan, settings, codebooks)
        return store.finish()


def run(teacher, store: StoreWriter, plan, settings, codebooks) -> None:
    """Compute the shards of `plan`, number -> batches, and hand them to the writer."""
    batches = [batch for shard in plan.values() for batch in shard]
    ends = []  # for each batch, the number of the shard that it completes, or None
    for number, shard in plan.items():
        ends += [None] * (len(shard) - 1) + [number]
    rows, checked = [], False
    total = sum(u.num_samples for batch in batches for u in batch) / SAMPLE_RATE
    start = time.perf_counter()
    with (
        contextlib.closing(ShardWriter(store)) as writer,
        progress(round(total), str(store.folder), "s of audio") as bar,
    ):
        loaded = load_batches(batches, settings.device)
        for (batch, speech), end in zip(loaded, ends, strict=True):
            if not checked:
                check_precision(teacher, batch, speech)
                checked = True
            for utt, row in zip(batch, embed(teacher, batch, speech), strict=True):
                if codebooks is None:
                    rows.append({k: to_fp16(k, utt.utt, v) for k, v in row.items()})
                else:
                    rows.append({k: codebooks[k].encode(v) for k, v in row.items()})
            if end is not None:
                writer.put(end, rows)
                rows = []
            bar.update(round(sum(u.num_samples for u in batch) / SAMPLE_RATE))
    seconds = time.perf_counter() - start
    logging.info(
        "%s: %.3f h of audio in %.0f s, %.1f hours an hour, %d bytes a frame",
        store.folder,
        total / 3600,
        seconds,
        total / seconds,
        store.bytes_per_frame,
    )


def stored_targets(teacher, codebooks) -> list[StoredTarget]:
    """What is stored of each target."""
    return [
        StoredTarget(
            name=spec.name,
            layer=spec.layer,
            dim=spec.dim,
            frame_shift=spec.frame_shift,
            frame_centre=spec.frame_centre,
            num_channels=spec.dim
            if codebooks is None
            else codebooks[spec.name].num_codebooks,
            dtype="float16" if codebooks is None else "uint8",
        )
        for spec in teacher.targets
    ]
