"""Stage 1 as a user runs it, with each group of the objective's options."""

import shutil

import builders
import pytest
import torch

from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.results import report
from espnet_mtkd.student.load import load_student


def load(path):
    return torch.load(path, map_location="cpu", weights_only=False)


def exit_code(command) -> int:
    with pytest.raises(SystemExit) as end:
        main(command)
    return end.value.code


def train_statistics(exp, phase):
    """{epoch: {statistic: value}}."""
    stats = load(exp / "checkpoint.pth")["reporter"]["stats"]
    return {epoch: values[phase] for epoch, values in stats.items()}


@pytest.fixture(scope="module")
def stored(store_targets):
    """Function: form -> a folder of stored targets."""
    return lambda form: store_targets(form, "--num_codebooks", "4", "--exact")


GROUPS = {
    "phi-s": dict(standardize="phi-s", clip=5, head="mlp", hidden=24),
    "blocks": dict(standardize="meanvar", blocks=[1, 2], balance="drop"),
    "ladder": dict(standardize="layernorm", blocks="ladder", balance="uncertainty"),
    "mixed": dict(layers="mixed", blocks=[1], balance="running"),
    "mean": dict(standardize="none", layers="mean"),
}
TEACH = {"mixed": ("whisper", "hubert"), "mean": ("whisper", "hubert")}


RUNS = [
    *(("conformer", "phi-s"), ("conformer", "ladder"), ("conformer", "mixed")),
    *(("contextual_block_conformer", x) for x in ("blocks", "ladder", "mean")),
]


@pytest.mark.parametrize(("encoder", "group"), RUNS)
def test_each_group_of_options_trains_and_its_encoder_is_the_stock_one(
    stage1_command, two_teachers, tmp_path, encoder, group
):
    exp = tmp_path / "exp"
    config = builders.mtkd_config(objective_conf=GROUPS[group], max_epoch=1)
    main(stage1_command(exp, two_teachers, encoder, config=config))
    goals = TEACH.get(group, ("whisper_l3", "hubert_l1", "hubert_l4"))
    for phase in ("train", "valid"):
        (stats,) = train_statistics(exp, phase).values()
        assert {f"loss_{g}" for g in goals} < set(stats)
        assert {f"cosine_{g}" for g in goals} < set(stats)
    (stats,) = train_statistics(exp, "train").values()
    if group == "mixed":
        shares = [stats["share_hubert_l1"], stats["share_hubert_l4"]]
        assert sum(shares) == pytest.approx(1, rel=1e-4) and shares[0] != shares[1]
        assert {"factor_whisper", "factor_hubert"} < set(stats)
    if group == "blocks":
        assert 1 <= stats["kept_whisper_l3"] + stats["kept_hubert_l1"] <= 2
        assert stats["kept_hubert_l1"] == stats["kept_hubert_l4"]
        assert {"cosine_whisper_l3_block1", "cosine_whisper_l3_block2"} < set(stats)
    for value in load(exp / "1epoch.pth").values():
        assert value.isfinite().all()
    student = load_student(exp)  # which refuses any key that is not the encoder's
    wave = torch.from_numpy(builders.speech_like(1.0, 3))
    h_BTD, _ = student(wave[None])
    assert h_BTD.size(2) == student.dim and h_BTD.isfinite().all()


def test_stored_targets_are_standardised_as_live_ones(
    stage1_command, two_teachers, stored, tmp_path
):
    conf = dict(standardize="phi-s", layers="mean", clip=4)
    config = builders.mtkd_config(objective_conf=conf, max_epoch=1)
    losses = []
    for name, extra in (
        ("live", []),
        ("stored", ["--targets_dir", str(stored("fp16"))]),
    ):
        exp = tmp_path / name
        main(stage1_command(exp, two_teachers, config=config, extra=extra))
        losses.append(report.read_curve(exp, "valid")[1])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_codes_are_learnt_beside_embeddings(
    stage1_command, two_teachers, stored, tmp_path
):
    config = builders.mtkd_config(
        loss_conf=dict(codes=0.2), objective_conf=dict(blocks="ladder")
    )
    exp, extra = tmp_path / "exp", ["--targets_dir", str(stored("codes"))]
    main(stage1_command(exp, two_teachers, config=config, extra=extra))
    for phase in ("train", "valid"):
        stats = train_statistics(exp, phase)
        # After so few updates batch norm's statistics let validation waver.
        assert phase == "valid" or stats[2]["loss"] < stats[1]["loss"]
        for target in ("whisper_l3", "hubert_l1", "hubert_l4"):
            assert f"cosine_{target}" in stats[2]
            assert 0 <= stats[2][f"accuracy_{target}_codes"] <= 1
    state = load(exp / "valid.loss.best.pth")
    key = "objective.heads.hubert_l1_codes.head.linear.weight"
    assert state[key].shape == (2 * 4 * 256, 16)
    assert "objective.standardizers.hubert_l1.mean" in state


@pytest.mark.parametrize("balance", ["running", "uncertainty", "drop"])
def test_a_resumed_balance_goes_on_where_it_was(
    stage1_command, two_teachers, tmp_path, balance
):
    """Two epochs at once, and one and the resumed second: equal to the last bit."""

    def train(name, max_epoch, extra=()):
        conf = dict(balance=balance, layers="mixed")
        config = builders.mtkd_config(max_epoch=max_epoch, objective_conf=conf)
        command = stage1_command(
            tmp_path / name, two_teachers, config=config, extra=extra
        )
        main(command)
        return tmp_path / name

    straight, first = train("straight", 2), train("first", 1)
    shutil.copytree(first, tmp_path / "resumed")
    resumed = train("resumed", 2, ["--resume", "true"])
    expected, found = (load(exp / "2epoch.pth") for exp in (straight, resumed))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key
    if balance != "drop":
        name = "running" if balance == "running" else "log_scales"
        assert expected[f"objective.balance.{name}"].any()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(standardize="phi"), "robust, meanvar, phi-s, layernorm, none, found"),
        (dict(blocks=[1, 3]), "the student has the blocks 1 to 2, found [3]"),
        (dict(hed="mlp"), "did you mean 'head'"),
        (["head"], "objective_conf: expected a mapping"),
    ],
)
def test_what_the_objective_has_not_ends_with_code_2_before_training(
    stage1_command, two_teachers, tmp_path, capsys, config, message
):
    config = builders.mtkd_config(objective_conf=config)
    command = stage1_command(tmp_path / "exp", two_teachers, config=config)
    assert exit_code(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exp/1epoch.pth").exists()


@pytest.mark.parametrize(
    ("config", "form", "message"),
    [
        (dict(), None, "loss_conf.codes 0.2: expected --targets_dir with stored"),
        (dict(), "fp16", "loss_conf.codes needs --form codes"),
        (dict(align="mean"), "codes", "codes cannot be averaged: expected align"),
        (
            dict(objective_conf=dict(layers="mixed")),
            "codes",
            "expected objective_conf.layers each, found mixed",
        ),
    ],
)
def test_codes_that_are_not_stored_or_do_not_fit(
    stage1_command, two_teachers, stored, tmp_path, capsys, config, form, message
):
    config = builders.mtkd_config(loss_conf=dict(codes=0.2), **config)
    extra = [] if form is None else ["--targets_dir", str(stored(form))]
    command = stage1_command(tmp_path / "exp", two_teachers, config=config, extra=extra)
    assert exit_code(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exp/1epoch.pth").exists()


def test_a_layer_that_is_not_stored_ends_with_code_5(
    stage1_command, checkpoints, stored, tmp_path, capsys
):
    entry = dict(name="hubert", upstream="hubert_local", layers=[1, 2])
    entry["path_or_url"] = str(checkpoints["hubert_local"])
    teachers = builders.write_yaml(tmp_path / "teachers.yaml", [entry])
    config = builders.mtkd_config(objective_conf=dict(layers="mixed"))
    extra = ["--targets_dir", str(stored("fp16"))]
    command = stage1_command(tmp_path / "exp", teachers, config=config, extra=extra)
    assert exit_code(command) == 5
    assert "layers: expected [1, 2], found [1, 4]" in capsys.readouterr().err
