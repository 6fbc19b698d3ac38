"""A model's tensors in two forms, the same in both, and nothing else read with them."""

import errno
import os

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

from espnet_mtkd.errors import ConfigError, DiskError
from espnet_mtkd.student.weights import read_pth, read_weights, write_safetensors


@pytest.fixture
def pth(tmp_path):
    """A file with tensors of many types and layouts."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 4, generator=generator)
    state = {
        "encoder.weight": weight,
        "encoder.transposed": weight.t(),
        "encoder.part": weight[2:4, 1:3],
        "encoder.again": weight,
        "heads.half": weight.half(),
        "heads.brain": weight.bfloat16(),
        "norm.num_batches": torch.tensor(7),
        "norm.empty": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
    }
    torch.save(state, tmp_path / "valid.loss.best.pth")
    return tmp_path / "valid.loss.best.pth"


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def test_safetensors_hold_every_tensor_bit_for_bit(pth):
    out = write_safetensors(pth)
    assert out == pth.with_name("valid.loss.best.safetensors")
    assert_same(load_file(out), read_pth(pth))  # by the library's own reader
    assert_same(read_weights(pth), read_pth(pth))
    other = write_safetensors(pth, pth.with_name("other.safetensors"))
    assert_same(load_file(other), read_pth(pth))


def test_tied_tensors_are_written_under_both_names_and_tied_when_loaded(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

    model = Tied()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    state = load_file(write_safetensors(tmp_path / "x.pth"))
    assert set(state) == {"embed.weight", "out.weight"}
    other = Tied()
    other.load_state_dict(state)
    assert torch.equal(other.out.weight, model.embed.weight)
    assert other.out.weight is other.embed.weight


def test_either_file_is_enough_and_safetensors_come_first(pth):
    beside = write_safetensors(pth)
    expected = read_pth(pth)
    # Of unknown origin, with other values: which file was read can be seen.
    save_file({"encoder.weight": torch.ones(2)}, beside)
    assert_same(read_weights(pth), {"encoder.weight": torch.ones(2)})
    beside.unlink()
    assert_same(read_weights(pth), expected)
    write_safetensors(pth)
    pth.unlink()
    assert_same(read_weights(pth), expected)
    assert_same(read_weights(beside), expected)


@pytest.mark.remedy(
    "made from another",
)
def test_safetensors_of_an_older_training_are_refused_with_the_remedy(pth):
    beside = write_safetensors(pth)
    torch.save({"encoder.weight": torch.zeros(1)}, pth)
    with pytest.raises(ConfigError, match="made from another valid.loss.best.pth") as e:
        read_weights(pth)
    command = str(e.value).split("python -c '")[1].removesuffix("'")
    exec(command)  # the remedy that the message names
    assert_same(read_weights(beside), {"encoder.weight": torch.zeros(1)})


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "content, message",
    [
        ("code", "nothing but tensors.*use none from people you do not trust"),
        ("half", "expected a whole .pth"),
        ("empty", "expected a whole .pth"),
        ("checkpoint", r"found \['epoch', 'model'\].*checkpoint.pth is for resuming"),
        ("list", "found <class 'list'>"),
        ("absent", "no such model file"),
    ],
)
def test_a_pth_that_is_no_state_dict_is_refused(pth, tmp_path, content, message):
    trace = tmp_path / "trace"
    data = pth.read_bytes()
    if content == "code":
        torch.save({"encoder.weight": Evil(str(trace))}, pth)
    elif content == "half":
        pth.write_bytes(data[: len(data) // 2])
    elif content == "empty":
        pth.write_bytes(b"")
    elif content == "checkpoint":
        torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, pth)
    elif content == "list":
        torch.save([torch.zeros(1)], pth)
    else:
        pth.unlink()
    for read in (read_pth, read_weights, write_safetensors):
        with pytest.raises(ConfigError, match=f"(?s){message}") as error:
            read(pth)
        assert str(pth) in str(error.value)
    assert not trace.exists()
    assert not pth.with_suffix(".safetensors").exists()


def test_damaged_safetensors_are_not_replaced_by_the_pth_in_silence(pth):
    beside = write_safetensors(pth)
    beside.write_bytes(beside.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="expected a whole safetensors file") as error:
        read_weights(pth)
    assert str(beside) in str(error.value)


def test_a_full_disk_leaves_the_old_file(pth, monkeypatch):
    beside = write_safetensors(pth)
    before = beside.read_bytes()
    torch.save({"encoder.weight": torch.zeros(1)}, pth)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError):
            write_safetensors(pth)
    assert beside.read_bytes() == before
    assert {p.name for p in pth.parent.iterdir()} == {beside.name, pth.name}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value, dtype):
    state = {"fine": torch.ones(3), "bn.running_mean": torch.ones(4, dtype=dtype)}
    torch.save(state, tmp_path / "model.pth")
    beside = write_safetensors(tmp_path / "model.pth")
    assert set(read_weights(beside)) == set(read_pth(tmp_path / "model.pth"))
    state["bn.running_mean"][2] = value
    torch.save(state, tmp_path / "model.pth")
    beside.write_bytes(save(state))
    for path in (tmp_path / "model.pth", beside):
        with pytest.raises(ConfigError, match="1 of 2 tensors: bn.running_mean"):
            read_weights(path)
    with pytest.raises(ConfigError, match="NaN or infinity"):
        read_pth(tmp_path / "model.pth")
