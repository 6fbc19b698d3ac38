"""Steps that are none: nothing changes, they are named, counted, seldom forgiven."""

import copy
import logging
import math
from pathlib import Path

import pytest
import torch
from espnet2.train.reporter import SubReporter
from torch.amp import GradScaler

from espnet_mtkd.errors import NonFiniteError
from espnet_mtkd.training.checkpoints import read
from espnet_mtkd.training.watch import StepWatch, check_validation


class Net(torch.nn.Sequential):
    """Its loss, as ESPnet's models give it; a last factor that only gradients have."""

    slope = 1.0

    def forward(self, x):
        loss = super().forward(x).square().mean()
        return loss + self.slope * (loss - loss.detach()), {}, None


def net():
    torch.manual_seed(0)
    return Net(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2))


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
        loss = model(x)[0]
        (loss if scaler is None else scaler.scale(loss)).backward()
        if i % accum_grad == 0:
            if scaler is not None:
                scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            if scaler is not None:
                scaler.step(optimizer)
                scaler.update()
            elif norm.isfinite():
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


def scaler_of(scale: float) -> GradScaler:
    return GradScaler("cpu", init_scale=scale)


def test_the_search_for_a_scale_is_no_fault(tmp_path):
    """Gradients overflow behind finite losses, until the scale is small enough."""
    model, scaler = net(), scaler_of(2.0**20)
    model.slope = 3e38 / 2.0**10  # 10 halvings from where it begins to fit
    before = copy.deepcopy(model.state_dict())
    assert train(model, batches(8), tmp_path, scaler=scaler).num_skipped == 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert scaler.get_scale() == 2.0**12


def test_a_gradient_that_no_scale_helps_is_a_fault(tmp_path):
    model, scaler = net(), scaler_of(4.0)
    model.slope = math.inf
    with pytest.raises(NonFiniteError, match="10 of 1000 steps"):
        train(model, batches(40), tmp_path, scaler=scaler)
    assert scaler.get_scale() < 1


def test_a_bad_loss_is_a_fault_whatever_the_scale(tmp_path, caplog):
    bad = torch.full((5, 4), float("nan"))
    data, scaler = batches(6), scaler_of(2.0**16)
    watch = train(net(), [*data[:2], bad, *data[2:]], tmp_path, scaler=scaler)
    assert watch.num_skipped == 1 and "utterances: utt3" in caplog.text
    with pytest.raises(NonFiniteError, match="10 of 1000 steps"):
        train(net(), [bad] * 12, tmp_path, scaler=scaler)


def test_one_bad_loss_of_those_accumulated_is_a_fault(tmp_path):
    bad = torch.full((5, 4), float("nan"))
    data = [*batches(2), bad, *batches(3)]
    watch = train(net(), data, tmp_path, 1000, 2, scaler=scaler_of(2.0**16))
    assert watch.num_skipped == 1


def test_without_forward_passes_nothing_is_a_fault(tmp_path):
    """ESPnet's --no_forward_run."""
    model = net()
    watch = StepWatch(model, [], tmp_path, 1000, 1, None, writes=True)
    for i, x in enumerate(batches(20)):
        watch.before([f"utt{i}"], {"speech": x})
        watch.after()
    assert watch.num_skipped == 0


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


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_fused_optimiser_under_a_scaler_is_watched_too(is_fused, tmp_path):
    """A scaler always calls its `step`; nothing happens there by a flag."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), fused=is_fused)
    scaler = GradScaler("cpu", init_scale=4.0)
    watch = StepWatch(model, [optimizer], tmp_path, 100, 1, scaler, writes=False)
    data = batches(3)
    data[1][2, 1] = math.nan
    states = [copy.deepcopy(model.state_dict())]
    for i, x in enumerate(data):
        watch.before([f"utt{i}"], {"speech": x})
        scaler.scale(model(x)[0]).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        watch.after()
        states.append(copy.deepcopy(model.state_dict()))
    watch.close()
    changed = [
        any(not torch.equal(a[k], b[k]) for k in a)
        for a, b in zip(states, states[1:], strict=False)
    ]
    assert changed == [True, False, True] and watch.num_skipped == 1
