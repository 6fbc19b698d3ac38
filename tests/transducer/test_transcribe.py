"""A tiny random Whisper transcribes, as `transformers` decodes the same weights."""

import json

import builders
import pytest
import torch
from tiny_whisper import END, OPEN, PROMPT, TOKENS, transcribe

from espnet_mtkd.data.kaldi import read_lines
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers.whisper import LogMel
from espnet_mtkd.transducer.curve import count_words
from espnet_mtkd.transducer.recogniser import Recogniser

pytest.importorskip("ctranslate2")


def greedy(model, wave, max_length):
    """Token ids and their log-probabilities, by a plain loop over the logits."""
    padded = torch.nn.functional.pad(wave, (0, 480000 - len(wave)))
    mel = LogMel(80)(padded)[None]
    ids, logps = list(PROMPT), []
    forbidden = torch.tensor([i for i in range(len(TOKENS)) if i > END])
    with torch.no_grad():
        while len(ids) < max_length:
            out = model(input_features=mel, decoder_input_ids=torch.tensor([ids]))
            logits = out.logits[0, -1]
            logits[forbidden] = -torch.inf
            if len(ids) == len(PROMPT):
                logits[END] = -torch.inf
            logp = logits.log_softmax(0)
            logps.append(float(logp.max()))
            ids.append(int(logp.argmax()))
            if ids[-1] == END:
                break
    return ids[len(PROMPT) :], logps


def test_it_writes_what_the_same_weights_say_by_a_plain_search(whisper):
    folder, model = whisper
    recogniser = Recogniser(folder, beam_size=1, compute_type="float32")
    waves = [torch.from_numpy(builders.speech_like(s, i)) for i, s in enumerate([1, 2])]
    for wave, found in zip(waves, recogniser(waves), strict=True):
        ids, logps = greedy(model, wave, len(PROMPT) + 60)
        words = "".join(TOKENS[i] for i in ids if i != END).strip()
        assert words and found.greedy == found.text
        assert words.startswith(found.text[:20])
        if ids[-1] == END:
            assert found.text == words
            assert found.logp == pytest.approx(sum(logps) / len(logps), abs=2e-3)
        assert 0 <= found.no_speech <= 1


@pytest.fixture
def data(tmp_path):
    folder = builders.build_data_dir(tmp_path / "x", 5, 8)
    return folder


def test_the_text_is_written_with_reasons_and_its_maker(
    whisper, data, tmp_path, capsys
):
    out = tmp_path / "w.txt"
    text = transcribe(whisper[0], data, out, *OPEN, "--reference", data / "text")
    assert set(text) == set(read_lines(data / "wav.scp", ""))
    assert all(set(t.split()) <= set(builders.WORDS) for t in text.values())
    made_by = json.loads((tmp_path / "w.txt.json").read_text())
    assert made_by["is_supervised"] and made_by["num_kept"] == 5
    references = read_lines(data / "text", "")
    errors = sum(
        count_words(text[u].split(), references[u].split())[1] for u in references
    )
    wer = 100 * errors / sum(len(t.split()) for t in references.values())
    printed = capsys.readouterr().out
    assert f"all: WER {wer:.1f} %" in printed
    assert "kept: 5 of 5 utterances, 100.0 % of the audio, " in printed


def test_what_was_recognised_is_not_recognised_again(
    whisper, data, tmp_path, monkeypatch
):
    out = tmp_path / "w.txt"
    text = transcribe(whisper[0], data, out, *OPEN)
    kept = tmp_path / "w.txt.hypotheses"
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:3]) + lines[3][:20])  # ended while it was writing
    heard = []
    original = Recogniser.__call__
    monkeypatch.setattr(
        Recogniser, "__call__", lambda s, w: heard.extend(w) or original(s, w)
    )
    assert transcribe(whisper[0], data, out, *OPEN) == text
    assert len(heard) == 3
    assert transcribe(whisper[0], data, out, *OPEN) == text
    assert len(heard) == 3
    transcribe(whisper[0], data, out, *OPEN, "--beam_size", "2")  # another search
    assert len(heard) == 8


def test_filters_leave_out_and_count(whisper, data, tmp_path, capsys):
    flags = [*OPEN, "--max_repeats", "1", "--min_confidence", "0.999"]
    with pytest.raises(SystemExit) as end:
        transcribe(whisper[0], data, tmp_path / "w.txt", *flags)
    assert end.value.code == 4
    captured = capsys.readouterr()
    assert "no transcript is kept of 5" in captured.err
    assert "transcripts kept" in captured.out
    rows = (tmp_path / "w.txt.tsv").read_text().splitlines()
    assert len(rows) == 6 and all("\t0\t" in row for row in rows[1:])


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: (f / "model.bin").unlink(), ["model.bin", "--decoder"]),
        (lambda f: (f / "tokenizer.json").unlink(), ["tokenizer.json", "fetch it"]),
        (lambda f: (f / "tokenizer.json").write_text("{"), ["cannot load it"]),
        (lambda f: (f / "model.bin").write_bytes(b"x"), ["cannot load it"]),
        (
            lambda f: (
                [p.unlink() for p in f.iterdir()] and (f / "model.safetensors").touch()
            ),
            ["the encoder, a teacher"],
        ),
    ],
)
def test_a_model_that_cannot_transcribe(whisper, tmp_path, change, words):
    import shutil

    folder = tmp_path / "w"
    shutil.copytree(whisper[0], folder)
    change(folder)
    with pytest.raises(ConfigError) as e:
        Recogniser(folder)
    assert all(word in str(e.value) for word in words), str(e.value)


def test_a_number_of_utterances_below_one_is_refused(whisper, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        transcribe(whisper[0], data, tmp_path / "w.txt", "--batch_size", "0")
    assert end.value.code == 2
    assert "--batch_size: expected from 1, found 0" in capsys.readouterr().err
