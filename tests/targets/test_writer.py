"""Two extractions into one store: one result, or one of them is refused."""

import functools
import io
import socket
import subprocess
import sys
import threading

import builders
import numpy as np
import pytest

from espnet_mtkd.errors import TargetStoreError
from espnet_mtkd.targets.store import TargetStore, shard_name
from espnet_mtkd.targets.writer import ShardWriter

# Also run by other processes: <folder> <kind> <seed of the values>
WRITES = """
import sys
from functools import partial
from pathlib import Path
import numpy as np
from espnet_mtkd.targets.plan import Utterance
from espnet_mtkd.targets.store import StoredTarget
from espnet_mtkd.targets.writer import ShardWriter, StoreWriter

NUM = 40
SHARDS = [[[Utterance(f"u{i:02d}", "", 3200, 10)]] for i in range(NUM)]
TARGET = StoredTarget("t_l1", 1, 4, 320, 4, "float16", 0.0)

def begin(folder, kind):
    data = [[u.utt, u.num_samples] for ((u,),) in SHARDS]
    return StoreWriter(Path(folder), {"kind": kind}, data, [TARGET], SHARDS)

def rows(seed, number):
    rng = np.random.default_rng([seed, number])
    return [{"t_l1": rng.standard_normal((10, 4)).astype("float16")}]

def write(folder, kind, seed):
    store = begin(folder, kind)
    plan = store.take_share(0, 1)
    print("begun", flush=True)
    sys.stdin.readline()
    writer = ShardWriter(store)
    for number in plan:
        writer.put(number, partial(rows, seed, number))
    writer.close()
    whole = store.finish()
    store.close()
    return whole
"""
RUNS = WRITES + "\nassert write(sys.argv[1], sys.argv[2], int(sys.argv[3]))\n"
own = {}
exec(WRITES, own)


@pytest.fixture
def start(tmp_path):
    """Function: kind and seed -> a process that has begun, and writes at a word."""
    jobs = []

    def run(kind, seed):
        command = [sys.executable, "-c", RUNS, str(tmp_path), kind, str(seed)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        job = subprocess.Popen(command, text=True, cwd=builders.ROOT, **pipes)
        jobs.append(job)
        assert job.stdout.readline() == "begun\n", job.communicate()
        return job

    yield run
    for job in jobs:
        job.kill()
        job.communicate()


def test_two_of_one_plan_whose_numbers_differ_in_the_last_bits(tmp_path, start):
    """As on machines of two kinds: of each shard one is taken, and it stays."""
    jobs = [start("a", seed) for seed in (1, 2)]
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    said = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    store = TargetStore(tmp_path)
    assert store.verify() == [] and len(store) == own["NUM"]
    for number in range(own["NUM"]):
        found = store.read(f"u{number:02d}", 3200)["t_l1"]
        either = [own["rows"](seed, number)[0]["t_l1"] for seed in (1, 2)]
        assert any(np.array_equal(found, x) for x in either)
    assert not [x for x in tmp_path.iterdir() if x.suffix == ".tmp"]


def test_a_shard_that_stands_is_not_written_again(tmp_path, start, monkeypatch):
    job = start("a", 1)  # has all still to do
    monkeypatch.setattr(sys, "stdin", io.StringIO("go\n"))
    assert own["write"](tmp_path, "a", 2)
    before = {x.name: x.read_bytes() for x in tmp_path.glob("*.*") if x.is_file()}
    job.communicate("go\n")
    assert job.returncode == 0
    after = {x.name: x.read_bytes() for x in tmp_path.glob("*.*") if x.is_file()}
    assert after == before
    assert TargetStore(tmp_path).verify() == []


@pytest.mark.remedy("another extraction writes to it now")
@pytest.mark.parametrize("what", ["wait", "another"])
def test_other_settings_while_nothing_is_stored_yet(tmp_path, start, what):
    job = start("a", 1)
    with pytest.raises(TargetStoreError, match="writes to it now .kind: expected 'b'"):
        own["begin"](tmp_path, "b")
    if what == "another":
        own["begin"](tmp_path / "other", "b").close()
        return
    job.kill()
    job.wait()
    own["begin"](tmp_path, "b").close()  # nothing was stored, nobody is at work


def test_other_settings_behind_the_first_shard(tmp_path, start):
    start("a", 1).communicate("go\n")
    with pytest.raises(TargetStoreError, match="holds targets of another extraction"):
        own["begin"](tmp_path, "b")
    own["begin"](tmp_path, "a").close()


def test_threads_that_share_a_store(tmp_path):
    """Each with a lock of its own, or they would not wait for one another."""
    store = own["begin"](tmp_path, "a")

    def work(seed):
        for number in range(own["NUM"]):
            store.write(number, own["rows"](seed, number))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.finish()
    store.close()
    assert TargetStore(tmp_path).verify() == []


def test_what_killed_writers_left_is_swept(tmp_path):
    host = socket.gethostname().split(".")[0]
    store = own["begin"](tmp_path, "a")
    for name in (shard_name(3), "manifest.json", "plan.json"):
        (tmp_path / f".{name}.{host}.4194305.0123abcd.tmp").write_bytes(b"half")
    store.close()
    with_all = own["begin"](tmp_path, "a")
    writer = ShardWriter(with_all)
    for number in range(own["NUM"]):
        writer.put(number, functools.partial(own["rows"], 1, number))
    writer.close()
    assert with_all.finish()
    with_all.close()
    assert not [x for x in tmp_path.iterdir() if x.suffix == ".tmp"]
