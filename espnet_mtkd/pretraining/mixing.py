"""Labelled and unlabelled batches in one epoch, at a stated ratio."""

import random
from collections.abc import Iterator, Sequence

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory

from espnet_mtkd.pretraining.datasets import NamedCollateFn
from espnet_mtkd.training.position import skip


class MixedIterFactory(AbsIterFactory):
    """All labelled batches of an epoch, with unlabelled ones spread evenly among them.

    An epoch stays one pass over the labelled audio. The unlabelled batches, of all
    sets together, are gone through in a random order of each pass's own, over as many
    epochs as that takes, so none comes twice before all have come once. What epoch n
    holds depends on n and the seed alone: a resumed training sees what it would have.

    Args:
        labelled: ESPnet's factory of the training data.
        unlabelled: factories (`SequenceIterFactory`) of the sets without text.
        ratio: unlabelled batches for each labelled one.
        seed: of the order.
    """

    def __init__(
        self,
        labelled: AbsIterFactory,
        unlabelled: Sequence[AbsIterFactory],
        ratio: float,
        seed: int = 0,
    ):
        self.labelled = labelled
        self.unlabelled = list(unlabelled)
        self.ratio = ratio
        self.seed = seed
        self._batches = [
            (i, batch)
            for i, factory in enumerate(self.unlabelled)
            for batch in factory.sampler.generate(seed)
        ]

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> "MixedIter":
        """Iterator of one epoch.

        Args:
            epoch: from 1.
            shuffle: of the labelled batches; as ESPnet's.
        """
        labelled = self.labelled.build_iter(epoch, shuffle)
        num = max(1, round(self.ratio * len(labelled)))
        chosen = self.choose(num * (epoch - 1), num)
        loaders = [
            factory_loader(factory, [b for j, b in chosen if j == i], epoch)
            for i, factory in enumerate(self.unlabelled)
        ]
        return MixedIter(labelled, loaders, [i for i, _ in chosen])

    def choose(self, start: int, num: int) -> list[tuple[int, list[str]]]:
        """The unlabelled batches number `start` to `start + num` of all epochs.

        Returns:
            Pairs of the set's number and the utterance ids.
        """
        chosen, total = [], len(self._batches)
        while num > 0:
            turn, offset = divmod(start, total)
            order = list(range(total))
            random.Random(f"{self.seed} {turn}").shuffle(order)
            part = order[offset : offset + num]
            chosen += [self._batches[i] for i in part]
            start, num = start + len(part), num - len(part)
        return chosen


def factory_loader(factory, batches, epoch: int):
    """A loader of given batches with the settings of a `SequenceIterFactory`.

    Args:
        factory: whose collate function may be a `NamedCollateFn`.
        batches: lists of utterance ids.
        epoch: that they are of, from 1.
    """
    collate_fn = factory.collate_fn
    if isinstance(collate_fn, NamedCollateFn):
        collate_fn = collate_fn.at(epoch)
    return torch.utils.data.DataLoader(
        dataset=factory.dataset,
        batch_sampler=batches,
        num_workers=factory.num_workers if batches else 0,
        pin_memory=factory.pin_memory,
        collate_fn=collate_fn,
    )


class MixedIter:
    """One epoch: iterates over (utterance ids, batch) with the key `is_unlabelled`.

    Args:
        labelled: loader of labelled batches.
        loaders: of the unlabelled sets.
        order: for each unlabelled batch, the number of its loader.
    """

    def __init__(self, labelled, loaders, order: list[int]):
        self.labelled, self.loaders, self.order = labelled, loaders, order

    def __len__(self) -> int:
        return len(self.labelled) + len(self.order)

    def sources(self) -> Iterator[int]:
        """Which loader each batch comes from; -1: the labelled one."""
        num_labelled, done = len(self.labelled), 0
        for n in range(1, num_labelled + 1):
            yield -1
            due = round(n * len(self.order) / num_labelled)
            yield from self.order[done:due]
            done = due

    def __iter__(self) -> Iterator:
        return self.skip(0)

    def skip(self, num_batches: int) -> Iterator:
        """Iterate over what comes behind the first batches, which are not read."""
        sources = list(self.sources())
        passed, rest = sources[:num_batches], sources[num_batches:]
        loaders = {-1: self.labelled, **dict(enumerate(self.loaders))}
        iterators = {
            i: iter(skip(loader, passed.count(i))) for i, loader in loaders.items()
        }
        return (mark(next(iterators[i]), i >= 0) for i in rest)


def mark(item, is_unlabelled: bool):
    """Add `is_unlabelled`, (1,) bool, to a batch."""
    utt_ids, batch = item
    return utt_ids, {**batch, "is_unlabelled": torch.tensor([is_unlabelled])}
