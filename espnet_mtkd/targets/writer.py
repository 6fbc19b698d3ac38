"""A store while one process or several write it: claim, share, resume, merge.

Which shards there are follows from data and settings alone, so every process knows
which are its own; a shard that stands already is not written again, and whoever finds
all shards there writes the manifest. Nobody waits for anybody, so torchrun, job arrays
and one process after another all do.
"""

import fcntl
import hashlib
import json
import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock
from safetensors import safe_open

from espnet_mtkd.errors import DiskError, TargetStoreError
from espnet_mtkd.files import sweep, write_atomically
from espnet_mtkd.targets.fingerprint import differing_field
from espnet_mtkd.targets.plan import share_of
from espnet_mtkd.targets.signed import dump_signed, read_signed
from espnet_mtkd.targets.store import (
    MANIFEST,
    PLAN,
    StoredTarget,
    TargetStore,
    shard_is_whole,
    shard_name,
    write_manifest,
    write_shard,
)

LOCK = ".store.lock"  # held while a plan, a shard or the manifest is written
WRITERS = ".writers.lock"  # shared by those who write
OVERHEAD = 1.05  # of the files over the targets' own bytes
MAX_WAITING = 4  # batches that are computed and not yet packed


class StoreWriter:
    """An unfinished store in a folder; to be closed.

    Args:
        folder: of the store; made if it is not there.
        fingerprint: what the targets are made with.
        data: JSON-able: the utterances, their order, and what else the targets follow
            from.
        targets: what is stored of each frame.
        shards: of `plan_shards`.

    Attributes:
        is_finished: whether the manifest stands already.

    Raises:
        TargetStoreError: the folder holds targets of another teacher or data.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: dict,
        data: list,
        targets: Sequence[StoredTarget],
        shards: list,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.fingerprint = folder, fingerprint
        self.targets, self.shards = targets, shards
        data_digest = hashlib.sha256(json.dumps(data).encode()).hexdigest()
        self._lock = FileLock(folder / LOCK)
        self._presence = Presence(folder)
        try:
            with self._lock:
                sweep(folder / PLAN)
                sweep(folder / MANIFEST)
                self.digest = claim_folder(
                    folder, fingerprint, data_digest, self._presence
                )
                self.is_finished = self._was_finished()
        except BaseException:
            self.close()
            raise
        if self.is_finished:
            logging.info("%s: finished before", folder)

    def _was_finished(self) -> bool:
        """Whether a manifest stands with all of its shards; else it is taken away."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            return False
        sizes = {s["file"]: s["num_bytes"] for s in TargetStore(self.folder).shards}
        for name, num_bytes in sizes.items():
            path = self.folder / name
            if path.is_file() and path.stat().st_size != num_bytes:
                logging.warning("%s: not whole: written again", path)
                path.unlink()
        if self.missing():
            manifest.unlink()
            return False
        return True

    @property
    def bytes_per_frame(self) -> int:
        """Bytes that one frame of all targets takes."""
        return sum(t.bytes_per_frame for t in self.targets)

    def path(self, number: int) -> Path:
        """Of the shard of that number."""
        return self.folder / shard_name(number)

    def missing(self) -> list[int]:
        """Numbers of the shards that nobody has written yet."""
        return [
            i
            for i in range(len(self.shards))
            if not shard_is_whole(self.path(i), self.digest)
        ]

    def take_share(self, rank: int, world_size: int) -> dict:
        """This process's part of what is missing: number -> shard.

        Args:
            rank: of the process, from 0.
            world_size: processes.

        Raises:
            DiskError: too little space for all that is missing.
        """
        todo = self.missing()
        frames = sum(u.num_frames for i in todo for b in self.shards[i] for u in b)
        check_disk(self.folder, int(OVERHEAD * self.bytes_per_frame * frames))
        share = share_of(self.shards, rank, world_size)
        return {i: self.shards[i] for i in todo if i in share}

    def write(self, number: int, utts: list) -> None:
        """Write a shard, unless another process of this extraction has done so.

        Args:
            number: of the shard.
            utts: see `write_shard`.

        Raises:
            DiskError: no space.
        """
        path = self.path(number)
        with self._lock:
            if not shard_is_whole(path, self.digest):
                write_shard(path, self.digest, self.targets, utts)

    def finish(self) -> bool:
        """Write the manifest if no shard is missing; whether the store is whole."""
        with self._lock:
            for number in range(len(self.shards)):
                sweep(self.path(number))
            is_whole = not self.missing()
            if is_whole and not (self.folder / MANIFEST).is_file():
                self._write_manifest()
        return is_whole

    def close(self) -> None:
        """Write there no longer."""
        self._presence.end()

    def _write_manifest(self) -> None:
        utts = []  # of each shard: (id, samples, frames as they were written)
        for i, shard in enumerate(self.shards):
            with safe_open(self.path(i), "np") as file:
                frames = file.get_tensor("num_frames").tolist()
            in_shard = [u for batch in shard for u in batch]
            utts.append(
                [
                    (u.utt, u.num_samples, n)
                    for u, n in zip(in_shard, frames, strict=True)
                ]
            )
        write_manifest(self.folder, self.fingerprint, self.targets, utts)


class ShardWriter:
    """Packs, checksums and writes shards in a thread of its own, a little behind."""

    def __init__(self, store: StoreWriter):
        self._store = store
        self._queue = queue.Queue(maxsize=MAX_WAITING)
        self._error = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self):
        store, rows = self._store, []
        while (job := self._queue.get()) is not None:
            number, make_rows = job
            if self._error is None:
                try:
                    rows += make_rows()
                    if number is not None:
                        store.write(number, rows)
                        rows = []
                except BaseException as e:  # handed on to the caller's thread
                    self._error = e

    def put(self, number: int | None, make_rows: Callable[[], list]) -> None:
        """Add a batch to the shard that is being made.

        Args:
            number: of the shard, if the batch is its last; else None.
            make_rows: gives the batch's part of the `utts` of `write_shard`; called in
                the writer's thread.

        Raises:
            MTKDError: what an earlier batch met with: `DiskError`, or what its
                `make_rows` raised.
        """
        if self._error is not None:
            raise self._error
        self._queue.put((number, make_rows))

    def close(self) -> None:
        """Wait until all is written; raises as `put`."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error


class Presence:
    """Says that a process writes into a folder, as long as it does.

    Of several with one plan each does; whoever has another plan finds it.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path):
        self._number = os.open(folder / WRITERS, os.O_RDWR | os.O_CREAT, 0o666)

    def begin(self) -> None:
        """Write among others."""
        fcntl.flock(self._number, fcntl.LOCK_SH)

    def is_alone(self) -> bool:
        """Whether nobody else writes there."""
        try:
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def end(self) -> None:
        """Write no longer; the end of the process does the same."""
        os.close(self._number)


def claim_folder(
    folder: Path, fingerprint: dict, data_digest: str, presence: Presence
) -> str:
    """Refuse a folder that holds something else.

    Args:
        folder: of the store.
        fingerprint: of what is going to be written.
        data_digest: of the utterances and their order.
        presence: of this process; it is there from now on.

    Returns:
        Digest that every shard of this extraction carries.

    Raises:
        TargetStoreError: naming the differing field; or a damaged plan.
    """
    plan = {"fingerprint": fingerprint, "utterances": data_digest}
    path = folder / PLAN
    # (A plan of which nothing was stored, be it that the disk or a value was refused,
    # claims nothing, if nobody is at work.)
    is_begun = any(folder.glob("shard_*"))
    if path.is_file() and (is_begun or not presence.is_alone()):
        found = read_signed(path)
        field = differing_field(fingerprint, found["fingerprint"])
        if not field and found["utterances"] != data_digest:
            field = "the utterances, their lengths or the division into shards differ"
        if field and not is_begun:
            raise TargetStoreError(
                f"{folder}: another extraction writes to it now ({field}): wait for "
                "its end, or name another --out_dir (of mtkd.sh: --targets_dir, "
                "--paths_dir)"
            )
        if field:
            raise TargetStoreError(
                f"{folder} holds targets of another extraction ({field}): remove that "
                "folder, or name another --out_dir (of mtkd.sh: --targets_dir, "
                "--paths_dir)"
            )
    else:
        write_atomically(path, dump_signed(plan))
    presence.begin()
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
