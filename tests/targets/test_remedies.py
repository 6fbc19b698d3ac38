"""What messages about stored targets say to do, done as it stands there."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import builders
import numpy as np
import pytest
import soundfile
import torch

from espnet_mtkd.bin import mtkd_doctor, mtkd_extract
from espnet_mtkd.errors import DataError, TargetStoreError
from espnet_mtkd.targets import writer
from espnet_mtkd.targets.embeddings import read_audio
from espnet_mtkd.targets.plan import Utterance
from espnet_mtkd.targets.store import MANIFEST, TargetStore
from espnet_mtkd.targets.teacher import CachedTeacher
from espnet_mtkd.teachers.base import parse_teachers


@pytest.fixture
def work(corpus, checkpoints, tmp_path):
    """Data of its own, and a teacher of two layers."""
    builders.copy_data(corpus, tmp_path)
    entry = dict(name="hubert", upstream="hubert_local", layers=[3, 4])
    shutil.copy(checkpoints["hubert_local"], tmp_path / "hubert.pt")
    entry["path_or_url"] = str(tmp_path / "hubert.pt")
    builders.write_yaml(tmp_path / "teachers.yaml", [entry])
    return tmp_path


def command(work, *extra, sets=("train", "valid"), out="t") -> list[str]:
    return [
        *("--teachers", str(work / "teachers.yaml"), "--out_dir", str(work / out)),
        *("--data_dir", *(str(work / x) for x in sets), *(extra or FP16)),
    ]


FP16 = ("--form", "fp16")
CODES = ("--num_codebooks", "4")


def refused(capsys, words, main=mtkd_extract.main) -> str:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code in (2, 4, 5, 6)
    return capsys.readouterr().err


def config_of(work):
    return parse_teachers(str(work / "teachers.yaml"))[0]


def lengths_of(work, name="train") -> dict[str, int]:
    lines = (work / name / "wav.scp").read_text().splitlines()
    return {u: soundfile.info(a).frames for u, a in (x.split() for x in lines)}


def check(work, name="train", out="t") -> None:
    """As a training does before its first step."""
    teacher = CachedTeacher(config_of(work), work / out)
    teacher.check_lengths(name, lengths_of(work, name))


def remove_named(message: str) -> None:
    """The folder that the message says to remove."""
    shutil.rmtree(re.search(r"remove (/\S+) and (?:extract|run)", str(message))[1])


# ------------------------------------------------------------- what is not there


@pytest.mark.remedy(
    "no finished targets in {}: run mtkd_extract --out_dir",
    "no targets of teacher",
    "have no targets of teacher",
    "utterance {}: no targets of teacher",
)
def test_targets_that_are_not_there_are_extracted(work):
    with pytest.raises(TargetStoreError, match="no finished targets") as error:
        check(work)
    out = re.search(r"mtkd_extract --out_dir (\S+)", str(error.value))[1]
    mtkd_extract.main(command(work, sets=["valid"], out=out))
    batch = torch.zeros(1, 16000), torch.tensor([16000]), ["train/new"]
    for ask in (
        lambda: check(work),
        lambda: CachedTeacher(config_of(work), out)(*batch),
    ):
        with pytest.raises(TargetStoreError, match="run mtkd_extract for"):
            ask()
    mtkd_extract.main(command(work))
    check(work)


@pytest.mark.remedy("targets were not extracted to there, or not to the end")
def test_an_extraction_that_has_not_ended_is_run_again(work):
    mtkd_extract.main(command(work))
    (work / "t/hubert/train" / MANIFEST).unlink()
    with pytest.raises(TargetStoreError, match="run mtkd_extract .again"):
        TargetStore(work / "t/hubert/train")
    mtkd_extract.main(command(work))
    TargetStore(work / "t/hubert/train")


@pytest.mark.remedy("nothing to do: give --teachers and --data_dir")
def test_there_is_something_to_do(work, capsys):
    assert "give --teachers" in refused(capsys, ["--out_dir", str(work / "t")])
    mtkd_extract.main(command(work))
    for flag in ("--info", "--verify"):
        mtkd_extract.main(["--out_dir", str(work / "t"), flag])


# ------------------------------------------------------------- what has changed


def lengthen(work) -> None:
    path = work / "train/utt1_00.flac"
    wave, rate = soundfile.read(path)
    soundfile.write(path, np.concatenate([wave, wave]), rate)


@pytest.mark.remedy("the audio has changed since", "remove {} and extract again")
def test_of_changed_audio_targets_are_extracted_again(work, capsys):
    mtkd_extract.main(command(work))
    lengthen(work)
    with pytest.raises(TargetStoreError, match="since: utt1_00 .* then") as error:
        check(work)
    message = refused(capsys, command(work))  # without what is said
    assert f"{work}/t/hubert/train holds targets of another" in message
    remove_named(error.value)
    mtkd_extract.main(command(work, *FP16, "--verify"))
    check(work)


@pytest.mark.remedy("the audio has changed since it was checked")
def test_of_changed_audio_lengths_are_written_again(work):
    """A process that knows the old ones; the doctor looks again."""
    doctor = ["--data_dir", str(work / "train"), "--out_dir", str(work / "stats")]
    shape = work / "stats/train/speech_shape"

    def read():
        utt, num = shape.read_text().splitlines()[0].split()
        return read_audio(Utterance(utt, str(work / f"train/{utt}.flac"), int(num), 1))

    mtkd_doctor.main(doctor)
    read()
    lengthen(work)
    with pytest.raises(DataError, match="run mtkd_doctor again"):
        read()
    mtkd_doctor.main(doctor)
    read()


@pytest.mark.remedy("made with another teacher than")
@pytest.mark.parametrize("what", ["extract", "go back"])
def test_of_another_teacher(work, what):
    mtkd_extract.main(command(work))
    old = (work / "teachers.yaml").read_text()
    (work / "teachers.yaml").write_text(old + "  normalize: true\n")
    with pytest.raises(TargetStoreError, match="extract again, or correct the config"):
        check(work)
    if what == "extract":
        mtkd_extract.main(command(work, out="t2"))
        check(work, out="t2")
    else:
        (work / "teachers.yaml").write_text(old)
        check(work)


@pytest.mark.remedy(
    "holds targets of another extraction", "): name another --out_dir, or remove"
)
@pytest.mark.parametrize("what", ["remove", "another"])
@pytest.mark.parametrize(
    "before, after", [(("--exact", *FP16), FP16), (CODES, ("--num_codebooks", "8"))]
)
def test_other_settings(work, capsys, before, after, what):
    builders.build_data_dir(work / "long", 16, 11)
    mtkd_extract.main(command(work, *before, sets=["long"]))
    message = refused(capsys, command(work, *after, sets=["long"]))
    if what == "another":
        assert "name another --out_dir" in message
        mtkd_extract.main(command(work, *after, sets=["long"], out="t2"))
    else:
        found = re.search(r"(/\S+) holds targets|or remove (/\S+)", message)
        shutil.rmtree(found[1] or found[2])
        mtkd_extract.main(command(work, *after, sets=["long"]))


def resign(path: Path, change) -> None:
    """Change a signed file, and sign it."""
    body = path.read_bytes().partition(b"\n")[2]
    body = change(body)
    digest = hashlib.sha256(body).hexdigest()
    path.write_bytes(f'{{"sha256":"{digest}",\n'.encode() + body)


@pytest.mark.remedy("or use the version of espnet_mtkd that wrote it")
def test_a_store_of_another_version(work):
    mtkd_extract.main(command(work))
    path = work / "t/hubert/train" / MANIFEST
    resign(path, lambda x: x.replace(b'"format":1', b'"format":9'))
    with pytest.raises(TargetStoreError, match="expected format 1, found 9") as error:
        check(work)
    remove_named(error.value)
    mtkd_extract.main(command(work))
    check(work)


@pytest.mark.remedy("no codebook file of this version", "remove it and extract again")
def test_codebooks_of_another_version(work, capsys):
    from safetensors.torch import load_file, save_file

    builders.build_data_dir(work / "long", 16, 11)
    words = command(work, *CODES, sets=["long"])
    mtkd_extract.main(words)
    path = work / "t/hubert/codebooks.safetensors"
    save_file(load_file(path), path)  # the header's stamp is gone
    shutil.rmtree(work / "t/hubert/long")  # by whose digest it would be seen
    remove_named(refused(capsys, words))
    mtkd_extract.main([*words, "--verify"])


# ------------------------------------------------------------- numbers too large


def loud(work, weight: float, bias: float) -> None:
    """Let the last hidden state have other values."""
    state = torch.load(work / "hubert.pt")
    name = "encoder.layers.3.final_layer_norm"
    state["model_weight"][f"{name}.weight"].mul_(weight)
    state["model_weight"][f"{name}.bias"].add_(bias)
    torch.save(state, work / "hubert.pt")


@pytest.mark.remedy(": use --dtype float32", "use --form codes")
def test_values_that_half_precision_does_not_hold(work, capsys):
    """One remedy after the other, into one folder."""
    loud(work, 1e6, 0.0)
    builders.build_data_dir(work / "long", 16, 11)
    sets = ["long"]
    words = command(work, *FP16, "--dtype", "float16", sets=sets)
    assert "use --dtype float32" in refused(capsys, words)
    words = command(work, *FP16, "--dtype", "float32", sets=sets)
    assert "use --form codes" in refused(capsys, words)
    words = command(work, *CODES, "--form", "codes", "--dtype", "float32", sets=sets)
    mtkd_extract.main(words)


@pytest.mark.remedy("is off by {} from float32")
def test_values_that_low_precision_changes(work, capsys):
    loud(work, 1.0, 3000.0)
    message = refused(capsys, command(work, *FP16, "--dtype", "bfloat16"))
    assert "off by" in message and "use --dtype float32" in message
    mtkd_extract.main(command(work, *FP16, "--dtype", "float32"))


@pytest.mark.remedy("use --form fp16 for so little", "or use --form fp16")
@pytest.mark.parametrize("fault", ["little audio", "no faiss"])
def test_without_codebooks(work, capsys, monkeypatch, fault):
    if fault == "no faiss":
        builders.build_data_dir(work / "long", 16, 11)
        monkeypatch.setitem(sys.modules, "faiss", None)
    sets = ["valid" if fault == "little audio" else "long"]
    assert "use --form fp16" in refused(capsys, command(work, *CODES, sets=sets))
    mtkd_extract.main(command(work, *CODES, *FP16, sets=sets))


# ------------------------------------------------------------- the machine


@pytest.mark.remedy("--ngpu: no GPU is visible here: use --ngpu 0")
def test_without_a_gpu(work, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "use --ngpu 0" in refused(capsys, command(work, *FP16, "--ngpu", "1"))
    mtkd_extract.main(command(work, *FP16, "--ngpu", "0"))


@pytest.mark.remedy("MB are needed, {} MB are free: free some", "Exit code 6")
@pytest.mark.parametrize("what", ["free", "--form codes", "another"])
def test_a_disk_that_is_too_small(work, capsys, monkeypatch, what):
    builders.build_data_dir(work / "long", 16, 11)
    usage = shutil.disk_usage

    def small(folder):
        is_other = str(folder).startswith(str(work / "t2"))
        return usage(folder) if is_other else usage(folder)._replace(free=60_000)

    monkeypatch.setattr(writer.shutil, "disk_usage", small)
    words = command(work, *FP16, sets=["long"])
    message = refused(capsys, words)
    assert all(x in message for x in (f"{work}/t/", "--form codes, --num_codebooks"))
    if what == "free":
        monkeypatch.undo()
        mtkd_extract.main(words)
    elif what == "another":
        mtkd_extract.main(command(work, *FP16, sets=["long"], out="t2"))
    else:
        mtkd_extract.main(command(work, *CODES, "--form", "codes", sets=["long"]))
        assert (
            json.loads((work / "t/hubert/long" / MANIFEST).read_bytes())["targets"][0][
                "num_channels"
            ]
            == 4
        )
