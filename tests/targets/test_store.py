"""The store: what was written is what is read, and no damage goes unnoticed."""

import errno
import json
import os
import pickle

import numpy as np
import pytest

from espnet_mtkd.errors import DiskError, TargetStoreError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.targets.store import (
    MANIFEST,
    StoredTarget,
    TargetStore,
    shard_is_whole,
    shard_name,
    write_manifest,
    write_shard,
)

TARGETS = [
    StoredTarget("t_l3", 3, 32, 320, 8, "uint8"),
    StoredTarget("t_l5", 5, 6, 320, 6, "float16"),
]
LENGTHS = [[("c", 3200, 9), ("a", 960, 2)], [("b-é", 640, 0), ("d", 640, 1)]]


@pytest.fixture
def written(tmp_path):
    """A store of two shards, and what was put into it."""
    rng = np.random.default_rng(0)
    content = {}
    for number, shard in enumerate(LENGTHS):
        rows = []
        for utt, _, frames in shard:
            content[utt] = {
                "t_l3": rng.integers(0, 256, (frames, 8)).astype(np.uint8),
                "t_l5": rng.standard_normal((frames, 6)).astype(np.float16),
            }
            rows.append(content[utt])
        write_shard(tmp_path / shard_name(number), "plan", TARGETS, rows)
    write_manifest(tmp_path, {"upstream": "x"}, TARGETS, LENGTHS)
    return tmp_path, content


def read_all(folder):
    store = TargetStore(folder)
    samples = {utt: n for shard in LENGTHS for utt, n, _ in shard}
    return {utt: store.read(utt, n) for utt, n in samples.items()}


def test_every_utterance_comes_back_bit_by_bit(written):
    folder, content = written
    found = read_all(folder)
    assert set(found) == set(content)
    for utt, targets in content.items():
        for name, array in targets.items():
            assert found[utt][name].dtype == array.dtype
            np.testing.assert_array_equal(found[utt][name], array)


def test_arrays_in_column_order_are_stored_in_row_order(tmp_path):
    array = np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(3, 8))
    write_shard(tmp_path / shard_name(0), "plan", TARGETS[:1], [{"t_l3": array}])
    write_manifest(tmp_path, {}, TARGETS[:1], [[("a", 960, 3)]])
    np.testing.assert_array_equal(TargetStore(tmp_path).read("a", 960)["t_l3"], array)


def test_the_manifest_is_json_with_what_design_promises(written):
    manifest = json.loads((written[0] / MANIFEST).read_text())
    assert manifest["fingerprint"] == {"upstream": "x"}
    assert manifest["utts"] == ["c", "a", "b-é", "d"]
    assert manifest["offsets"] == [0, 9, 0, 0]
    assert [s["num_utts"] for s in manifest["shards"]] == [2, 2]


def test_two_writings_are_byte_identical(written, tmp_path_factory):
    folder, content = written
    other = tmp_path_factory.mktemp("again")
    for number, shard in enumerate(LENGTHS):
        rows = [content[utt] for utt, *_ in shard]
        write_shard(other / shard_name(number), "plan", TARGETS, rows)
    write_manifest(other, {"upstream": "x"}, TARGETS, LENGTHS)
    for path in folder.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_what_is_not_there_or_has_another_length(written):
    store = TargetStore(written[0])
    assert store.read("nobody", 640) is None
    with pytest.raises(TargetStoreError, match="utterance a: 961 samples .* from 960"):
        store.read("a", 961)


@pytest.mark.parametrize("name", [shard_name(0), shard_name(1), MANIFEST])
def test_every_flipped_byte_is_found_by_verify_or_opening(written, name):
    folder, _ = written
    path = folder / name
    original = path.read_bytes()
    step = max(1, len(original) // 150)
    for position in range(0, len(original), step):
        damaged = bytearray(original)
        damaged[position] ^= 0x20
        path.write_bytes(damaged)
        if name == MANIFEST:
            with pytest.raises(TargetStoreError, match=MANIFEST):
                TargetStore(folder)
        else:
            assert name in TargetStore(folder).verify()[0]


def test_a_flipped_byte_of_a_target_is_found_when_it_is_first_read(written):
    folder, content = written
    path = folder / shard_name(0)
    raw = path.read_bytes()
    for name in ("t_l3", "t_l5"):
        damaged = bytearray(raw)
        damaged[raw.index(content["a"][name].tobytes())] ^= 1
        path.write_bytes(damaged)
        store = TargetStore(folder)
        store.read("c", 3200)  # its neighbour is whole
        with pytest.raises(TargetStoreError, match="00000.*utterance a "):
            store.read("a", 960)


@pytest.mark.parametrize("damage", ["missing", "truncated", "longer"])
def test_a_shard_of_another_size_is_named(written, damage):
    folder, _ = written
    path = folder / shard_name(1)
    raw = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(raw[:-1] if damage == "truncated" else raw + b"x")
    store = TargetStore(folder)
    assert len(store.verify()) == 1 and shard_name(1) in store.verify()[0]
    with pytest.raises(TargetStoreError, match=shard_name(1)) as error:
        store.read("d", 640)
    assert error.value.exit_code == 5


def test_without_a_manifest_there_is_no_store(tmp_path):
    with pytest.raises(TargetStoreError, match="not to the end"):
        TargetStore(tmp_path)


def test_an_opened_store_travels_to_another_process(written):
    folder, content = written
    store = TargetStore(folder)
    store.read("a", 960)
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.read("a", 960)["t_l3"], content["a"]["t_l3"])


def test_reading_again_and_again_holds_nothing_more(written):
    store = TargetStore(written[0])
    sizes = []
    for _ in range(3):
        for shard in LENGTHS:
            for utt, n, _ in shard:
                store.read(utt, n)
        sizes.append(len(pickle.dumps(store.__getstate__() | {"_open": {}})))
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_shard_of_another_plan_or_a_broken_one_is_not_whole(written):
    path = written[0] / shard_name(0)
    assert shard_is_whole(path, "plan")
    assert not shard_is_whole(path, "another plan")
    path.write_bytes(path.read_bytes()[:100])
    assert not shard_is_whole(path, "plan")
    assert not shard_is_whole(path.with_name("nothing"), "plan")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="no space left .* goes on") as error:
        write_atomically(tmp_path / "file", b"x" * 100)
    assert error.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []
