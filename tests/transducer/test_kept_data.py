"""Labelled batches, each with the unlabelled ones behind it."""

import pytest
import torch

from espnet_mtkd.pretraining.mixing import MixedIter
from espnet_mtkd.transducer.kept_data import KEY, JoinedIter


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
        return items, {"speech": torch.tensor([float(items[0][1:])])}


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
