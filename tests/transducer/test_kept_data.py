"""Labelled batches, each with the unlabelled ones behind it."""

from types import SimpleNamespace

import pytest
import torch

from espnet_mtkd.pretraining.check import CheckedBatches
from espnet_mtkd.pretraining.mixing import MixedIter
from espnet_mtkd.training.position import random_state
from espnet_mtkd.training.trainer import Steps
from espnet_mtkd.transducer.kept_data import KEY, JoinedIter
from espnet_mtkd.transducer.trainer import Timed


class Heard(torch.utils.data.Dataset):
    """Utterances that note which of them were read."""

    def __init__(self, letter: str, num: int):
        self.ids, self.read = [f"{letter}{i}" for i in range(num)], []

    def loader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(
            self, batch_sampler=[[i] for i in self.ids], collate_fn=self.collate
        )

    def __getitem__(self, utt: str) -> str:
        self.read.append(utt)
        return utt

    @staticmethod
    def collate(items):
        return items, {"speech": torch.tensor([[float(items[0][1:])]])}


def joined(num_labelled: int, order: list[int]):
    """The iterator, and what it reads from: the labelled set, two without text."""
    sets = [Heard("a", num_labelled), Heard("b", 9), Heard("c", 9)]
    labelled, *others = (x.loader() for x in sets)
    return JoinedIter(MixedIter(labelled, others, order)), sets


def names(batches) -> list[list[str]]:
    """Ids of each labelled batch and of the unlabelled ones that came with it."""
    return [[*utts, *(x["utt_id"][0] for x in batch[KEY])] for utts, batch in batches]


@pytest.mark.parametrize("order", [[], [0], [0, 1, 0], [1, 0, 0, 1, 1, 0, 0]])
@pytest.mark.parametrize("num_labelled", [1, 3, 5])
def test_what_is_left_out_is_not_read_and_the_rest_is_the_same(num_labelled, order):
    whole = names(joined(num_labelled, order)[0])
    assert [x[0] for x in whole] == [f"a{i}" for i in range(num_labelled)]
    assert sum(len(x) - 1 for x in whole) == len(order)
    for num in range(num_labelled + 2):
        batches, sets = joined(num_labelled, order)
        assert names(batches.skip(num)) == whole[num:]
        read = [utt for x in sets for utt in x.read]
        assert sorted(read) == sorted(utt for x in whole[num:] for utt in x)


class Quiet:
    """A watch that sees nothing."""

    def before(self, *_):
        pass

    def after(self):
        pass


WRAPPERS = {
    "stage 1": lambda: CheckedBatches(Heard("a", 6).loader()),
    "stage 1, unlabelled": lambda: CheckedBatches(joined(6, [0, 1] * 3)[0].mixed),
    "stage 2, kept": lambda: Timed(Heard("a", 6).loader(), SimpleNamespace(), 0, 2),
    "stage 2, kept, unlabelled": lambda: Timed(
        joined(6, [0, 1] * 3)[0], SimpleNamespace(), 0, 2
    ),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_what_a_step_draws_is_the_same_after_a_resume(kind):
    """Dropout and masks: a loader's own draw comes before the state that was kept."""
    kept = []
    torch.manual_seed(0)
    whole = []
    steps = Steps(
        WRAPPERS[kind](), Quiet(), lambda *_: kept.append(random_state()), None, 0
    )
    for utts, _ in steps:
        whole.append((utts, torch.rand(3).tolist()))
    torch.manual_seed(1)
    position = dict(num_batches=3, random=[kept[2]])
    rest = Steps(WRAPPERS[kind](), Quiet(), lambda *_: None, position, 0)
    assert [(utts, torch.rand(3).tolist()) for utts, _ in rest] == whole[3:]
