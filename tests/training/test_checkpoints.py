"""Saves: whole or not there, the one before kept, what is lost made anew or named."""

import errno
import os
import subprocess

import pytest
import torch
from espnet2.main_funcs import average_nbest_models as espnet_average
from espnet2.train.reporter import Reporter

from espnet_mtkd.errors import ConfigError, DiskError
from espnet_mtkd.files import sweep, temporary_for, write_atomically
from espnet_mtkd.training.averages import average_nbest_models
from espnet_mtkd.training.checkpoints import (
    CHECKPOINT,
    PREVIOUS,
    DamagedFile,
    read,
    read_newest,
    repair,
    save,
    save_checkpoint,
)

CRITERIA = [["valid", "loss", "min"], ["valid", "acc", "max"]]


def model(epoch: int) -> dict:
    generator = torch.Generator().manual_seed(epoch)
    return {
        "weight": torch.randn(40, 30, generator=generator),
        "bn.num_batches_tracked": torch.tensor(10 * epoch),
    }


def reported(losses) -> Reporter:
    reporter = Reporter()
    for epoch, loss in enumerate(losses, 1):
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as sub:
            sub.register(dict(loss=loss, acc=1 - loss))
            sub.next()
    return reporter


def finished(folder, losses) -> Reporter:
    """A folder as the end of the last epoch leaves it, all models kept."""
    reporter = reported(losses)
    for epoch in range(1, len(losses) + 1):
        save(model(epoch), folder / f"{epoch}epoch.pth")
    state = {"model": model(len(losses)), "reporter": reporter.state_dict()}
    save_checkpoint(state, folder)
    return reporter


def test_the_checkpoint_before_stays(tmp_path):
    for number in (1, 2, 3):
        save_checkpoint({"number": torch.tensor(number)}, tmp_path)
    assert int(read(tmp_path / CHECKPOINT)["number"]) == 3
    assert int(read(tmp_path / PREVIOUS)["number"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([CHECKPOINT, PREVIOUS])


def test_cut_anywhere_the_one_before_is_taken_and_the_file_named(tmp_path, caplog):
    save_checkpoint({"number": torch.tensor(1)}, tmp_path)
    save_checkpoint({"number": torch.tensor(2), "more": torch.ones(5000)}, tmp_path)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for i in range(20):
        (tmp_path / CHECKPOINT).unlink()  # not through a name that it shares
        (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) * i // 20])
        caplog.clear()
        assert int(read_newest(tmp_path)["number"]) == 1
        assert str(tmp_path / CHECKPOINT) in caplog.text
    (tmp_path / CHECKPOINT).unlink()
    (tmp_path / CHECKPOINT).write_bytes(whole)
    assert int(read_newest(tmp_path)["number"]) == 2


@pytest.mark.parametrize("left", ["half", "nothing"])
def test_a_damaged_checkpoint_does_not_push_the_whole_one_out(
    tmp_path, monkeypatch, left
):
    """Not even where the next save fails."""
    for number in (1, 2):
        save_checkpoint({"number": torch.tensor(number)}, tmp_path)
    (tmp_path / CHECKPOINT).unlink()
    if left == "half":
        (tmp_path / CHECKPOINT).write_bytes(b"PK")
    assert int(read_newest(tmp_path)["number"]) == 1
    assert (tmp_path / CHECKPOINT).is_file()  # ESPnet looks for this one alone

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError):
        save_checkpoint({"number": torch.tensor(3)}, tmp_path)
    assert int(read_newest(tmp_path)["number"]) == 1
    assert {p.name for p in tmp_path.iterdir()} == {CHECKPOINT, PREVIOUS}


def test_a_flipped_bit_is_seen(tmp_path):
    save({"x": torch.randn(10_000)}, tmp_path / "x.pth")
    data = bytearray((tmp_path / "x.pth").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(DamagedFile, match="x.pth: damaged"):
        read(tmp_path / "x.pth")


def test_a_pickle_that_runs_code_is_no_checkpoint(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"x": Runs()}, tmp_path / CHECKPOINT)
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        read_newest(tmp_path)
    assert not (tmp_path / "run").exists()


def test_no_checkpoint_and_none_that_is_whole(tmp_path):
    assert read_newest(tmp_path) is None
    (tmp_path / CHECKPOINT).write_bytes(b"PK")
    with pytest.raises(ConfigError, match=f"no whole checkpoint[^R]*{CHECKPOINT}") as e:
        read_newest(tmp_path)
    assert f"Remove {tmp_path} to begin anew" in str(e.value)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_nothing_that_was_there(small_disk):
    save_checkpoint({"x": torch.ones(20_000)}, small_disk)
    with pytest.raises(DiskError, match=r"no space left for .*checkpoint.pth \(2 MB\)"):
        save_checkpoint({"x": torch.ones(500_000)}, small_disk)
    assert int(read_newest(small_disk)["x"].sum()) == 20_000
    assert not list(small_disk.glob(".*"))


def test_repair_brings_links_and_the_last_model_back(tmp_path):
    reporter = finished(tmp_path, [0.5, 0.2, 0.3])
    (tmp_path / "3epoch.pth").unlink()
    repair(tmp_path, reporter, CRITERIA, 2, model(3))
    assert torch.equal(read(tmp_path / "3epoch.pth")["weight"], model(3)["weight"])
    for name, target in (
        ("latest.pth", "3epoch.pth"),
        ("valid.loss.best.pth", "2epoch.pth"),
        ("valid.acc.best.pth", "2epoch.pth"),
    ):
        assert os.readlink(tmp_path / name) == target
    # What ESPnet would have removed at the epoch's end.
    assert not (tmp_path / "1epoch.pth").exists()


def test_a_model_that_is_lost_for_good_is_named_and_is_no_longer_the_best(
    tmp_path, caplog
):
    reporter = finished(tmp_path, [0.5, 0.2, 0.3])
    (tmp_path / "2epoch.pth").write_bytes(b"half")
    repair(tmp_path, reporter, CRITERIA, 3, model(3))
    assert "2epoch.pth" in caplog.text and "the model of epoch 2 is lost" in caplog.text
    assert os.readlink(tmp_path / "valid.loss.best.pth") == "3epoch.pth"
    average_nbest_models(tmp_path, reporter, CRITERIA, 3)
    assert os.readlink(tmp_path / "valid.loss.ave.pth") == "valid.loss.ave_1best.pth"


@pytest.mark.parametrize("nbest", [1, 2, [1, 3], [3, 9], []])
@pytest.mark.parametrize("suffix", [None, "till3epoch"])
def test_means_are_espnets(tmp_path, nbest, suffix):
    reporter = finished(tmp_path, [0.5, 0.2, 0.3])
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    for folder, average in (
        (own, average_nbest_models),
        (theirs, espnet_average.average_nbest_models),
    ):
        folder.mkdir()
        finished(folder, [0.5, 0.2, 0.3])
        average(
            output_dir=folder,
            reporter=reporter,
            best_model_criterion=CRITERIA,
            nbest=nbest,
            suffix=suffix,
        )
    assert sorted(p.name for p in own.iterdir()) == sorted(
        p.name for p in theirs.iterdir()
    )
    for path in own.glob("*.ave*"):
        other = theirs / path.name
        if path.is_symlink():
            assert os.readlink(path) == os.readlink(other)
            continue
        for key, value in read(path).items():
            torch.testing.assert_close(value, read(other)[key])


def test_what_a_dead_writer_left_goes_and_a_living_ones_stays(tmp_path):
    path = tmp_path / "file"
    child = subprocess.run(
        ["bash", "-c", 'echo $$; touch "$0.${1}.$$.0a.tmp"', f"{tmp_path}/.file"]
        + [temporary_for(path).name.split(".")[2]],
        capture_output=True,
        text=True,
        check=True,
    )
    pid = child.stdout.strip()
    (dead,) = tmp_path.glob(f".file.*.{pid}.0a.tmp")
    living = temporary_for(path)
    living.touch()
    elsewhere = tmp_path / ".file.elsewhere.1.0b.tmp"
    elsewhere.touch()
    write_atomically(path, b"x")
    assert not dead.exists() and living.exists() and elsewhere.exists()
    os.utime(elsewhere, (0, 0))
    sweep(path)
    assert not elsewhere.exists() and living.exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    save({"x": torch.ones(1)}, tmp_path / "x.pth")

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError):
        save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    assert read(tmp_path / "x.pth")["x"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]
