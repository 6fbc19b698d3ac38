"""The mean of the best epochs' models, `<phase>.<statistic>.ave_<n>best.pth`."""

import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from espnet_mtkd.training.checkpoints import epoch_file, read, save, set_link


def average_nbest_models(
    output_dir: Path,
    reporter,
    best_model_criterion: Sequence[Sequence[str]],
    nbest: Collection[int] | int,
    suffix: str | None = None,
) -> None:
    """Write the mean of the n best epochs, and the link `ave.pth` to that of the most.

    Stands in for ESPnet's function of that name, with the same files and values: floats
    are averaged, whole numbers added up. Epochs without a finite statistic count for
    nothing; where fewer than n epochs are there, the best one is the mean.

    Args:
        output_dir: of the training.
        reporter: ESPnet's.
        best_model_criterion: triples of phase, statistic, `min` or `max`.
        nbest: how many; several numbers give several means.
        suffix: part of the files' names.
    """
    numbers = [nbest] if isinstance(nbest, int) else list(nbest) or [1]
    end = "" if suffix is None else f"{suffix}."
    for phase, key, mode in best_model_criterion:
        if not reporter.has(phase, key):
            continue
        ranked = reporter.sort_epochs_and_values(phase, key, mode)
        best = [epoch for epoch, value in ranked if math.isfinite(value)]
        if not best:
            continue
        sizes = [n for n in numbers if 0 < n <= len(best)] or [1]
        stem = f"{phase}.{key}.ave_"
        for n in sizes:
            path = output_dir / f"{stem}{n}best.{end}pth"
            if n == 1:
                set_link(path, epoch_file(output_dir, best[0]).name)
                continue
            logging.info("%s: the mean of epochs %s", path, sorted(best[:n]))
            save(mean_of([epoch_file(output_dir, e) for e in best[:n]]), path)
        set_link(
            output_dir / f"{phase}.{key}.ave.{end}pth",
            f"{stem}{max(sizes)}best.{end}pth",
        )


@torch.no_grad()
def mean_of(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Mean of the floats, sum of the whole numbers, of models of the same keys."""
    total = None
    for path in paths:
        state = read(path)
        total = state if total is None else {k: v + state[k] for k, v in total.items()}
    return {
        k: v / len(paths) if v.is_floating_point() or v.is_complex() else v
        for k, v in total.items()
    }
