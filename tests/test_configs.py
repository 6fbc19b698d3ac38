"""Every YAML that is shipped is parsed by the command that will read it."""

import argparse
from pathlib import Path

import builders
import pytest
import yaml

from espnet_mtkd.objective.losses import EmbeddingLoss
from espnet_mtkd.objective.options import ObjectiveOptions, read_options
from espnet_mtkd.pretraining.task import (
    MTKDTask,
    build_student,
    check_config,
    read_student_config,
    specaug_choices,
)
from espnet_mtkd.teachers.base import parse_teachers

ROOT = builders.ROOT
YAMLS = sorted(
    p.relative_to(ROOT)
    for pattern in ("conf/**/*.yaml", "egs2/*/mtkd1/conf/**/*.yaml")
    for p in ROOT.glob(pattern)
)


def named(prefix):
    return pytest.mark.parametrize(
        "path", [p for p in YAMLS if p.name.startswith(prefix)], ids=str
    )


def asr_args(path: Path) -> argparse.Namespace:
    """The config as `espnet2.bin.asr_train` reads it, this package's classes known."""
    from espnet_mtkd.transducer.task import MTKDASRTask

    return MTKDASRTask.get_parser().parse_args(["--config", str(ROOT / path)])


def mtkd_args(path: Path, *flags) -> argparse.Namespace:
    """The config as `espnet_mtkd.bin.mtkd_train` reads it."""
    return MTKDTask.get_parser().parse_args(["--config", str(ROOT / path), *flags])


def test_no_yaml_is_of_a_kind_that_nobody_parses():
    assert len(YAMLS) >= 8
    kinds = ("train_mtkd", "train_asr", "train_teacher", "decode", "teacher")
    kinds += ("ladder", "ablation")  # tests/ladder/test_rows.py
    assert [p for p in YAMLS if not p.name.startswith(kinds)] == []


@pytest.mark.parametrize("path", YAMLS, ids=str)
def test_every_yaml_says_what_it_is_and_repeats_no_key(path):
    text = (ROOT / path).read_text()
    assert text.startswith("# ")
    keys = [x.split(":")[0] for x in text.splitlines() if x[:1].isalpha()]
    assert len(keys) == len(set(keys))


@named("train_asr")
def test_asr_configs_build_espnets_transducer(path, tmp_path):
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    from espnet2.asr.encoder.contextual_block_conformer_encoder import (
        ContextualBlockConformerEncoder,
    )
    from espnet2.tasks.asr import ASRTask, encoder_choices, frontend_choices

    args = asr_args(path)
    streaming = "contextual_block" in path.name
    assert encoder_choices.get_class(args.encoder) is (
        ContextualBlockConformerEncoder if streaming else ConformerEncoder
    )
    frontend = frontend_choices.get_class(args.frontend)(**args.frontend_conf)
    assert frontend.output_size() in (40, 80)
    args.token_list = builders.write_tokens(tmp_path / "t").read_text().split()
    args.token_type = "char"
    args.normalize, args.normalize_conf = "utterance_mvn", {}
    model = ASRTask.build_model(args)
    assert model.use_transducer_decoder
    size = sum(p.numel() for p in model.parameters())
    # What the recipes promise.
    least, most = (28e6, 34e6) if "librispeech_100" in path.parts else (2e6, 5e6)
    assert least <= size <= most


@named("train_asr")
def test_asr_configs_are_students_of_stage_1(path):
    args = mtkd_args(ROOT / "conf/train_mtkd.yaml")
    args.student_config = str(ROOT / path)
    read_student_config(args)
    check_config(args)
    args.normalize, args.normalize_conf = "utterance_mvn", {}
    frontend, specaug, _, encoder = build_student(args)
    expected = asr_args(path)
    assert args.encoder == expected.encoder
    assert args.encoder_conf == expected.encoder_conf
    assert encoder.output_size() == expected.encoder_conf["output_size"]
    assert specaug is not None and specaug.time_warp is None


@named("train_teacher")
def test_teacher_transducers_have_the_students_frame_rate(path, checkpoints, tmp_path):
    """Built over a tiny model of the kind that the config names."""
    import torch

    from espnet_mtkd.transducer.task import MTKDASRTask

    args = asr_args(path)
    upstream = f"{args.frontend_conf['upstream'].split('_')[0]}_local"
    tiny = dict(upstream=upstream, path_or_url=str(checkpoints[upstream]), layer=-1)
    args.frontend_conf.update(tiny)
    args.preencoder_conf["input_size"] = args.frontend_conf["stack"] * builders.DIM
    args.token_list = builders.write_tokens(tmp_path / "t").read_text().split()
    args.token_type = "char"
    model = MTKDASRTask.build_model(args)
    assert model.use_transducer_decoder
    wave = torch.from_numpy(builders.speech_like(1.0, 1))
    feats, lengths = model.frontend(wave[None], torch.tensor([len(wave)]))
    feats, lengths = model.preencoder(feats, lengths)
    assert int(lengths[0]) in (24, 25)  # one fewer where the last frame is not whole
    assert feats.size(2) == model.encoder.output_size()


@named("train_mtkd")
def test_stage_1_configs_are_parsed_and_their_parts_built(path):
    args = mtkd_args(path, "--teachers", "x", "--output_dir", "x")
    MTKDTask.check_required_command_args(args)
    check_config(args)
    EmbeddingLoss(**args.loss_conf)
    assert args.loss_conf["codes"] == 0
    # The section names every option, and says what they are without it.
    assert set(args.objective_conf) == set(vars(ObjectiveOptions()))
    assert read_options(args.objective_conf) == ObjectiveOptions()
    specaug_choices.get_class(args.specaug)(**args.specaug_conf)
    given = yaml.safe_load((ROOT / path).read_text())
    for key, value in given.items():
        found = getattr(args, key)
        assert found == value or list(map(list, found)) == value, key


@named("train_")
def test_optimizer_and_scheduler_take_their_settings(path):
    import torch
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes

    args = mtkd_args(path) if "mtkd" in path.name else asr_args(path)
    optimizer = optim_classes[args.optim](
        [torch.nn.Parameter(torch.zeros(1))], **args.optim_conf
    )
    if args.scheduler is not None:
        auto = dict(max_lr=args.optim_conf["lr"], total_steps=100)
        conf = {
            k: auto[k] if v == "auto" else v for k, v in args.scheduler_conf.items()
        }
        scheduler_classes[args.scheduler](optimizer, **conf)


@named("decode")
def test_decoding_configs_are_asr_inferences(path):
    from espnet2.bin.asr_inference import get_parser

    args = get_parser().parse_args(
        [
            *("--config", str(ROOT / path), "--output_dir", "x", "--key_file", "x"),
            *("--data_path_and_name_and_type", "x,speech,sound"),
        ]
    )
    given = yaml.safe_load((ROOT / path).read_text())
    for key, value in given.items():
        assert getattr(args, key) == value


@named("teacher")
def test_teacher_lists_are_parsed_and_name_known_upstreams(path):
    from espnet_mtkd.teachers.hub import import_s3prl_hub

    configs = parse_teachers(str(ROOT / path))
    names = import_s3prl_hub().options()
    for config in configs:
        assert config.upstream in names
        assert config.layers is None  # else swapping a teacher takes two lines


def test_single_teacher_lists_are_entries_of_the_common_one():
    for folder in {p.parent for p in YAMLS if p.name == "teachers.yaml"}:
        together = {
            c.name: c for c in parse_teachers(str(ROOT / folder / "teachers.yaml"))
        }
        singles = [
            p for p in YAMLS if p.parent == folder and p.name.startswith("teacher_")
        ]
        for path in singles:
            (config,) = parse_teachers(str(ROOT / path))
            assert config == together[config.name]
        assert len(singles) in (0, len(together))


def test_links_of_a_recipe_lead_to_the_reference_configs():
    links = [p for p in YAMLS if p.parts[0] == "egs2" and (ROOT / p).is_symlink()]
    assert {p.parts[1] for p in links} >= {"asterisk", "speechocean762", "mini_an4"}
    for path in links:
        assert (ROOT / path).resolve() == (ROOT / "conf" / path.name).resolve()
