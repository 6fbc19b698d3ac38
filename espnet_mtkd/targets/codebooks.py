"""The codebooks of a teacher: trained once on a sample, by one process for all.

Codes mean nothing without the very codebooks that they were made with, so every store
of codes has their sha256 in its fingerprint, which is compared before anything is read.
What `codebooks.json` says stands in the header of `codebooks.safetensors` too.
"""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open

from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import TargetStoreError, shown
from espnet_mtkd.files import sha256_of, write_atomically
from espnet_mtkd.targets import quantizer
from espnet_mtkd.targets.embeddings import embed, load_batches, progress
from espnet_mtkd.targets.fingerprint import (
    LOOSE,
    differing_field,
    teacher_fingerprint,
)
from espnet_mtkd.targets.plan import Settings, Utterance, plan_batches
from espnet_mtkd.targets.signed import REMEDY_OF_FILE, read_signed
from espnet_mtkd.targets.store import MANIFEST, PLAN

CODEBOOKS = "codebooks.safetensors"
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
        TargetStoreError: those that stand there, or those trained now, are not those
            of the codes in `folder`; or of another teacher or number.
    """
    path = folder / CODEBOOKS
    wanted = teacher_fingerprint(teacher)
    with FileLock(folder / ".codebooks.lock"):
        used = used_codebooks(folder)
        if not path.is_file():
            content = _train_codebooks(teacher, utts, wanted, settings)
            check_trained(path, hashlib.sha256(content).hexdigest(), used)
            write_atomically(path, content)
        check_codebooks(path, used)
        card = path.with_suffix(".json")
        if card.is_file():
            check_card(path)
        else:
            write_atomically(card, card_of(path))
    books = quantizer.read_codebooks(path)
    stamp = json.loads(card_of(path))
    field = differing_field(wanted, stamp["fingerprint"])
    found = {name: book.num_codebooks for name, book in books.items()}
    expected = {t.name: settings.num_codebooks for t in teacher.targets}
    if field or found != expected:
        raise TargetStoreError(
            f"{path}: made for another teacher or number of codebooks ("
            + (field or f"expected {expected}, found {found}")
            + f"): name another --out_dir, or remove {path.parent}"
        )
    return books


def used_codebooks(folder: Path) -> dict[Path, str]:
    """Of the stores of codes in a teacher's folder, finished or not: what decodes them.

    Returns:
        Store's folder -> sha256 of `codebooks.safetensors`.

    Raises:
        TargetStoreError: a damaged plan or manifest.
    """
    used = {}
    for store in sorted(p for p in folder.iterdir() if p.is_dir()):
        for name in (PLAN, MANIFEST):
            if (store / name).is_file():
                digest = _codebooks_of(store / name)
                if digest is not None:
                    used[store] = digest
                break
    return used


def _codebooks_of(path: Path) -> str | None:
    """What a plan or a manifest says of the codebooks of its codes."""
    fingerprint = read_signed(path).get("fingerprint")
    if not isinstance(fingerprint, dict):
        raise TargetStoreError(
            f"{path}: fingerprint: found {shown(fingerprint)}: {REMEDY_OF_FILE}"
        )
    return fingerprint.get("codebooks")


def check_codebooks(path: Path, used: dict[Path, str]) -> None:
    """Refuse to decode codes by other codebooks than they were made with.

    Args:
        path: of `codebooks.safetensors`.
        used: store's folder -> sha256 of the codebooks of its codes.

    Raises:
        TargetStoreError: the file is not there, damaged, or of another extraction.
    """
    found = sha256_of(path) if path.is_file() else "no such file"
    for store, digest in used.items():
        if found != digest:
            raise TargetStoreError(
                f"{path}: damaged, or codebooks of another extraction: the codes in "
                f"{store} need those with sha256 {digest}, found {found}: remove that "
                "file and run the same mtkd_extract again, with the same first "
                "--data_dir: it trains them anew, and refuses them if they are others"
            )


def check_trained(path: Path, found: str, used: dict[Path, str]) -> None:
    """Refuse newly trained codebooks that do not decode what is stored already.

    Args:
        path: where they would be written.
        found: their sha256.
        used: as for `check_codebooks`.

    Raises:
        TargetStoreError: they are others.
    """
    others = [str(store) for store, digest in used.items() if digest != found]
    if others:
        raise TargetStoreError(
            f"{path}: no such file, and the codebooks trained now are not those of the "
            f"codes in {', '.join(others)}: expected the --data_dir first that these "
            "were trained on, with the same settings, on the same kind of machine: "
            f"give that one, or remove {path.parent} and extract all again"
        )


def card_of(path: Path) -> bytes:
    """What `codebooks.json` has to hold, by what stands in the codebooks themselves.

    Raises:
        TargetStoreError: a damaged file, or one without it.
    """
    try:
        with safe_open(path, "np") as file:
            stamp = json.loads((file.metadata() or {})["stamp"])
        if not isinstance(stamp["fingerprint"], dict):
            raise ValueError(f"fingerprint: found {shown(stamp['fingerprint'])}")
    except (
        *(SafetensorError, OSError),
        *(KeyError, TypeError, ValueError, RecursionError),
    ) as e:
        raise TargetStoreError(
            f"{path}: no codebook file of this version, or a damaged one ({e}): remove "
            f"{path.parent} and extract again"
        ) from e
    return (json.dumps(stamp, indent=1) + "\n").encode()


def check_card(path: Path) -> None:
    """Compare `codebooks.json` with the codebooks beside it.

    Raises:
        TargetStoreError: it is not there, damaged, or of other codebooks.
    """
    card = path.with_suffix(".json")
    if not card.is_file() or card.read_bytes() != card_of(path):
        raise TargetStoreError(
            f"{card}: not there, damaged, or of other codebooks than {path.name}: "
            f"{REMEDY_OF_FILE}"
        )


def _train_codebooks(teacher, utts, fingerprint, settings) -> bytes:
    """The bytes of a codebook file, with what `card_of` reads in its header."""
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
        logging.info("%s: training codebooks, minutes on a CPU", name)
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
    # Trained anew after an update, they are the same file.
    fixed = {k: v for k, v in fingerprint.items() if k not in LOOSE}
    stamp = {"fingerprint": fixed, "held_out": quality}
    return quantizer.dump_codebooks(books, {"stamp": json.dumps(stamp)})
