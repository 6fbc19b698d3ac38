"""Both stages in mixed precision: what PyTorch's autocast to bf16 does on a CPU.

ESPnet's --use_amp asks for autocast on CUDA alone, so on a CPU it changes nothing; the
same models under `torch.autocast("cpu")` show what is computed in which precision.
"""

import argparse
import math

import builders
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_mtkd.bin import mtkd_extract_paths, mtkd_train
from espnet_mtkd.objective.losses import EmbeddingLoss
from espnet_mtkd.objective.options import ObjectiveOptions
from espnet_mtkd.pretraining.model import ESPnetMTKDModel, objective_on
from espnet_mtkd.student.build import build_student
from espnet_mtkd.student.grid import FrameGrid
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.s3prl import TeacherPool
from espnet_mtkd.transducer.kept import KeptTeachers
from espnet_mtkd.transducer.kept_options import KeptOptions
from espnet_mtkd.transducer.task import MTKDASRTask

OBJECTIVES = {
    "default": {},
    "rotated": dict(standardize="phi-s", layers="mixed", balance="drop"),
    "ladder": dict(standardize="layernorm", blocks="ladder", balance="uncertainty"),
    "blocks": dict(standardize="meanvar", head="mlp", blocks=[1], layers="mean"),
}


def lowered(is_lowered=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=is_lowered)


@pytest.fixture(scope="module")
def batch(corpus):
    return builders.read_batch(corpus)


@pytest.fixture(scope="module")
def teachers(two_teachers):
    return TeacherPool(parse_teachers(str(two_teachers)))


def asr_arguments(corpus, **changes):
    return argparse.Namespace(
        **{
            **MTKDASRTask.get_default_config(),
            **builders.asr_config("conformer"),
            "token_list": corpus.tokens.read_text().splitlines(),
            "token_type": "char",
            **changes,
        }
    )


@pytest.fixture(scope="module")
def transcribed(corpus, batch):
    """The batch with its transcripts."""
    tokens = corpus.tokens.read_text().splitlines()
    lines = (corpus.train / "text").read_text().splitlines()
    texts = dict(line.split(" ", 1) for line in lines)
    labels = [
        torch.tensor([tokens.index("<space>" if x == " " else x) for x in texts[utt]])
        for utt in batch["utt_id"]
    ]
    return dict(
        batch,
        text=pad_sequence(labels, batch_first=True, padding_value=-1),
        text_lengths=torch.tensor([len(x) for x in labels]),
    )


@pytest.fixture(scope="module")
def paths(corpus, tmp_path_factory):
    """Paths of a random transducer."""
    folder = tmp_path_factory.mktemp("autocast")
    torch.manual_seed(1)
    args = asr_arguments(corpus)
    torch.save(MTKDASRTask.build_model(args).state_dict(), folder / "model.pth")
    builders.write_yaml(folder / "config.yaml", vars(args))
    command = ["--asr_exp", str(folder), "--model_file", "model.pth"]
    command += ["--data_dir", str(corpus.train), "--out_dir", str(folder / "paths")]
    mtkd_extract_paths.main(command)
    return folder / "paths"


def make_stage1(teachers, batch, options):
    torch.manual_seed(0)
    student = build_student(builders.student_args("conformer"))
    options = ObjectiveOptions(**options)
    model = ESPnetMTKDModel(*student, teachers, EmbeddingLoss(mse=0.5), options=options)
    model.observe_targets(*batch.values())
    model.objective.fit()
    return model


def make_stage2(corpus, teachers, batch, loss, paths):
    torch.manual_seed(2)
    args = asr_arguments(corpus, transducer_loss=loss, path_targets_dir=str(paths))
    model = MTKDASRTask.build_model(args)
    objective = objective_on(
        model.encoder,
        FrameGrid.of(model.frontend, model.encoder),
        teachers.targets,
        loss=EmbeddingLoss(),
    )
    objective.observe(teachers(*batch.values()))
    objective.fit()
    model.keep_teachers(KeptTeachers(objective, teachers, KeptOptions()))
    return model


def gradients(model, batch, is_lowered):
    """Loss and statistics of a batch, and all gradients in one vector."""
    torch.manual_seed(0)
    model.zero_grad()
    with lowered(is_lowered):
        loss, stats, _ = model(**{k: clone(v) for k, v in batch.items()})
    loss.sum().backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.dtype == torch.float32 for p in parameters)
    vector = torch.cat([p.grad.flatten() for p in parameters])
    return loss.detach().sum(), stats, vector


def clone(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def check(model, batch):
    """Loss and gradients under autocast are near those in fp32; the statistics."""
    loss, _, expected = gradients(model, batch, False)
    found_loss, stats, found = gradients(model, batch, True)
    assert found_loss.dtype == torch.float32
    torch.testing.assert_close(found_loss, loss, rtol=0.01, atol=0)
    assert bool(found.isfinite().all())
    assert not torch.equal(found, expected)  # it was lowered, somewhere
    assert (found - expected).norm() < 0.1 * expected.norm()
    return stats


def features(model, batch, is_lowered):
    """What the encoder is given."""
    given = []
    handle = model.encoder.register_forward_pre_hook(lambda _, x: given.append(x[0]))
    with torch.no_grad(), lowered(is_lowered):
        model.encode(batch["speech"], batch["speech_lengths"])
    handle.remove()
    return given[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_stage_1_is_near_to_fp32(name, teachers, batch):
    model = make_stage1(teachers, batch, OBJECTIVES[name])
    check(model.train(), batch)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_objective_is_computed_in_fp32(name, teachers, batch):
    """Given the same encoder output, it gives what it gives without autocast."""
    model = make_stage1(teachers, batch, OBJECTIVES[name]).train()
    speech, lengths, utts = batch.values()
    with lowered():
        h, h_lengths, _ = model._encode_for_heads(speech, lengths)
        targets = teachers(speech, lengths, utts)
    results = []
    for is_lowered in (False, True):
        whole = h.float() if isinstance(h, torch.Tensor) else [x.float() for x in h]
        torch.manual_seed(0)  # of the balance that drops teachers
        with lowered(is_lowered):
            given = h if is_lowered else whole
            loss, stats, _ = model.objective(given, h_lengths, targets, utts)
        results.append({**stats, "loss": loss})
    expected, found = results
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == torch.float32, key
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", ["plain", "sliced"])
def test_stage_2_is_near_to_fp32(loss, corpus, teachers, transcribed, batch, paths):
    model = make_stage2(corpus, teachers, batch, loss, paths).train()
    logits = []
    model.joint_network.register_forward_hook(lambda *x: logits.append(x[2].dtype))
    stats = check(model, transcribed)
    for key in ("loss_transducer", "loss_path_kd", "loss_kept", "loss"):
        assert stats[key].dtype == torch.float32, key
        assert math.isfinite(stats[key])
    # Of the lattice and of the paths' nodes: a rounded logit is off by up to 0.4 %.
    assert set(logits) == {torch.float32}


def test_plain_and_sliced_loss_are_the_same_under_autocast(
    corpus, teachers, transcribed, batch, paths
):
    found = []
    for loss in ("plain", "sliced"):
        model = make_stage2(corpus, teachers, batch, loss, paths).train()
        found.append(gradients(model, transcribed, True)[1]["loss_transducer"])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_features_are_computed_in_fp32(corpus, teachers, batch, paths):
    models = (
        make_stage1(teachers, batch, {}),
        make_stage2(corpus, teachers, batch, "sliced", paths),
    )
    for model in models:
        expected, found = (features(model, batch, x) for x in (False, True))
        assert torch.equal(found, expected)


def test_stage_1_learns_under_autocast(teachers, batch):
    model = make_stage1(teachers, batch, {}).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        with lowered():
            loss = model(**batch)[0]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.whole
def test_use_amp_changes_nothing_without_a_gpu(stage1_command, two_teachers, tmp_path):
    """ESPnet's autocast is CUDA's, and its gradient scaler is off there."""
    states = []
    for use_amp in ("false", "true"):
        config = builders.mtkd_config(max_epoch=1)
        extra = ("--use_amp", use_amp)
        exp = tmp_path / use_amp
        mtkd_train.main(stage1_command(exp, two_teachers, config=config, extra=extra))
        states.append(torch.load(exp / "1epoch.pth", weights_only=True))
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name
