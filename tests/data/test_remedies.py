"""What messages about data directories say to do, done as it stands there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import builders
import numpy as np
import pytest
import soundfile
import yaml

from espnet_mtkd.bin import mtkd_doctor, mtkd_format_audio, mtkd_preflight
from espnet_mtkd.data.kaldi import read_wav_scp

ASR1 = builders.ROOT / "tools/espnet/egs2/TEMPLATE/asr1"
RATE = builders.SAMPLE_RATE


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The working directory: ESPnet's utils and scripts, and a set of four."""
    folder = tmp_path / "a recipe"
    folder.mkdir()
    for name in ("utils", "scripts", "pyscripts", "steps"):
        (folder / name).symlink_to(ASR1 / name)
    (folder / "path.sh").write_text(f'export PATH="{folder}/utils:${{PATH}}"\n')
    (folder / "cmd.sh").write_text("train_cmd=run.pl\n")
    monkeypatch.chdir(folder)
    builders.build_data_dir(Path("data/train"), 4, 1)
    utts = [x.split()[0] for x in Path("data/train/text").read_text().splitlines()]
    Path("data/train/utt2spk").write_text("".join(f"{u} {u}\n" for u in utts))
    return folder


def shell(command: str) -> None:
    """As a user of the recipe's directory does, whose Python is this one."""
    python = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", f'. ./path.sh; PATH="{python}:${{PATH}}"; {command}'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def refused(capsys, main, *words) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(x) for x in words])
    assert end.value.code in (2, 4)
    return capsys.readouterr().err


def change(name: str, edit, data_dir="data/train") -> None:
    """Change the lines of a file."""
    path = Path(data_dir) / name
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))


PREFLIGHT = (mtkd_preflight.main, "--data_dir", "data/train")


def drop_text():
    change("text", lambda x: x[1:])


def shuffle():
    for name in ("wav.scp", "text"):
        change(name, lambda x: x[::-1])


def latin_1():
    text = Path("data/train/text").read_text()
    Path("data/train/text").write_bytes(text.replace("O", "Ö").encode("latin-1"))


def old_mac():
    change("text", lambda x: [line.replace(" ", " \r\0", 1) for line in x])


def drop_speakers():
    Path("data/train/utt2spk").unlink()


def mark():
    text = Path("data/train/text").read_text()
    Path("data/train/text").write_bytes(b"\xef\xbb\xbf" + text.encode())


def windows():
    change("wav.scp", lambda x: [line.replace("\n", "\r\n") for line in x])


@pytest.mark.remedy(
    "add them, or take them away: utils/fix_data_dir.sh",
    "which Kaldi's tools need: utils/fix_data_dir.sh",
    "convert it, if it is Latin-1: ",
    "where it is not known: awk",
    "take it out: sed -i",
    "expected LF alone: sed -i",
    "zero byte: take them out: sed -i",
)
@pytest.mark.parametrize(
    "fault", [drop_text, shuffle, latin_1, drop_speakers, mark, windows, old_mac]
)
def test_the_commands_for_lists_that_are_wrong(recipe, capsys, fault):
    fault()
    message = refused(capsys, *PREFLIGHT)
    shell(re.findall(r": ((?:utils/|iconv|awk|sed) ?.*)", message)[0])
    mtkd_preflight.main(list(PREFLIGHT[1:]))
    if fault is latin_1:
        assert "Ö" in Path("data/train/text").read_text()


@pytest.mark.remedy("not valid YAML", "convert it, if it is Latin-1: ")
def test_the_command_for_a_config_in_latin_1(recipe, capsys):
    path = Path("my teachers.yaml")
    path.write_bytes("- {name: a, upstream: fbank} # für\n".encode("latin-1"))
    message = refused(capsys, mtkd_preflight.main, "--teachers", path)
    shell(re.search(r": (iconv .*)", message)[1])
    mtkd_preflight.main(["--teachers", str(path)])
    assert yaml.safe_load(path.read_text())[0]["name"] == "a"
    path.write_text("- {name: a\n")
    assert "not valid YAML" in refused(
        capsys, mtkd_preflight.main, "--teachers", str(path)
    )


@pytest.mark.remedy("sclite takes ids apart at '(' and ')': give it one without them")
def test_brackets_in_ids(recipe, capsys):
    for name in ("wav.scp", "text", "utt2spk"):
        change(name, lambda x: [line.replace("utt1_00", "utt1_(0)") for line in x])
    assert "give it one without them" in refused(capsys, *PREFLIGHT)
    for name in ("wav.scp", "text", "utt2spk"):
        change(name, lambda x: [line.replace("utt1_(0)", "utt1_0") for line in x])
    mtkd_preflight.main(list(PREFLIGHT[1:]))


@pytest.mark.remedy("give the ids of one a prefix: sed -i")
@pytest.mark.parametrize("kind", ["wav.scp alone", "segments", "all"])
def test_one_id_in_two_sets_that_become_one(recipe, capsys, kind):
    shutil.copytree("data/train", "data/es")
    if kind != "all":
        for name in ("text", "utt2spk"):
            (recipe / "data/es" / name).unlink()
    if kind == "segments":
        utts = [x.split()[0] for x in Path("data/es/wav.scp").read_text().splitlines()]
        Path("data/es/segments").write_text("".join(f"{u} {u} 0.0 0.9\n" for u in utts))
    words = ["--data_dir", "data/train", "data/es", "--distinct", "data/train"]
    message = refused(capsys, mtkd_preflight.main, *words, "data/es")
    shell(re.search(r"prefix: (sed .*)", message)[1])
    mtkd_preflight.main([*words, "data/es"])


@pytest.mark.remedy("give it as a pipe: '")
def test_the_pipe_for_a_format_that_espnet_does_not_read(recipe, capsys):
    """As far as it goes without ffmpeg: then that is what is asked for next."""
    change("wav.scp", lambda x: [x[0].replace(".flac", ".m4a"), *x[1:]])
    message = refused(capsys, *PREFLIGHT)
    (line,) = re.findall(r"give it as a pipe: '(.*)'$", message, re.M)
    change("wav.scp", lambda x: [f"{line}\n", *x[1:]])
    if shutil.which("ffmpeg"):
        mtkd_preflight.main(list(PREFLIGHT[1:]))
    else:
        message = refused(capsys, *PREFLIGHT)
        assert "needs 'ffmpeg'" in message and "apt-get install ffmpeg" in message


@pytest.mark.remedy("FLAC files need none: '<utterance> <file.flac>'", "plain NIST")
@pytest.mark.parametrize(
    ("tool", "kind"), [("flac -c -d -s", "FLAC"), ("sph2pipe -f wav", "NIST")]
)
def test_files_that_need_no_pipe(recipe, capsys, monkeypatch, tool, kind):
    monkeypatch.setenv("PATH", "/nowhere")
    path = recipe / "data/train/file"
    soundfile.write(path, builders.speech_like(1, 1), RATE, format=kind)
    utt = Path("data/train/text").read_text().split()[0]
    change("wav.scp", lambda x: [f"{utt} {tool} {path} |\n", *x[1:]])
    assert "need none: '<utterance> <file." in " ".join(
        refused(capsys, *PREFLIGHT).split()
    )
    change("wav.scp", lambda x: [f"{utt} {path}\n", *x[1:]])
    mtkd_preflight.main(list(PREFLIGHT[1:]))
    assert soundfile.info(path).samplerate == RATE


# ------------------------------------------------------------- audio


@pytest.fixture
def doctor():
    """The doctor, and what it is called with."""
    return mtkd_doctor.main, "--data_dir", "data/train", "--out_dir", "stats"


def last_audio() -> Path:
    return Path(Path("data/train/wav.scp").read_text().split()[-1])


@pytest.mark.remedy("write it anew: sox ", "write what is there: python -c ")
@pytest.mark.parametrize("kind", ["no length", "more", "mp3 that was cut"])
def test_a_header_that_does_not_tell_the_length(recipe, capsys, doctor, kind):
    """FLAC as a program writes it that streams, or one that fell; and another."""
    path = last_audio()
    data = bytearray(path.read_bytes())
    if kind == "mp3 that was cut":
        soundfile.write("a.mp3", soundfile.read(path)[0], RATE)
        data = Path("a.mp3").read_bytes()
        path = path.with_suffix(".mp3")
        path.write_bytes(data[: len(data) // 2])
        change("wav.scp", lambda x: [*x[:-1], x[-1].replace(".flac", ".mp3")])
    else:
        num = 0 if kind == "no length" else int.from_bytes(data[22:26], "big") + 9
        data[22:26] = num.to_bytes(4, "big")
        path.write_bytes(data)
    message = refused(capsys, *doctor)
    command = re.search(r": ((?:sox|python -c) .*)", message)[1]
    shell(command.replace("<new>.flac", "new.flac"))
    change("wav.scp", lambda x: [*x[:-1], f"{x[-1].split()[0]} new.flac\n"])
    mtkd_doctor.main([*doctor[1:]])


@pytest.mark.remedy(
    "repair the files, or take their lines out of wav.scp (and then: ", "is no accident"
)
@pytest.mark.parametrize("repair", [True, False])
def test_files_that_cannot_be_used(recipe, capsys, doctor, repair):
    path = last_audio()
    wave, _ = soundfile.read(path)
    soundfile.write(path, np.stack([wave, wave], 1), RATE)
    message = refused(capsys, *doctor)
    if repair:
        soundfile.write(path, wave, RATE)
    else:
        change("wav.scp", lambda x: x[:-1])
        shell(re.search(r"\(and then: (.*)\)", message)[1])
        assert len(Path("data/train/text").read_text().splitlines()) == 3
    mtkd_doctor.main([*doctor[1:]])
    mtkd_preflight.main(list(PREFLIGHT[1:]))


@pytest.mark.remedy("copy the files again, or take their lines out of wav.scp (and ")
@pytest.mark.parametrize("copy", [True, False])
def test_files_that_were_cut(recipe, capsys, copy):
    words = mtkd_preflight.main, "--ends", "data/train"
    path = last_audio().with_suffix(".wav")
    soundfile.write(path, builders.speech_like(1, 1), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    change("wav.scp", lambda x: [*x[:-1], f"{x[-1].split()[0]} {path}\n"])
    message = refused(capsys, *words)
    if copy:
        path.write_bytes(whole)
    else:
        change("wav.scp", lambda x: x[:-1])
        shell(re.search(r"\(and then: (.*)\)", message)[1])
    mtkd_preflight.main(list(words[1:]))
    mtkd_preflight.main(list(PREFLIGHT[1:]))


FORMAT = "let asr.sh stage 3 write audio files", "scripts/audio/format_wav_scp.sh"


@pytest.mark.remedy(
    "let asr.sh stage 3 write audio files",
    "scripts/audio/format_wav_scp.sh",
    "expected '<utterance> <audio file>'",
)
@pytest.mark.parametrize("kind", ["segments", "pipe"])
def test_directories_that_stage_3_has_not_written(recipe, capsys, doctor, kind):
    """The command of the one message is what stage 3 of the other runs."""
    utt, path = Path("data/train/wav.scp").read_text().split()[:2]
    Path("data/train/segments").write_text(f"{utt} {utt} 0.1 0.8\n")
    if kind == "pipe":
        Path("data/train/segments").unlink()
        change("wav.scp", lambda x: [f"{utt} cat '{path}' |\n", *x[1:]])
        assert FORMAT[0] in refused(capsys, *doctor)
        command = f"{FORMAT[1]} --audio-format flac data/train/wav.scp <new directory>"
    else:
        message = refused(capsys, *doctor)
        command = re.search(r"or: (scripts/.*)", message)[1]
    shell(command.replace("<new directory>", "dump/train"))
    mtkd_doctor.main(["--data_dir", "dump/train", "--out_dir", "stats"])
    if kind == "segments":
        (audio,) = read_wav_scp(Path("dump/train/wav.scp")).values()
        assert soundfile.info(audio).frames == round(0.7 * RATE)


# ------------------------------------------------------------- stage 3's options


def formatted(*lengths: float) -> None:
    """`dump/a` as ESPnet's script leaves it: utterances rec, rec-0001, ..."""
    Path("dump/a").mkdir(parents=True)
    names = ["rec", *(f"rec-{i:04d}" for i in range(1, len(lengths)))]
    for name, seconds in zip(names, lengths, strict=True):
        soundfile.write(f"dump/a/{name}.wav", builders.speech_like(seconds, 1), RATE)
    for file, value in (("wav.scp", "dump/a/{}.wav"), ("utt2num_samples", "{}")):
        lines = [
            f"{n} {value.format(n if '/' in value else round(s * RATE))}\n"
            for n, s in zip(names, lengths, strict=True)
        ]
        Path("dump/a", file).write_text("".join(lines))


@pytest.mark.remedy("give --channel mean, or one that all files have")
@pytest.mark.parametrize("channel", ["mean", "1"])
def test_another_channel(recipe, capsys, channel):
    formatted(0.5)
    wave, _ = soundfile.read("dump/a/rec.wav")
    soundfile.write("dump/a/rec.wav", np.stack([wave, wave], 1), RATE)
    words = ["--data_dir", "dump/a", "--channel"]
    assert "found 2" in refused(capsys, mtkd_format_audio.main, *words, "2")
    mtkd_format_audio.main([*words, channel])


@pytest.mark.remedy(
    "rename one of them, or --cut_unlabelled false",
    "change these, or let longer ones be cut (--cut_unlabelled true)",
)
def test_pieces_of_long_recordings(recipe, capsys):
    """mtkd.sh gives --cut_unlabelled as --cut."""
    formatted(3, 0.5)
    words = ["--data_dir", "dump/a", "--out_dir", "dump/b", "--min_duration", "0.1"]
    words += ["--max_duration"]
    message = refused(capsys, mtkd_format_audio.main, *words, "1")
    assert "a piece of rec would be called rec-0001" in message
    mtkd_format_audio.main([*words, "1", "--cut", "false"])
    for name in ("wav.scp", "utt2num_samples"):
        change(name, lambda x: [x[0], x[1].replace("rec-0001 ", "other ")], "dump/a")
    mtkd_format_audio.main([*words, "1"])
    assert len(read_wav_scp(Path("dump/b/wav.scp"))) > 3
    message = refused(capsys, mtkd_format_audio.main, *words, "0.2", "--cut", "false")
    assert "none of 2 recordings" in message
    mtkd_format_audio.main([*words, "0.2", "--cut", "true"])
    mtkd_format_audio.main([*words, "4", "--cut", "false"])


@pytest.mark.remedy("is not behind its beginning", "is not in {}: add it, or take")
def test_segments_that_are_no_part_of_a_recording(recipe, capsys):
    utts = list(read_wav_scp(Path("data/train/wav.scp")))
    change("wav.scp", lambda x: [x[0].replace(utts[0], "r1", 1)])
    lines = [f"{utt} r1 {i / 4} {i / 4 + 0.2}\n" for i, utt in enumerate(utts)]
    lines[1] = f"{utts[1]} r1 0.4 0.2\n"
    lines[2] = f"{utts[2]} r2 0.5 0.7\n"
    Path("data/train/segments").write_text("".join(lines))
    message = refused(capsys, *PREFLIGHT)
    assert f"segments:2: utterance {utts[1]} ends at 0.2 s" in message
    assert f"segments:3: recording r2 of utterance {utts[2]} is not in" in message
    shell(f"sed -i '/^{utts[1]}/d;/^{utts[2]}/d' data/train/segments")
    shell("utils/fix_data_dir.sh data/train")
    PREFLIGHT[0](list(PREFLIGHT[1:]))
