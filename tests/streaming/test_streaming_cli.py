"""`mtkd_asr_stream` on files, standard input, Kaldi directories; and how it fails."""

import io
import re
import sys
import types
from types import SimpleNamespace

import builders
import numpy as np
import pytest
import soundfile
import streaming_models as models

from espnet_mtkd.bin.mtkd_asr_stream import main
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.streaming import Speech2TextStreamingTransducer
from espnet_mtkd.streaming.sources import list_files

RATE = builders.SAMPLE_RATE


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Five files, 0.3 to 3.1 s."""
    folder = tmp_path_factory.mktemp("audio")
    for i in range(5):
        wave = builders.speech_like(0.3 + 0.7 * i, i)
        soundfile.write(folder / f"utt{i}.wav", wave, RATE, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def expected(files, audio):
    """Utterance -> text that the Python interface gives."""
    speech2text = Speech2TextStreamingTransducer(*files)
    texts = {}
    for path in sorted(audio.glob("*.wav")):
        stream = speech2text.open_stream()
        segments = stream.accept(soundfile.read(path, dtype="float32")[0])[:-1]
        segments += stream.finish()
        texts[path.stem] = " ".join(s.text.strip() for s in segments).strip()
    assert all(texts.values())
    return texts


def final_texts(out: str) -> dict[str, str]:
    """Utterance -> text of its final segments, from standard output."""
    texts = {}
    for line in out.splitlines():
        utt, at, text = line.split(" ", 2)
        assert re.fullmatch(r"\d+\.\d\d-\d+\.\d\d", at)
        texts[utt] = f"{texts.get(utt, '')} {text}".strip()
    return texts


def test_a_file_gives_partial_and_final_text_and_statistics(
    flags, audio, expected, capsys
):
    main([*flags, str(audio / "utt4.wav")])
    out, err = capsys.readouterr()
    assert final_texts(out) == {"utt4": expected["utt4"]}
    assert "encoder: block_size 480 ms, hop_size 160 ms, look_ahead 160 ms" in err
    partials = re.findall(r"^ +[\d.]+ s  (.*) \| (.*)$", err, re.M)
    assert len(partials) > 3 and all(not rest for _, rest in partials)  # greedy
    assert re.search(r"first token latency \(1\): algorithmic median \d+ ms", err)
    words = re.search(
        r"word latency \((\d+)\): algorithmic median \d+ ms, p90 \d+ ms", err
    )
    (bars,) = re.findall(
        r"^word latency, algorithmic, words by 80 ms: (.*)$", err, re.M
    )
    assert sum(int(x.split(":")[1]) for x in bars.split()) == int(words[1])
    assert re.search(r"RTF: \d\.\d+ \([\d.]+ s / 3.10 s\)", err)


def test_a_kaldi_directory_gives_a_text_file_whatever_runs_side_by_side(
    flags, audio, expected, tmp_path
):
    scp = tmp_path / "wav.scp"
    scp.write_text("".join(f"{u} {audio / u}.wav\n" for u in expected))
    for num_streams in ("1", "3"):
        out = tmp_path / num_streams / "text"
        main(
            [*flags, "--wav_scp", str(scp), "--out", str(out)]
            + ["--num_streams", num_streams, "--chunk_ms", "70"]
        )
        lines = [f"{utt} {text}".rstrip() for utt, text in expected.items()]
        assert out.read_text().splitlines() == lines


def test_real_time_gives_the_same_text_and_wall_clock_latency(
    flags, audio, expected, capsys
):
    main([*flags, str(audio / "utt1.wav"), "--real_time"])
    out, err = capsys.readouterr()
    assert final_texts(out) == {"utt1": expected["utt1"]}
    algorithmic, wall = map(int, re.findall(r"median (\d+) ms", err)[:2])
    assert wall >= algorithmic - 1


def give_stdin(monkeypatch, data: bytes):
    stdin = SimpleNamespace(buffer=io.BytesIO(data))
    monkeypatch.setattr(sys, "stdin", stdin)


def test_pcm_from_standard_input(flags, audio, expected, capsys, monkeypatch):
    pcm = soundfile.read(audio / "utt3.wav", dtype="int16")[0]
    give_stdin(monkeypatch, pcm.astype("<i2").tobytes())
    main([*flags, "-"])
    assert final_texts(capsys.readouterr().out) == {"stdin": expected["utt3"]}


def microphone(wave: np.ndarray):
    """A module as sounddevice, whose device gives `wave` and then Ctrl-C."""
    import signal

    class PortAudioError(Exception):
        pass

    class InputStream:
        def __init__(self, samplerate, channels, dtype, blocksize):
            assert (samplerate, channels, dtype) == (RATE, 1, "float32")
            if wave is None:
                raise PortAudioError("no default input device")
            self.chunks = list(np.split(wave, range(blocksize, len(wave), blocksize)))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, num):
            chunk = self.chunks.pop(0)
            if not self.chunks:
                signal.raise_signal(signal.SIGINT)
            return chunk[:, None], False

    module = types.ModuleType("sounddevice")
    module.InputStream, module.PortAudioError = InputStream, PortAudioError
    return module


def test_a_microphone_until_ctrl_c(flags, audio, expected, capsys, monkeypatch):
    wave = soundfile.read(audio / "utt2.wav", dtype="float32")[0]
    monkeypatch.setitem(sys.modules, "sounddevice", microphone(wave))
    main([*flags, "--microphone"])
    assert final_texts(capsys.readouterr().out) == {"microphone": expected["utt2"]}


def write(folder, name, wave, rate=RATE):
    soundfile.write(folder / name, wave, rate)
    return str(folder / name)


WRONG_AUDIO = {
    "sample rate": ("found 8000 Hz, channels: 1: convert it", np.zeros(800), 8000),
    "channels": ("found 16000 Hz, channels: 2: convert", np.zeros((800, 2)), RATE),
}


@pytest.mark.parametrize("kind", WRONG_AUDIO)
def test_audio_that_the_model_cannot_hear_ends_with_code_4(
    flags, tmp_path, capsys, kind
):
    message, wave, rate = WRONG_AUDIO[kind]
    path = write(tmp_path, "bad.wav", wave, rate)
    with pytest.raises(SystemExit) as end:
        main([*flags, path])
    assert end.value.code == 4
    expected = f"{path}: expected 16000 Hz and one channel, {message}"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"no audio"])
def test_a_file_that_cannot_be_read_ends_with_code_4(flags, tmp_path, capsys, content):
    path = tmp_path / "bad.wav"
    if content:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        main([*flags, str(path)])
    assert end.value.code == 4 and "unreadable" in capsys.readouterr().err


def test_half_a_sample_on_standard_input_ends_with_code_4(flags, monkeypatch, capsys):
    give_stdin(monkeypatch, b"\0" * 641)
    with pytest.raises(SystemExit) as end:
        main([*flags, "-"])
    assert end.value.code == 4 and "odd number of bytes" in capsys.readouterr().err


def test_a_files_name_with_spaces_is_one_id():
    """Else the rest of the name would be read as words of the transcript."""
    paths = list_files(["a/my  first speech.wav", "b.wav"], None)
    assert list(paths) == ["my_first_speech", "b"]
    with pytest.raises(ConfigError, match="one name"):
        list_files(["my speech.wav", "my_speech.flac"], None)


@pytest.mark.parametrize(
    "extra, message",
    [
        ([], "expected one of: audio files or '-', --microphone, --wav_scp"),
        (["x.wav", "--microphone"], "expected one of"),
        (["-", "x.wav"], "stands alone"),
        (["x.wav", "--model_tag", "a/b"], "or --model_tag"),
        (["x.wav", "--chunk_ms", "0"], "--chunk_ms: expected above 0"),
        (["x.wav", "--num_streams", "0"], "--num_streams: expected above 0"),
        (["x.wav", "--search_type", "maes"], "expected one of greedy, tsd, default"),
        (["a/x.wav", "b/x.wav"], "two audio files have one name"),
    ],
    ids=str,
)
def test_a_wrong_command_ends_with_code_2(flags, capsys, extra, message):
    with pytest.raises(SystemExit) as end:
        main([*flags, *extra])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_an_offline_model_ends_with_code_2(audio, tmp_path, capsys):
    config, weights = models.build(
        tmp_path / "model",
        can_stream=False,
        encoder="conformer",
        encoder_conf=builders.ENCODERS["conformer"],
    )
    command = ["--asr_train_config", str(config), "--asr_model_file", str(weights)]
    with pytest.raises(SystemExit) as end:
        main([*command, str(audio / "utt0.wav")])
    assert end.value.code == 2
    assert "found ConformerEncoder" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["module", "device"])
def test_no_microphone_ends_with_code_2(flags, monkeypatch, capsys, missing):
    module = None if missing == "module" else microphone(None)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    with pytest.raises(SystemExit) as end:
        main([*flags, "--microphone"])
    assert end.value.code == 2
    message = {"module": "pip install sounddevice", "device": "no device that gives"}
    assert message[missing] in capsys.readouterr().err
