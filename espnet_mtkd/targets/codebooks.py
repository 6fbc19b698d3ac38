"""The codebooks of a teacher: trained once on a sample, by one process for all."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import TargetStoreError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.targets import quantizer
from espnet_mtkd.targets.embeddings import embed, load_batches, progress
from espnet_mtkd.targets.fingerprint import differing_field, teacher_fingerprint
from espnet_mtkd.targets.plan import Settings, Utterance, plan_batches

SAMPLE_FRAMES = 200_000  # on which codebooks are trained (67 minutes at 50 Hz)


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
