"""Stage 2 with the teachers of stage 1 kept, as a user runs it."""

import argparse
import logging
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import builders
import pytest
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text

from espnet_mtkd.bin import mtkd_espnet, mtkd_extract, mtkd_train
from espnet_mtkd.targets.store import TargetStore
from espnet_mtkd.transducer.kept import NAME
from espnet_mtkd.transducer.task import MTKDASRTask

DELAY = {"conformer": 0, "contextual_block_conformer": 2}
WARPED = ("--specaug_conf", "apply_time_mask=false")  # warping is ESPnet's default
SCP = "wav.scp,speech,sound"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Training, validation and unlabelled directories, and a token list."""
    folder = tmp_path_factory.mktemp("kept_data")
    builders.build_data_dir(folder / "train", 6, 31)
    builders.build_data_dir(folder / "valid", 2, 32)
    builders.build_data_dir(folder / "more", 4, 33)
    builders.write_tokens(folder / "tokens.txt")
    return folder


@pytest.fixture(scope="module")
def targets(data, two_teachers, tmp_path_factory):
    """The teachers' embeddings of all three sets."""
    folder = tmp_path_factory.mktemp("kept_targets")
    mtkd_extract.main(
        [
            *("--teachers", str(two_teachers), "--out_dir", str(folder)),
            *("--form", "fp16", "--exact", "--data_dir"),
            *(str(data / name) for name in ("train", "valid", "more")),
        ]
    )
    return folder


@pytest.fixture(scope="module")
def stage1(data, targets, two_teachers, tmp_path_factory):
    """Function: encoder -> checkpoint of a stage 1 with stored or live targets."""
    made = {}

    def run(encoder: str, is_live: bool = False) -> Path:
        if (encoder, is_live) not in made:
            folder = tmp_path_factory.mktemp("kept_stage1")
            config = builders.mtkd_config(max_epoch=1, normalize="utterance_mvn")
            asr = builders.asr_config(encoder)
            command = [
                *("--config", builders.write_yaml(folder / "mtkd.yaml", config)),
                *("--student_config", builders.write_yaml(folder / "asr.yaml", asr)),
                *("--teachers", two_teachers, "--ngpu", "0"),
                *("--output_dir", folder / "exp", "--target_delay", DELAY[encoder]),
                *("--unlabelled_wav_scp", data / "more/wav.scp"),
                *("--unlabelled_shape_file", data / "more/speech_shape"),
            ]
            for part in ("train", "valid"):
                flag = f"--{part}_data_path_and_name_and_type"
                command += [flag, f"{data / part}/{SCP}"]
                command += [f"--{part}_shape_file", data / part / "speech_shape"]
            if not is_live:
                command += ["--targets_dir", targets]
            mtkd_train.main([str(x) for x in command])
            made[encoder, is_live] = folder / "exp/valid.loss.best.pth"
        return made[encoder, is_live]

    return run


def command_of(data: Path, exp: Path, config: dict, *extra, train="train") -> list[str]:
    """`asr_train` through the runner, as asr.sh calls it."""
    config_file = builders.write_yaml(exp.parent / f"{exp.name}.yaml", config)
    command = ["-m", "espnet2.bin.asr_train", "--config", str(config_file)]
    for part, name in (("train", train), ("valid", "valid")):
        folder = data / name
        flag = f"--{part}_data_path_and_name_and_type"
        command += [flag, f"{folder}/{SCP}", flag, f"{folder}/text,text,text"]
        command += [f"--{part}_shape_file", f"{folder}/speech_shape"]
    command += ["--token_list", str(data / "tokens.txt"), "--token_type", "char"]
    return [*command, "--output_dir", str(exp), "--seed", "3", *map(str, extra)]


def train(data, exp, *extra, encoder="conformer", train="train", **changes) -> Path:
    config = builders.asr_config(encoder, **changes)
    mtkd_espnet.main(command_of(data, exp, config, *extra, train=train))
    return exp


def keep(checkpoint: Path, *words: str) -> list[str]:
    """Options of `asr_train`."""
    conf = [x for word in words for x in ("--keep_teachers_conf", word)]
    return ["--keep_teachers_from", str(checkpoint), *conf]


def load(path: Path):
    return torch.load(path, weights_only=True)


def heads_of(exp: Path) -> dict:
    return load(exp / "checkpoint.pth")["optimizers"][0][NAME]


def reports(exp: Path) -> dict:
    """Epoch -> phase -> statistics."""
    return torch.load(exp / "checkpoint.pth", weights_only=False)["reporter"]["stats"]


def statistics(exp: Path, phase: str) -> dict:
    """Of the last epoch."""
    return reports(exp)[max(reports(exp))][phase]


# ------------------------------------------------------------- what is saved


@pytest.mark.parametrize("encoder", builders.ENCODERS)
def test_a_student_with_kept_teachers_is_a_stock_model(
    data, stage1, tmp_path, encoder, caplog
):
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.tasks.asr import ASRTask

    first = stage1(encoder)
    init = ("--init_param", f"{first}:encoder:encoder")
    with caplog.at_level(logging.INFO):
        exp = train(data, tmp_path / "kept", *keep(first), *init, encoder=encoder)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["model"] == "espnet"
    for name in ("1epoch.pth", "valid.loss.best.pth", "valid.loss.ave_1best.pth"):
        model, _ = ASRTask.build_model_from_file(exp / "config.yaml", exp / name, "cpu")
        assert list(model.state_dict()) == list(load(exp / name))
    saved = load(exp / "checkpoint.pth")
    assert list(saved["model"]) == list(model.state_dict())
    assert not [k for k in load(exp / "1epoch.pth")._metadata if NAME in k]
    decode = Speech2Text(exp / "config.yaml", exp / "1epoch.pth", beam_size=2)
    assert decode(builders.speech_like(1.0, 1))
    # Heads went on from stage 1's, the targets' statistics stayed.
    before, after = load(first), heads_of(exp)
    num = sum(x.numel() for k, x in after.items() if not k.startswith("standardizers"))
    assert f"heads that are dropped at saving: {num} parameters" in caplog.text
    assert {f"objective.{k}" for k in after} == {k for k in before if "objective." in k}
    for key, value in after.items():
        is_equal = torch.equal(value, before[f"objective.{key}"])
        assert is_equal == key.startswith("standardizers"), key


def test_kept_teachers_change_the_training_and_not_the_models_loss(
    data, stage1, tmp_path
):
    """The validation loss, by which models are selected, is that of a stock model."""
    plain = train(data, tmp_path / "plain")
    exp = train(data, tmp_path / "kept", *keep(stage1("conformer")))
    first, second = (load(x / "1epoch.pth") for x in (plain, exp))
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    assert not torch.allclose(first[name], second[name], atol=1e-4)
    found, without = statistics(exp, "valid"), statistics(plain, "valid")
    assert found["loss_kept"] > 0
    assert set(without) < set(found)
    expected = found["loss_transducer"] + 0.3 * found["loss_ctc"]
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_from_a_share_on_nothing_is_kept(data, stage1, tmp_path):
    """The trainer knows which epoch it is, and how much of it is done."""
    first = stage1("conformer")
    changes = dict(batch_bins=60000, max_epoch=2)
    half = train(data, tmp_path / "half", *keep(first, "until=0.5"), **changes)
    assert "loss_kept" in reports(half)[1]["train"]
    assert "loss_kept" not in reports(half)[2]["train"]
    assert "loss_kept" in reports(half)[2]["valid"]


# ------------------------------------------------------------- the loss


def build(exp: Path):
    """The model of a training, as it began, and its arguments."""
    config = yaml.safe_load((exp / "config.yaml").read_text())
    args = argparse.Namespace(**config)
    torch.manual_seed(0)
    return MTKDASRTask.build_model(args), args


def read_batch(folder: Path, num: int) -> dict:
    scp = dict(x.split() for x in (folder / "wav.scp").read_text().splitlines())
    utts = list(scp)[:num]
    waves = [torch.from_numpy(soundfile.read(scp[u], dtype="float32")[0]) for u in utts]
    return dict(
        speech=torch.nn.utils.rnn.pad_sequence(waves, True),
        speech_lengths=torch.tensor([len(w) for w in waves]),
        utt_id=utts,
    )


def plain_loss(state: dict, targets: Path, batch: dict, h, h_lengths, delay: int):
    """Sum over the frames, and their number, of each target: loops alone."""
    # docs/method.md: student frame t goes with these frames of 50 Hz teachers
    first = {"whisper": 1, "hubert": 0}
    weights = {"whisper_l3": 1.0, "hubert_l1": 0.25, "hubert_l4": 0.25}
    total, frames = 0.0, 0.0
    for name, weight in weights.items():
        teacher = name.partition("_")[0]
        mean = state[f"objective.standardizers.{name}.mean"].double()
        std = state[f"objective.standardizers.{name}.std"].double()
        matrix = state[f"objective.heads.{name}.linear.weight"].double()
        bias = state[f"objective.heads.{name}.linear.bias"].double()
        loss, num = 0.0, 0
        for b, utt in enumerate(batch["utt_id"]):
            utt = utt.split("/")[-1]
            (store,) = (
                s
                for s in map(TargetStore, sorted((targets / teacher).glob("*/")))
                if s.find(utt) is not None
            )
            row = store.read(utt, int(batch["speech_lengths"][b]))[name]
            y = (torch.from_numpy(row).double() - mean) / std
            for t in range(int(h_lengths[b]) - delay):
                begin = 2 * t + first[teacher]
                if begin + 2 > len(y):
                    break
                p = (matrix @ h[b, t + delay].double() + bias).view(2, -1)
                for k in range(2):
                    cosine = torch.nn.functional.cosine_similarity(
                        p[k], y[begin + k], dim=0
                    )
                    distance = (p[k] - y[begin + k]).abs().mean()
                    loss = loss + (distance + 1 - cosine) / 2
                num += 1
        total = total + weight / sum(weights.values()) * loss / num
        frames += num / 3
    return total, frames


@pytest.mark.parametrize("encoder", builders.ENCODERS)
def test_loss_and_gradient_are_those_of_a_loop(
    data, targets, stage1, tmp_path, encoder
):
    """Of labelled and unlabelled frames together, the encoder run once for each."""
    first = stage1(encoder)
    options = keep(first, "weight=200", "unlabelled=1")
    exp = train(data, tmp_path / "kept", *options, encoder=encoder)
    model, _ = build(exp)
    model.train()
    model.kept.check_training("train", {})
    calls = []
    model.encoder.register_forward_hook(lambda m, i, out: calls.append(out[:2]))
    batch, more = (read_batch(data / name, 3) for name in ("train", "more"))
    more["utt_id"] = [f"more/{u}" for u in more["utt_id"]]
    text = torch.randint(3, 10, (3, 5), generator=torch.Generator().manual_seed(0))
    text = dict(text=text, text_lengths=torch.tensor([5, 4, 3]))
    text["text"][1:, 4] = text["text"][2:, 3] = -1
    copied = {k: v.clone() for k, v in text.items()}
    loss, stats, _ = model(**batch, **text, unlabelled=[more])
    assert len(calls) == 2
    state, delay = load(first), DELAY[encoder]
    (a, n), (b, m) = (
        plain_loss(state, targets, x, h, lengths, delay)
        for x, (h, lengths) in zip((batch, more), calls, strict=True)
    )
    expected = (a * n + b * m) / (n + m)
    assert float(stats["loss_kept"]) == pytest.approx(float(expected), rel=1e-4)
    plain = stats["loss_transducer"] + 0.3 * stats["loss_ctc"]
    assert float(loss) == pytest.approx(float(plain + 200 * expected), rel=1e-4)
    # What the loop's loss adds to the gradient of the encoder's parameters.
    name = "encoders.0.feed_forward.w_1.weight"
    parameter = model.encoder.get_parameter(name)
    wanted = torch.autograd.grad(200 * expected, parameter, retain_graph=True)[0]
    found = torch.autograd.grad(loss, parameter, retain_graph=True)[0]
    model.kept.progress = 1.0  # the weight is 0
    calls.clear()
    without, stats, _ = model(**batch, **copied, unlabelled=[more])
    assert len(calls) == 1 and "loss_kept" not in stats
    found = found - torch.autograd.grad(without, parameter, retain_graph=True)[0]
    torch.testing.assert_close(found, wanted.float(), rtol=1e-3, atol=1e-3)
    # DDP waits for a gradient of every parameter.
    without.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name


@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, 1e6])
def test_padding_teaches_nothing(data, targets, stage1, tmp_path, rubbish):
    """Whatever stands behind the shorter utterances, of encoder and targets."""
    first = stage1("conformer")
    exp = train(data, tmp_path / "kept", *keep(first))
    model, _ = build(exp)
    model.train()
    kept, teachers = model.kept, model.kept.teachers
    kept.check_training("train", {})
    batch = read_batch(data / "train", 3)
    batch["utt_id"] = kept.name_ids(batch["utt_id"])
    speech = batch["speech"], batch["speech_lengths"]
    encoded, h_lengths = model.encode(*speech)[:2]

    def behind(value, x_BTE, lengths):
        valid_BT = torch.arange(x_BTE.size(1)) < lengths[:, None]
        return x_BTE.masked_fill(~valid_BT[..., None], value)

    def run(value):
        def answer(*args):
            answers = teachers(*args).items()
            return {k: (behind(value, x, n), n) for k, (x, n) in answers}

        kept.teachers = answer
        h = behind(value, encoded.detach(), h_lengths).requires_grad_()
        loss = kept(h, h_lengths, *speech, batch["utt_id"])[0]
        parameters = dict(kept.named_parameters())
        gradients = torch.autograd.grad(loss, [h, *parameters.values()])
        return loss, dict(zip(["h", *parameters], gradients, strict=True))

    (expected, gradients), (found, others) = run(0.0), run(rubbish)
    assert torch.equal(found, expected)
    for name, gradient in gradients.items():
        assert torch.equal(others[name], gradient) and gradient.isfinite().all(), name
    shortest = int(h_lengths.min())
    assert shortest < encoded.size(1)
    assert not gradients["h"][h_lengths.argmin(), shortest:].any()
    # By a loop over the stored targets, which have no padding.
    state = {f"objective.{k}": v for k, v in kept.objective.state_dict().items()}
    loop, _ = plain_loss(state, targets, batch, encoded, h_lengths, 0)
    assert float(found) == pytest.approx(float(loop), rel=1e-4)


def test_live_teachers_give_what_stored_ones_do(data, stage1, tmp_path):
    """Stage 1 without stored targets: its teachers run, and are remembered."""
    losses = []
    for name, is_live in (("live", True), ("stored", False)):
        first = stage1("conformer", is_live)
        exp = train(data, tmp_path / name, *keep(first), optim_conf=dict(lr=0.0))
        losses.append(statistics(exp, "train")["loss_kept"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


# ------------------------------------------------------------- resume, processes


def test_a_resumed_training_is_the_uninterrupted_one(data, stage1, tmp_path):
    """Heads, optimiser, decay and unlabelled batches, to the last bit."""
    words = ("decay=cosine", "until=0.9", "unlabelled=0.5")
    options = keep(stage1("conformer"), *words)
    changes = dict(batch_bins=60000, keep_nbest_models=3)
    straight = train(data, tmp_path / "straight", *options, **changes, max_epoch=3)
    # As if it had been killed in the third epoch.
    resumed = tmp_path / "resumed"
    killed = train_until(data, resumed, 2, options, changes)
    assert killed == [1, 2]
    train(data, resumed, *options, "--resume", "true", **changes, max_epoch=3)
    a, b = (load(x / "3epoch.pth") for x in (straight, resumed))
    for found, expected in ((a, b), (heads_of(straight), heads_of(resumed))):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), key


def train_until(data, exp, last: int, options, changes) -> list[int]:
    """Train three epochs, ended by an error at the beginning of the next one."""
    from espnet_mtkd.transducer import trainer

    original, seen = trainer.Timed.__iter__, []

    def stop(self):
        if self.num_done == last:
            raise KeyboardInterrupt
        seen.append(self.num_done + 1)
        return original(self)

    trainer.Timed.__iter__ = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            train(data, exp, *options, **changes, max_epoch=3)
    finally:
        trainer.Timed.__iter__ = original
    return seen


@pytest.mark.remedy("kept teachers, and this training is")
@pytest.mark.parametrize("is_kept_first", [True, False])
def test_a_checkpoint_of_the_other_kind_is_refused(
    data, stage1, tmp_path, capsys, is_kept_first
):
    kept = keep(stage1("conformer"))
    first, second = (kept, []) if is_kept_first else ([], kept)
    train(data, tmp_path / "exp", *first)
    with pytest.raises(SystemExit) as end:
        train(data, tmp_path / "exp", *second, "--resume", "true", max_epoch=2)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "checkpoint.pth was written with" in error
    assert "give the options that it began with, or another --output_dir" in error
    train(data, tmp_path / "exp", *first, "--resume", "true", max_epoch=2)
    assert sorted(reports(tmp_path / "exp")) == [1, 2]
    train(data, tmp_path / "other", *second, "--resume", "true", max_epoch=1)


def test_two_processes_update_as_one_does(stage1_of_equal_lengths, tmp_path):
    """Of different numbers of frames: the mean is over all frames."""
    run = stage1_of_equal_lengths
    one = run(tmp_path / "one", 1)
    two = run(tmp_path / "two", 2)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.fixture
def stage1_of_equal_lengths(data, targets, two_teachers, warm_python, tmp_path):
    """Function: final parameters and heads of a training by so many processes.

    BatchNorm sees its own process's share, so there is none; and a batch is padded as
    its halves are.
    """
    import socket

    conf = dict(builders.ENCODERS["conformer"], use_cnn_module=False)
    folder = tmp_path / "first"
    folder.mkdir()
    # Lengths by pairs, so that both processes pad alike but differ in frames.
    train_dir = folder / "train"
    train_dir.mkdir()
    rows = []
    for i in range(8):
        wave = builders.speech_like(2.0 if i < 2 else 1.2, 700 + i)
        soundfile.write(train_dir / f"u{i}.wav", wave, builders.SAMPLE_RATE)
        rows.append((f"u{i}", len(wave), "ONE TWO"))
    for name, column in (("speech_shape", 1), ("text", 2)):
        lines = "".join(f"{row[0]} {row[column]}\n" for row in rows)
        (train_dir / name).write_text(lines)
    scp = "".join(f"{row[0]} {train_dir}/{row[0]}.wav\n" for row in rows)
    (train_dir / "wav.scp").write_text(scp)
    shutil.copytree(data / "valid", folder / "valid")
    shutil.copy(data / "tokens.txt", folder / "tokens.txt")
    asr = builders.asr_config("conformer", encoder_conf=conf)
    config = builders.mtkd_config(max_epoch=1, normalize="utterance_mvn")
    command = [
        *("--config", builders.write_yaml(folder / "mtkd.yaml", config)),
        *("--student_config", builders.write_yaml(folder / "asr.yaml", asr)),
        *("--teachers", two_teachers, "--ngpu", "0", "--output_dir", folder / "exp"),
    ]
    for part in ("train", "valid"):
        flag = f"--{part}_data_path_and_name_and_type"
        command += [flag, f"{folder / part}/{SCP}"]
        command += [f"--{part}_shape_file", folder / part / "speech_shape"]
    mtkd_train.main([str(x) for x in command])
    changes = dict(
        encoder_conf=conf,
        batch_type="sorted",
        batch_size=4,
        optim="sgd",
        optim_conf=dict(lr=0.001),
        sort_in_batch="descending",
    )

    def run(exp: Path, world_size: int) -> dict:
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        config = builders.asr_config("conformer", **changes)
        config.pop("batch_bins")
        first = folder / "exp/valid.loss.best.pth"
        words = command_of(folder, exp, config, *keep(first), "--ngpu", "0")
        jobs = []
        for rank in range(world_size):
            extra = []
            if world_size > 1:
                extra = [
                    *("--dist_backend", "gloo", "--dist_world_size", world_size),
                    *("--multiprocessing_distributed", "false", "--dist_rank", rank),
                    *("--dist_master_addr", "localhost", "--dist_master_port", port),
                ]
            program = [warm_python, "-m", "espnet_mtkd.bin.mtkd_espnet"]
            jobs.append(
                subprocess.Popen(
                    [*program, *words, *map(str, extra)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            )
        logs = [job.communicate(timeout=240)[0] for job in jobs]
        assert [job.returncode for job in jobs] == [0] * world_size, logs[-1][-3000:]
        return {**load(exp / "1epoch.pth"), **heads_of(exp)}

    return run


# ------------------------------------------------------------- what it goes with


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_frozen_encoder_has_no_kept_teachers(data, stage1, tmp_path, is_frozen):
    frozen = "encoder" if is_frozen else "encoder.embed"
    options = keep(stage1("conformer"))
    exp = train(data, tmp_path / "exp", *options, "--freeze_param", frozen)
    state = load(exp / "checkpoint.pth")["optimizers"][0]
    assert (NAME not in state) == is_frozen
    assert ("loss_kept" in statistics(exp, "train")) != is_frozen


def test_the_plain_loss_and_intermediate_ctc_go_with_them(data, stage1, tmp_path):
    """ESPnet's own options; the blocks' outputs stand beside the encoder's last."""
    conf = dict(builders.ENCODERS["conformer"], interctc_layer_idx=[1])
    model_conf = dict(builders.asr_config("conformer")["model_conf"])
    exp = train(
        data,
        tmp_path / "exp",
        *keep(stage1("conformer")),
        *("--transducer_loss", "plain"),
        encoder_conf=conf,
        model_conf=dict(model_conf, interctc_weight=0.3),
    )
    stats = statistics(exp, "train")
    assert stats["loss_interctc_layer1"] > 0 and stats["loss_kept"] > 0
    decode = Speech2Text(exp / "config.yaml", exp / "1epoch.pth", beam_size=2)
    assert decode(builders.speech_like(1.0, 1))


@pytest.mark.remedy("has no intermediate outputs")
@pytest.mark.parametrize(
    ("encoder", "layers", "message", "what"),
    [
        ("conformer", [], "interctc_layer_idx: expected blocks", "blocks"),
        ("contextual_block_conformer", None, "no intermediate outputs", "leave it out"),
        ("contextual_block_conformer", None, "intermediate outputs", "train a Conform"),
    ],
)
def test_intermediate_ctc_that_would_do_nothing_is_refused(
    data, tmp_path, capsys, encoder, layers, message, what
):
    """ESPnet ignores the weight then."""

    def run(encoder, layers, weight):
        conf = dict(builders.ENCODERS[encoder])
        if layers is not None:
            conf["interctc_layer_idx"] = layers
        model_conf = dict(ctc_weight=0.3, report_cer=False, report_wer=False)
        model_conf |= weight
        changes = dict(encoder_conf=conf, model_conf=model_conf)
        return train(data, tmp_path / "exp", encoder=encoder, **changes)

    weight = dict(interctc_weight=0.3)
    with pytest.raises(SystemExit) as end:
        run(encoder, layers, weight)
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and what in error
    if what == "leave it out":
        run(encoder, layers, {})
    else:
        exp = run("conformer", [1], weight)
        assert statistics(exp, "train")["loss_interctc_layer1"] > 0


def joined(data: Path, folder: Path, *names: str) -> Path:
    """Data of which the training set has the utterances of several."""
    shutil.copytree(data, folder)
    (folder / "joined").mkdir()
    for file in ("wav.scp", "text", "speech_shape"):
        lines = "".join((data / name / file).read_text() for name in names)
        (folder / "joined" / file).write_text(lines)
    return folder


def test_a_training_set_of_several_finds_its_targets_by_id(data, stage1, tmp_path):
    """As pseudo-labels make it of the labelled and the unlabelled sets."""
    folder = joined(data, tmp_path / "data", "train", "more")
    options = keep(stage1("conformer"))
    exp = train(folder, tmp_path / "exp", *options, train="joined")
    assert statistics(exp, "train")["loss_kept"] > 0


@pytest.mark.remedy("which tells these apart")
@pytest.mark.parametrize("is_same_length", [False, True])
def test_one_id_in_two_sets_is_told_apart_by_its_length_or_refused(
    data, targets, stage1, two_teachers, tmp_path, capsys, is_same_length
):
    """The targets of `train` once more under another name."""
    folder = joined(data, tmp_path / "data", "train")
    stores = shutil.copytree(targets, tmp_path / "targets")
    for teacher in ("whisper", "hubert"):
        if is_same_length:
            shutil.copytree(stores / teacher / "train", stores / teacher / "again")
        else:
            copy_with_other_lengths(stores / teacher)
    options = keep(stage1("conformer"), f"targets_dir={stores}")
    if not is_same_length:
        exp = train(folder, tmp_path / "exp", *options, train="joined")
        assert statistics(exp, "train")["loss_kept"] > 0
        return
    with pytest.raises(SystemExit) as end:
        train(folder, tmp_path / "exp", *options, train="joined")
    error = capsys.readouterr().err
    assert end.value.code == 5
    assert "/train and " not in error and "again and" in error
    # The targets of this training's sets alone.
    assert "--keep_teachers targets_dir=" in error
    alone = shutil.copytree(
        stores, tmp_path / "alone", ignore=shutil.ignore_patterns("again")
    )
    options = keep(stage1("conformer"), f"targets_dir={alone}")
    train(folder, tmp_path / "exp", *options, train="joined")
    # Other ids, and their targets.
    assert "or rename the utterances of one" in error
    for file in ("wav.scp", "text", "speech_shape"):
        path = folder / "joined" / file
        lines = path.read_text().splitlines()
        path.write_text("".join(f"new_{x}\n" for x in lines))
    words = ["--teachers", two_teachers, "--out_dir", stores, "--form", "fp16"]
    words += ["--exact", "--data_dir", folder / "joined"]
    mtkd_extract.main([str(x) for x in words])
    options = keep(stage1("conformer"), f"targets_dir={stores}")
    train(folder, tmp_path / "renamed", *options, train="joined")


def copy_with_other_lengths(teacher: Path) -> None:
    """A store with the ids of `train` for audio that is 160 samples longer."""
    import json

    from espnet_mtkd.targets.signed import dump_signed, read_signed

    shutil.copytree(teacher / "train", teacher / "again")
    path = teacher / "again/manifest.json"
    body = {k: v for k, v in read_signed(path).items() if k != "sha256"}
    body["num_samples"] = [n + 160 for n in body["num_samples"]]
    path.write_bytes(dump_signed(json.loads(json.dumps(body))))


# ------------------------------------------------------------- refusals


def stage1_copy(first: Path, folder: Path, change=lambda state: None) -> Path:
    """Another directory with this stage 1, its checkpoint changed."""
    folder.mkdir()
    shutil.copy(first.parent / "config.yaml", folder)
    state = load(first)
    change(state)
    torch.save(state, folder / "model.pth")
    return folder / "model.pth"


def no_heads(state):
    for key in [k for k in state if k.startswith("objective.")]:
        del state[key]


def not_finite(state):
    state["objective.heads.whisper_l3.linear.bias"][1] = torch.nan


def another_shape(state):
    name = "objective.heads.whisper_l3.linear.bias"
    state[name] = state[name][:-1]


def never_standardised(state):
    state["objective.standardizers.whisper_l3.num_frames"].zero_()


@pytest.mark.remedy(
    "expected heads and statistics of the targets",
    "Name a checkpoint that was trained on these targets",
    "its targets were never standardised: train stage 1 anew",
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_heads, "missing: heads.hubert_l1.linear.bias"),
        (not_finite, "tensors: objective.heads.whisper_l3.linear.bias"),
        (another_shape, "of another shape: heads.whisper_l3.linear.bias"),
        (never_standardised, "never standardised"),
    ],
)
def test_heads_that_cannot_be_kept_are_refused(
    data, stage1, tmp_path, capsys, change, message
):
    model = stage1_copy(stage1("conformer"), tmp_path / "first", change)
    with pytest.raises(SystemExit) as end:
        train(data, tmp_path / "exp", *keep(model))
    assert end.value.code == 2 and message in capsys.readouterr().err
    # A checkpoint that was trained on these targets, anew.
    train(data, tmp_path / "exp", *keep(stage1("conformer")))


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda s: ["--keep_teachers_conf", "weight=3"], 2, "no teacher is kept"),
        (lambda s: keep(s.first, "wieght=3"), 2, "did you mean 'weight'?"),
        (lambda s: keep(s.first, "weight=.inf"), 2, "found inf"),
        (lambda s: keep(s.folder / "x.pth"), 2, "name a checkpoint in the directory"),
        (lambda s: keep(s.first.parent / "x.pth"), 2, "no such model file"),
        (lambda s: keep(s.first.parent / "checkpoint.pth"), 2, "is for resuming"),
        (lambda s: keep(s.first, "targets_dir=x"), 5, "no finished targets in x"),
        (lambda s: keep(s.streaming), 2, "encoder: expected contextual_block_conf"),
        (
            lambda s: [*keep(s.first), "--frontend_conf", "hop_length=128"],
            2,
            "frontend_conf.hop_length: expected 160, found 128",
        ),
        (
            lambda s: [*keep(s.first), "--specaug", "specaug", *WARPED],
            2,
            "apply_time_warp: expected false",
        ),
        (
            lambda s: [*keep(s.first), "--iterator_type", "chunk"],
            2,
            "expected sequence or category, found chunk",
        ),
    ],
)
def test_wrong_settings_are_refused_before_training(
    data, stage1, tmp_path, capsys, make, code, message
):
    (tmp_path / "empty").mkdir()
    options = make(
        SimpleNamespace(
            first=stage1("conformer"),
            streaming=stage1("contextual_block_conformer"),
            folder=tmp_path / "empty",
        )
    )
    with pytest.raises(SystemExit) as end:
        train(data, tmp_path / "exp", *options)
    assert end.value.code == code
    assert message in capsys.readouterr().err


@pytest.mark.remedy("the heads of", "Give stage 2 what is expected here, or train")
@pytest.mark.parametrize("what", ["what is expected", "train stage 1"])
def test_another_student_is_given_what_stage_1_had(
    data, stage1, tmp_path, capsys, what
):
    """Each field with both values, or a stage 1 with this encoder."""
    wrong = ["--frontend_conf", "hop_length=128", "--specaug", "specaug", *WARPED]
    first = stage1("conformer")
    options = keep(first)
    encoder = "conformer"
    if what == "train stage 1":
        wrong, encoder = [], "contextual_block_conformer"
    with pytest.raises(SystemExit):
        train(data, tmp_path / "exp", *options, *wrong, encoder=encoder)
    error = capsys.readouterr().err
    assert "Give stage 2 what is expected here, or train stage 1 with its" in error
    if what == "train stage 1":
        options = keep(stage1(encoder))
    for part, key, value in re.findall(r"(\w+_conf)\.(\w+): expected (\S+),", error):
        wrong += [f"--{part}", f"{key}={value}"]
    train(data, tmp_path / "exp", *options, *wrong, encoder=encoder)


@pytest.mark.remedy("--keep_teachers_from: no such file: {}: name a checkpoint")
def test_a_checkpoint_of_no_stage_1(data, stage1, tmp_path, capsys):
    first = stage1("conformer")
    alone = shutil.copy(first, tmp_path / first.name)
    with pytest.raises(SystemExit):
        train(data, tmp_path / "exp", *keep(alone))
    example = capsys.readouterr().err.split("such as exp/mtkd_x/")[1].split()[0]
    train(data, tmp_path / "exp", *keep(first.parent / example))


def test_unlabelled_audio_that_stage_1_had_not_is_refused(
    data, stage1, tmp_path, capsys
):
    model = stage1_copy(stage1("conformer"), tmp_path / "first")
    config = yaml.safe_load((model.parent / "config.yaml").read_text())
    config.update(unlabelled_wav_scp=[], unlabelled_shape_file=[])
    builders.write_yaml(model.parent / "config.yaml", config)
    with pytest.raises(SystemExit) as end:
        train(data, tmp_path / "exp", *keep(model, "unlabelled=1"))
    assert end.value.code == 2
    assert "had no audio without text" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["train", "more"])
def test_missing_targets_are_told_before_the_first_step(
    data, targets, stage1, tmp_path, capsys, monkeypatch, where
):
    stores = shutil.copytree(targets, tmp_path / "targets")
    shutil.rmtree(stores / "hubert" / where)
    steps = []
    options = keep(stage1("conformer"), f"targets_dir={stores}", "unlabelled=1")
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *a, **k: steps.append(1))
    with pytest.raises(SystemExit) as end:
        train(data, tmp_path / "exp", *options)
    error = capsys.readouterr().err
    num = {"train": 6, "more": 4}[where]
    assert end.value.code == 5 and not steps
    assert f"{num} of {num} utterances" in error and "teacher 'hubert'" in error


def test_validation_without_targets_is_not_reported(data, targets, stage1, tmp_path):
    stores = shutil.copytree(targets, tmp_path / "targets")
    shutil.rmtree(stores / "hubert/valid")
    options = keep(stage1("conformer"), f"targets_dir={stores}")
    exp = train(data, tmp_path / "exp", *options)
    assert "loss_kept" in statistics(exp, "train")
    assert "loss_kept" not in statistics(exp, "valid")
