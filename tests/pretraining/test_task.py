"""Stage 1 as a user runs it, both encoders; then stock ESPnet with what it gave."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import builders
import pytest
import torch
import yaml

from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.results import report
from espnet_mtkd.teachers.base import TeacherConfig
from espnet_mtkd.teachers.s3prl import S3PRLTeacher

ENCODERS = list(builders.ENCODERS)


def load(path):
    return torch.load(path, map_location="cpu", weights_only=False)


def tensors(value):
    """All tensors in a checkpoint, whatever the nesting."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for x in value.values():
            yield from tensors(x)
    elif isinstance(value, (list, tuple)):
        for x in value:
            yield from tensors(x)


def num_points(exp: Path, phase: str) -> dict[str, int]:
    """Tag -> number of points in a tensorboard folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(exp / "tensorboard" / phase))
    events.Reload()
    return {tag: len(events.Scalars(tag)) for tag in events.Tags()["scalars"]}


# ------------------------------------------------------------- two epochs


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_checkpoint_holds_the_student_and_nothing_of_a_teacher(
    stage1, checkpoints, encoder
):
    run = stage1(encoder)
    state = load(run.best)
    assert {k.split(".")[0] for k in state} == {*("frontend", "encoder", "objective")}
    for target in run.targets:
        assert state[f"objective.heads.{target}.linear.weight"].shape == (2 * 16, 16)
        assert state[f"objective.standardizers.{target}.num_frames"] > 100
    theirs = set()
    for upstream in ("hubert_local", "whisper_local"):
        config = TeacherConfig("t", upstream, path_or_url=str(checkpoints[upstream]))
        network = S3PRLTeacher(config)._network
        # Constant tensors (biases, gains) are everywhere alike.
        theirs |= {
            x.numpy().tobytes()
            for x in network.state_dict().values()
            if x.unique().numel() > 1
        }
    assert len(theirs) > 50
    for name in ("valid.loss.best.pth", "2epoch.pth", "checkpoint.pth"):
        for x in tensors(load(run.exp / name)):
            assert x.detach().numpy().tobytes() not in theirs
    # The optimizer knows the student's parameters only.
    checkpoint = load(run.exp / "checkpoint.pth")
    (group,) = checkpoint["optimizers"][0]["param_groups"]
    buffers = ("mean", "std", "num_frames", "running_mean", "running_var")
    buffers += ("num_batches_tracked", "melmat", "pe")
    parameters = [k for k in state if k.rsplit(".", 1)[-1] not in buffers]
    assert len(group["params"]) == len(parameters)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_loss_and_cosine_of_every_target_are_in_images_and_tensorboard(stage1, encoder):
    run = stage1(encoder)
    names = ["loss"]
    names += [f"{kind}_{t}" for t in run.targets for kind in ("loss", "cosine")]
    for phase in ("train", "valid"):
        found = num_points(run.exp, phase)
        for name in names:
            assert found[name] >= 2, name
    for name in names:
        png = (run.exp / "images" / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_config_yaml_stands_on_its_own(stage1, encoder, monkeypatch, tmp_path):
    """Configs and teacher list of the run are gone (see `stage1`), the folder is not
    the one of the run: the saved config is enough to rebuild model and teachers."""
    from espnet_mtkd.pretraining.task import MTKDTask

    run = stage1(encoder)
    monkeypatch.chdir(tmp_path)
    saved = yaml.safe_load(run.config.read_text())
    assert saved["encoder"] == encoder
    assert saved["encoder_conf"] == builders.ENCODERS[encoder]
    assert [t["upstream"] for t in saved["teachers"]] == [
        "whisper_local",
        "hubert_local",
    ]
    model, _ = MTKDTask.build_model_from_file(str(run.config), str(run.best))
    assert model.objective.is_standardized
    wave = torch.from_numpy(builders.speech_like(1.5, 9))
    loss, stats, _ = model.eval()(wave[None], torch.tensor([len(wave)]))
    assert loss.isfinite() and f"cosine_{run.targets[0]}" in stats
    state = load(run.best)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_first_two_epochs_and_the_resumed_third_are_three_epochs(
    stage1_command, two_teachers, warm_python, tmp_path
):
    """Each training in a process of its own, as a training is resumed."""

    def train(name: str, max_epoch: int, extra=()):
        config = builders.mtkd_config(max_epoch=max_epoch, keep_nbest_models=3)
        words = stage1_command(
            tmp_path / name, two_teachers, config=config, extra=extra
        )
        command = [warm_python, "-m", "espnet_mtkd.bin.mtkd_train", *words]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, env=env)
        return tmp_path / name

    first_two = train("first_two", 2)
    train("straight", 3)
    resumed = tmp_path / "resumed"
    shutil.copytree(first_two, resumed)
    train("resumed", 3, ["--resume", "true"])
    first = (resumed / "2epoch.pth").stat().st_mtime_ns
    assert (
        first == (first_two / "2epoch.pth").stat().st_mtime_ns
    )  # copied, not made anew
    assert report.read_curve(resumed, "valid")[0] == [1, 2, 3]
    straight, resumed = (
        load(tmp_path / name / "3epoch.pth") for name in ("straight", "resumed")
    )
    assert straight.keys() == resumed.keys()
    for key, value in straight.items():
        assert torch.equal(value, resumed[key]), key


@pytest.mark.parametrize("upstream", ["fbank", "hubert_local", "wav2vec2_local"])
def test_another_upstream_trains_with_no_other_change(
    stage1_command, checkpoints, tmp_path, upstream
):
    entry = dict(name="teacher", upstream=upstream)
    if upstream in checkpoints:
        entry["path_or_url"] = str(checkpoints[upstream])
    teachers = builders.write_yaml(tmp_path / "teachers.yaml", [entry])
    config = builders.mtkd_config(max_epoch=1)
    main(stage1_command(tmp_path / "exp", teachers, config=config))
    state = load(tmp_path / "exp/1epoch.pth")
    layer = 0 if upstream == "fbank" else 3
    dim, per_frame = (240, 4) if upstream == "fbank" else (builders.DIM, 2)
    shape = state[f"objective.heads.teacher_l{layer}.linear.weight"].shape
    assert shape == (per_frame * dim, 16)
    for value in state.values():
        assert value.isfinite().all()


def test_the_seed_chooses_the_students_weights(stage1_command, checkpoints, tmp_path):
    """s3prl seeds torch with 0 when it loads a teacher: nothing of that may stay."""
    entry = dict(name="t", upstream="hubert_local")
    entry["path_or_url"] = str(checkpoints["hubert_local"])
    teachers = builders.write_yaml(tmp_path / "teachers.yaml", [entry])
    config = builders.mtkd_config(max_epoch=1, optim_conf=dict(lr=0.0))
    weights = []
    for i, seed in enumerate((0, 0, 1)):
        exp = tmp_path / str(i)
        command = stage1_command(
            exp, teachers, config=config, extra=["--seed", f"{seed}"]
        )
        main(command)
        weights.append(load(exp / "1epoch.pth")["encoder.embed.conv.0.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# ------------------------------------------------------------- refusals


def exit_code(command) -> int:
    with pytest.raises(SystemExit) as end:
        main(command)
    return end.value.code


@pytest.mark.parametrize(
    "config, asr, message",
    [
        (dict(specaug="specaug"), {}, "apply_time_warp: expected false"),
        (dict(max_epochs=3), {}, "max_epochs"),
        (dict(align="nearest"), {}, "nearest"),
        (dict(loss_conf=dict(l2=1.0)), {}, "l2"),
        (dict(loss_conf=dict(l1=0.0, cosine=0.0)), {}, "not all of them 0"),
        (dict(loss_conf=dict(l1=math.nan)), {}, "loss_conf: expected finite"),
        (dict(unlabelled_ratio=math.inf), {}, "unlabelled_ratio: expected a finite"),
        (dict(iterator_type="chunk"), {}, "iterator_type: expected sequence"),
        (dict(valid_iterator_type="chunk"), {}, "valid_iterator_type: expected"),
        (
            {},
            dict(
                encoder_conf=dict(
                    interctc_layer_idx=[1], interctc_use_conditioning=True
                )
            ),
            "interctc_use_conditioning: expected false",
        ),
        ({}, dict(encoder=["conformer"]), "found ['conformer']"),
        ({}, dict(encoder=None), "encoder: expected one of"),
        ({}, dict(encoder_conf=["a"]), "encoder_conf: expected a mapping"),
        ({}, dict(encoder_conf=dict(num_block=2)), "num_block"),
        ({}, dict(encoder_conf=dict(input_layer="conv3d")), "conv3d"),
        ({}, dict(encoder="branchformer"), "branchformer"),
        ({}, dict(frontend_conf=dict(fs="8k")), "expect 16000, found 8k"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else None,
)
def test_a_wrong_config_ends_with_code_2_and_names_it(
    stage1_command, two_teachers, tmp_path, capsys, config, asr, message
):
    command = stage1_command(
        tmp_path / "exp",
        two_teachers,
        asr={**builders.asr_config("conformer"), **asr},
        config=builders.mtkd_config(**config),
    )
    assert exit_code(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exp/checkpoint.pth").exists()


@pytest.mark.parametrize(
    "entry, message",
    [
        (dict(upstream="hubert_bas"), "hubert_base"),
        (dict(upstream="wavlm_local"), "path_or_url: <path>"),
        (dict(upstream="wavlm_local", path_or_url="no/such.pt"), "no/such.pt"),
    ],
)
def test_a_wrong_teacher_ends_with_code_2_before_training(
    stage1_command, tmp_path, capsys, entry, message
):
    teachers = builders.write_yaml(tmp_path / "t.yaml", [dict(name="t", **entry)])
    assert exit_code(stage1_command(tmp_path / "exp", teachers)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--config", "--student_config", "--teachers"])
@pytest.mark.parametrize(
    "content", [b"a: [b\n", b"a: M\xfcller\n", b"a: 2001-99-99\n", b"just words\n"]
)
def test_a_file_that_is_no_config_is_named(
    stage1_command, two_teachers, tmp_path, capsys, flag, content
):
    command = stage1_command(tmp_path / "exp", two_teachers)
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    command[command.index(flag) + 1] = str(path)
    assert exit_code(command) == 2
    assert "bad.yaml: " in capsys.readouterr().err


def test_an_encoder_with_intermediate_outputs_is_trained(
    stage1_command, checkpoints, tmp_path
):
    """`interctc_layer_idx` of stage 2: the same losses as without."""
    entry = dict(name="t", upstream="hubert_local")
    entry["path_or_url"] = str(checkpoints["hubert_local"])
    teachers = builders.write_yaml(tmp_path / "teachers.yaml", [entry])
    losses = []
    for idx in ([], [1]):
        asr = builders.asr_config("conformer")
        asr["encoder_conf"] = {**asr["encoder_conf"], "interctc_layer_idx": idx}
        exp = tmp_path / f"exp{len(idx)}"
        config = builders.mtkd_config(max_epoch=1)
        main(stage1_command(exp, teachers, asr=asr, config=config))
        losses.append(report.read_curve(exp, "train")[1])
    assert losses[0] == losses[1]


def test_stored_targets_teach_what_live_ones_do(
    stage1, stage1_command, two_teachers, corpus, tmp_path
):
    """fp16 targets: the losses of two epochs are those with live teachers."""
    extract(two_teachers, corpus, tmp_path / "targets", "--form", "fp16", "--exact")
    extra = ["--targets_dir", str(tmp_path / "targets")]
    main(stage1_command(tmp_path / "exp", two_teachers, extra=extra))
    for phase in ("train", "valid"):
        live = report.read_curve(stage1("conformer").exp, phase)
        cached = report.read_curve(tmp_path / "exp", phase)
        assert cached[0] == live[0] == [1, 2]
        assert cached[1] == pytest.approx(live[1], rel=1e-2)


def test_codes_are_learnt_by_cross_entropy_with_unlabelled_audio_beside(
    stage1_command, two_teachers, corpus, tmp_path
):
    more = builders.build_data_dir(tmp_path / "more", 6, 3)
    data = [corpus.train, corpus.valid, more]
    extract(two_teachers, corpus, tmp_path / "targets", data=data)
    extra = [
        *("--targets_dir", str(tmp_path / "targets"), "--target_type", "codes"),
        *("--unlabelled_wav_scp", str(more / "wav.scp")),
        *("--unlabelled_shape_file", str(more / "speech_shape")),
        *("--unlabelled_ratio", "0.5"),
    ]
    main(stage1_command(tmp_path / "exp", two_teachers, extra=extra))
    state = load(tmp_path / "exp/valid.loss.best.pth")
    assert state["objective.heads.hubert_l1.linear.weight"].shape == (2 * 4 * 256, 16)
    assert not [k for k in state if k.startswith("objective.standardizers")]
    losses = report.read_curve(tmp_path / "exp", "train")[1]
    assert losses[1] < losses[0] < 1.2 * math.log(256)
    points = num_points(tmp_path / "exp", "train")
    for tag in ("loss_labelled", "loss_unlabelled", "accuracy_hubert_l1"):
        assert points[tag] >= 2


def extract(teachers, corpus, out_dir, *extra, data=None):
    """Store the targets of both teachers for the tiny corpus."""
    from espnet_mtkd.bin import mtkd_extract

    data = data or [corpus.train, corpus.valid]
    mtkd_extract.main(
        [
            *("--teachers", str(teachers), "--data_dir", *map(str, data)),
            *("--out_dir", str(out_dir), "--num_codebooks", "4", *extra),
        ]
    )


@pytest.mark.parametrize(
    "extra, code, message",
    [
        (["--target_type", "codes"], 2, "expected --targets_dir"),
        (["--targets_dir", "nowhere"], 5, "no finished targets in nowhere"),
        (["--unlabelled_wav_scp", "a"], 2, "as many of one as"),
        (["--unlabelled_ratio", "0"], 2, "expected above 0, found 0"),
        (["--target_delay", "-1"], 2, "expected 0 or more, found -1"),
    ],
)
def test_options_of_stored_targets_that_do_not_fit(
    stage1_command, two_teachers, tmp_path, capsys, extra, code, message
):
    command = stage1_command(tmp_path / "exp", two_teachers, extra=extra)
    assert exit_code(command) == code
    assert message in capsys.readouterr().err


def test_gradients_that_are_all_nan_end_with_code_3(
    stage1_command, two_teachers, tmp_path, capsys
):
    """A first step of 1e30 makes all that follow NaN; ESPnet would end with 0."""
    config = builders.mtkd_config(optim_conf=dict(lr=1e30))
    assert exit_code(stage1_command(tmp_path / "exp", two_teachers, config=config)) == 3
    assert "optim_conf.lr" in capsys.readouterr().err


def test_a_teacher_with_nan_weights_ends_with_code_3(
    stage1_command, checkpoints, tmp_path, capsys
):
    state = load(checkpoints["hubert_local"])
    state["model_weight"]["encoder.layers.1.fc1.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    entry = dict(name="sick", upstream="hubert_local", path_or_url=f"{tmp_path}/nan.pt")
    teachers = builders.write_yaml(tmp_path / "t.yaml", [entry])
    assert exit_code(stage1_command(tmp_path / "exp", teachers)) == 3
    assert "sick_l3" in capsys.readouterr().err


# ------------------------------------------------------------- stage 2, stock ESPnet

DECODE = """
import importlib.util, json, sys

sys.path[:0] = json.loads(sys.argv[1])
assert importlib.util.find_spec("espnet_mtkd") is None
import setuptools  # brings the distutils that ESPnet imports; without -S, by itself
import soundfile
from espnet2.bin.asr_inference import Speech2Text

for config, model, audio in json.loads(sys.argv[2]):
    decode = Speech2Text(
        config, model, beam_size=2, ctc_weight=0.0, lm_weight=0.0,
        transducer_conf={"search_type": "default", "score_norm": True},
    )
    text, tokens, numbers, _ = decode(soundfile.read(audio)[0])[0]
    print("DECODED", json.dumps([text, tokens, numbers]))
assert not [name for name in sys.modules if name.startswith("espnet_mtkd")]
"""


def asr_main(corpus, run, output_dir: Path, lr: float) -> None:
    """One epoch of `espnet2.bin.asr_train` from the hand-over, in this process."""
    from espnet2.bin.asr_train import main as asr_train

    config = yaml.safe_load(run.asr_config.read_text())
    config["optim_conf"]["lr"] = lr
    config_yaml = builders.write_yaml(output_dir.with_suffix(".yaml"), config)
    command = ["--config", config_yaml, "--output_dir", output_dir, "--ngpu", "0"]
    command += ["--token_type", "char", "--token_list", corpus.tokens]
    command += ["--init_param", f"{run.best}:encoder:encoder"]
    for part in ("train", "valid"):
        folder = getattr(corpus, part)
        data = f"--{part}_data_path_and_name_and_type"
        command += [data, f"{folder}/wav.scp,speech,sound"]
        command += [data, f"{folder}/text,text,text"]
        command += [f"--{part}_shape_file", f"{folder}/speech_shape"]
    asr_train([str(x) for x in command])


def test_stock_espnet_trains_from_the_hand_over_and_decodes_without_this_package(
    stage1, corpus, tmp_path
):
    import espnet2
    import warprnnt_pytorch

    jobs = []
    for encoder, lr in (("conformer", 0.0), ("contextual_block_conformer", 0.01)):
        run = stage1(encoder)
        exp = tmp_path / encoder
        asr_main(corpus, run, exp, lr)
        before, after = load(run.best), load(exp / "valid.loss.best.pth")
        same = [
            torch.equal(after[key], before[key])
            for key in after
            if key.startswith("encoder.") and key.rsplit(".")[-1] in ("weight", "bias")
        ]
        # Without a step the weights are still those of stage 1, all of them.
        assert all(same) if lr == 0 else not all(same)
        audio = next((corpus.valid).glob("*.flac"))
        files = (exp / "config.yaml", exp / "valid.loss.best.pth", audio)
        jobs.append([str(x) for x in files])
    paths = [
        Path(espnet2.__file__).parents[1],
        Path(warprnnt_pytorch.__file__).parents[1],
        builders.ROOT / "tools/shims",
        Path(torch.__file__).parents[1],
    ]
    # -I and -S: no PYTHONPATH, no working directory, no .pth file of site-packages,
    # through which this package is found.
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", DECODE]
        + [json.dumps([str(p) for p in paths]), json.dumps(jobs)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    decoded = [
        json.loads(line.removeprefix("DECODED "))
        for line in result.stdout.splitlines()
        if line.startswith("DECODED ")
    ]
    assert len(decoded) == 2
    known = corpus.tokens.read_text().splitlines()
    for text, tokens, numbers in decoded:
        assert [known[i] for i in numbers] == tokens
        assert text == "".join(tokens).replace("<space>", " ")
