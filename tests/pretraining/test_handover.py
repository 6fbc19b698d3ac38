"""The encoder is handed over whole, or the message says what is missing."""

import builders
import pytest
import torch
import yaml

from espnet_mtkd.bin.mtkd_handover import main
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.pretraining.handover import check_handover
from espnet_mtkd.student.weights import compare_keys

ENCODERS = list(builders.ENCODERS)


@pytest.fixture
def audio(corpus):
    return str(next(corpus.valid.glob("*.flac")))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_matching_encoder_passes_and_every_tensor_is_counted(stage1, audio, encoder):
    run = stage1(encoder)
    state = torch.load(run.best, weights_only=True)
    expected = sum(key.startswith("encoder.") for key in state)
    assert check_handover(run.best, run.config, run.asr_config, audio) == expected > 50


def test_an_encoder_that_gives_out_a_block_for_intermediate_ctc_passes(stage1, audio):
    """Conditioning on it is another encoder."""
    run = stage1("conformer")
    args = "--encoder_conf interctc_layer_idx=[1]"
    assert check_handover(run.best, run.config, run.asr_config, audio, args) > 50
    args += " --encoder_conf interctc_use_conditioning=true"
    with pytest.raises(ConfigError, match="interctc_use_conditioning: expected False"):
        check_handover(run.best, run.config, run.asr_config, audio, args)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_espnets_own_model_gives_bit_equal_encoder_output(stage1, corpus, encoder):
    """Stage 1's model against ESPnet's ASR model with `--init_param`, both built by
    their tasks: the whole path from waveform to encoder output."""
    import argparse

    from espnet2.tasks.asr import ASRTask
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    from espnet_mtkd.pretraining.task import MTKDTask

    run = stage1(encoder)
    ours, _ = MTKDTask.build_model_from_file(str(run.config), str(run.best))
    args = ASRTask.get_default_config()
    args.update(yaml.safe_load(run.asr_config.read_text()))
    args.update(token_list=corpus.tokens.read_text().split(), token_type="char")
    theirs = ASRTask.build_model(argparse.Namespace(**args))
    load_pretrained_model(f"{run.best}:encoder:encoder", theirs, False)
    wave = torch.from_numpy(builders.speech_like(1.7, 5))[None]
    length = torch.tensor([wave.size(1)])
    with torch.no_grad():
        before, _ = ours.eval().encode(wave, length)
        after, _ = theirs.eval().encode(wave, length)
    assert torch.equal(before, after)


def damaged(run, tmp_path, change):
    """The checkpoint of a run after `change(state)`."""
    state = torch.load(run.best, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "damaged.pth")
    return tmp_path / "damaged.pth"


def test_missing_keys_are_counted_and_the_first_five_named(stage1, audio, tmp_path):
    run = stage1("conformer")
    gone = sorted(
        k for k in torch.load(run.best, weights_only=True) if k.startswith("encoder.")
    )[3:11]
    path = damaged(run, tmp_path, lambda state: [state.pop(k) for k in gone])
    with pytest.raises(ConfigError) as error:
        check_handover(path, run.config, run.asr_config, audio)
    message = str(error.value)
    names = [k.removeprefix("encoder.") for k in gone]
    assert f"8 missing: {', '.join(names[:5])}, ..." in message
    assert not any(name in message for name in names[5:])
    assert error.value.exit_code == 2


def test_unexpected_and_reshaped_keys_are_named(stage1, audio, tmp_path):
    run = stage1("conformer")

    def change(state):
        state["encoder.surplus"] = torch.zeros(1)
        state["encoder.after_norm.weight"] = torch.zeros(7)

    with pytest.raises(ConfigError) as error:
        path = damaged(run, tmp_path, change)
        check_handover(path, run.config, run.asr_config, audio)
    assert "1 unexpected: surplus" in str(error.value)
    assert "after_norm.weight ((7,), expected (16,))" in str(error.value)


def test_the_other_encoders_config_is_refused(stage1, audio):
    run, other = (stage1(e) for e in ENCODERS)
    with pytest.raises(ConfigError, match="(?s)missing.*unexpected") as error:
        check_handover(run.best, run.config, other.asr_config, audio)
    assert str(other.asr_config) in str(error.value)


def test_another_size_of_the_same_encoder_is_refused(stage1, audio, tmp_path):
    run = stage1("conformer")
    config = yaml.safe_load(run.asr_config.read_text())
    config["encoder_conf"]["num_blocks"] += 1
    path = builders.write_yaml(tmp_path / "asr.yaml", config)
    with pytest.raises(ConfigError, match="missing: encoders.2"):
        check_handover(run.best, run.config, path, audio)


@pytest.mark.parametrize("change", ["unknown encoder", "unknown key", "no such file"])
def test_a_wrong_asr_config_is_a_config_error(stage1, audio, tmp_path, change):
    run = stage1("conformer")
    config = yaml.safe_load(run.asr_config.read_text())
    if change == "unknown encoder":
        config["encoder"] = "branchformer"
    config["encoder_conf"] = dict(config["encoder_conf"], no_such_key=1)
    path = tmp_path / "asr.yaml"
    if change != "no such file":
        builders.write_yaml(path, config)
    with pytest.raises(ConfigError, match="branchformer|no_such_key|no such file"):
        check_handover(run.best, run.config, path, audio)


def test_a_checkpoint_without_encoder_or_without_file_is_refused(
    stage1, audio, tmp_path
):
    run = stage1("conformer")
    with pytest.raises(ConfigError, match="no such checkpoint"):
        check_handover(tmp_path / "x.pth", run.config, run.asr_config, audio)
    torch.save({"decoder.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="no key begins with 'encoder.'"):
        check_handover(tmp_path / "x.pth", run.config, run.asr_config, audio)


def test_the_command_says_what_was_handed_over(stage1, corpus, capsys):
    run = stage1("contextual_block_conformer")
    flags = ["--checkpoint", run.best, "--mtkd_config", run.config]
    flags += ["--asr_config", run.asr_config, "--wav_scp", corpus.valid / "wav.scp"]
    main([str(x) for x in flags])
    out = capsys.readouterr().out
    assert "0 missing, 0 unexpected" in out and "utt2_00 bit-equal" in out


def test_equal_states_have_no_problems():
    state = {"a": torch.zeros(2), "b": torch.zeros(3)}
    assert compare_keys(state, dict(state)) == []


# ------------------------------------------------------------- configs, field by field


def changed(run, tmp_path, section, **values):
    """Stage 2's config with other values in one section."""
    config = yaml.safe_load(run.asr_config.read_text())
    if section is None:
        config.update(values)
    else:
        config[section] = {**config[section], **values}
    return builders.write_yaml(tmp_path / "changed.yaml", config)


@pytest.mark.parametrize(
    "encoder, section, values, line",
    [
        ("conformer", "frontend_conf", dict(hop_length=128), "160, found 128"),
        ("conformer", "frontend_conf", dict(fmin=300), "0, found 300"),
        ("conformer", "frontend_conf", dict(htk=True), "False, found True"),
        ("conformer", "frontend_conf", dict(window="hamming"), "'hann', found 'ham"),
        ("conformer", "encoder_conf", dict(activation_type="relu"), "found 'relu'"),
        ("conformer", "encoder_conf", dict(rel_pos_type="legacy"), "found 'legacy'"),
        ("contextual_block_conformer", "encoder_conf", dict(block_size=16), "found 16"),
        ("contextual_block_conformer", "encoder_conf", dict(look_ahead=2), "found 2"),
        ("conformer", None, dict(normalize="global_mvn"), "found global_mvn"),
        ("conformer", None, dict(normalize_conf=dict(norm_vars=True)), "found True"),
    ],
)
def test_a_field_that_changes_what_the_encoder_hears_or_does_is_named(
    stage1, corpus, tmp_path, capsys, encoder, section, values, line
):
    run = stage1(encoder)
    flags = ["--checkpoint", run.best, "--mtkd_config", run.config]
    flags += ["--asr_config", changed(run, tmp_path, section, **values)]
    flags += ["--wav_scp", corpus.valid / "wav.scp"]
    with pytest.raises(SystemExit) as end:
        main([str(x) for x in flags])
    error = capsys.readouterr().err
    (name,) = (*values, *(k for v in values.values() if type(v) is dict for k in v))[
        -1:
    ]
    assert end.value.code == 2 and f"{name}: expected" in error and line in error


@pytest.mark.parametrize("encoder", ENCODERS)
def test_defaults_that_are_written_out_are_the_same(stage1, audio, tmp_path, encoder):
    """All of the classes' own defaults, and what their None stands for."""
    import inspect

    from espnet2.asr.frontend.default import DefaultFrontend

    from espnet_mtkd.student.build import encoder_choices

    run = stage1(encoder)
    config = yaml.safe_load(run.asr_config.read_text())
    for section, factory in (
        ("frontend_conf", DefaultFrontend),
        ("encoder_conf", encoder_choices.classes[encoder]),
    ):
        parameters = inspect.signature(factory).parameters.values()
        defaults = {p.name: p.default for p in parameters}
        # A parameter without one, or a class, which no YAML file could name.
        defaults = {k: v for k, v in defaults.items() if not isinstance(v, type)}
        config[section] = {**defaults, **config[section]}
    config["frontend_conf"].update(fs="16k", fmin=0, fmax=8000)
    config["encoder_conf"].update(dropout_rate=0.3)  # of the training alone
    path = builders.write_yaml(tmp_path / "asr.yaml", config)
    assert check_handover(run.best, run.config, path, audio) > 50


def test_what_the_command_line_of_stage_2_changes_is_compared_too(stage1, audio):
    run = stage1("conformer")
    same = (
        "--max_epoch 3 --encoder_conf dropout_rate=0.2 --frontend_conf hop_length=160"
    )
    files = run.best, run.config, run.asr_config, audio
    assert check_handover(*files, asr_args=same) > 50
    for words, message in (
        ("--encoder_conf activation_type=relu", "activation_type: .*'relu'"),
        ("--frontend_conf '{n_mels: 40}'", "n_mels: expected 80, found 40"),
        ("--normalize global_mvn", "normalize: expected utterance_mvn, found global"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_handover(*files, asr_args=f"--max_epoch 3 {words}")


def test_statistics_are_what_stands_in_the_file(tmp_path):
    from espnet_mtkd.student.compare import differing_fields

    def config(name, content):
        (tmp_path / name).write_bytes(content)
        conf = dict(stats_file=str(tmp_path / name))
        return dict(normalize="global_mvn", normalize_conf=conf)

    ours = config("a.npz", b"1")
    assert differing_fields(ours, config("b.npz", b"1")) == []
    assert "stats_file" in differing_fields(ours, config("c.npz", b"2"))[0]


@pytest.mark.parametrize("content", [b"encoder: [conformer\n", b"encoder: M\xfcller\n"])
@pytest.mark.parametrize("which", ["--mtkd_config", "--asr_config"])
def test_configs_that_are_no_yaml_are_named(
    stage1, corpus, tmp_path, capsys, content, which
):
    run = stage1("conformer")
    flags = {"--checkpoint": run.best, "--wav_scp": corpus.valid / "wav.scp"}
    flags |= {"--mtkd_config": run.config, "--asr_config": run.asr_config}
    flags[which] = tmp_path / "bad.yaml"
    flags[which].write_bytes(content)
    with pytest.raises(SystemExit) as end:
        main([str(x) for pair in flags.items() for x in pair])
    assert end.value.code == 2 and "bad.yaml: not valid YAML" in capsys.readouterr().err
