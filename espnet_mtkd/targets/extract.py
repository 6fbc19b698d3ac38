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
    check_frames,
    embed_frames,
    first_bad,
    load_batches,
    progress,
)
from espnet_mtkd.targets.fingerprint import teacher_fingerprint
from espnet_mtkd.targets.host import HostCopy
from espnet_mtkd.targets.plan import (
    Settings,
    Utterance,
    plan_batches,
    plan_shards,
    shard_ends,
)
from espnet_mtkd.targets.precision import check_precision
from espnet_mtkd.targets.quantizer import Codebooks
from espnet_mtkd.targets.store import StoredTarget
from espnet_mtkd.targets.writer import ShardWriter, StoreWriter


class BatchTargets:
    """What is stored of one batch, while the device may still be at it.

    Args:
        teacher, batch, speech: see `embed_frames`.
        codebooks: of the targets; None stores fp16.
    """

    def __init__(self, teacher, batch, speech, codebooks):
        self._teacher, self._batch = teacher, batch
        with torch.inference_mode():
            frames, tensors = embed_frames(teacher, batch, speech)
            for name, x_NE in frames.items():
                if codebooks is None:
                    half_NE = x_NE.half()
                    tensors[f"{name}.fits"] = half_NE.isfinite().all(1)
                    tensors[name] = half_NE
                else:
                    tensors[name] = codebooks[name].encode(x_NE)
            self._copy = HostCopy(tensors)

    def rows(self) -> list[dict[str, np.ndarray]]:
        """The `utts` of `write_shard`, as soon as they are there.

        Raises:
            ConfigError, DataError: see `check_frames`; or fp16 cannot hold a value.
        """
        arrays = self._copy.wait()
        check_frames(self._teacher, self._batch, arrays)
        names = [spec.name for spec in self._teacher.targets]
        for name in names:
            fits_N = arrays.get(f"{name}.fits", np.ones(1, bool))
            utt = first_bad(self._batch, fits_N)
            if utt is not None:
                raise ConfigError(
                    f"'{name}' has values beyond 65504 (utterance {utt.utt}), more "
                    "than fp16 holds: use --form codes"
                )
        ends = np.cumsum([utt.num_frames for utt in self._batch])
        parts = {name: np.split(arrays[name], ends[:-1]) for name in names}
        return [{k: v[b] for k, v in parts.items()} for b in range(len(self._batch))]


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
    is_checked = False
    total = sum(u.num_samples for batch in batches for u in batch) / SAMPLE_RATE
    start = time.perf_counter()
    with (
        contextlib.closing(ShardWriter(store)) as writer,
        progress(round(total), str(store.folder), "s of audio") as bar,
    ):
        loaded = load_batches(batches, settings.device)
        for (batch, speech), end in zip(loaded, shard_ends(plan), strict=True):
            if not is_checked:
                check_precision(teacher, speech)
                is_checked = True
            writer.put(end, BatchTargets(teacher, batch, speech, codebooks).rows)
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
