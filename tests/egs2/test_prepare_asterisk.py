"""The asterisk corpus: text normalisation, splits, drops, Kaldi directories."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")
av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")

SCRIPT = (
    Path(__file__).parents[2] / "egs2/asterisk/mtkd1/local/prepare_asterisk.py"
).resolve()


def _load():
    spec = importlib.util.spec_from_file_location("prepare_asterisk", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


pa = _load()


def encode_g722(path: Path, seconds: float, frequency: float = 440.0) -> None:
    """Write a sine as raw G.722 (8000 bytes per second)."""
    num_samples = int(seconds * pa.SAMPLE_RATE) // 320 * 320
    wave = np.sin(2 * np.pi * frequency * np.arange(num_samples) / pa.SAMPLE_RATE)
    samples = (8000 * wave).astype(np.int16)[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=pa.SAMPLE_RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = pa.SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


SENTENCES = [
    f"{a} {b} this {c}"
    for a in "please now".split()
    for b in ("press dial enter hear save".split())
    for c in "number message extension mailbox".split()
]


@pytest.fixture
def source(tmp_path):
    """A small release: 40 sentences of 1.5 s, digits, and one of each bad kind."""
    root = tmp_path / "source"
    sounds = root / "sounds/en"
    lines = ["; a comment", ""]
    for i, text in enumerate(SENTENCES):
        lines.append(f"s{i}: {text}.")
        encode_g722(sounds / f"s{i}.g722", 1.5, 200 + 20 * i)
    for i, text in enumerate(["zero", "one", "two"]):
        lines.append(f"digits/{i}: {text}")
        encode_g722(sounds / f"digits/{i}.g722", 0.5)
    for name, text, seconds in (
        ("beep", "[a beep]", 1.0),
        ("short", "far too short", 0.2),
        ("long", "far too long " * 20, 29.5),
        ("fast", "nobody can say all of this in so little time", 0.5),
        ("slow", "a b", 4.0),
    ):
        lines.append(f"{name}: {text}")
        encode_g722(sounds / f"{name}.g722", seconds)
    lines.append("absent: there is no such file")
    encode_g722(sounds / "untold.g722", 1.0)
    root.joinpath("core-sounds-en.txt.gz").write_bytes(
        gzip.compress("\n".join(lines).encode())
    )
    return root


def read(data_dir, split, name="text"):
    lines = (data_dir / split / name).read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines)


def everything(data_dir):
    return {
        p.relative_to(data_dir): (p.stat().st_mtime_ns, p.read_bytes())
        for p in data_dir.rglob("*")
        if p.is_file()
    }


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    "raw, expected",
    [
        ("Activated.", "ACTIVATED"),
        ("Please press 1 to mute, 2 to lock", "PLEASE PRESS ONE TO MUTE TWO TO LOCK"),
        ("[ascending tones]", ""),
        ("<beep decending>", ""),
        ("(10 seconds of silence)", ""),
        ("dash [-]", "DASH"),
        ("after the tone. (simple tone sound plays)", "AFTER THE TONE"),
        ("press # or *", "PRESS POUND OR STAR"),
        ("I'm sorry, that's invalid!", "I'M SORRY THAT'S INVALID"),
        ("I\N{RIGHT SINGLE QUOTATION MARK}m", "I'M"),
        ("'quoted' o'clock", "QUOTED O'CLOCK"),
        ("10 A.M. or P.M.", "TEN A M OR P M"),
        ("H.323", "H THREE TWO THREE"),
        ("visit www.asterisk.org.", "VISIT W W W DOT ASTERISK DOT ORG"),
        ("a 28.8 kilobit modem", "A TWENTY EIGHT POINT EIGHT KILOBIT MODEM"),
        ("dial 500 or 1234", "DIAL FIVE HUNDRED OR ONE TWO THREE FOUR"),
        (
            "extension 8500, 101, 007",
            "EXTENSION EIGHT FIVE ZERO ZERO ONE ZERO ONE ZERO ZERO SEVEN",
        ),
        ("3D audio", "THREE D AUDIO"),
        ("folder 90 and 17 and 42", "FOLDER NINETY AND SEVENTEEN AND FORTY TWO"),
        (
            "De-activated, re-entered, Call-Forward",
            "DEACTIVATED REENTERED CALL FORWARD",
        ),
        ("... for ...", "FOR"),
        ("PBX and SIP", "P B X AND SIP"),
        ("umute thru", "UNMUTE THROUGH"),
        ("Un-indentified or witheld", "UNIDENTIFIED OR WITHHELD"),
    ],
)
def test_normalize_table(raw, expected):
    assert pa.normalize(raw) == expected


@given(st.text())
def test_normalize_gives_words_of_letters_and_apostrophes_and_is_idempotent(raw):
    text = pa.normalize(raw)
    assert re.fullmatch(r"([A-Z]+('+[A-Z]+)*( [A-Z]+('+[A-Z]+)*)*)?", text)
    assert pa.normalize(text) == text


@given(st.text(alphabet="ab '.,!?-#7", max_size=30))
def test_normalize_ignores_case_and_outer_space(raw):
    assert pa.normalize(raw.upper()) == pa.normalize(f"  {raw}\t")


@given(st.integers(min_value=0, max_value=99))
def test_numbers_below_100_are_all_different_and_have_at_most_two_words(number):
    spelled = pa.spell_number(str(number))
    assert len(spelled.split()) <= 2
    assert sum(pa.spell_number(str(n)) == spelled for n in range(100)) == 1


# ---------------------------------------------------------------- split, selection

words = st.text(alphabet="ABC'", min_size=1, max_size=4)


@given(st.lists(words, min_size=1, max_size=6).map(" ".join))
def test_split_depends_on_the_text_alone_and_words_go_to_train(text):
    split = pa.choose_split(text)
    assert split in pa.SPLITS and split == pa.choose_split(str(text))
    if " " not in text:
        assert split == "train"


@given(st.integers(36, 60), st.integers(0, 99))
def test_whole_menus_are_for_training_alone(num_words, number):
    text = " ".join(["PRESS", pa.spell_number(str(number)), *["WORD"] * num_words])
    assert pa.choose_split(text) == "train"


def test_split_is_the_same_on_every_machine_and_of_the_promised_size():
    assert pa.choose_split("PLEASE TRY AGAIN") == "train"
    assert pa.choose_split("YOU ARE NOW MUTED") == "valid"
    splits = [pa.choose_split(f"SENTENCE NUMBER {i}") for i in range(4000)]
    assert abs(splits.count("test") / 4000 - pa.TEST_SHARE) < 0.03
    assert abs(splits.count("valid") / 4000 - pa.VALID_SHARE) < 0.03


def test_prompts_of_single_letters_are_no_sentences():
    assert {pa.choose_split(f"{c} {d} NUMBER") for c in "ABCDE" for d in "FGHIJ"} == {
        "train"
    }


@given(
    st.lists(st.tuples(words, st.integers(1, 9)), max_size=30),
    st.integers(0, 40),
)
def test_shorten_keeps_the_asked_number_whatever_the_order(items, max_utts):
    utts = [pa.Utterance(f"u{i}", t, n) for i, (t, n) in enumerate(items)]
    kept = pa.shorten(utts, max_utts)
    assert len(kept) == (min(max_utts, len(utts)) if max_utts else len(utts))
    assert set(kept) <= set(utts)
    assert set(pa.shorten(utts[::-1], max_utts)) == set(kept)


# ---------------------------------------------------------------- the whole


def test_decoded_audio_is_the_encoded_wave_at_16_khz(tmp_path):
    encode_g722(tmp_path / "a.g722", 1.0, 440.0)
    samples = pa.decode_g722(tmp_path / "a.g722")
    assert len(samples) == 2 * (tmp_path / "a.g722").stat().st_size
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    peak = spectrum.argmax() * pa.SAMPLE_RATE / len(samples)
    assert peak == pytest.approx(440, abs=2)


def test_directories_are_whole_disjoint_sorted_and_drops_are_named(
    source, tmp_path, capsys
):
    data = tmp_path / "data"
    assert pa.prepare(source, data)
    out = capsys.readouterr().out
    for line in (
        "dropped 1, no words (tone, silence): beep",
        "dropped 1, shorter than 0.3 s: short",
        "dropped 1, longer than 29 s: long",
        "dropped 1, more than 30 characters per second: fast",
        "dropped 1, less than 2 characters per second: slow",
        "dropped 1, no audio file: absent",
        "dropped 1, no transcript: untold",
    ):
        assert line in out
    texts = {split: set(read(data, split).values()) for split in pa.SPLITS}
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not texts[a] & texts[b]
    assert set.union(*texts.values()) == {
        *(s.upper() for s in SENTENCES),
        "ZERO",
        "ONE",
        "TWO",
    }
    for split in pa.SPLITS:
        scp = read(data, split, "wav.scp")
        assert list(scp) == sorted(scp, key=str.encode) == list(read(data, split))
        assert set(read(data, split, "utt2spk").values()) == {"allison"}
        spk2utt = read(data, split, "spk2utt")
        assert spk2utt == {"allison": " ".join(scp)}
        for utt_id, path in scp.items():
            assert utt_id.startswith("allison-")
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype) == (
                16000,
                1,
                "PCM_16",
            )


def test_equal_texts_are_in_one_split(source, tmp_path):
    path = source / "core-sounds-en.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    sounds = source / "sounds/en"
    for i, text in enumerate(SENTENCES):
        lines.append(f"again/{i}: ... {text.upper()}!")
        encode_g722(sounds / f"again/{i}.g722", 1.5)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    pa.prepare(source, tmp_path / "data")
    texts = [set(read(tmp_path / "data", s).values()) for s in pa.SPLITS]
    assert sum(map(len, texts)) == len(set.union(*texts))


def test_second_run_changes_nothing_and_new_options_do(source, tmp_path, capsys):
    data = tmp_path / "data"
    pa.prepare(source, data)
    before = everything(data)
    assert not pa.prepare(source, data)
    assert "nothing to do" in capsys.readouterr().out
    assert everything(data) == before

    assert pa.prepare(source, data, max_train_utts=3, max_test_utts=2)
    assert [len(read(data, s)) for s in pa.SPLITS] == [3, 2, 2]
    assert len(list((data / "audio").iterdir())) == 7

    assert pa.prepare(source, data)
    assert {k: v[1] for k, v in everything(data).items()} == {
        k: v[1] for k, v in before.items()
    }


@pytest.mark.parametrize("damage", ["text", "audio", "stamp", "cut stamp"])
def test_damage_is_noticed_and_repaired(source, tmp_path, damage):
    data = tmp_path / "data"
    pa.prepare(source, data)
    before = {k: v[1] for k, v in everything(data).items()}
    stamp = data / ".asterisk_stamp.json"
    if damage == "text":
        (data / "test/text").write_text("")
    elif damage == "audio":
        next((data / "audio").iterdir()).unlink()
    elif damage == "stamp":
        stamp.unlink()
    else:
        stamp.write_text(stamp.read_text()[:20])
    assert pa.prepare(source, data)
    assert {k: v[1] for k, v in everything(data).items()} == before


def test_interrupted_run_is_never_taken_for_whole(source, tmp_path, monkeypatch):
    data = tmp_path / "data"
    pa.prepare(source, data)
    before = {k: v[1] for k, v in everything(data).items()}
    replace = pa.os.replace

    def stop_at_valid(old, new):
        if Path(new).name == "valid":
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as m:
        m.setattr(pa.os, "replace", stop_at_valid)
        with pytest.raises(KeyboardInterrupt):
            pa.prepare(source, data, max_train_utts=3)
    assert pa.prepare(source, data)
    assert {k: v[1] for k, v in everything(data).items()} == before


def run(*args):
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


def test_bad_input_is_one_line_and_the_right_exit_code(source, tmp_path):
    data = tmp_path / "data"
    (tmp_path / "empty").mkdir()
    result = run("--source", tmp_path / "empty", "--data_dir", data)
    assert result.returncode == 4 and "no core-sounds-en.txt" in result.stderr
    assert result.stderr.count("\n") == 1
    result = run("--source", source, "--data_dir", data, "--max_train_utts", "-1")
    assert result.returncode == 2
    (source / "sounds/en/s3.g722").write_bytes(b"")
    result = run("--source", source, "--data_dir", data)
    assert result.returncode == 4
    assert "s3.g722: empty file" in result.stderr
    assert not (data / "train").exists()


def test_full_disk_is_said_before_anything_is_written(
    source, tmp_path, monkeypatch, capsys
):
    usage = pa.shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(pa.shutil, "disk_usage", lambda path: usage)
    args = ["--source", str(source), "--data_dir", str(tmp_path / "data")]
    assert pa.main(args) == 6
    assert "1 MB free, 200 MB needed" in capsys.readouterr().err
    assert not list((tmp_path / "data").iterdir())


def test_two_releases_in_one_folder_are_refused(source, tmp_path):
    encode_g722(source / "other/digits/1.g722", 0.7)
    with pytest.raises(pa.PrepareError, match="2 different files"):
        pa.prepare(source, tmp_path / "data")


@pytest.mark.parametrize("line", ["no colon here", "../up: text", "a b: text"])
def test_malformed_transcript_names_the_line(tmp_path, line):
    path = tmp_path / "core-sounds-en.txt"
    path.write_text(f"; comment\n{line}\n")
    with pytest.raises(pa.PrepareError, match="line 2"):
        pa.read_prompts(path)


def test_stamp_records_options(source, tmp_path):
    pa.prepare(source, tmp_path / "data", max_test_utts=2)
    stamp = json.loads((tmp_path / "data/.asterisk_stamp.json").read_text())
    assert stamp["options"]["max_test_utts"] == 2


# ------------------------------------------------------------- unlabelled languages


def prepare_unlabelled(source: Path, data_dir: Path):
    """The script that decodes another language's prompts, as data.sh calls it."""
    script = SCRIPT.with_name("prepare_unlabelled.py")
    command = [sys.executable, script, "--source", source, "--prefix", "xx"]
    return subprocess.run(
        [*command, "--data_dir", data_dir], capture_output=True, text=True
    )


def test_unlabelled_prompts_become_a_directory_without_text(tmp_path):
    sounds = tmp_path / "source/sounds/xx_XX_f_Someone"
    for name, seconds in (
        ("hello", 1.0),
        ("digits/1", 0.5),
        ("letters/1", 0.6),
        ("too-short", 0.2),
        ("silence/1", 1.0),
    ):
        encode_g722(sounds / f"{name}.g722", seconds)
    (sounds / "empty.g722").write_bytes(b"")
    data_dir = tmp_path / "data/xx"

    def run() -> bool:
        """Whether it was made anew."""
        result = prepare_unlabelled(tmp_path / "source", data_dir)
        assert result.returncode == 0, result.stderr
        assert ("empty.g722" in result.stdout) != ("nothing to do" in result.stdout)
        return "nothing to do" not in result.stdout

    assert run() and not run()
    (data_dir / "audio/xx-hello.flac").unlink()
    assert run() and not run()
    encode_g722(sounds / "hello.g722", 1.5)
    assert run() and not run()
    files = {path.name for path in data_dir.iterdir()}
    assert files == {".stamp", "wav.scp", "utt2spk", "spk2utt", "audio"}
    lines = (data_dir / "wav.scp").read_text().split("\n")[:-1]
    found = dict(line.split() for line in lines)
    assert list(found) == ["xx-digits-1", "xx-hello", "xx-letters-1"]
    for path in found.values():
        assert soundfile.info(path).samplerate == pa.SAMPLE_RATE


def test_a_folder_without_prompts_is_a_data_error(tmp_path):
    result = prepare_unlabelled(tmp_path, tmp_path / "data")
    assert result.returncode == 4
    assert "no usable *.g722" in result.stderr
