"""Steps that are none: nothing changes, they are named, counted, seldom forgiven."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from espnet2.train.reporter import SubReporter

from espnet_mtkd.errors import NonFiniteError
from espnet_mtkd.training.checkpoints import read
from espnet_mtkd.training.watch import StepWatch, check_validation


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2)
    )


def batches(num: int):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 4, generator=generator) for _ in range(num)]


def train(model, data, folder, num_steps=1000, accum_grad=1, scaler=None):
    """What ESPnet's trainer does with batches; it skips steps by the gradient."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = StepWatch(
        model, [optimizer], folder, num_steps, accum_grad, scaler, writes=True
    )
    for i, x in enumerate(data, 1):
        watch.before([f"utt{i}"], {"speech": x})
        model(x).square().mean().backward()
        if i % accum_grad == 0:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            if norm.isfinite():
                optimizer.step()
            optimizer.zero_grad()
        watch.after()
    watch.close()
    return watch


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_batch_is_as_if_it_were_not_there(tmp_path, caplog, value):
    data = batches(6)
    bad = data[2].clone()
    bad[1, 1] = value
    with_it, without = net(), net()
    with caplog.at_level(logging.WARNING):
        watch = train(with_it, [*data[:2], bad, *data[2:]], tmp_path)
    train(without, data, tmp_path / "other")
    for (name, a), b in zip(
        with_it.state_dict().items(), without.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert watch.num_skipped == 1
    assert "utterances: utt3; the batch is in" in caplog.text
    (batch,) = read(tmp_path / "nonfinite/1.pth")
    assert batch["utt_id"] == ["utt3"]
    assert torch.equal(batch["speech"].isfinite(), bad.isfinite())


def test_of_accumulated_batches_all_are_as_if_they_were_not_there(tmp_path):
    data = batches(6)
    bad = torch.full((5, 4), float("nan"))
    with_it, without = net(), net()
    watch = train(with_it, [*data[:2], data[2], bad, *data[2:]], tmp_path, 1000, 2)
    train(without, [*data[:2], *data[2:]], tmp_path / "other", 1000, 2)
    for a, b in zip(
        with_it.state_dict().values(), without.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    assert watch.num_skipped == 1


@pytest.mark.parametrize(
    ("num_steps", "num_bad", "ends"),
    [
        *((50, 1, False), (50, 2, True), (1000, 9, False), (1000, 10, True)),
        *((None, 9, False), (None, 10, True)),
    ],
)
def test_one_in_a_hundred_and_ten_in_a_row(tmp_path, num_steps, num_bad, ends):
    bad = [torch.full((5, 4), float("nan"))] * num_bad
    data = [*batches(2), *bad, *batches(2)]
    if not ends:
        assert train(net(), data, tmp_path, num_steps).num_skipped == num_bad
        return
    num = 2 + num_bad if num_steps is None else num_steps
    with pytest.raises(NonFiniteError, match=f"{num_bad} of {num} steps.*utt"):
        train(net(), data, tmp_path, num_steps)


def test_three_batches_are_kept_and_no_more(tmp_path):
    bad = [torch.full((5, 4), float("nan"))] * 5
    train(net(), bad, tmp_path)
    assert sorted(p.name for p in (tmp_path / "nonfinite").iterdir()) == [
        f"{n}.pth" for n in (1, 2, 3)
    ]


def test_the_search_for_a_scale_is_no_fault(tmp_path):
    class Scaler:
        """What `GradScaler` says of its scale."""

        def __init__(self, scale):
            self.get_scale = lambda: scale

    bad = [torch.full((5, 4), float("inf"))] * 12
    model = net()
    before = copy.deepcopy(model.state_dict())
    assert train(model, bad, tmp_path, scaler=Scaler(32.0)).num_skipped == 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(NonFiniteError):
        train(net(), bad, tmp_path, scaler=Scaler(0.5))


def test_a_validation_loss_that_is_not_finite_is_named():
    reporter = SubReporter("valid", 1, 0)
    for loss in (1.0, float("nan"), 2.0):
        reporter.register(dict(loss=torch.tensor(loss)), torch.tensor(2.0))
        reporter.next()
    ids = [["a", "b"], ["c", "d"], ["e"]]
    with pytest.raises(NonFiniteError, match="1 of 3 batches.*utterances c, d"):
        check_validation(reporter, ids, Path("exp"))
    reporter.stats.clear()
    check_validation(reporter, ids, Path("exp"))
