"""LibriSpeech's recipe on a miniature in its exact layout, with tiny teachers."""

import functools
import os
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import builders
import pytest
import yaml
from mini_librispeech import LABELLED, RECIPE, UNLABELLED, build_librispeech, shrink

ROWS = "scratch single teachers kd unlabelled pseudo"
TEST_SETS = ["test_other"]  # one of the four, to save time


class Recipe:
    """A copy of the recipe beside a miniature corpus."""

    def __init__(self, folder: Path, checkpoints, python: Path):
        build_librispeech(folder / "corpus")
        (folder / "tree").mkdir()
        self.dir = builders.mirror_recipe(folder / "tree", "librispeech_100")
        builders.give_python(self.dir, python)
        shrink(self.dir / "conf", checkpoints)
        self.python = python
        self.corpus = folder / "corpus"

    def run(self, *options) -> str:
        """Output of run.sh, which has to end well."""
        command = [
            *("./run.sh", "--python", str(self.python), "--encoders", "conformer"),
            *("--rows", ROWS, "--ngpu", "0", "--gpu_inference", "false"),
            *("--nj", "1", "--inference_nj", "1", "--num_threads", "1"),
            *("--test_sets", " ".join(TEST_SETS)),
            *("--nbpe", "25", "--inference_args", "--beam_size 1"),
            *("--pretrain_epochs", "1", "--head_epochs", "1"),
            *("--finetune_epochs", "1", "--pseudo_args", "--min_confidence 0"),
            *("--extract_args", "--num_codebooks 4", *options),
        ]
        env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        env["LIBRISPEECH"] = str(self.corpus)
        result = builders.run_group(command, self.dir, env)
        assert result.returncode == 0, result.stdout[-6000:]
        return result.stdout

    def state(self) -> dict[str, int]:
        """What was made -> time of its last change."""
        return {
            str(path): path.stat().st_mtime_ns
            for folder in ("dump", "exp", "data/train_clean_100", "data/dev")
            for path in (self.dir / folder).rglob("*")
            if path.is_file()
        }

    def rows(self) -> list[list[str]]:
        """Cells of RESULTS.md's table of error rates, without its head."""
        text = (self.dir / "exp/RESULTS.md").read_text()
        (table,) = re.findall(r"\| words \|.*\n((?:\|.*\n)+)", text)
        lines = table.splitlines()[1:]
        return [[c.strip() for c in x.strip("|").split("|")] for x in lines]


def stages(text: str) -> list[tuple[int, str]]:
    """Number and title of each stage that mtkd.sh told of, in order."""
    found = re.findall(r"run_stage\) Stage (\d+): (.*)", text)
    return [(int(number), title) for number, title in found]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, checkpoints, warm_python):
    """The recipe, and of three runs output and table: whole, again, streaming."""
    recipe = Recipe(tmp_path_factory.mktemp("libri"), checkpoints, warm_python)
    whole = recipe.run()
    whole_rows = recipe.rows()
    before = recipe.state()
    again = recipe.run()
    changed = {k for k, v in recipe.state().items() if before.get(k) != v}
    encoder = ("--encoders", "contextual_block_conformer")
    streaming = recipe.run(*encoder, "--rows", "scratch unlabelled")
    return SimpleNamespace(
        dir=recipe.dir,
        corpus=recipe.corpus / "LibriSpeech",
        whole=whole,
        whole_rows=whole_rows,
        again=again,
        changed=changed,
        streaming=streaming,
        streaming_rows=recipe.rows(),
    )


NUM_SETS = len(TEST_SETS)
DATA = [1, *[3] * (2 + NUM_SETS), *[4] * (1 + NUM_SETS), 5, 6]
TRAINED = [11, *[12] * NUM_SETS, *[13] * NUM_SETS]
TAUGHT = [*DATA, *range(7, 11)]
WITH_UNLABELLED = [*DATA, *[7] * len(UNLABELLED), *range(7, 11)]  # formatted first
STAGES = {  # of each row, in order
    "teacher transducer": [*DATA, *TRAINED],
    "from scratch": [*DATA, *TRAINED],
    "hubert alone": [*TAUGHT, *TRAINED],
    "wavlm alone": [*TAUGHT, *TRAINED],
    "wav2vec2 alone": [*TAUGHT, *TRAINED],
    "data2vec alone": [*TAUGHT, *TRAINED],
    "all teachers": [*TAUGHT, *TRAINED],
    "+ path KD": [*TAUGHT, 11, *TRAINED],  # paths, then the transducer
    "+ unlabelled audio": [*WITH_UNLABELLED, 11, *TRAINED],
    "+ pseudo-labels": [*WITH_UNLABELLED, 11, 11, *TRAINED],
}


def by_row(text: str) -> dict[str, list[tuple[int, str]]]:
    """Row -> its stages."""
    parts = re.split(r"======== (?:\w+: )?([^,=]*?)(?:, seed 0)? ========", text)
    return dict(zip(parts[1::2], map(stages, parts[2::2]), strict=True))


def lines_of(path: Path) -> list[list[str]]:
    return [x.split(maxsplit=1) for x in path.read_text().splitlines()]


@pytest.mark.slow
def test_every_stage_of_every_row_runs(finished):
    found = by_row(finished.whole)
    assert {k: [n for n, _ in v] for k, v in found.items()} == STAGES
    first = found["teacher transducer"]
    assert not [title for _, title in first if "finished before" in title]


@pytest.mark.slow
def test_results_have_all_rows_and_sets(finished):
    assert [(r[1], r[2]) for r in finished.whole_rows] == [
        (row, dset) for row in STAGES for dset in TEST_SETS
    ]
    assert {r[0] for r in finished.whole_rows} == {"teacher", "conformer"}
    for row in finished.whole_rows:
        assert int(row[3]) == 6 and float(row[4]) > 0 and float(row[6]) > 0


@pytest.mark.slow
def test_a_second_run_does_nothing(finished):
    for name, found in by_row(finished.again).items():
        assert [n for n, _ in found] == STAGES[name]
        assert all(title.endswith(": finished before") for _, title in found), name
    assert not finished.changed


@pytest.mark.slow
def test_streaming_students_take_the_unlabelled_audio_too(finished):
    found = by_row(finished.streaming)
    assert list(found) == ["teacher transducer", "from scratch", "+ unlabelled audio"]
    new = [title for _, title in found["+ unlabelled audio"] if "finished" not in title]
    assert [title.split(":")[0] for title in new] == [
        *("pre-training", "hand-over", "transducer training", "decoding"),
        *("streaming decoding", "scoring", "scoring"),
    ]
    sets = {r[2] for r in finished.streaming_rows if r[1] == "+ unlabelled audio"}
    assert sets == {x + end for x in TEST_SETS for end in ("", ", streamed")}


@pytest.mark.slow
def test_the_unlabelled_audio_is_used_and_its_transcripts_are_not(finished):
    """Nothing could have opened them: they are links to nowhere."""
    ids = {}
    for part in UNLABELLED:
        name = part.replace("-", "_")
        folder = finished.dir / "data" / name
        assert sorted(p.name for p in folder.iterdir()) == [
            *("spk2utt", "utt2spk", "wav.scp")
        ]
        flacs = sorted(finished.corpus.glob(f"{part}/*/*/*.flac"))
        assert len(flacs) == UNLABELLED[part]
        scp = lines_of(folder / "wav.scp")
        assert scp == [[p.stem, str(p)] for p in flacs]
        for transcript in finished.corpus.glob(f"{part}/*/*/*.trans.txt"):
            assert transcript.is_symlink() and not transcript.exists()
        ids[name] = {utt for utt, _ in scp}
        for teacher in ("hubert", "wavlm", "wav2vec2", "data2vec"):
            stores = finished.dir / "exp/mtkd_targets_num_codebooks4" / teacher
            assert (stores / f"unlabelled_{name}/manifest.json").is_file()
    log = (
        finished.dir / "exp/mtkd_conformer_teachers_unlabelled/train.log"
    ).read_text()
    assert "loss_unlabelled=" in log and "cosine_data2vec_l3=" in log
    (tsv,) = finished.dir.glob("dump/raw/*_pseudo_*/pseudo_labels.tsv")
    heard = {line.split("\t")[0] for line in tsv.read_text().splitlines()[1:]}
    assert heard == set.union(*ids.values())


@pytest.mark.slow
def test_labelled_sets_are_those_of_espnets_recipe(finished):
    data = finished.dir / "data"
    for part, num_utts in LABELLED.items():
        folder = data / part.replace("-", "_")
        expected = [
            line.split(maxsplit=1)
            for path in sorted(finished.corpus.glob(f"{part}/*/*/*.trans.txt"))
            for line in path.read_text().splitlines()
        ]
        assert lines_of(folder / "text") == expected and len(expected) == num_utts
        for utt, path in lines_of(folder / "wav.scp"):
            assert path.endswith(f"/{utt}.flac")
    dev = lines_of(data / "dev_clean/text") + lines_of(data / "dev_other/text")
    assert lines_of(data / "dev/text") == sorted(dev)


# ------------------------------------------------------------- local/data.sh alone


@pytest.fixture
def prepared(tmp_path):
    """Function: local/data.sh beside the miniature corpus -> (exit code, output)."""
    build_librispeech(tmp_path / "corpus")
    (tmp_path / "tree").mkdir()
    recipe = builders.mirror_recipe(tmp_path / "tree", "librispeech_100")
    template = recipe.parents[1] / "TEMPLATE/mtkd1/setup.sh"
    subprocess.run([template, "."], cwd=recipe, check=True)

    def run(*options, librispeech=tmp_path / "corpus", path=None) -> tuple[int, str]:
        env = dict(os.environ, LIBRISPEECH=str(librispeech))
        if path is not None:
            env["PATH"] = f"{path}:{env['PATH']}"
        result = builders.run_group(["local/data.sh", *options], recipe, env)
        return result.returncode, result.stdout

    run.corpus = tmp_path / "corpus"
    run.recipe = recipe
    return run


@pytest.fixture
def openslr(tmp_path):
    """URL of a server with a miniature dev-other.tar.gz."""
    folder = tmp_path / "openslr"
    folder.mkdir()
    build_librispeech(folder)
    subprocess.run(
        ["tar", "-czf", "dev-other.tar.gz", "LibriSpeech/dev-other"],
        cwd=folder,
        check=True,
    )
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


needs_wget = pytest.mark.skipif(
    shutil.which("wget") is None, reason="ESPnet's script downloads by wget"
)


@needs_wget
def test_an_archive_with_another_checksum_is_refused_and_not_left(prepared, openslr):
    part = prepared.corpus / "LibriSpeech/dev-other"
    shutil.rmtree(part)
    code, text = prepared("--stop_stage", "1", "--data_url", openslr)
    assert code == 4
    assert "expected MD5 c8d0bcc9cca99d4f8b62fcc847357931, found" in text
    assert not part.exists()
    assert not (prepared.corpus / "dev-other.tar.gz").exists()


@needs_wget
def test_a_missing_part_is_downloaded_once(prepared, openslr, tmp_path):
    part = prepared.corpus / "LibriSpeech/dev-other"
    shutil.rmtree(part)
    stub = tmp_path / "bin"
    stub.mkdir()
    (stub / "md5sum").write_text(
        "#!/bin/sh\ncat > /dev/null\necho 'c8d0bcc9cca99d4f8b62fcc847357931  -'\n"
    )
    (stub / "md5sum").chmod(0o755)
    options = ("--stop_stage", "1", "--data_url", openslr)
    code, text = prepared(*options, path=stub)
    assert code == 0, text
    assert len(list(part.glob("*/*/*.flac"))) == LABELLED["dev-other"]
    assert not (prepared.corpus / "dev-other.tar.gz").exists()
    assert prepared(*options)[1].count("is there, nothing to do") == len(LABELLED)


def test_wrong_use_is_an_error_that_names_it(prepared):
    code, text = prepared("--unlabelled", "train-clean-100")
    assert code == 2 and "found 'train-clean-100'" in text
    code, text = prepared(librispeech=prepared.corpus / "LibriSpeech")
    assert code == 2 and "expected the folder that holds LibriSpeech" in text
    assert prepared("--nonsense", "1")[0] == 2


def test_names_of_unlabelled_audio_are_checked(prepared):
    part = prepared.corpus / "LibriSpeech/train-other-500"
    options = ("--stage", "4", "--unlabelled", "train-other-500")
    assert prepared(*options)[0] == 0
    before = (prepared.recipe / "data/train_other_500/wav.scp").read_text()
    flac = next(part.rglob("*.flac"))
    odd = flac.with_name("take2.flac")
    shutil.copy(flac, odd)
    code, text = prepared(*options)
    assert code == 4 and "found take2.flac" in text
    odd.unlink()
    (part / "again").mkdir()
    shutil.copy(flac, part / "again")
    code, text = prepared(*options)
    assert code == 4 and f"two files are called {flac.name}" in text
    assert (prepared.recipe / "data/train_other_500/wav.scp").read_text() == before


# ------------------------------------------------------------- configs and arithmetic

STUDENTS = ("conformer", "contextual_block_conformer")


def build_student(encoder: str):
    """ESPnet's model of a shipped config, with 500 tokens; and its arguments."""
    from espnet2.tasks.asr import ASRTask

    path = RECIPE / f"conf/train_asr_{encoder}_transducer.yaml"
    args = ASRTask.get_parser().parse_args(["--config", str(path)])
    inner = [f"t{i}" for i in range(497)]
    args.token_list = ["<blank>", "<unk>", *inner, "<sos/eos>"]
    args.token_type = "char"
    args.normalize, args.normalize_conf = "utterance_mvn", {}
    return ASRTask.build_model(args), args


@pytest.mark.parametrize("encoder", STUDENTS)
def test_students_have_30_m_parameters_as_the_texts_say(encoder):
    model, args = build_student(encoder)
    size = sum(p.numel() for p in model.parameters())
    assert 28e6 <= size <= 34e6
    said = f"{size / 1e6:.1f} M"
    config = (RECIPE / f"conf/train_asr_{encoder}_transducer.yaml").read_text()
    assert f"({said} parameters with 500 tokens)" in config
    assert said in (RECIPE / "README.md").read_text()
    # An epoch is 100 hours, in whole updates.
    batch_s = args.batch_bins / builders.SAMPLE_RATE
    assert args.num_iters_per_epoch * batch_s == 100 * 3600
    assert args.num_iters_per_epoch % args.accum_grad == 0


def test_the_streaming_student_can_be_decoded_chunk_by_chunk():
    from espnet_mtkd.streaming.encoder import StreamingEncoder

    model, args = build_student("contextual_block_conformer")
    conf = args.encoder_conf
    assert [conf[k] for k in ("block_size", "hop_size", "look_ahead")] == [40, 16, 16]
    StreamingEncoder(model.encoder)  # refuses what it cannot decode
    tsd = yaml.safe_load((RECIPE / "conf/decode_asr_tsd.yaml").read_text())
    assert tsd["transducer_conf"]["search_type"] == "tsd"


@pytest.mark.parametrize("encoder", STUDENTS)
def test_stage_1_takes_its_student_from_the_stage_2_config(encoder):
    from espnet_mtkd.pretraining.task import MTKDTask

    command = [
        *("--config", str(RECIPE / "conf/train_mtkd.yaml")),
        *("--teachers", str(RECIPE / "conf/teachers.yaml"), "--output_dir", "x"),
    ]
    args = MTKDTask.get_parser().parse_args(command)
    args.student_config = str(RECIPE / f"conf/train_asr_{encoder}_transducer.yaml")
    args.normalize, args.normalize_conf = "utterance_mvn", {}
    student = stage_1_encoder(args)
    expected = build_student(encoder)[0].encoder
    assert type(student) is type(expected)
    shapes = {k: v.shape for k, v in student.state_dict().items()}
    assert shapes == {k: v.shape for k, v in expected.state_dict().items()}


def stage_1_encoder(args):
    """The encoder that mtkd_train builds."""
    from espnet_mtkd.pretraining import task

    task.read_student_config(args)
    task.check_config(args)
    return task.build_student(args)[-1]


def test_teachers_are_the_four_large_ones():
    from espnet_mtkd.teachers.base import parse_teachers
    from espnet_mtkd.teachers.hub import import_s3prl_hub

    names = [t.upstream for t in parse_teachers(str(RECIPE / "conf/teachers.yaml"))]
    assert names == [
        *("hubert_large_ll60k", "wavlm_large"),
        *("wav2vec2_large_ll60k", "data2vec_large_ll60k"),
    ]
    assert set(names) <= set(import_s3prl_hub().options())


TEXTS = {
    "run.sh": (RECIPE / "run.sh", r"([-\d.e+*/() ]{8,}) = ([\d.]+)", 16),
    "docs": (
        builders.ROOT / "docs/reproduce_librispeech.md",
        r"\| ([-\d.e+*/() ]+) \| ([\d.]+) \|$",
        20,
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_arithmetic_is_right(name):
    path, pattern, num = TEXTS[name]
    found = re.findall(pattern, path.read_text(), re.M)
    assert len(found) >= num
    for formula, result in found:
        assert f"{eval(formula.strip()):.1f}" == result, formula
