"""A training's files that outlive any kill: written whole, the last one kept, repaired.

ESPnet's trainer writes `checkpoint.pth` and `<n>epoch.pth` in place and sets links by
removing the old one first, so that a kill in the wrong moment leaves half a file, or
none (https://github.com/espnet/espnet, espnet2/train/trainer.py). Here each file gets
its name when it is whole, and the checkpoint before stays as `checkpoint.previous.pth`.
What a kill between two of these writes leaves undone is done when the training is
resumed.
"""

import logging
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import sweep, sync_folder, temporary_for, written_atomically

CHECKPOINT = "checkpoint.pth"
PREVIOUS = "checkpoint.previous.pth"


class DamagedFile(Exception):
    """A file that is not whole, or holds more than tensors and numbers."""


def save(state, path: Path) -> None:
    """`torch.save` of a file that is whole or not there.

    Raises:
        DiskError: no space; what was there before is still there.
    """
    with written_atomically(path, num_bytes_of(state)) as f:
        torch.save(state, f)


def save_checkpoint(state: dict, folder: Path) -> None:
    """Write `checkpoint.pth`; the one before becomes `checkpoint.previous.pth`.

    Raises:
        DiskError: see `save`.
    """
    path = folder / CHECKPOINT
    if path.is_file():
        name_too(path, folder / PREVIOUS)
    save(state, path)


def name_too(path: Path, name: Path) -> None:
    """Give a file a second name; whatever had it has it until then."""
    link = temporary_for(name)
    try:
        os.link(path, link)
        os.replace(link, name)
    finally:
        link.unlink(missing_ok=True)


def num_bytes_of(state) -> int:
    """Bytes of all tensors in nested dictionaries and lists, about what a file has."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(map(num_bytes_of, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(num_bytes_of, state))
    return 0


def read(path: Path):
    """What `torch.save` wrote, on the CPU.

    Raises:
        DamagedFile: naming the file; also where it holds objects that run code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # by each member's CRC-32
        if broken is not None:
            raise DamagedFile(f"{path}: damaged ({broken})")
        return torch.load(path, map_location="cpu", weights_only=True)
    except DamagedFile:
        raise
    except Exception as e:  # a file that is cut raises any of a dozen kinds
        reason = str(e).strip().split("\n")[0][:200]
        raise DamagedFile(f"{path}: {type(e).__name__}: {reason}") from e


def read_newest(folder: Path) -> dict | None:
    """The newest whole checkpoint of a training, which is `checkpoint.pth` afterwards.

    So a damaged one does not become the one before when the next is saved.

    Args:
        folder: of the training.

    Returns:
        Its content; None where there is none at all.

    Raises:
        ConfigError: there are some, but none is whole.
    """
    faults = []
    for name in (CHECKPOINT, PREVIOUS):
        if (folder / name).is_file():
            try:
                state = read(folder / name)
            except DamagedFile as e:
                faults.append(str(e))
                logging.warning("%s: trying the one before", e)
                continue
            if name == PREVIOUS:
                logging.warning("resumed from %s", folder / name)
                name_too(folder / name, folder / CHECKPOINT)
            return state
    if not faults:
        return None
    raise ConfigError(
        "no whole checkpoint to resume from:\n  "
        + "\n  ".join(faults)
        + f"\nRemove {folder} to begin anew, or put a copy of {CHECKPOINT} back"
    )


def set_link(link: Path, target: str) -> None:
    """Let a link point to a file of its folder; there is one at every moment."""
    temporary = temporary_for(link)
    try:
        temporary.symlink_to(target)
        os.replace(temporary, link)
    finally:
        temporary.unlink(missing_ok=True)


def epoch_file(folder: Path, epoch: int) -> Path:
    """Where the model of an epoch stands."""
    return folder / f"{epoch}epoch.pth"


def repair(folder: Path, reporter, criteria: Iterable, num_kept: int, model) -> None:
    """Bring the files of finished epochs into the state that an epoch's end leaves.

    Args:
        folder: of the training.
        reporter: ESPnet's, as the checkpoint has it; an epoch whose model is lost gets
            an infinite loss, so that it is none of the best.
        criteria: `best_model_criterion`.
        num_kept: models kept for each criterion, `max(keep_nbest_models)`.
        model: state dict of the last finished epoch, None where it is not at hand.
    """
    last = reporter.get_epoch()
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        sweep(path)
    for path in folder.glob("*epoch.pth"):
        sweep(path)
    if last == 0:
        return
    wanted = {last} if model is not None else set()
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            wanted |= set(reporter.sort_epochs(phase, key, mode)[:num_kept])
    for epoch in sorted(wanted):
        path = epoch_file(folder, epoch)
        try:
            read(path)
            continue
        except DamagedFile as e:
            fault = str(e) if path.is_file() else f"{path}: no such file"
        if epoch == last and model is not None:
            save(model, path)
            logging.warning("%s: made anew from the checkpoint", fault)
        else:
            logging.warning(
                "%s: the model of epoch %d is lost: it counts as the worst",
                fault,
                epoch,
            )
            for phase, key, mode in criteria:
                worst = math.inf if mode == "min" else -math.inf
                reporter.stats[epoch][phase][key] = worst
    set_links(folder, reporter, criteria)
    for epoch in range(1, last):
        if epoch not in wanted:
            epoch_file(folder, epoch).unlink(missing_ok=True)
    sync_folder(folder)


def set_links(folder: Path, reporter, criteria: Iterable) -> None:
    """`latest.pth` and `<phase>.<statistic>.best.pth`, as the reporter has them.

    Args:
        folder, reporter, criteria: as for `repair`.
    """
    last = reporter.get_epoch()
    if epoch_file(folder, last).is_file():
        set_link(folder / "latest.pth", epoch_file(folder, last).name)
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            best = reporter.get_best_epoch(phase, key, mode)
            target = epoch_file(folder, best).name
            set_link(folder / f"{phase}.{key}.best.pth", target)
