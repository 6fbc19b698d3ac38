"""From audio to a store of targets: plan, run, resume, merge.

The plan - which utterances, in which batches, in which shards - follows from the data
and the settings alone, so every process makes the same one. Of W processes number r
takes the shards r, r + W, ...; a shard that stands already is not computed again, and
whoever finds all shards there writes the manifest. Nobody waits for anybody, so
torchrun, job arrays and one process after another all do.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import torch
from filelock import FileLock
from tqdm import tqdm

from espnet_mtkd.errors import ConfigError, DataError, DiskError, TargetStoreError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.targets import quantizer
from espnet_mtkd.targets.fingerprint import differing_field, teacher_fingerprint
from espnet_mtkd.targets.plan import Settings, Utterance, plan_batches, plan_shards
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

SAMPLE_FRAMES = 200_000  # on which codebooks are trained (67 minutes at 50 Hz)
MAX_LOW_PRECISION_ERROR = 0.1  # relative, of bf16 against fp32
OVERHEAD = 1.05  # of the files over the targets' own bytes
PREFETCH = 4  # batches of audio read ahead


def progress(total: int, label: str, unit: str) -> tqdm:
    """A progress bar; in a log file a line every ten seconds, not ten a second."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, desc=label, unit=unit, unit_scale=True, mininterval=interval
    )


# ------------------------------------------------------------- computation


def read_audio(utt: Utterance) -> torch.Tensor:
    """Waveform (N,) of an utterance.

    Raises:
        DataError: unreadable, or not as long as it was when it was checked.
    """
    try:
        wave, rate = soundfile.read(utt.audio, dtype="float32")
    except (soundfile.SoundFileError, OSError) as e:
        raise DataError(f"utterance {utt.utt}: {utt.audio}: unreadable ({e})") from e
    if rate != SAMPLE_RATE or wave.shape != (utt.num_samples,):
        raise DataError(
            f"utterance {utt.utt}: {utt.audio}: expected {utt.num_samples} samples at "
            f"{SAMPLE_RATE} Hz, found an array {wave.shape} at {rate} Hz: the audio "
            "has changed since it was checked; run mtkd_doctor again"
        )
    return torch.from_numpy(wave)


def load_batches(batches, device: str) -> Iterator[tuple[list[Utterance], tuple]]:
    """Read batches ahead in other threads; gives (batch, (speech, lengths))."""
    pin = torch.device(device).type == "cuda"

    def load(batch):
        speech_BN = torch.nn.utils.rnn.pad_sequence(
            [read_audio(u) for u in batch], batch_first=True
        )
        return speech_BN.pin_memory() if pin else speech_BN

    with ThreadPoolExecutor(2) as pool:
        waiting, rest = [], iter(batches)
        try:
            while True:
                while len(waiting) < PREFETCH and (batch := next(rest, None)):
                    waiting.append((batch, pool.submit(load, batch)))
                if not waiting:
                    return
                batch, future = waiting.pop(0)
                speech_BN = future.result().to(device, non_blocking=True)
                lengths_B = torch.tensor([u.num_samples for u in batch], device=device)
                yield batch, (speech_BN, lengths_B)
        finally:
            for _, future in waiting:
                future.cancel()


@torch.inference_mode()
def embed(teacher, batch, speech) -> list[dict[str, torch.Tensor]]:
    """Embeddings of a batch: for each utterance, target name -> (frames, E).

    Raises:
        ConfigError: the teacher gives values that are not finite.
        DataError: another number of frames than planned.
    """
    out = teacher(*speech, [u.utt for u in batch])
    rows = []
    for b, utt in enumerate(batch):
        row = {}
        for name, (target_BTE, lengths_B) in out.items():
            if int(lengths_B[b]) != utt.num_frames:
                raise DataError(
                    f"utterance {utt.utt}: '{name}': expected {utt.num_frames} frames, "
                    f"found {int(lengths_B[b])}"
                )
            row[name] = target_BTE[b, : utt.num_frames]
            if not bool(row[name].isfinite().all()):
                raise ConfigError(
                    f"teacher '{teacher.config.name}': '{name}' is not finite for "
                    f"utterance {utt.utt} in {teacher.dtype}"
                    + (
                        ": use --dtype float32"
                        if teacher.dtype != torch.float32
                        else ": is the checkpoint damaged?"
                    )
                )
        rows.append(row)
    return rows


def check_precision(teacher, batch, speech) -> None:
    """Refuse a teacher that another data type than float32 breaks.

    Raises:
        ConfigError: naming teacher, target and error.
    """
    if teacher.dtype == torch.float32:
        return
    found = embed(teacher, batch, speech)
    dtype, teacher.dtype = teacher.dtype, torch.float32
    exact = embed(teacher, batch, speech)
    teacher.dtype = dtype
    for spec in teacher.targets:
        x, y = (torch.cat([row[spec.name] for row in rows]) for rows in (exact, found))
        error = float((x - y).norm() / x.norm())
        if not error <= MAX_LOW_PRECISION_ERROR:
            raise ConfigError(
                f"teacher '{teacher.config.name}': '{spec.name}' in {dtype} is off by "
                f"{error:.1%} from float32 (at most {MAX_LOW_PRECISION_ERROR:.0%} is "
                "accepted): use --dtype float32"
            )


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


# ------------------------------------------------------------- codebooks


def get_codebooks(
    teacher, utts: Sequence[Utterance], folder: Path, settings: Settings
) -> dict[str, quantizer.Codebooks]:
    """The codebooks of a teacher: read, or trained and written, by one process alone.

    Args:
        teacher: with its targets.
        utts: of the data that they are trained on, all or a random sample of them.
        folder: of the teacher; the file is `codebooks.safetensors` in it.

    Raises:
        TargetStoreError: those that stand there are of another teacher or number.
    """
    path = folder / "codebooks.safetensors"
    wanted = teacher_fingerprint(teacher)
    with FileLock(folder / ".codebooks.lock"):
        if not path.is_file():
            _train_codebooks(teacher, utts, path, wanted, settings)
    books = quantizer.read_codebooks(path)
    stamp = json.loads(path.with_suffix(".json").read_text("utf-8"))
    field = differing_field(wanted, stamp["fingerprint"])
    found = {name: book.num_codebooks for name, book in books.items()}
    expected = {t.name: settings.num_codebooks for t in teacher.targets}
    if field or found != expected:
        raise TargetStoreError(
            f"{path}: made for another teacher or number of codebooks ("
            + (field or f"expected {expected}, found {found}")
            + "): name another --out_dir, or remove the folder"
        )
    return books


def _train_codebooks(teacher, utts, path: Path, fingerprint, settings) -> None:
    # What a machine-independent order picks, so that everybody trains on the same.
    order = sorted(utts, key=lambda u: hashlib.sha256(u.utt.encode()).digest())
    sample, num_frames = [], 0
    for utt in order:
        if num_frames >= SAMPLE_FRAMES:
            break
        sample.append(utt)
        num_frames += utt.num_frames
    rows = {t.name: [] for t in teacher.targets}
    batches = plan_batches(
        sample, round(settings.batch_seconds * SAMPLE_RATE), settings.exact
    )
    label = f"{teacher.config.name}: sample for codebooks"
    with progress(num_frames, label, "frame") as bar:
        for batch, speech in load_batches(batches, settings.device):
            for row in embed(teacher, batch, speech):
                for name, target in row.items():
                    rows[name].append(target.cpu())
            bar.update(sum(u.num_frames for u in batch))
    books, quality = {}, {}
    for name, parts in rows.items():
        start = time.perf_counter()
        logging.info("%s: training codebooks, one to five minutes on a CPU", name)
        books[name], quality[name] = quantizer.train_codebooks(
            torch.cat(parts).clone(), settings.num_codebooks
        )
        logging.info(
            "%s: %d codebooks trained on %d frames in %.0f s; on held-out frames: "
            "relative squared error %.3f, cosine %.3f",
            name,
            settings.num_codebooks,
            num_frames,
            time.perf_counter() - start,
            quality[name]["error"],
            quality[name]["cosine"],
        )
    stamp = {"fingerprint": fingerprint, "held_out": quality}
    write_atomically(
        path.with_suffix(".json"), (json.dumps(stamp, indent=1) + "\n").encode()
    )
    write_atomically(path, quantizer.dump_codebooks(books, {}))


# ------------------------------------------------------------- a data directory


def extract(
    teacher,
    utts: Sequence[Utterance],
    folder: Path,
    settings: Settings,
    codebooks: dict[str, quantizer.Codebooks] | None = None,
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
    shards = plan_shards(batches, bytes_per_frame)
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
    mine = [i for i in todo if i % settings.world_size == settings.rank]
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
