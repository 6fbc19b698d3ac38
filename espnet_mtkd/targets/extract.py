"""From audio to a store of targets: plan, run, resume, merge.

The plan - which utterances, in which batches, in which shards - follows from the data
and the settings alone, so every process makes the same one and knows which shards are
its own; a shard that stands already is not computed again, and whoever finds all shards
there writes the manifest. Nobody waits for anybody, so torchrun, job arrays and one
process after another all do.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from espnet_mtkd.errors import ConfigError, DiskError, TargetStoreError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.targets.embeddings import (
    check_precision,
    embed,
    load_batches,
    progress,
)
from espnet_mtkd.targets.fingerprint import differing_field, teacher_fingerprint
from espnet_mtkd.targets.plan import (
    Settings,
    Utterance,
    plan_batches,
    plan_shards,
    share_of,
)
from espnet_mtkd.targets.quantizer import Codebooks
from espnet_mtkd.targets.store import (
    MANIFEST,
    StoredTarget,
    sha256_of,
    shard_is_whole,
    shard_name,
    write_manifest,
    write_shard,
)
from espnet_mtkd.teachers.base import SAMPLE_RATE

OVERHEAD = 1.05  # of the files over the targets' own bytes


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


class ShardWriter:
    """Writes shards in a thread of its own, at most one waiting."""

    def __init__(self):
        self._queue = queue.Queue(maxsize=1)
        self._error = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        while (job := self._queue.get()) is not None:
            if self._error is None:
                try:
                    write_shard(*job)
                except BaseException as e:  # handed on to the caller's thread
                    self._error = e

    def put(self, *job) -> None:
        """Arguments of `write_shard`; raises what an earlier shard met with."""
        if self._error is not None:
            raise self._error
        self._queue.put(job)

    def close(self) -> None:
        """Wait until all is written."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error


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
        else sha256_of(folder.parent / "codebooks.safetensors"),
    }
    batches = plan_batches(
        utts, round(settings.batch_seconds * SAMPLE_RATE), settings.exact
    )
    bytes_per_frame = sum(t.bytes_per_frame for t in targets)
    shards = plan_shards(batches, bytes_per_frame, settings.shard_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    data = [[[u.utt, u.num_samples] for b in shard for u in b] for shard in shards]
    data_digest = hashlib.sha256(json.dumps(data).encode()).hexdigest()
    digest = claim_folder(folder, fingerprint, data_digest)
    if (folder / MANIFEST).is_file():
        logging.info("%s: finished before", folder)
        return True

    def missing() -> list[int]:
        paths = [folder / shard_name(i) for i in range(len(shards))]
        return [i for i, path in enumerate(paths) if not shard_is_whole(path, digest)]

    todo = missing()
    frames = sum(u.num_frames for i in todo for batch in shards[i] for u in batch)
    check_disk(folder, int(OVERHEAD * bytes_per_frame * frames))
    share = share_of(shards, settings.rank, settings.world_size)
    mine = [i for i in todo if i in share]
    if mine:
        plan = {i: shards[i] for i in mine}
        run(teacher, plan, folder, digest, settings, targets, codebooks)
    if missing():
        return False
    write_manifest(
        folder,
        fingerprint,
        targets,
        [[(u.utt, u.num_samples, u.num_frames) for b in s for u in b] for s in shards],
    )
    return True


def run(teacher, plan, folder, digest, settings, targets, codebooks) -> None:
    """Compute the shards of `plan`, number -> batches, and hand them to the writer."""
    batches = [batch for shard in plan.values() for batch in shard]
    ends = []  # for each batch, the number of the shard that it completes, or None
    for number, shard in plan.items():
        ends += [None] * (len(shard) - 1) + [number]
    writer = ShardWriter()
    rows, checked = [], False
    total = sum(u.num_samples for batch in batches for u in batch) / SAMPLE_RATE
    start = time.perf_counter()
    with (
        contextlib.closing(writer),
        progress(round(total), str(folder), "s of audio") as bar,
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
                writer.put(folder / shard_name(end), digest, targets, rows)
                rows = []
            bar.update(round(sum(u.num_samples for u in batch) / SAMPLE_RATE))
    seconds = time.perf_counter() - start
    logging.info(
        "%s: %.3f h of audio in %.0f s, %.1f hours an hour, %d bytes a frame",
        folder,
        total / 3600,
        seconds,
        total / seconds,
        sum(t.bytes_per_frame for t in targets),
    )


def stored_targets(teacher, codebooks) -> list[StoredTarget]:
    """What is stored of each target."""
    return [
        StoredTarget(
            name=spec.name,
            layer=spec.layer,
            dim=spec.dim,
            frame_shift=spec.frame_shift,
            num_channels=spec.dim
            if codebooks is None
            else codebooks[spec.name].num_codebooks,
            dtype="float16" if codebooks is None else "uint8",
        )
        for spec in teacher.targets
    ]


def claim_folder(folder: Path, fingerprint: dict, data_digest: str) -> str:
    """Refuse a folder that holds something else.

    Args:
        folder: of the store.
        fingerprint: of what is going to be written.
        data_digest: of the utterances and their order.

    Returns:
        Digest that every shard of this extraction carries.

    Raises:
        TargetStoreError: naming the differing field.
    """
    plan = {"fingerprint": fingerprint, "utterances": data_digest}
    path = folder / "plan.json"
    if path.is_file():
        found = json.loads(path.read_text("utf-8"))
        field = differing_field(fingerprint, found["fingerprint"])
        if not field and found["utterances"] != data_digest:
            field = "the utterances or their lengths differ"
        if field:
            raise TargetStoreError(
                f"{folder} holds targets of another extraction ({field}): remove the "
                "folder, or name another --out_dir"
            )
    else:
        write_atomically(path, (json.dumps(plan, indent=1) + "\n").encode())
    comparable = {k: v for k, v in fingerprint.items() if k != "versions"}
    text = json.dumps([comparable, data_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_disk(folder: Path, num_bytes: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        DiskError: with what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise DiskError(
            f"{folder}: {num_bytes / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are "
            "free: free some, name another --out_dir, or store fewer bytes a frame "
            "(--form codes, --num_codebooks)"
        )


def use_share_of_cores(local_world_size: int) -> None:
    """As many threads as this machine has cores for each of its processes."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // local_world_size))
