"""Where in an epoch a training stands, so that it can go on from there."""

import random

import numpy as np
import torch
from espnet2.train.reporter import Average, SubReporter, WeightedAverage


def random_state() -> dict:
    """State of the generators that a step of training draws from, as plain values."""
    version, key, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [version, torch.from_numpy(key.astype(np.int64)), position, has_gauss]
        + [cached],
        "python": random.getstate(),
    }


def set_random_state(state: dict) -> None:
    """Go on from a state of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])
    version, key, *rest = state["numpy"]
    np.random.set_state((version, key.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def report_state(reporter: SubReporter) -> dict:
    """The statistics of an unfinished epoch, as plain values and tensors."""
    return {
        "total_count": reporter.total_count,
        "count": reporter.count,
        "stats": {
            key: (
                isinstance(values[0], WeightedAverage),
                torch.tensor(
                    [[float(v.value), float(getattr(v, "weight", 0))] for v in values],
                    dtype=torch.float64,
                ),
            )
            for key, values in reporter.stats.items()
        },
    }


def set_report_state(reporter: SubReporter, state: dict) -> None:
    """Go on from statistics of `report_state`."""
    reporter.total_count, reporter.count = state["total_count"], state["count"]
    for key, (is_weighted, pairs) in state["stats"].items():
        reporter.stats[key] = [
            WeightedAverage(value, weight) if is_weighted else Average(value)
            for value, weight in pairs.tolist()
        ]


def length_of(batches) -> int | None:
    """Batches of an epoch; None where nobody knows: ESPnet's --multiple_iterator."""
    try:
        return len(batches)
    except TypeError:
        return None


def skip(loader, num_batches: int):
    """A loader of what comes behind the first batches of another one.

    Args:
        loader: a `DataLoader` over a list of batches, of which nothing is read that is
            not needed; or any iterable.
        num_batches: to leave out.
    """
    if hasattr(loader, "skip"):
        return loader.skip(num_batches)
    if isinstance(loader, torch.utils.data.DataLoader) and isinstance(
        loader.batch_sampler, list
    ):
        return torch.utils.data.DataLoader(
            dataset=loader.dataset,
            batch_sampler=loader.batch_sampler[num_batches:],
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
        )
    return Rest(loader, num_batches)


class Rest:
    """What comes behind the first items of an iterable."""

    def __init__(self, iterable, num: int):
        self.iterable, self.num = iterable, num

    def __len__(self) -> int:
        return max(0, len(self.iterable) - self.num)

    def __iter__(self):
        iterator = iter(self.iterable)
        for _ in range(self.num):
            next(iterator, None)
        yield from iterator
