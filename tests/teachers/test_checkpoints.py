"""Checkpoints of other forms: said what they are, never run, converted where plain."""

import argparse
import bz2
import collections
import contextlib
import gzip
import importlib.machinery
import io
import json
import lzma
import os
import pickle
import re
import runpy
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import builders
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.bin import mtkd_convert_checkpoint
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers import convert, pickles
from espnet_mtkd.teachers.base import TeacherConfig, check_files
from espnet_mtkd.teachers.checkpoint_forms import DAMAGED, inspect
from espnet_mtkd.teachers.checkpoints import FORMS
from espnet_mtkd.teachers.hub import import_s3prl_hub
from espnet_mtkd.teachers.s3prl import S3PRLTeacher

UPSTREAMS = ["hubert_local", "wav2vec2_local", "wavlm_local", "data2vec_local"]
MODELS = dict(hubert="hubert", wav2vec2="wav2vec2", data2vec="data2vec_audio")
HUBERT = "task_cfg, model_cfg, model_weight, dictionaries_symbols, as s3prl's converter"


def message_of(path, upstream="hubert_local", **keys) -> str:
    """What a teacher with this checkpoint is refused with."""
    config = TeacherConfig("t", upstream, path_or_url=str(path), **keys)
    with pytest.raises(ConfigError) as error:
        S3PRLTeacher(config)
    assert error.value.exit_code == 2
    return str(error.value)


def hidden_states(path, upstream) -> list[torch.Tensor]:
    """All hidden states on one second, by this package's own way to a teacher."""
    layers = tuple(range(builders.NUM_LAYERS + 1))
    config = TeacherConfig("t", upstream, path_or_url=str(path), layers=layers)
    speech = torch.from_numpy(builders.speech_like(1.0, 3))[None]
    out = S3PRLTeacher(config)(speech, torch.tensor([16000]))
    return [target for target, _ in out.values()]


def load(path):
    return torch.load(path, weights_only=True)


# ------------------------------------------------------------- what fairseq writes


class Dictionary:
    """What fairseq's class of that name has."""

    def __init__(self, symbols):
        self.symbols = symbols
        self.count = [1] * len(symbols)
        self.indices = {s: i for i, s in enumerate(symbols)}
        self.bos_word, self.unk_index = "<s>", 3


Dictionary.__module__ = "fairseq.data.dictionary"


@contextlib.contextmanager
def fairseq_installed(load_checkpoint_to_cpu=None):
    """The two things of fairseq that its checkpoints and s3prl's converters need."""
    parts = dict(Dictionary=Dictionary, load_checkpoint_to_cpu=load_checkpoint_to_cpu)
    modules = {}
    for name in ("", ".data", ".data.dictionary", ".checkpoint_utils"):
        modules[f"fairseq{name}"] = types.ModuleType(f"fairseq{name}")
        spec = importlib.machinery.ModuleSpec(f"fairseq{name}", None)
        vars(modules[f"fairseq{name}"]).update(parts, __spec__=spec)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


@pytest.fixture
def as_fairseq(checkpoints, tmp_path):
    """Function: (family, by) -> a tiny model as a fairseq training leaves it."""

    def write(family, by="cfg", name=None, legacy=False, **changes) -> Path:
        ours = load(checkpoints[f"{family}_local"])
        task, model = ours["task_cfg"], ours["model_cfg"]
        task_name = "hubert_pretraining" if family == "hubert" else "audio_pretraining"
        state = {
            "args": None,
            "cfg": None,
            "model": ours["model_weight"],
            "criterion": None,
            "optimizer_history": [{"num_updates": 4, "lr_scheduler_state": {}}],
            "task_state": {},
            "extra_state": {"epoch": 1, "best": 2.5},
            "last_optimizer_state": {"state": {0: torch.ones(5)}},
        }
        if family == "hubert":
            symbols = ours["dictionaries_symbols"]
            state["task_state"]["dictionaries"] = [Dictionary(s) for s in symbols]
        if by == "cfg":
            state["cfg"] = dict(
                _name=None,
                common=dict(fp16=True, seed=1),
                task=dict(task, _name=task_name, data="/data", labels=["km"]),
                model=dict(model, _name=MODELS[family], latent_temp=[2, 0.5, 0.9]),
            )
        else:
            state["args"] = argparse.Namespace(
                arch=MODELS[family],
                task=task_name,
                latent_temp="(2, 0.5, 0.999995)",
                labels=["km"],
                lr=[0.1],
                **{**task, **model},
            )
        state.update(changes)
        path = tmp_path / (name or f"{family}_{by}.pt")
        with fairseq_installed():
            torch.save(state, path, _use_new_zipfile_serialization=not legacy)
        return path

    return write


def run_command_of(message: str) -> Path:
    """Run the conversion that a message gives; returns the file that it names."""
    command = message[message.index("python -m espnet_mtkd.bin") :]
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "espnet_mtkd.bin.mtkd_convert_checkpoint"]
    mtkd_convert_checkpoint.main(words[3:])
    named = re.search(r"then name (\S+) with upstream: (\w+_local)", message)
    assert named[2] in words and named[1] in words
    return Path(named[1])


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch1.5"])
@pytest.mark.parametrize("by", ["cfg", "args"])
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.remedy(
    "expected for upstream",
    "Convert it, then name",
)
def test_fairseqs_checkpoint_is_named_and_its_remedy_gives_the_same_teacher(
    as_fairseq, checkpoints, family, by, legacy
):
    path = as_fairseq(family, by, legacy=legacy)
    message = message_of(path, f"{family}_local")
    assert f"{path}: expected for upstream '{family}_local' a dict with " in message
    assert f"fairseq ({by} and model, of {MODELS[family]})" in message
    assert ("with objects of fairseq's own" in message) == (family == "hubert")
    converted = run_command_of(message)
    found = hidden_states(converted, f"{family}_local")
    expected = hidden_states(checkpoints[f"{family}_local"], f"{family}_local")
    assert len(found) == builders.NUM_LAYERS + 1
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [p for p in path.parent.iterdir() if p.name.endswith(".tmp")] == []


@pytest.mark.parametrize("asked", UPSTREAMS)
def test_the_remedy_names_the_upstream_of_the_model_not_of_the_mistake(
    as_fairseq, asked
):
    message = message_of(as_fairseq("wav2vec2"), asked)
    assert "with upstream: wav2vec2_local" in message
    assert len(hidden_states(run_command_of(message), "wav2vec2_local")) == 5


@pytest.mark.parametrize("family", MODELS)
def test_a_conversion_has_the_keys_and_values_of_s3prls_own(
    as_fairseq, checkpoints, tmp_path, family
):
    """s3prl's converter runs for real, over what it needs of fairseq."""
    from omegaconf import OmegaConf

    def load_checkpoint_to_cpu(path, arg_overrides):
        state = torch.load(path, weights_only=False)
        return {**state, "cfg": OmegaConf.create(state["cfg"])}

    model = load(checkpoints[f"{family}_local"])["model_cfg"]
    cfg = dict(
        _name=None,
        common=dict(fp16=True, amp=None),
        task=dict(_name="t", sample_rate=16000, normalize=False, labels=["km"], a=(1,)),
        model=dict(model, _name=MODELS[family], nested=dict(x=[1, (2, None)], y=True)),
    )
    path = as_fairseq(family, cfg=cfg)
    import_s3prl_hub()
    theirs = importlib.import_module(f"s3prl.upstream.{family}.convert")
    with fairseq_installed(load_checkpoint_to_cpu):
        theirs.load_and_convert_fairseq_ckpt(path, tmp_path / "theirs.pt")
    command = f"--checkpoint {path} --upstream {family}_local --out {tmp_path}/our.pt"
    mtkd_convert_checkpoint.main(command.split())
    found, expected = load(tmp_path / "our.pt"), load(tmp_path / "theirs.pt")
    assert list(found) == list(expected)
    weights = found.pop("model_weight"), expected.pop("model_weight")
    assert found == expected
    assert list(weights[0]) == list(weights[1])
    for key, tensor in weights[1].items():
        assert torch.equal(weights[0][key], tensor)
        assert weights[0][key].dtype == tensor.dtype


def test_flat_arguments_are_taken_as_fairseq_takes_them(as_fairseq, tmp_path):
    """A text becomes the numbers that it was; what s3prl has no field for is left."""
    path, out = as_fairseq("wav2vec2", "args"), tmp_path / "out.pt"
    main = mtkd_convert_checkpoint.main
    main(f"--checkpoint {path} --upstream wav2vec2_local --out {out}".split())
    found = load(out)
    assert found["task_cfg"] == dict(
        _name="audio_pretraining", sample_rate=16000, normalize=True
    )
    model = found["model_cfg"]
    assert model["_name"] == "wav2vec2"
    assert model["latent_temp"] == [2, 0.5, 0.999995]
    assert model["conv_feature_layers"] == builders.CONV  # a text, there too
    assert model["layer_norm_first"] is True
    assert not {"lr", "labels", "arch", "task"} & set(model)


def converter(*words) -> str:
    """The message that the conversion ends with."""
    buffer = io.StringIO()
    with pytest.raises(SystemExit) as end, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", buffer)
        mtkd_convert_checkpoint.main([str(x) for x in words])
    assert end.value.code == 2
    return buffer.getvalue()


def test_what_is_not_converted_is_refused_with_the_reason(
    as_fairseq, checkpoints, tmp_path
):
    out = tmp_path / "out.pt"

    def refusal(path, upstream="hubert_local", to=out):
        return converter("--checkpoint", path, "--upstream", upstream, "--out", to)

    own = "python -m s3prl.upstream.hubert.convert"
    path = as_fairseq("hubert")
    assert "expected hubert_local" in refusal(path, "wav2vec2_local")
    assert "another file than the checkpoint" in refusal(path, to=path)
    assert "no such file" in refusal(tmp_path / "missing.pt")
    converted = refusal(checkpoints["hubert_local"])
    assert "from s3prl's converter. Name the upstream that reads it" in converted
    assert "Whisper model of OpenAI's" in refusal(checkpoints["whisper_openai"])
    assert own in refusal(as_fairseq("hubert", cfg=dict(model=dict(_name="hubert"))))
    weights = load(checkpoints["hubert_local"])["model_weight"]
    weights.pop("encoder.layer_norm.weight")
    message = refusal(as_fairseq("hubert", model=weights))
    assert own in message and "encoder.layer_norm.weight" in message
    two = dict(task=dict(labels=["a", "b"]), model=dict(_name="hubert"))
    message = refusal(as_fairseq("hubert", cfg=two, task_state={}))
    assert "expected task_state with 2 dictionaries" in message
    shutil.rmtree(tmp_path / "no", ignore_errors=True)
    (tmp_path / "no").write_text("a file where a folder is needed")
    assert "--out" in refusal(path, to=tmp_path / "no/out.pt")
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.remedy(
    "convert it where fairseq is installed",
    "The other way is s3prl",
)
def test_s3prls_own_converters_that_messages_name_are_commands(
    family, monkeypatch, capsys
):
    """As far as they run here: up to their options, the rest needs fairseq."""
    import_s3prl_hub()
    monkeypatch.setattr(sys, "argv", ["convert.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"s3prl.upstream.{family}.convert", run_name="__main__")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "fairseq_ckpt" in text and "--output_dir OUTPUT_DIR" in text


def test_what_the_conversion_adds_or_leaves_out_is_said(
    as_fairseq, checkpoints, tmp_path, capsys
):
    """Without its dictionary a HuBERT is the same; a head of data2vec is not read."""
    main = mtkd_convert_checkpoint.main
    path = as_fairseq("hubert", task_state={})
    out = tmp_path / "new/folder/out.pt"
    main(f"--checkpoint {path} --upstream hubert_local --out {out}".split())
    assert "note: its dictionary is not in it" in capsys.readouterr().out
    assert load(out)["dictionaries_symbols"] == [["0", "1", "2"]]
    expected = hidden_states(checkpoints["hubert_local"], "hubert_local")
    found = hidden_states(out, "hubert_local")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    weights = load(checkpoints["data2vec_local"])["model_weight"]
    path = as_fairseq(
        "data2vec", model={**weights, "final_proj.0.weight": weights["_ema"]}
    )
    main(f"--checkpoint {path} --upstream data2vec_local --out {out}".split())
    assert "note: left out: final_proj.0.weight" in capsys.readouterr().out
    assert list(load(out)["model_weight"]) == list(weights)
    expected = hidden_states(checkpoints["data2vec_local"], "data2vec_local")
    found = hidden_states(out, "data2vec_local")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_fine_tuned_and_other_models_of_fairseq_are_told_from_pretrained_ones(
    as_fairseq, checkpoints
):
    weights = load(checkpoints["wav2vec2_local"])["model_weight"]
    tuned = {f"w2v_encoder.w2v_model.{k}": v for k, v in weights.items()}
    for cfg in (dict(model=dict(_name="wav2vec_ctc")), dict(model={})):
        path = as_fairseq("wav2vec2", cfg=cfg, model=tuned)
        message = message_of(path, "wav2vec2_local")
        assert "hubert, wav2vec2, data2vec_audio can be converted, as they were" in (
            message
        )
    path = as_fairseq("wav2vec2", cfg=dict(model=dict(_name="transformer")))
    assert "of transformer)" in message_of(path)
    # Without a name the weights tell.
    assert "of hubert)" in message_of(as_fairseq("hubert", cfg=None))


def test_extra_conf_that_asks_for_fairseq_is_answered(as_fairseq, checkpoints):
    keys = dict(extra_conf=dict(fairseq=True))
    assert "Convert it" in message_of(as_fairseq("hubert"), **keys)
    message = message_of(checkpoints["hubert_local"], **keys)
    assert "Leave it out of extra_conf" in message
    path = str(as_fairseq("hubert"))
    with fairseq_installed():  # s3prl lets it read the file
        check_files(TeacherConfig("t", "hubert_local", path_or_url=path, **keys))


# ------------------------------------------------------------- damaged files

LFS = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 378000000\n"
)
PAGE = "\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"


@pytest.mark.parametrize("upstream", [*UPSTREAMS, "whisper_local", "tera_local"])
@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "an empty file (0 bytes). Download or copy it again"),
        (LFS.encode(), "a pointer of Git LFS, not the file itself (378.0 MB)"),
        (PAGE.encode(), "a web page (HTML or XML) with the title 'Sign in'"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page (HTML"),
        (b"\0" * 3000, "its first bytes are zero"),
    ],
)
def test_what_no_upstream_reads_is_named(tmp_path, upstream, content, what):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    message = message_of(path, upstream)
    assert f"{path}: expected for upstream '{upstream}' " in message
    assert what in message


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="git-lfs is not installed")
@pytest.mark.remedy(
    "Fetch it: cd {} && git lfs",
)
def test_the_remedy_of_a_pointer_fetches_the_file(tmp_path, checkpoints):
    def git(*words, cwd=tmp_path / "a"):
        subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True)

    (tmp_path / "a").mkdir()
    git("init")
    git("lfs", "install", "--local")
    git("lfs", "track", "*.pt")
    shutil.copy(checkpoints["hubert_local"], tmp_path / "a/model.pt")
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "model")
    git("clone", "a", "b", cwd=tmp_path)
    path = tmp_path / "b/model.pt"
    command = re.search(r"Fetch it: (.*)", message_of(path))[1]
    subprocess.run(command, shell=True, check=True)
    assert len(hidden_states(path, "hubert_local")) == 5


def files_of(checkpoints, tmp_path) -> dict[str, Path]:
    """Whole files of all three forms that hold tensors."""
    legacy = tmp_path / "legacy.pt"
    state = load(checkpoints["hubert_local"])
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    return dict(
        zip=checkpoints["hubert_local"],
        legacy=legacy,
        safetensors=checkpoints["whisper_local"] / "model.safetensors",
    )


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_cut_file_is_told_from_a_whole_one_wherever_it_was_cut(
    checkpoints, tmp_path, form
):
    whole = files_of(checkpoints, tmp_path)[form].read_bytes()
    assert inspect(files_of(checkpoints, tmp_path)[form]).kind != DAMAGED
    path = tmp_path / "cut"
    steps = [*range(16, 4000, 331), *range(4000, len(whole), len(whole) // 60)]
    for size in [*steps, len(whole) - 9, len(whole) - 1]:
        path.write_bytes(whole[:size])
        found = inspect(path)
        assert found.kind == DAMAGED, (size, found)
        assert found.what.startswith("cut or damaged"), (size, found)
        assert "compare its size" in found.remedy


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_zeros_at_the_end_as_a_full_disk_leaves_them_are_seen(
    checkpoints, tmp_path, form
):
    whole = files_of(checkpoints, tmp_path)[form].read_bytes()
    path = tmp_path / "zeros"
    least = 200 if form == "zip" else 8192
    for num in (least, 10000, len(whole) // 3, len(whole) - 2000):
        path.write_bytes(whole[:-num] + bytes(num))
        found = inspect(path)
        assert found.kind == DAMAGED, (num, found)
        assert re.search(r"last \d+ bytes are zero", found.what)


def test_of_a_large_matrix_a_page_of_zeros_at_the_end_is_enough(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    for tensor, damaged in (
        (torch.ones(100, 100), False),
        (torch.cat([torch.ones(95, 100), torch.zeros(5, 100)]), False),
        (torch.cat([torch.ones(85, 100), torch.zeros(15, 100)]), True),
        (torch.zeros(100, 100), True),
        (torch.zeros(10000), False),  # a bias
        (torch.zeros(2, 3), False),
    ):
        save_file({"feature_projection.x": tensor}, path)
        assert (inspect(path).kind == DAMAGED) == damaged, tensor.shape


def test_the_smallest_zero_ends_and_holes_over_a_tensors_header_are_seen(
    checkpoints, tmp_path
):
    files = files_of(checkpoints, tmp_path)
    path = tmp_path / "zeros"
    whole = files["zip"].read_bytes()
    for num in (*range(1, 30, 3), 60, 98, 150):
        path.write_bytes(whole[:-num] + bytes(num))
        try:
            load(path)
        except Exception:
            assert inspect(path).kind == DAMAGED, num
        else:
            assert num < 20  # of the list's end, which stands there twice
    with zipfile.ZipFile(files["zip"]) as archive:
        begin = archive.getinfo(archive.namelist()[9]).header_offset
    path.write_bytes(whole[:begin] + bytes(20) + whole[begin + 20 :])
    assert "should begin" in inspect(path).what
    whole = files["legacy"].read_bytes()
    size = struct.pack("<q", 16 * 16)  # before each matrix of that shape
    begin = whole.rindex(size)
    path.write_bytes(whole[:begin] + bytes(8) + whole[begin + 8 :])
    assert "do not begin where they should" in inspect(path).what


def test_a_teacher_of_a_cut_checkpoint_says_so(checkpoints, tmp_path):
    path = tmp_path / "cut.pt"
    whole = checkpoints["hubert_local"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut or damaged" in message_of(path)
    folder = tmp_path / "whisper"
    shutil.copytree(checkpoints["whisper_local"], folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-100], whole[:-20000] + bytes(20000), LFS.encode()):
        weights.write_bytes(content)
        message = message_of(folder, "whisper_local")
        assert re.search(
            "model.safetensors in it is (cut|a pointer of Git LFS)", message
        )
    weights.write_bytes(whole)
    assert len(hidden_states(folder, "whisper_local")) == 5


def test_a_file_that_may_not_be_read_and_its_remedy(checkpoints):
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        folder.chmod(0o755)
        path = folder / "model.pt"
        shutil.copy(checkpoints["hubert_local"], path)
        path.chmod(0)
        config = TeacherConfig("t", "hubert_local", path_or_url=str(path))
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may read all
        try:
            with pytest.raises(ConfigError, match="permission denied") as error:
                check_files(config)
            command = re.search(r"chmod \S+ \S+", str(error.value))[0]
            if user == 0:
                os.seteuid(0)
            subprocess.run(shlex.split(command), check=True)
            if user == 0:
                os.seteuid(65534)
            check_files(config)
        finally:
            os.seteuid(user)
    finally:
        shutil.rmtree(folder)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe or a device" in message_of(tmp_path / "pipe")


# ------------------------------------------------------------- other forms


ONE_FILE = dict(gzip=gzip, bz2=bz2, xz=lzma)


@pytest.mark.parametrize("kind", [*ONE_FILE, "tar", "tar.gz", "zip"])
def test_an_archive_is_unpacked_by_the_command_that_its_message_gives(
    checkpoints, tmp_path, kind
):
    source = checkpoints["hubert_local"]
    path = tmp_path / f"packed file.{kind}"
    if kind in ONE_FILE:
        path.write_bytes(ONE_FILE[kind].compress(source.read_bytes()))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(source, "in/model.pt")
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(source, "in/model.pt")
    while True:
        message = message_of(path)
        command = re.search(r"name what is in it: (.*)", message)[1]
        if not shutil.which(command.split()[0]):
            pytest.skip(f"{command.split()[0]} is not installed")
        assert str(path) in command
        before = set(tmp_path.rglob("*.pt"))
        subprocess.run(command, shell=True, check=True, capture_output=True)
        (path,) = set(tmp_path.rglob("*.pt")) - before
        if not tarfile.is_tarfile(path):
            break  # tar.gz: the second step
    assert len(hidden_states(path, "hubert_local")) == 5


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """Model type -> a tiny random model as `transformers` saves it."""
    import transformers as tr

    sizes = dict(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        vocab_size=8,
    )
    kinds = {
        "hubert": (tr.HubertConfig, tr.HubertModel),
        "wav2vec2": (tr.Wav2Vec2Config, tr.Wav2Vec2Model),
        "wavlm": (tr.WavLMConfig, tr.WavLMModel),
        "data2vec": (tr.Data2VecAudioConfig, tr.Data2VecAudioModel),
    }
    folders = {}
    for name, (config, model) in kinds.items():
        folders[name] = tmp_path_factory.mktemp("hf") / name
        model(config(**sizes)).save_pretrained(folders[name])
        tr.Wav2Vec2FeatureExtractor().save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("family", ["hubert", "wav2vec2"])
def test_a_directory_of_hugging_face_is_read_by_the_upstream_named(
    hugging_face, tmp_path, family
):
    folder = tmp_path / "model"
    shutil.copytree(hugging_face[family], folder)
    message = message_of(folder)
    assert f"a Hugging Face directory of a {family} model" in message
    upstream = re.search(r"upstream: (\w+)", message)[1]
    assert upstream == f"hf_{family}_custom"
    assert len(hidden_states(folder, upstream)) == 5
    # What is missing for it is said at once, and again by it.
    extractor = folder / "preprocessor_config.json"
    kept = extractor.read_bytes()
    extractor.unlink()
    for name in ("hubert_local", upstream):
        message = message_of(folder, name)
        assert "without preprocessor_config.json. Fetch" in message
    extractor.write_bytes(kept)
    assert len(hidden_states(folder, upstream)) == 5


def test_a_wavlm_directory_is_not_taken_for_a_hubert(hugging_face):
    """`transformers` would load it, without what makes it a WavLM."""
    from transformers import HubertModel

    assert HubertModel.from_pretrained(hugging_face["wavlm"])
    for upstream in ("hf_hubert_custom", "wavlm_local"):
        message = message_of(hugging_face["wavlm"], upstream)
        assert "found a Hugging Face directory of a wavlm model" in message
        assert "upstream: wavlm_base_plus or wavlm_large" in message
    names = set(import_s3prl_hub().options())
    message = message_of(hugging_face["data2vec"], "data2vec_local")
    named = re.search(r"of its own: upstream: (.*)", message)[1].split(" or ")
    assert {*named, "wavlm_base_plus", "wavlm_large"} <= names
    assert {"unispeech_sat_base_plus", "unispeech_sat_large"} <= names


@pytest.mark.parametrize("form", ["safetensors", "bin", "old bin"])
@pytest.mark.parametrize("family", ["hubert", "wav2vec2"])
@pytest.mark.remedy(
    "Put it as {} into a directory",
)
def test_weights_of_hugging_face_given_alone_lead_to_a_directory(
    hugging_face, tmp_path, family, form
):
    source = hugging_face[family] / "model.safetensors"
    beside = tmp_path / "beside"
    shutil.copytree(hugging_face[family], beside)
    alone = tmp_path / "alone.bin"
    if form == "safetensors":
        weights = beside / "model.safetensors"
    else:
        from safetensors.torch import load_file

        (beside / "model.safetensors").unlink()
        weights = beside / "pytorch_model.bin"
        is_zip = form == "bin"
        state = load_file(source)
        torch.save(state, weights, _use_new_zipfile_serialization=is_zip)
    shutil.copy(weights, alone)
    message = message_of(weights)
    assert "of Hugging Face's" in message
    upstream, path = re.search(r"upstream: (\w+), path_or_url: (\S+)", message).groups()
    assert (upstream, path) == (f"hf_{family}_custom", str(beside))
    assert len(hidden_states(path, upstream)) == 5

    message = message_of(alone)
    name = re.search(r"Put it as (\S+) into a directory", message)[1]
    upstreams = re.search(r"name that: upstream: (.*)", message)[1].split(" or ")
    assert f"hf_{family}_custom" in upstreams
    made = tmp_path / "made"
    made.mkdir()
    shutil.copy(alone, made / name)
    for other in ("config.json", "preprocessor_config.json"):
        shutil.copy(hugging_face[family] / other, made)
    assert len(hidden_states(made, f"hf_{family}_custom")) == 5


@pytest.mark.remedy(
    "Fetch config.json and preprocessor_config.json",
)
def test_a_directory_without_its_config_asks_for_it(hugging_face, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(hugging_face["hubert"], folder)
    (folder / "config.json").unlink()
    message = message_of(folder)
    assert "a directory with model.safetensors but without config.json" in message
    assert "Fetch config.json" in message
    (folder / "config.json").write_text('{"model_type": "hub')
    assert "config.json is no whole JSON file" in message_of(folder)


@pytest.mark.remedy(
    "Name the file: path_or_url",
)
def test_a_directory_where_a_file_is_needed_names_the_file(checkpoints, tmp_path):
    shutil.copy(checkpoints["hubert_local"], tmp_path / "hubert.pt")
    message = message_of(tmp_path)
    assert "a directory with hubert.pt in it" in message
    path = re.search(r"path_or_url: (\S+hubert.pt)", message)[1]
    assert len(hidden_states(path, "hubert_local")) == 5
    (tmp_path / "empty").mkdir()
    assert "found an empty directory" in message_of(tmp_path / "empty")


@pytest.mark.remedy(
    "Name its directory",
)
def test_a_file_where_a_directory_is_needed_names_the_directory(checkpoints):
    path = checkpoints["whisper_local"] / "model.safetensors"
    for upstream in ("whisper_local", "hubert_local"):
        message = message_of(path, upstream)
        named = re.search(r"upstream: (\w+), path_or_url: (\S+)", message).groups()
        assert named == ("whisper_local", str(checkpoints["whisper_local"]))


@pytest.mark.parametrize("form", ["bin", "shards"])
@pytest.mark.remedy(
    "Write it anew, then name",
)
def test_a_whisper_directory_of_another_layout_is_written_anew_by_the_command(
    checkpoints, tmp_path, form
):
    from transformers import WhisperModel

    folder = tmp_path / "whisper"
    model = WhisperModel.from_pretrained(checkpoints["whisper_local"])
    if form == "bin":
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder, max_shard_size="100KB")
    message = message_of(folder, "whisper_local")
    assert "in place of model.safetensors" in message
    whole, code = re.search(r"then name (\S+): python -c (.*)", message).groups()
    subprocess.run(
        [sys.executable, "-c", *shlex.split(code)], check=True, capture_output=True
    )
    found = hidden_states(whole, "whisper_local")
    expected = hidden_states(checkpoints["whisper_local"], "whisper_local")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


OF_FILES = {**{u: u for u in UPSTREAMS}, "whisper_openai": "whisper_local"}


@pytest.mark.parametrize("given", OF_FILES)
@pytest.mark.parametrize("asked", [*UPSTREAMS, "whisper_local"])
@pytest.mark.remedy(
    "Name the upstream that reads it",
)
def test_a_checkpoint_of_another_upstream_leads_to_that_one(checkpoints, given, asked):
    path = checkpoints[given]
    if OF_FILES[given] == asked:
        assert len(hidden_states(path, asked)) == 5
        return
    message = message_of(path, asked)
    if asked == "hubert_local":
        assert HUBERT in message
    upstream = re.search(r"that reads it: upstream: (\w+)", message)[1]
    assert upstream == OF_FILES[given]
    assert len(hidden_states(path, upstream)) == 5


def test_an_espnet_model_leads_to_the_upstreams_that_read_it(tmp_path):
    from espnet2.tasks.asr import ASRTask

    config = {
        **ASRTask.get_default_config(),
        **builders.asr_config("conformer"),
        "token_list": ["<blank>", "<unk>", "A", "<sos/eos>"],
        "token_type": "char",
    }
    model = ASRTask.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), tmp_path / "valid.loss.ave.pth")
    builders.write_yaml(tmp_path / "config.yaml", config)
    state = dict(model=model.state_dict(), reporter={}, optimizers=[], schedulers=[])
    torch.save(state, tmp_path / "checkpoint.pth")
    for path, what in (
        (tmp_path / "valid.loss.ave.pth", "the weights of an ESPnet model"),
        (tmp_path / "checkpoint.pth", "the state of an ESPnet training"),
        (tmp_path, "the directory of an ESPnet training"),
    ):
        message = message_of(path)
        assert what in message
        named = re.findall(r"upstream: (\w+), path_or_url: (\S+)", message)
        assert dict(named) == dict.fromkeys(
            ("espnet_local", "mtkd_student"), str(tmp_path)
        )
    for upstream, where in named:
        teacher = S3PRLTeacher(TeacherConfig("t", upstream, path_or_url=where))
        assert teacher.num_layers == 3


@pytest.mark.parametrize(
    "value, what",
    [
        ({"state_dict": {}, "epoch": 3}, "the top-level keys state_dict, epoch"),
        ({"a\x1b[31m\n": {}, "b": 1}, "the top-level keys a?[31m?, b"),
        ({"x.weight": torch.ones(2)}, "weights without a config"),
        ({}, "the top-level keys (none)"),
        ([torch.ones(2)], "a pickle of list, not of a dict"),
        ({str(i): i for i in range(99)}, "11, ..."),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_of_an_unknown_one_the_top_level_keys_are_told(tmp_path, value, what, legacy):
    path = tmp_path / "unknown.pt"
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    assert what in message_of(path)


@pytest.mark.parametrize(
    "content, what",
    [
        (b"Entry not found", "a text file that begins with 'Entry not found'"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a binary file that begins with 52 49 46 46"),
        (pickle.dumps({"a": 1}), "the top-level keys a"),
        (pickle.dumps({"a": 1}, 2), "the top-level keys a"),
        (b'{"error": "denied"}', "a text file that begins with"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, content, what):
    path = tmp_path / "unknown.pt"
    path.write_bytes(content)
    assert what in message_of(path)


# ------------------------------------------------------------- whole ones pass


@pytest.mark.parametrize("upstream", [*UPSTREAMS, "whisper_local", "whisper_openai"])
def test_a_whole_checkpoint_passes_unread(checkpoints, tmp_path, upstream):
    """By what the system counts, no tensor data are read."""
    path = checkpoints[upstream]
    config = TeacherConfig("t", OF_FILES.get(upstream, upstream), path_or_url=str(path))
    check_files(config)
    if path.is_dir():
        return
    state = load(path)
    weights = state.get("model_weight") or state.get("model_state_dict")
    (weights or state["model"])["large"] = torch.ones(20_000_000)  # 80 MB
    for legacy in (False, True):
        large = tmp_path / "large.pt"
        torch.save(state, large, _use_new_zipfile_serialization=not legacy)
        config = TeacherConfig("t", config.upstream, path_or_url=str(large))
        before = bytes_read()
        check_files(config)
        assert bytes_read() - before < 2_000_000


def bytes_read() -> int:
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def test_other_ways_to_write_the_same_pass(checkpoints, tmp_path):
    """Without checksums; packed anew by zip; by an older torch; with other types."""
    state = load(checkpoints["hubert_local"])
    expected = hidden_states(checkpoints["hubert_local"], "hubert_local")
    path = tmp_path / "same.pt"

    def check():
        found = hidden_states(path, "hubert_local")
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    check()
    torch.save(state, path, _use_new_zipfile_serialization=False)
    check()
    weights = collections.OrderedDict(state["model_weight"])
    weights = {
        k: torch.nn.Parameter(v, v.is_floating_point()) for k, v in weights.items()
    }
    others = [torch.zeros(1, dtype=t) for t in (torch.bfloat16, torch.int8, torch.bool)]
    others += [{1, 2}, b"x", 1j, torch.Size([1]), torch.device("cpu"), torch.float16]
    others += [collections.OrderedDict(a=1), (1, (2,)), 2**80]
    torch.save({**state, "model_weight": weights, "others": others}, path)
    check()


def test_names_taken_as_plain_are_those_of_torch():
    allowed = torch._weights_only_unpickler._get_allowed_globals()
    assert {*pickles.PLAIN} <= {*allowed}
    # and every type of a tensor's data is among them
    for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.complex64):
        buffer = io.BytesIO()
        torch.save([torch.zeros(2, dtype=dtype), dtype], buffer)
        with zipfile.ZipFile(buffer) as archive:
            data = archive.read("archive/data.pkl")
        assert pickles.read_pickle(io.BytesIO(data)).names <= pickles.PLAIN


PLAIN_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda x: (
        st.lists(x, max_size=5)
        | st.lists(x, max_size=5).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**62), 2**62), x, max_size=5)
    ),
    max_leaves=20,
)


@given(PLAIN_VALUES, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_a_pickle_that_is_only_read_has_the_values_of_one_that_is_loaded(
    value, protocol
):
    data = pickle.dumps([value, value], protocol)
    file = io.BytesIO(data + b"rest")
    found = pickles.read_pickle(file)
    assert file.read() == b"rest"
    assert found.names <= {"_codecs.encode", "builtins.bytes"}  # of bytes, up to 2
    if not found.names:
        assert found.value == [value, value]


@given(st.binary(max_size=200), st.integers(0, 400), st.data())
def test_bytes_of_any_kind_end_in_a_value_or_a_known_error(noise, at, data):
    whole = pickle.dumps({"a": [1, (2, "x"), {"b": None}], "c": print}, 2)
    at = at % len(whole)
    end = data.draw(st.integers(at, len(whole)))
    try:
        pickles.read_pickle(io.BytesIO(whole[:at] + noise + whole[end:]))
    except pickles.MALFORMED:
        pass


def test_a_pickle_made_to_take_for_ever_does_not(tmp_path):
    """Tuples of tuples, 2 ** 200 leaves, as a key, as a name, as data."""
    tower = b"\x80\x02K\x01" + b"2\x86" * 200
    for rest in (b"q\x00}h\x00K\x01s.", b"q\x00h\x00\x93.", b"Q.", b"K\x00R."):
        path = tmp_path / "tower.pt"
        path.write_bytes(tower + rest)
        assert str(path) in message_of(path)
    path.write_bytes(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    assert "a pickle of list" in message_of(path)


# ------------------------------------------------------------- nothing is run


class Evil:
    """Loading it writes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def evil_files(folder: Path, target: Path, checkpoints) -> dict[str, Path]:
    """Name -> a checkpoint that is code; some of the right form otherwise."""
    good = load(checkpoints["hubert_local"])
    values = {
        "alone": Evil(target),
        "as symbols": {**good, "dictionaries_symbols": [[Evil(target)]]},
        "as weights": {**good, "model_weight": Evil(target)},
        "in weights": {**good, "model_weight": {"x": Evil(target)}},
        "as a key": {**good, "others": {("x", Evil(target)): 1}},
        "of fairseq": {
            "args": None,
            "cfg": {"model": {"_name": "hubert"}, "task": {}},
            "model": good["model_weight"],
            "extra_state": Evil(target),
        },
    }
    paths = {}
    for name, value in values.items():
        for legacy in (False, True):
            path = folder / f"{name} {legacy}.pt"
            torch.save(value, path, _use_new_zipfile_serialization=not legacy)
            paths[path.stem] = path
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            path = folder / f"{name} by pickle {protocol}.pt"
            path.write_bytes(pickle.dumps(value, protocol))
            paths[path.stem] = path
    return paths


@pytest.mark.parametrize("forced", [False, True])
def test_code_in_a_checkpoint_is_refused_by_us_and_not_run(
    checkpoints, tmp_path, monkeypatch, forced
):
    """Also where torch is told to load code, as s3prl's torch.load then would."""
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    target = tmp_path / "written"
    files = evil_files(tmp_path, target, checkpoints)
    assert len(files) == 6 * 8
    for name, path in files.items():
        for upstream in ("hubert_local", "wav2vec2_local", "hubert_custom"):
            message = message_of(path, upstream)
            assert not target.exists(), name
            assert "s3prl could not load" not in message, name
            assert "expected for upstream" in message, name
            if "pickle 0" not in name and "pickle 1" not in name:
                assert "posix.mkdir" in message, (name, message)
                assert "nothing was run" in message
        options = "--upstream", "hubert_local", "--out", tmp_path / "out.pt"
        converter("--checkpoint", path, *options)
        assert not target.exists(), name
    assert not (tmp_path / "out.pt").exists()
    # The files do what they are said to do.
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
        torch.load(files["as symbols False"], weights_only=False)
    assert target.exists()


def test_the_conversion_loads_no_code_even_unchecked(checkpoints, tmp_path):
    target = tmp_path / "written"
    for name, path in evil_files(tmp_path, target, checkpoints).items():
        with pytest.raises(convert._Refused):
            convert._load(path)
        assert not target.exists(), name


def test_torch_itself_refuses_code_where_nobody_says_otherwise(checkpoints, tmp_path):
    """What s3prl relies on: it calls torch.load without weights_only."""
    target = tmp_path / "written"
    for name, path in evil_files(tmp_path, target, checkpoints).items():
        with pytest.raises(Exception, match="(?i)weights.only|unpickl|magic"):
            torch.load(path)
        assert not target.exists(), name


def test_no_message_advises_to_run_code_of_unknown_origin(checkpoints, tmp_path):
    files = evil_files(tmp_path, tmp_path / "written", checkpoints)
    message = message_of(files["of fairseq False"])
    assert "fairseq" in message and "do not load it" in message
    assert "python -m" not in message


def test_other_objects_of_a_fairseq_training_lead_to_s3prls_converter(
    as_fairseq, tmp_path
):
    from omegaconf import OmegaConf

    cfg = OmegaConf.create(dict(model=dict(_name="hubert"), task=dict(a=1)))
    message = message_of(
        as_fairseq("hubert", cfg=dict(model=dict(_name="hubert"), x=cfg))
    )
    assert "omegaconf.base.Metadata" in message
    assert "python -m s3prl.upstream.hubert.convert" in message


# ------------------------------------------------------------- every way in


def test_every_command_says_it_before_it_begins(
    as_fairseq, checkpoints, corpus, stage1_command, tmp_path, capsys
):
    from espnet_mtkd.bin import mtkd_doctor, mtkd_extract, mtkd_preflight, mtkd_train
    from espnet_mtkd.transducer.frontend import TeacherFrontend

    path = as_fairseq("hubert")
    teachers = builders.write_yaml(
        tmp_path / "teachers.yaml",
        [
            dict(
                name="whisper",
                upstream="whisper_local",
                path_or_url=str(checkpoints["whisper_local"]),
            ),
            dict(name="hubert", upstream="hubert_local", path_or_url=str(path)),
        ],
    )
    data, out = str(corpus.train), tmp_path / "out"
    commands = [
        (mtkd_doctor, ["--teachers", str(teachers)]),
        (mtkd_preflight, ["--teachers", str(teachers)]),
        (
            mtkd_extract,
            ["--teachers", str(teachers), "--data_dir", data, "--out_dir", str(out)],
        ),
        (mtkd_train, stage1_command(out, teachers)),
    ]
    for command, words in commands:
        with pytest.raises(SystemExit) as end:
            command.main(words)
        assert end.value.code == 2, command
        text = capsys.readouterr().err
        assert f"error: teacher 'hubert': path_or_url: {path}: expected" in text
        assert "Convert it" in text
    with pytest.raises(ConfigError, match="Convert it"):
        TeacherFrontend("hubert_local", path_or_url=str(path))


def test_every_upstream_that_is_named_is_there():
    names = set(import_s3prl_hub().options())
    for family in FORMS:
        ending = "custom" if family.startswith("hf_") else "local"
        assert f"{family}_{ending}" in names


def test_a_hub_name_or_url_is_left_to_those_that_fetch_it():
    for upstream, path in (
        ("hf_hubert_custom", "facebook/hubert-base-ls960"),
        ("hubert_url", "https://example.org/model.pt"),
    ):
        check_files(TeacherConfig("t", upstream, path_or_url=path))


def test_broken_safetensors_headers_are_damage(tmp_path):
    path = tmp_path / "model.safetensors"
    for header in (b"[1, 2]", b'{"a": 1}', b'{"a": {"shape": [1]}}', b"{" * 5000):
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        message = message_of(path)
        assert "cut or damaged" in message or "binary file" in message
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "its tensors need" in message_of(path)


# ------------------------------------------------------------- what s3prl lets run


def old_form(path: Path, value) -> Path:
    """A checkpoint in the form of s3prl's own Mockingjay and DistilHuBERT."""
    torch.save({"Config": {}, "Upstream_Config": {}, "Transformer": value}, path)
    return path


@pytest.mark.remedy(
    "if you trust whoever made it: export {}=1", "whose loading would run code"
)
@pytest.mark.parametrize("family", ["tera", "mockingjay", "distiller"])
@pytest.mark.parametrize("trusts", [False, True])
def test_upstreams_that_s3prl_loads_with_code(tmp_path, monkeypatch, family, trusts):
    """By weights_only=False; what fails behind it is another matter."""
    from espnet_mtkd.teachers.s3prl import S3PRLTeacher

    own = torch.load
    if trusts:
        monkeypatch.setenv("MTKD_TRUST_CHECKPOINTS", "1")
    path = old_form(tmp_path / "model.ckpt", Evil(tmp_path / "written"))
    with pytest.raises(ConfigError) as error:
        S3PRLTeacher(TeacherConfig("t", f"{family}_local", path_or_url=str(path)))
    assert (tmp_path / "written").exists() == trusts
    assert ("would run code: nothing was run" in str(error.value)) == (not trusts)
    assert torch.load is own
