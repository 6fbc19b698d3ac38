"""What is wrong with a data directory is said before anything is made of it."""

import pytest

from espnet_mtkd.bin.mtkd_preflight import main
from espnet_mtkd.data.check import check_data_dirs, check_distinct
from espnet_mtkd.data.kaldi import read_lines, read_wav_scp
from espnet_mtkd.errors import DataError


@pytest.fixture
def data(tmp_path):
    """Function: a labelled directory of two utterances, with changed files."""

    def write(name="train", **files):
        folder = tmp_path / name
        folder.mkdir()
        usual = {
            "wav.scp": b"a a.flac\nb b.flac\n",
            "text": b"a ONE\nb TWO\n",
            "utt2spk": b"a s\nb s\n",
        }
        for file, content in {**usual, **files}.items():
            if content is not None:
                (folder / file.replace("wav_scp", "wav.scp")).write_bytes(content)
        return folder

    return write


def test_a_usual_directory_passes(data):
    check_data_dirs([data(), data("es", text=None, utt2spk=None)])


def test_tabs_part_ids_from_the_rest_as_spaces_do(tmp_path):
    path = tmp_path / "wav.scp"
    path.write_bytes(b"a\ta b.flac\nb \t b.flac\n\n")
    assert read_wav_scp(path) == {"a": "a b.flac", "b": "b.flac"}
    path.write_bytes("ü/1\tZWEI  DREI \nleer\n".encode())
    assert read_lines(path, "text") == {"ü/1": "ZWEI  DREI", "leer": ""}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "text",
            b"\xef\xbb\xbfa ONE\nb TWO\n",
            "text:1: begins with a byte order",
        ),
        ("text", b"a ONE\r\nb TWO\r\n", r"text:1: ends in CR.* sed -i"),
        ("text", "a ONE\nb ZWÖLF\n".encode("latin-1"), "text:2: not UTF-8.*iconv"),
        (
            "text",
            b"a ONE\na TWO\n",
            r"text:2: utterance a stands .* twice",
        ),
        ("text", b"", "text: empty"),
        ("text", b"a ONE\nc TWO\n", "text: 1 utterances of wav.scp are not in it: b: "),
        ("utt2spk", None, "utt2spk: no such file.* awk"),
        ("utt2spk", b"a x\nb x y\n", "utt2spk:2: expected '<utterance> <speaker>'"),
        ("segments", b"a a 0 1\nb\n", "segments:2: expected .* <begin> <end>', times"),
        ("segments", b"a a 0 1\nb b -1 nan\n", "segments:2: .* times in seconds"),
        ("segments", b"a a 0 1\nb b 3 2.5\n", "segments:2: utterance b ends at 2.5 s"),
        ("segments", b"a a 0 1\nb c 2 3\n", "segments:2: recording c of utterance b"),
        ("wav_scp", b"a |\nb LC_ALL=C |\n", "wav.scp:2: expected .* <command> .'"),
        ("wav_scp", b"b b.flac\na a.flac\n", "wav.scp:2: a is not in the order"),
        ("wav_scp", b"a\nb b.flac\n", "wav.scp:1: expected '<utterance> <audio file>'"),
        ("wav_scp", b"a a.m4a\nb b.flac\n", "wav.scp:1: .* cannot read .m4a .*ffmpeg"),
        (
            "wav_scp",
            b"a nosuchtool -x a.sph |\nb b.flac\n",
            "wav.scp:1: utterance a needs 'nosuchtool', which is not on PATH",
        ),
        (
            "wav_scp",
            b"a cat a.wav | sph2pipe_not_here - |\nb b.flac\n",
            "'sph2pipe_not_here', which is not on PATH",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_remedy(data, file, content, message):
    with pytest.raises(DataError, match=message):
        check_data_dirs([data(**{file: content})])


def test_pipes_of_tools_that_are_there_pass(data):
    check_data_dirs([data(wav_scp=b"a LC_ALL=C cat a.wav | cat |\nb ark.1:123\n")])


def test_the_problems_of_all_directories_are_said_at_once(data):
    dirs = [data("train", utt2spk=None), data("dev", text=b"a X\r\n")]
    with pytest.raises(DataError) as error:
        check_data_dirs(dirs)
    assert "train/utt2spk" in str(error.value) and "dev/text:1" in str(error.value)


def test_ids_that_would_meet_in_one_training_set_are_refused(data, tmp_path):
    check_distinct([data("train"), data("other", wav_scp=b"c c.flac\n")])
    with pytest.raises(DataError, match="utterance a stands in .*train and in .*es,"):
        check_distinct([tmp_path / "train", data("es", text=None)])


def test_the_remedies_help(data):
    """What the messages say, run by a shell; afterwards the directory passes."""
    import re
    import subprocess

    folder = data(
        text="\ufeffa ZWÖLF\r\nb TWO\r\n".encode(),
        utt2spk=None,
        wav_scp=b"a a\r\nb b\r\n",
    )
    for _ in range(6):
        try:
            check_data_dirs([folder])
            return
        except DataError as e:
            (command,) = re.findall(r": ((?:sed|awk) .*)", str(e).splitlines()[-1])
            subprocess.run(command, shell=True, check=True)
    raise AssertionError("the remedies do not end")


def test_the_command_looks_at_teachers_and_data(
    data, tmp_path, checkpoints, monkeypatch, capsys
):
    teachers = tmp_path / "teachers.yaml"
    teachers.write_text("- {name: t, upstream: hubert_local, path_or_url: no.pt}\n")
    with pytest.raises(SystemExit) as end:
        main(["--teachers", str(teachers), "--data_dir", str(data())])
    assert end.value.code == 2
    assert "path_or_url: no such file or directory: no.pt" in capsys.readouterr().err
    (tmp_path / "no.pt").symlink_to(checkpoints["hubert_local"])
    monkeypatch.chdir(tmp_path)
    main(["--teachers", str(teachers), "--data_dir", str(tmp_path / "train")])


def test_a_licence_that_the_hub_does_not_know_is_told_at_the_start(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--license", "cc-by-4"])
    assert end.value.code == 2
    assert "--license: expected an identifier of the Hub" in capsys.readouterr().err
    main(["--license", "CC-BY-4.0"])
