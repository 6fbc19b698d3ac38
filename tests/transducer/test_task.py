"""Stage 2 with a teacher transducer, its paths, and a student, as a user runs it."""

import re
import shutil
import subprocess
from pathlib import Path

import builders
import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_mtkd.bin import mtkd_espnet, mtkd_extract, mtkd_extract_paths
from espnet_mtkd.errors import ConfigError, DataError, TargetStoreError
from espnet_mtkd.targets.store import TargetStore
from espnet_mtkd.transducer.extract_paths import TeacherTransducer, read_text
from espnet_mtkd.transducer.paths import PathStores
from espnet_mtkd.transducer.task import MTKDASRTask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Train and valid directories and a token list."""
    folder = tmp_path_factory.mktemp("transducer_data")
    builders.build_data_dir(folder / "train", 6, 21)
    builders.build_data_dir(folder / "valid", 2, 22)
    builders.write_tokens(folder / "tokens.txt")
    return folder


def train(data: Path, exp: Path, config: dict, *extra) -> Path:
    """`asr_train` through the runner, as asr.sh calls it."""
    config_file = builders.write_yaml(exp.parent / f"{exp.name}.yaml", config)
    command = ["-m", "espnet2.bin.asr_train", "--config", str(config_file)]
    for name in ("train", "valid"):
        folder = data / name
        flag = f"--{name}_data_path_and_name_and_type"
        command += [flag, f"{folder}/wav.scp,speech,sound"]
        command += [flag, f"{folder}/text,text,text"]
        command += [f"--{name}_shape_file", f"{folder}/speech_shape"]
    command += ["--token_list", str(data / "tokens.txt"), "--token_type", "char"]
    mtkd_espnet.main([*command, "--output_dir", str(exp), "--seed", "3", *extra])
    return exp


@pytest.fixture(scope="module")
def teacher(data, checkpoints, tmp_path_factory):
    """A teacher transducer over a tiny Whisper, trained for an epoch."""
    config = builders.teacher_transducer_config(checkpoints["whisper_local"])
    return train(data, tmp_path_factory.mktemp("teacher") / "asr_teacher", config)


@pytest.fixture(scope="module")
def paths(data, teacher, tmp_path_factory):
    """The teacher's paths over the training data."""
    folder = tmp_path_factory.mktemp("paths")
    mtkd_extract_paths.main(extraction(teacher, data, folder))
    return folder


def extraction(teacher, data, folder, *extra):
    return [
        *("--asr_exp", str(teacher), "--model_file", "valid.loss.best.pth"),
        *("--data_dir", str(data / "train"), "--out_dir", str(folder)),
        *("--num_tokens", "5", *extra),
    ]


def train_student(data, exp, *extra, encoder="conformer"):
    return train(data, exp, builders.asr_config(encoder), *extra)


def load(exp: Path):
    return torch.load(exp / "1epoch.pth", weights_only=True)


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


# ------------------------------------------------------------- the teacher


def test_the_teachers_upstream_stays_as_it_was(teacher, checkpoints):
    from espnet_mtkd.teachers.whisper import load_encoder_state

    _, expected = load_encoder_state(str(checkpoints["whisper_local"]))
    state = load(teacher)
    prefix = "frontend.upstream.upstream.model."
    found = {
        k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)
    }
    assert set(expected) <= set(found)
    for key, value in expected.items():
        assert torch.equal(found[key], value)


def test_stored_paths_are_the_likeliest_of_the_teachers_lattice(data, teacher, paths):
    """Nodes follow the lattice's rules, their values the teacher's own posteriors."""
    from espnet_mtkd.targets.embeddings import read_audio
    from espnet_mtkd.targets.plan import Utterance
    from espnet_mtkd.transducer.extract_paths import TeacherTransducer

    model = TeacherTransducer(
        teacher / "config.yaml", teacher / "valid.loss.best.pth", "cpu"
    )
    stores = PathStores(paths)
    texts = read_text(data / "train", [])
    scp = dict(x.split() for x in (data / "train/wav.scp").read_text().splitlines())
    lengths = dict(
        x.split() for x in (data / "train/speech_shape").read_text().splitlines()
    )
    for utt, audio in scp.items():
        labels = model.labels(utt, texts[utt])
        n = int(lengths[utt])
        wave = read_audio(Utterance(utt, audio, n, 0))
        logits = builders.lattice_of(model, wave, labels)
        logp = logits.log_softmax(2)
        T = len(logits)
        path = stores.read(utt, n, torch.from_numpy(labels), T, stores.frame_shift)
        assert len(path.frames) == T + len(labels)
        total = 0.0
        for i, (t, u) in enumerate(
            zip(path.frames.tolist(), path.positions.tolist(), strict=True)
        ):
            last = i + 1 == len(path.frames)
            emits = not last and int(path.positions[i + 1]) == u + 1
            step = int(labels[u]) if emits else model.model.blank_id
            total += float(logp[t, u, step])
            torch.testing.assert_close(
                path.logp[i], logp[t, u, path.ids[i]], rtol=2e-3, atol=2e-3
            )
        # Not less likely than a thousand random alignments.
        rng = np.random.default_rng(0)
        for _ in range(1000):
            order = np.zeros(T - 1 + len(labels), bool)
            order[rng.choice(len(order), len(labels), replace=False)] = True
            t = u = 0
            other = 0.0
            for is_label in order:
                other += float(logp[t, u, labels[u] if is_label else 0])
                t, u = (t, u + 1) if is_label else (t + 1, u)
            other += float(logp[t, u, 0])
            assert other <= total + 1e-4


def test_a_second_extraction_changes_nothing(data, teacher, paths):
    before = files_of(paths)
    mtkd_extract_paths.main(extraction(teacher, data, paths))
    assert files_of(paths) == before


def test_damage_of_stored_paths_is_found_by_verify(paths, tmp_path, capsys):
    folder = shutil.copytree(paths, tmp_path / "paths")
    mtkd_extract.main(["--out_dir", str(folder), "--verify", "--info"])
    for path in (*folder.glob("train/*.json"), *folder.glob("train/shard*")):
        original = path.read_bytes()
        path.write_bytes(original[:-3] + b"x" + original[-2:])
        with pytest.raises(SystemExit) as end:
            mtkd_extract.main(["--out_dir", str(folder), "--verify"])
        assert end.value.code == 5 and str(path) in capsys.readouterr().err
        path.write_bytes(original)


def test_paths_with_another_number_of_tokens_are_refused(
    data, teacher, paths, tmp_path
):
    """Of one teacher, but they could not stand in one batch."""
    folder = shutil.copytree(paths, tmp_path / "paths")
    shutil.copytree(data / "valid", tmp_path / "more")
    command = extraction(teacher, data, folder, "--num_tokens", "4")
    command[command.index(str(data / "train"))] = str(tmp_path / "more")
    mtkd_extract_paths.main(command)
    with pytest.raises(TargetStoreError, match="num_tokens: expected 4, found 5"):
        PathStores(folder)


@pytest.mark.parametrize(
    "change, message", [("more", "have no path"), ("cut", "length")]
)
def test_missing_paths_are_told_before_the_first_step(
    data, paths, tmp_path, capsys, monkeypatch, change, message
):
    """The utterance stands last, so that an epoch would nearly have passed."""
    folder = shutil.copytree(data, tmp_path / "data") / "train"
    shape = folder / "speech_shape"
    lines = shape.read_text().splitlines()
    if change == "more":
        for name in ("wav.scp", "text", "speech_shape"):
            valid = (data / "valid" / name).read_text().splitlines()[0]
            with open(folder / name, "a") as file:
                file.write(valid + "\n")
        utt = valid.split()[0]
        lines.append(valid)
    else:
        utt, num = lines[-1].split()
        lines[-1] = f"{utt} {int(num) - 160}"
        entries = (folder / "wav.scp").read_text().splitlines()
        speech, rate = soundfile.read(entries[-1].split()[1])
        soundfile.write(folder / "cut.wav", speech[:-160], rate)
        entries[-1] = f"{utt} {folder}/cut.wav"
        (folder / "wav.scp").write_text("\n".join(entries) + "\n")
    shape.write_text("\n".join(lines) + "\n")
    steps = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *a, **k: steps.append(1))
    with pytest.raises(SystemExit) as end:
        train_student(
            tmp_path / "data", tmp_path / "s", "--path_targets_dir", str(paths)
        )
    error = capsys.readouterr().err
    assert end.value.code == 5 and f"1 of {len(lines)} utterances" in error
    assert message in error and utt in error and not steps


def with_transcript(data, folder: Path, transcript: str) -> str:
    """Copy the training set, one utterance of which has another text; its id."""
    shutil.copytree(data / "train", folder / "train")
    text = folder / "train/text"
    lines = text.read_text().splitlines()
    utt = lines[2].split()[0]
    lines[2] = f"{utt} {transcript}".rstrip()
    text.write_text("\n".join(lines) + "\n")
    return utt


NO_PATH = {"": "empty transcript", "ONE " * 100: "399 labels, but [0-9]+ frames"}


@pytest.mark.parametrize(("transcript", "fault"), NO_PATH.items())
def test_an_utterance_without_a_path_is_named(
    data, teacher, tmp_path, capsys, transcript, fault
):
    utt = with_transcript(data, tmp_path / "data", transcript)
    with pytest.raises(SystemExit) as end:
        mtkd_extract_paths.main(extraction(teacher, tmp_path / "data", tmp_path / "o"))
    assert end.value.code == 4
    err = capsys.readouterr().err
    assert re.search(f"{utt}: {fault}", err) and "More than 0.1% is no accident" in err


@pytest.mark.parametrize("transcript", NO_PATH)
def test_few_utterances_without_a_path_are_left_out(
    data, teacher, paths, tmp_path, monkeypatch, transcript
):
    """All others have the path that they have without it."""
    monkeypatch.setattr("espnet_mtkd.data.audio.MAX_BAD_FRACTION", 0.5)
    utt = with_transcript(data, tmp_path / "data", transcript)
    mtkd_extract_paths.main(extraction(teacher, tmp_path / "data", tmp_path / "o"))
    stores = [TargetStore(x / "train") for x in (tmp_path / "o", paths)]
    for line in (data / "train/speech_shape").read_text().splitlines():
        name, num_samples = line.split()
        found, expected = (x.read(name, int(num_samples)) for x in stores)
        for key in ("nodes", "logp"):
            if name == utt:
                assert len(found[key]) == 0 < len(expected[key])
            else:
                np.testing.assert_array_equal(found[key], expected[key])


# ------------------------------------------------------------- remedies


def other_data(data, folder: Path) -> Path:
    """A copy with audio of its own."""
    shutil.copytree(data, folder)
    for name in ("train", "valid"):
        scp = folder / name / "wav.scp"
        scp.write_text(scp.read_text().replace(str(data), str(folder)))
    return folder


def lengths_of(data: Path, name: str) -> dict[str, int]:
    lines = (data / name / "wav.scp").read_text().splitlines()
    return {u: soundfile.info(a).frames for u, a in (x.split() for x in lines)}


@pytest.mark.remedy(
    "no finished paths in it: run mtkd_extract_paths",
    "have no path",
    "no path in {}: run mtkd_extract_paths",
    "train the teacher first",
)
def test_paths_that_are_not_there_are_extracted(data, teacher, tmp_path, capsys):
    out, labels = tmp_path / "o", torch.tensor([3])
    command = extraction(tmp_path / "none", data, out)
    with pytest.raises(SystemExit):
        mtkd_extract_paths.main(command)
    assert "train the teacher first" in capsys.readouterr().err
    with pytest.raises(TargetStoreError, match="no finished paths"):
        PathStores(out)
    mtkd_extract_paths.main(extraction(teacher, data, out))
    lengths = lengths_of(data, "valid")
    utt, num = next(iter(lengths.items()))
    stores = PathStores(out)
    with pytest.raises(TargetStoreError, match="2 of 2 .* have no path .*: run mtkd"):
        stores.check_lengths(Path("x"), lengths)
    with pytest.raises(TargetStoreError, match="no path in .*: run mtkd"):
        stores.read(utt, num, labels, num // 640, 640)
    command = [
        x.replace(f"{data}/train", f"{data}/valid")
        for x in extraction(teacher, data, out)
    ]
    mtkd_extract_paths.main(command)
    PathStores(out).check_lengths(Path("x"), lengths)


@pytest.mark.remedy(
    "remove {} and extract again",
)
@pytest.mark.parametrize("what", ["audio", "text"])
def test_paths_of_what_has_changed_are_extracted_again(
    data, teacher, tmp_path, capsys, what
):
    data, out = other_data(data, tmp_path / "data"), tmp_path / "o"
    command = extraction(teacher, data, out)
    mtkd_extract_paths.main(command)
    utt = next(iter(lengths_of(data, "train")))
    path = data / "train" / f"{utt}.flac"
    wave, rate = soundfile.read(path)
    text = data / "train/text"
    if what == "audio":
        soundfile.write(path, wave[:-320], rate)
    else:
        lines = text.read_text().splitlines()
        text.write_text("\n".join([f"{utt} ZERO ZERO", *lines[1:]]) + "\n")
    model = TeacherTransducer(
        teacher / "config.yaml", teacher / "valid.loss.best.pth", "cpu"
    )

    def use():
        stores, lengths = PathStores(out), lengths_of(data, "train")
        stores.check_lengths(Path("x"), lengths)
        labels = model.labels(utt, read_text(data / "train", [])[utt])
        num = lengths[utt]
        stores.read(utt, num, torch.from_numpy(labels), num // 640, 640)

    with pytest.raises((TargetStoreError, DataError)) as error:
        use()
    shutil.rmtree(re.search(r"remove (/\S+) and extract", str(error.value))[1])
    assert "mtkd_extract_paths" in str(error.value)
    mtkd_extract_paths.main(command)
    use()


@pytest.mark.remedy("paths of two different teachers or settings")
def test_paths_of_other_settings_have_a_folder_of_their_own(data, teacher, tmp_path):
    other_data(data, tmp_path / "data")
    words = extraction(teacher, data, tmp_path / "o")
    mtkd_extract_paths.main(words)
    other = extraction(teacher, data, tmp_path / "o", "--num_tokens", "4")
    other = [x.replace(f"{data}/train", f"{data}/valid") for x in other]
    mtkd_extract_paths.main(other)
    with pytest.raises(TargetStoreError, match="give each a folder of its own"):
        PathStores(tmp_path / "o")
    shutil.rmtree(tmp_path / "o/valid")
    other = [x.replace(f"{tmp_path}/o", f"{tmp_path}/o4") for x in other]
    mtkd_extract_paths.main(other)
    assert [PathStores(tmp_path / x).num_tokens for x in ("o", "o4")] == [5, 4]


@pytest.mark.remedy("take their lines out of wav.scp and text, remove", "add them, or:")
@pytest.mark.parametrize("fault", ["no line", "no path"])
def test_utterances_without_a_path_are_taken_out(
    data, teacher, tmp_path, capsys, fault
):
    data, out = other_data(data, tmp_path / "data"), tmp_path / "o"
    text, scp = data / "train/text", data / "train/wav.scp"
    lines = text.read_text().splitlines(keepends=True)
    text.write_text("".join(lines[1:]))
    if fault == "no path":
        text.write_text("".join([lines[0].split()[0] + "\n", *lines[1:]]))
    with pytest.raises(SystemExit):
        mtkd_extract_paths.main(extraction(teacher, data, out))
    message = capsys.readouterr().err
    if fault == "no path":
        text.write_text("".join(lines[1:]))
        scp.write_text("".join(scp.read_text().splitlines(keepends=True)[1:]))
        shutil.rmtree(re.search(r"remove (/\S+), and run", message)[1])
    else:
        command = re.search(r"add them, or: (.*)", message)[1]
        utts = (f"{x.split()[0]} s\n" for x in lines[1:])
        (data / "train/utt2spk").write_text("".join(utts))
        asr1 = builders.ROOT / "tools/espnet/egs2/TEMPLATE/asr1"
        command = f'export PATH="{asr1}/utils:${{PATH}}"; {command}'
        subprocess.run(["bash", "-c", command], check=True, cwd=asr1)
    mtkd_extract_paths.main(extraction(teacher, data, out))
    assert len(PathStores(out)) == len(lines) - 1


def test_without_transcripts_there_are_no_paths(data, teacher, tmp_path):
    with_transcript(data, tmp_path / "data", "")
    (tmp_path / "data/train/text").unlink()
    with pytest.raises(SystemExit) as end:
        mtkd_extract_paths.main(extraction(teacher, tmp_path / "data", tmp_path / "o"))
    assert end.value.code == 4


# ------------------------------------------------------------- the student


@pytest.mark.parametrize("encoder", builders.ENCODERS)
def test_a_distilled_student_is_a_stock_model(data, paths, tmp_path, encoder):
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.tasks.asr import ASRTask

    exp = train_student(
        data,
        tmp_path / "kd",
        *("--path_targets_dir", str(paths)),
        *("--path_kd_conf", "weight=0.3", "--path_kd_conf", "time_shift=1"),
        encoder=encoder,
    )
    assert yaml.safe_load((exp / "config.yaml").read_text())["model"] == "espnet"
    model, _ = ASRTask.build_model_from_file(
        exp / "config.yaml", exp / "1epoch.pth", "cpu"
    )
    assert set(model.state_dict()) == set(load(exp))
    decode = Speech2Text(exp / "config.yaml", exp / "1epoch.pth", beam_size=2)
    assert decode(builders.speech_like(1.0, 1))


def test_paths_and_kept_teachers_go_together(data, paths, stage1, tmp_path):
    """The teachers run here, for a stage 1 on other audio; ESPnet's own intermediate
    CTC stands beside both."""
    conf = dict(builders.ENCODERS["conformer"], interctc_layer_idx=[1])
    config = builders.asr_config("conformer", encoder_conf=conf)
    config["model_conf"] = dict(config["model_conf"], interctc_weight=0.3)
    first = stage1("conformer").best
    extra = ("--path_targets_dir", str(paths), "--keep_teachers_from", str(first))
    exp = train(data, tmp_path / "kd", config, *extra)
    reporter = torch.load(exp / "checkpoint.pth", weights_only=False)["reporter"]
    stats = reporter["stats"][1]["train"]
    assert stats["loss_interctc_layer1"] > 0
    ctc = 0.7 * stats["loss_ctc"] + 0.3 * stats["loss_interctc_layer1"]
    expected = stats["loss_transducer"] + 0.3 * ctc
    expected += 0.5 * stats["loss_path_kd"] + 300 * stats["loss_kept"]
    assert stats["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.remedy("GPU memory in stage 2")
def test_half_the_batch_and_twice_as_many_to_an_update(data, tmp_path):
    def updates(name, *extra):
        exp = train_student(data, tmp_path / name, *extra)
        state = torch.load(exp / "checkpoint.pth", weights_only=False)
        (optimizer,) = state["optimizers"]
        return {int(x["step"]) for x in optimizer["state"].values()}

    smaller = updates("a", "--batch_bins", "60000")
    assert max(updates("b", "--batch_bins", "60000", "--accum_grad", "2")) == (
        max(smaller) // 2
    )


def test_paths_change_the_training_and_slices_do_not(data, paths, tmp_path):
    # Adam would make whole steps of the noise in gradients that are 0.
    sgd = ["--optim", "sgd"]
    plain = train_student(data, tmp_path / "plain", *sgd, "--transducer_loss", "plain")
    plain, sliced = load(plain), load(train_student(data, tmp_path / "sliced", *sgd))
    kd = ["--path_targets_dir", str(paths)]
    kd = load(train_student(data, tmp_path / "kd", *sgd, *kd))
    for key, value in plain.items():
        torch.testing.assert_close(sliced[key], value, rtol=1e-4, atol=1e-6)
    weight = "joint_network.lin_out.weight"
    assert float((kd[weight] - plain[weight]).abs().max()) > 1e-5


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--path_kd_conf", "wieght=1"], "unexpected keyword argument 'wieght'"),
        (["--path_kd_conf", "variant=all"], "expected one of"),
        (["--path_kd_conf", "weight=-1"], "expected above 0, found -1"),
        (["--path_kd_conf", "time_shift=-2"], "time_shift: expected a whole number"),
        (["--path_kd_conf", "time_shift=0.5"], "time_shift: expected a whole number"),
        (["--path_kd_conf", "temperature=.inf"], "found inf"),
        (
            ["--path_kd_conf", "weight=0.3"],
            "nothing is distilled without path_targets_dir",
        ),
        (["--path_targets_dir", "/nowhere"], "run mtkd_extract_paths"),
    ],
)
def test_wrong_settings_are_refused(data, tmp_path, capsys, extra, message):
    with pytest.raises(SystemExit) as end:
        train_student(data, tmp_path / "exp", *extra)
    assert end.value.code in (2, 5)
    assert message in capsys.readouterr().err


def test_a_time_shift_beyond_the_end_of_every_path_is_refused(
    data, paths, tmp_path, capsys
):
    """Nothing would be compared."""
    with pytest.raises(SystemExit) as end:
        train_student(
            data,
            tmp_path / "exp",
            *("--path_targets_dir", str(paths), "--path_kd_conf", "time_shift=9999"),
        )
    assert end.value.code == 2
    assert "path_kd_conf.time_shift: expected below" in capsys.readouterr().err


@pytest.mark.parametrize("num_tokens", [5, None])
def test_a_temperature_over_few_tokens_is_warned_of(
    data, teacher, paths, tmp_path, caplog, num_tokens
):
    """All of them give the divergence of the softened distributions."""
    if num_tokens is None:
        paths = tmp_path / "paths"
        num_tokens = len((data / "tokens.txt").read_text().splitlines())
        command = extraction(teacher, data, paths, "--num_tokens", str(num_tokens))
        mtkd_extract_paths.main(command)
    extra = ("--path_targets_dir", str(paths), "--path_kd_conf", "temperature=2")
    train_student(data, tmp_path / "exp", *extra)
    is_warned = "path_kd_conf.temperature: 2 softens the 5 stored" in caplog.text
    assert is_warned == (num_tokens == 5)


@pytest.mark.remedy("both need one token list")
def test_another_token_list_is_refused_by_its_first_token(paths):
    stores = PathStores(paths)
    tokens = list(stores.tokens)
    stores.check_tokens(tokens)
    tokens[4] = "?"
    with pytest.raises(ConfigError, match="token 4: the student's is '[?]'"):
        stores.check_tokens(tokens)
    with pytest.raises(ConfigError, match="the student has 3 tokens"):
        stores.check_tokens(stores.tokens[:3])


def test_utterances_without_their_own_path_are_named(data, paths):
    stores = PathStores(paths)
    utt, n = (data / "train/speech_shape").read_text().splitlines()[0].split()
    labels = torch.tensor([3, 4])
    with pytest.raises(TargetStoreError, match="utterance new: no path"):
        stores.read("new", int(n), labels, 30, 640)
    with pytest.raises(TargetStoreError, match=f"utterance {utt}: 7 samples"):
        stores.read(utt, 7, labels, 30, 640)
    with pytest.raises(DataError, match=f"utterance {utt}: .* another transcript"):
        stores.read(utt, int(n), labels, 30, 640)


def test_only_transducers_can_be_distilled():
    args = MTKDASRTask.get_default_config()
    import argparse

    args = argparse.Namespace(**{**args, "decoder": "rnn"})
    with pytest.raises(ConfigError, match="decoder: expected transducer, found rnn"):
        MTKDASRTask.build_model(args)


def test_the_distance_is_the_sum_over_the_nodes(data, paths, tmp_path):
    """A loop over utterances and nodes, one joint evaluation each."""
    from espnet2.tasks.asr import ASRTask

    from espnet_mtkd.transducer.kd import path_kd_loss
    from espnet_mtkd.transducer.model import PathKDConfig

    exp = train_student(data, tmp_path / "student")
    stock, args = ASRTask.build_model_from_file(
        exp / "config.yaml", exp / "1epoch.pth", "cpu"
    )
    model = MTKDASRTask.build_model(args).eval()
    model.load_state_dict(stock.state_dict())
    stores = PathStores(paths)
    model.distil_from(stores, PathKDConfig(time_shift=1, temperature=2.0))
    texts = read_text(data / "train", [])
    lines = (data / "train/speech_shape").read_text().splitlines()[:3]
    utts = [line.split()[0] for line in lines]
    nums = [int(line.split()[1]) for line in lines]
    tokenize = MTKDASRTask.build_preprocess_fn(args, train=False)
    labels = [torch.from_numpy(tokenize(u, {"text": texts[u]})["text"]) for u in utts]
    frames = torch.tensor([n // 640 for n in nums])
    num_labels = torch.tensor([len(x) for x in labels])
    torch.manual_seed(0)
    h = torch.randn(3, int(frames.max()), model.encoder.output_size())
    g = torch.randn(3, int(num_labels.max()) + 1, model.decoder.dunits)
    padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
    model._batch = utts, nums
    with torch.no_grad():
        found = model.path_kd(h, frames, g, padded, num_labels)
        expected = 0.0
        for b, utt in enumerate(utts):
            path = stores.read(
                utt, nums[b], labels[b], int(frames[b]), model.frame_shift
            )
            assert stores.frame_shift == model.frame_shift
            for i, t in enumerate(path.frames.tolist()):
                if t + 1 >= int(frames[b]):
                    continue
                logits = model.joint_network(h[b, t + 1], g[b, path.positions[i]])
                one = slice(i, i + 1)
                expected += path_kd_loss(
                    logits[None],
                    path.ids[one],
                    path.logp[one],
                    path.has_label[one],
                    2.0,
                )
    torch.testing.assert_close(found, expected[0] / 3, rtol=1e-4, atol=1e-4)


def test_the_encoder_learns_at_a_part_of_the_learning_rate(data, tmp_path):
    def one_step(scale):
        config = builders.asr_config(
            "conformer", batch_bins=10**7, optim="sgd", optim_conf=dict(lr=1e-3)
        )
        exp = tmp_path / f"scale_{scale}"
        return load(train(data, exp, config, "--encoder_lr_scale", str(scale)))

    start, half, whole = one_step(1e-9), one_step(0.5), one_step(1.0)
    change = {k: (half[k] - start[k], whole[k] - start[k]) for k in whole}
    for key, (small, large) in change.items():
        if key.startswith("encoder.") and large.is_floating_point():
            if not key.endswith(("running_mean", "running_var")):
                torch.testing.assert_close(small, 0.5 * large, rtol=1e-3, atol=1e-6)
    assert change["encoder.after_norm.weight"][1].abs().max() > 1e-6
    assert torch.equal(half["ctc.ctc_lo.weight"], whole["ctc.ctc_lo.weight"])


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf"])
def test_a_scale_of_the_learning_rate_that_means_nothing(data, tmp_path, scale):
    with pytest.raises(ConfigError, match="encoder_lr_scale: expected a finite number"):
        MTKDASRTask.main(
            cmd=[
                *("--encoder_lr_scale", scale, "--decoder", "transducer"),
                *("--token_list", str(data / "tokens.txt"), "--dry_run", "true"),
                *("--output_dir", str(tmp_path)),
            ]
        )
