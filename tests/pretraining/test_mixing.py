"""Labelled and unlabelled batches in one epoch."""

import collections

import pytest
import torch
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory

from espnet_mtkd.pretraining.mixing import MixedIterFactory


class Waves(torch.utils.data.Dataset):
    """Utterance id -> (id, features), as ESPnet's dataset."""

    def __getitem__(self, utt):
        return utt, torch.ones(1)


def collate(items):
    return [utt for utt, _ in items], {"speech": torch.stack([x for _, x in items])}


def factory(prefix, num_batches, shuffle=True):
    batches = [[f"{prefix}{i}a", f"{prefix}{i}b"] for i in range(num_batches)]
    return SequenceIterFactory(
        Waves(), batches, seed=0, shuffle=shuffle, collate_fn=collate
    )


def epoch(mixed, number):
    return [
        (tuple(utts), bool(batch["is_unlabelled"]))
        for utts, batch in mixed.build_iter(number)
    ]


@pytest.mark.parametrize("ratio, expected", [(1.0, 6), (0.5, 3), (2.0, 12), (0.01, 1)])
def test_the_ratio_is_that_of_batches(ratio, expected):
    mixed = MixedIterFactory(factory("l", 6), [factory("u", 4), factory("v", 1)], ratio)
    items = epoch(mixed, 1)
    assert len(items) == len(mixed.build_iter(1)) == 6 + expected
    labelled = [utts for utts, unlabelled in items if not unlabelled]
    assert sorted(labelled) == sorted((f"l{i}a", f"l{i}b") for i in range(6))
    assert all(u.startswith(("u", "v")) for utts, un in items if un for u in utts)


def test_no_batch_comes_twice_before_all_have_come_once():
    mixed = MixedIterFactory(factory("l", 3), [factory("u", 5), factory("v", 2)], 1.0)
    seen = [
        utts for n in range(1, 8) for utts, unlabelled in epoch(mixed, n) if unlabelled
    ]
    assert len(seen) == 21  # three times all seven
    for turn in range(3):
        assert len(set(seen[7 * turn : 7 * turn + 7])) == 7
    assert set(collections.Counter(seen).values()) == {3}


def test_an_epoch_depends_on_its_number_alone():
    def make():
        return MixedIterFactory(factory("l", 4), [factory("u", 9)], 1.5, seed=3)

    first = make()
    epochs = [epoch(first, n) for n in (1, 2, 3)]
    assert epoch(make(), 3) == epochs[2]
    assert epochs[0] != epochs[1]


def test_unlabelled_batches_are_spread_over_the_epoch():
    mixed = MixedIterFactory(factory("l", 10), [factory("u", 10)], 1.0)
    kinds = [unlabelled for _, unlabelled in epoch(mixed, 1)]
    assert kinds == [False, True] * 10
