"""What we parse ourselves, given anything: it is read, or refused by an error of ours.

MTKD_FUZZ=5000 tries so many inputs of each kind (default: 200).
"""

import dataclasses
import hashlib
import json
import math
import os
import struct
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from espnet_mtkd.augment.masks import MaskOptions, parse_mask_options
from espnet_mtkd.augment.noise_options import NoiseOptions, parse_noise_options
from espnet_mtkd.data.check import check_data_dirs, check_distinct, check_ends
from espnet_mtkd.data.kaldi import numbered_lines, read_lengths, read_wav_scp
from espnet_mtkd.data.listed import read_samples
from espnet_mtkd.errors import ConfigError, DataError, MTKDError, TargetStoreError
from espnet_mtkd.files import parse_yaml, read_yaml
from espnet_mtkd.objective.losses import EmbeddingLoss
from espnet_mtkd.objective.options import (
    BALANCES,
    HEADS,
    LAYERS,
    STANDARDIZE,
    ObjectiveOptions,
    check_keys,
    read_options,
)
from espnet_mtkd.teachers.base import MAX_NUMBER, TeacherConfig, parse_teachers
from espnet_mtkd.transducer.kept_options import (
    DECAYS,
    KeptOptions,
    parse_kept_options,
    parse_kept_words,
)

fuzzed = settings(
    max_examples=int(os.environ.get("MTKD_FUZZ", 200)),
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from([10**400, -(10**400), 2**63, "", "\0", "..", "²", "1" * 5000]),
)
VALUES = st.recursive(
    SCALARS,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(SCALARS, x, max_size=4),
    max_leaves=12,
)
JSON = st.recursive(
    SCALARS,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x),
    max_leaves=12,
)


def mutated(content: bytes):
    """Strategy: a content with some bytes changed, taken out, or put in."""
    edits = st.tuples(
        st.integers(0, len(content)), st.integers(0, 8), st.binary(max_size=8)
    )

    def apply(found):
        out = bytearray(content)
        for begin, num, new in found:
            out[begin : begin + num] = new
        return bytes(out)

    return st.lists(edits, max_size=4).map(apply)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# ------------------------------------------------------------- lists

LIST = "utt1 /a/b.flac\nutt2\t/a/c d.wav\nütt3 16000\n".encode()


def plain(content: bytes) -> dict[str, str]:
    """As ESPnet's and Kaldi's tools read such a list."""
    lines = content.decode("utf-8").split("\n")
    words = [line.split(maxsplit=1) for line in lines if line.split()]
    return {w[0]: w[1].rstrip() if len(w) > 1 else "" for w in words}


@fuzzed
@given(st.binary(max_size=60) | mutated(LIST))
@example(b"a \0\n")
@example(b"a b\rc d\n")
def test_lists(folder, content):
    path = folder / "text"
    path.write_bytes(content)
    try:
        found = {utt: rest for _, utt, rest in numbered_lines(path, "a text")}
    except DataError as e:
        assert str(path) in str(e)
    else:
        assert found == plain(content)
        assert b"\r" not in content and b"\0" not in content
    for read in (read_wav_scp, read_lengths, read_samples):
        try:
            read(path)
        except DataError as e:
            assert str(path) in str(e)


@fuzzed
@given(st.text(max_size=8) | st.sampled_from(["²", "٣", "1_0", "+1", "9" * 5000]))
@example("16000")
def test_lengths(folder, shape):
    path = folder / "speech_shape"
    path.write_text(f"utt {shape}\n", encoding="utf-8")
    try:
        (value,) = read_lengths(path).values()
    except DataError as e:
        assert str(path) in str(e)
    else:
        assert str(value) == shape.strip().lstrip("0") or int(shape) == value == 0


# ------------------------------------------------------------- YAML

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 40)
)
CONFIG = b"max_epoch: 3\nloss_conf: {l1: 1.0, cosine: 0.5}\nteachers: [a, *b]\n"


@fuzzed
@given(
    st.binary(max_size=60)
    | mutated(CONFIG)
    | VALUES.map(lambda x: yaml.safe_dump(x).encode())
    | st.text("[]{}&*!:-, \n'\"ab1|>?<=~#%@.", max_size=40).map(str.encode)
)
@example(b"!!bool x")
@example(b'!!int ""')
@example(b"!!timestamp x")
@example(b"!!float ''")
@example(b"2001-99-99")
@example(b"!!python/object/apply:os.mkdir ['/tmp/never']")
@example(BOMB.encode())
@example(MERGES.encode())
@example(b"&a [*a, *a]")
@example(b"[" * 5000)
def test_configs(folder, content):
    path = folder / "config.yaml"
    path.write_bytes(content)
    try:
        found = read_yaml(path)
    except ConfigError as e:
        assert str(path) in str(e) and len(str(e)) < 2000
    else:
        expected = yaml.safe_load(content.decode("utf-8"))
        assert repr(found) == repr(expected)


def test_references_are_still_read():
    text = "a: &a {x: [1, 2]}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    assert parse_yaml(text, "x") == yaml.safe_load(text)


# ------------------------------------------------------------- sections of configs


def read_loss(conf):
    check_keys("loss_conf", conf, ("l1", "mse", "cosine", "codes"))
    return EmbeddingLoss(**conf)


SECTIONS = {
    "objective_conf": (read_options, dataclasses.asdict(ObjectiveOptions())),
    "loss_conf": (read_loss, dict(l1=1.0, mse=0.0, cosine=1.0, codes=0.0)),
    "mask_conf": (parse_mask_options, dataclasses.asdict(MaskOptions())),
    "noise_conf": (parse_noise_options, dataclasses.asdict(NoiseOptions())),
    "keep_teachers_conf": (parse_kept_options, dataclasses.asdict(KeptOptions())),
}


def near(conf: dict):
    """Strategy: a section of which some values, or keys, are others."""
    numbers = st.integers(-2, 12) | st.floats(-1, 2) | st.lists(st.integers(0, 9))
    words = st.sampled_from([*STANDARDIZE, *HEADS, *LAYERS, *BALANCES, *DECAYS, "last"])
    keys = st.sampled_from([*conf]) | SCALARS
    changes = st.dictionaries(keys, numbers | words | VALUES, max_size=3)
    return changes.map(lambda change: {**conf, **change})


@fuzzed
@given(
    st.sampled_from(sorted(SECTIONS)).flatmap(
        lambda name: st.tuples(st.just(name), near(SECTIONS[name][1]) | VALUES)
    )
)
@example(("mask_conf", {"time_prob": 10**400}))
@example(("noise_conf", {"snr": [0, 2**20000]}))
@example(("objective_conf", {"clip": 10**400}))
@example(("objective_conf", {"hidden": 2**20000}))
@example(("objective_conf", {2**20000: 1}))
@example(("objective_conf", {"blocks": [2**20000, 2**20000]}))
@example(("loss_conf", {"l1": 10**400}))
@example(("keep_teachers_conf", 5))
@example(("keep_teachers_conf", {"decay": []}))
@example(("keep_teachers_conf", {"weight": 2**20000}))
def test_sections(found):
    """What ESPnet's parser gives of a YAML file is any value that YAML has."""
    name, conf = found
    read, _ = SECTIONS[name]
    try:
        options = read(conf)
    except MTKDError as e:
        assert isinstance(e, ConfigError) and name in str(e) and len(str(e)) < 2000
        return
    values = options.weights if name == "loss_conf" else vars(options)
    for key, value in values.items():
        # Torch takes every number that is left.
        if isinstance(value, (int, float)):
            assert math.isfinite(torch.tensor(float(value))), key
    if name == "objective_conf":
        options.block_numbers(6 if isinstance(options.blocks, str) else 10**9)


@fuzzed
@given(
    st.lists(
        st.sampled_from(["weight=", "decay=linear", "until=", "x", "=", "weight"])
        | st.text(max_size=12)
        | st.builds("{}={}".format, st.sampled_from(["weight", "until"]), SCALARS),
        max_size=4,
    )
)
@example(["weight=" + "9" * 5000])
@example(["weight=[[["])
def test_words_of_the_command_line(words):
    try:
        options = parse_kept_words(words)
    except MTKDError as e:
        assert isinstance(e, ConfigError)
    else:
        assert 0 < options.weight < math.inf and 0 < options.until <= 1


# ------------------------------------------------------------- data directories

DATA_DIR = {
    "wav.scp": "a1 x.flac\na2 y.wav\nb1 cat z.wav |\n",
    "text": "a1 ONE TWO\na2 THREE\nb1\n",
    "utt2spk": "a1 a\na2 a\nb1 b\n",
    "segments": "a1 r1 0.0 1.5\na2 r1 1.5 2.0\nb1 r2 0 3\n",
}
RECORDINGS = "r1 x.flac\nr2 y.wav\n"
LINES = st.text("ab12 \t\n.:|/x\r\0", max_size=30).map(str.encode)


def data_dirs():
    """Strategy: file -> content, None where it is not there."""
    files = {
        name: st.just(text.encode())
        | mutated(text.encode())
        | LINES
        | st.binary(max_size=30)
        | st.none()
        for name, text in DATA_DIR.items()
    }
    files["segments"] |= st.none()
    files["wav.scp"] |= st.just(RECORDINGS.encode())
    return st.fixed_dictionaries(files)


AS_IT_SHOULD = {k: v.encode() for k, v in DATA_DIR.items()} | {"segments": None}


@fuzzed
@given(data_dirs())
@example(AS_IT_SHOULD)
@example({**AS_IT_SHOULD, "wav.scp": RECORDINGS.encode(), "segments": b"a1\na2 r9\n"})
@example({**AS_IT_SHOULD, "segments": DATA_DIR["segments"].encode()})
@example({**AS_IT_SHOULD, "text": None, "utt2spk": None})
@example({**AS_IT_SHOULD, "wav.scp": b"a1 |\na2 ||\nb1 = |\n"})
def test_data_directories(folder, files):
    """All files together: refused, or what Kaldi's own validation would let through."""
    data_dir = folder / "data"
    data_dir.mkdir(exist_ok=True)
    for name, content in files.items():
        (data_dir / name).unlink(missing_ok=True)
        if content is not None:
            (data_dir / name).write_bytes(content)
    for check in (check_distinct, check_ends):
        try:
            check([data_dir] if check is check_distinct else data_dir)
        except DataError as e:
            assert str(data_dir) in str(e)
    try:
        check_data_dirs([data_dir])
    except DataError as e:
        assert str(data_dir) in str(e)
        return
    if files["text"] is None:
        files = {**files, "utt2spk": None}  # which nobody reads then
    lists = {k: plain(v) for k, v in files.items() if v is not None}
    assert all(lists.values())  # none is empty
    source = "segments" if "segments" in lists else "wav.scp"
    if "text" not in lists:
        return
    assert list(lists["text"]) == list(lists["utt2spk"]) == list(lists[source])
    keys = [utt.encode() for utt in lists["text"]]
    assert keys == sorted(keys)
    for name, values in lists.items():
        if name != "text":
            assert all(x.strip("| ") for x in values.values()), name
    for recording, begin, end in map(str.split, lists.get("segments", {}).values()):
        assert recording in lists["wav.scp"]
        assert 0 <= float(begin) < float(end) < math.inf


def test_a_data_directory_that_is_right_is_accepted(folder):
    for segments, scp in ((None, DATA_DIR["wav.scp"]), ("segments", RECORDINGS)):
        data_dir = folder / f"right_{segments}"
        data_dir.mkdir()
        names = ["text", "utt2spk", *([segments] if segments else [])]
        for name in names:
            (data_dir / name).write_text(DATA_DIR[name])
        (data_dir / "wav.scp").write_text(scp)
        check_data_dirs([data_dir])


# ------------------------------------------------------------- teachers

TEACHER = dict(name="a", upstream="hubert_local", path_or_url="x.pt", layers=[1, -1])


def changed(entry: dict):
    """Strategy: an entry of which some values, or keys, are others."""
    keys = st.sampled_from(
        ["weight", "normalize", "extra_conf", "frame_centre", *entry]
    )
    return st.dictionaries(keys | SCALARS, VALUES, max_size=3).map(
        lambda change: {**entry, **change}
    )


@fuzzed
@given(VALUES | st.lists(changed(TEACHER) | VALUES, max_size=3))
@example([{**TEACHER, "weight": 10**400}])
@example([{**TEACHER, "frame_centre": 10**400}])
@example([{**TEACHER, "layers": [2**20000]}])
@example([{**TEACHER, "weight": float("nan")}])
@example([{**TEACHER, "path_or_url": "\0"}])
@example(yaml.safe_load("&a [*a]"))
def test_teachers(value):
    try:
        configs = parse_teachers(value)
    except MTKDError as e:
        assert isinstance(e, ConfigError)
        return
    assert len({c.name for c in configs}) == len(configs) > 0
    for config in configs:
        assert isinstance(config, TeacherConfig)
        assert 0 < config.weight / 3 < MAX_NUMBER
        assert config.layers is None or all(isinstance(x, int) for x in config.layers)


@fuzzed
@given(mutated(yaml.safe_dump([TEACHER]).encode()))
def test_a_teachers_file(folder, content):
    path = folder / "teachers.yaml"
    path.write_bytes(content)
    try:
        parse_teachers(str(path))
    except ConfigError as e:
        assert str(path) in str(e)


# ------------------------------------------------------------- stores


def manifest() -> dict:
    """Of two utterances in two shards."""
    target = dict(name="t_l1", layer=1, dim=4, frame_shift=320, num_channels=4)
    target |= dict(dtype="float16", frame_centre=199.5)
    shards = [
        dict(
            file=f"shard_{i:05d}.safetensors",
            num_utts=1,
            num_bytes=10,
            sha256=64 * "0",
        )
        for i in range(2)
    ]
    return dict(
        format=1,
        fingerprint=dict(form="fp16"),
        targets=[target],
        shards=shards,
        utts=["a", "b"],
        num_samples=[3200, 6400],
        num_frames=[10, 20],
        offsets=[0, 0],
    )


def put(value, path: list[int], new):
    """A copy of nested lists and dicts with another value, or without one, within."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    copy = value.copy()
    if new == "nothing":
        del copy[key]
    else:
        copy[key] = put(value[key], path[1:], new)
    return copy


def sign(body: bytes) -> bytes:
    return f'{{"sha256":"{hashlib.sha256(body).hexdigest()}",\n'.encode() + body


CHANGED = st.builds(
    lambda path, new: json.dumps(put(manifest(), path, new))[1:].encode(),
    st.lists(st.integers(0, 20), min_size=1, max_size=3),
    JSON | st.just("nothing"),
)


@fuzzed
@given(st.booleans(), st.binary(max_size=40) | CHANGED)
@example(True, json.dumps(manifest())[1:].encode())
@example(True, json.dumps(manifest())[1:].replace("shard_00001", "../../x").encode())
@example(True, b"[" * 100_000)
@example(True, b'"format":1}')
def test_manifests(folder, is_signed, body):
    """Signed or not: whoever changes it can sign it, too."""
    from espnet_mtkd.targets.store import MANIFEST, TargetStore

    path = folder / MANIFEST
    path.write_bytes(sign(body) if is_signed else body)
    try:
        store = TargetStore(folder)
    except TargetStoreError as e:
        assert str(path) in str(e)
        return
    assert is_signed
    for utt in ("a", "b", "c"):
        num_samples = store.num_samples_of(utt)
        if num_samples is not None:  # its shards are not there
            with pytest.raises(TargetStoreError):
                store.read(utt, num_samples)
    assert all(str(folder) in line for line in store.verify())


def test_a_manifest_that_is_right_is_read(folder):
    from espnet_mtkd.targets.store import MANIFEST, TargetStore

    (folder / MANIFEST).write_bytes(sign(json.dumps(manifest())[1:].encode()))
    store = TargetStore(folder)
    assert (len(store), store.num_frames, store.max_num_frames) == (2, 30, 20)


# ------------------------------------------------------------- codebooks


def codebooks(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def header(num: int = 4, entries: int = 256, dim: int = 2, dtype="F32") -> dict:
    sizes = {"entries": [num, entries, dim], "mean": [dim], "std": [dim]}
    out, begin = {}, 0
    for part, shape in sizes.items():
        size = 4
        for n in shape:
            size *= n
        offsets = [begin, begin + size]
        out[f"t.{part}"] = dict(dtype=dtype, shape=shape, data_offsets=offsets)
        begin += size
    return out


DATA = bytes(4 * (4 * 256 * 2 + 4))
STAMP = {"__metadata__": {"stamp": json.dumps({"fingerprint": {}, "held_out": {}})}}


@fuzzed
@given(
    mutated(codebooks({**STAMP, **header()}, DATA)[:900]).map(lambda x: x + DATA[-64:])
    | st.builds(
        lambda path, new: codebooks(put({**STAMP, **header()}, path, new), DATA),
        st.lists(st.integers(0, 9), min_size=1, max_size=3),
        JSON,
    )
    | st.builds(
        lambda *shape: codebooks({**STAMP, **header(*shape)}, DATA),
        st.integers(0, 8),
        st.sampled_from([255, 256, 257]),
        st.integers(0, 3),
        st.sampled_from(["F32", "I32", "BF16"]),
    )
    | st.builds(
        lambda text: codebooks({"__metadata__": {"stamp": text}, **header()}, DATA),
        st.text(max_size=20) | JSON.map(json.dumps),
    )
)
@example(codebooks({**STAMP, **header()}, DATA))
def test_codebook_files(folder, content):
    from espnet_mtkd.targets.codebooks import card_of
    from espnet_mtkd.targets.quantizer import read_codebooks

    path = folder / "codebooks.safetensors"
    path.write_bytes(content)
    try:
        card = json.loads(card_of(path))
        assert isinstance(card["fingerprint"], dict)
    except TargetStoreError as e:
        assert str(path) in str(e)
    try:
        books = read_codebooks(path)
    except TargetStoreError as e:
        assert str(path) in str(e)
        return
    for book in books.values():
        assert book.entries_MKE.shape == (book.num_codebooks, 256, book.dim)
