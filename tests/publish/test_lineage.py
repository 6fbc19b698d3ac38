"""The card tells what a student learnt from and was scored by, or that nobody knows."""

import contextlib
import json
import re
import shlex

import pytest
import yaml
from card_parts import read_card, row, section
from huggingface_hub import ModelCard
from publish_recipe import COMMAND, SCRATCH_COMMAND, write_score

from espnet_mtkd.bin.mtkd_pack import main
from espnet_mtkd.publish.teachers import UNKNOWN


def pack(root, *extra, command=COMMAND) -> ModelCard:
    with contextlib.chdir(root):
        main([*command, "--out", "model.zip", *extra])
    return read_card(root / "model.zip")


def config_of(root, exp) -> dict:
    return yaml.safe_load((root / "exp" / exp / "config.yaml").read_text())


def write_config(root, exp, config) -> None:
    folder = root / "exp" / exp
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def edit_config(root, exp, **changes) -> None:
    write_config(root, exp, {**config_of(root, exp), **changes})


NESTED = dict(upstream="hubert_large_ll60k")
WHISPER = dict(frontend="whisper", frontend_conf={"whisper_model": "tiny.en"})
FUSED = [dict(frontend_type="s3prl", upstream="wavlm_large"), {"frontend_type": "x"}]


@pytest.mark.parametrize(
    "config, hub_id",
    [
        (
            dict(
                frontend="mtkd_teacher",
                frontend_conf=dict(
                    upstream="whisper_local", path_or_url="downloads/whisper_tiny_en"
                ),
            ),
            "openai/whisper-tiny.en",
        ),
        (
            dict(frontend="s3prl", frontend_conf={"frontend_conf": NESTED}),
            "facebook/hubert-large-ll60k",
        ),
        (WHISPER, "openai/whisper-tiny.en"),
        (
            dict(frontend="fused", frontend_conf={"frontends": FUSED}),
            "microsoft/wavlm-large",
        ),
        (
            dict(frontend="huggingface", frontend_conf={"model": "facebook/mms-1b"}),
            "facebook/mms-1b",
        ),
        (dict(encoder="hubert", encoder_conf={"hubert_url": "x"}), None),
        (dict(frontend="default", encoder="conformer"), None),
    ],
)
def test_the_teacher_of_paths_is_a_teacher(own_recipe, config, hub_id):
    write_config(own_recipe, "asr_teacher", config)
    card = pack(own_recipe, "--kd_teacher_exp", "exp/asr_teacher")
    found = row(card, "path_teacher")
    assert found[3] == "alignment paths"
    assert (f"[{hub_id}]" in found[1]) if hub_id else (found[1] == "unknown")
    if hub_id is None:
        assert found[2] == UNKNOWN
    else:
        assert hub_id in card.data.base_model


def test_teachers_of_the_teacher_transducer_are_told(own_recipe):
    """It began with a stage 1 of its own, by way of a first part."""
    stage1 = dict(teachers=[dict(name="mms0", upstream="mms_1b")])
    write_config(own_recipe, "mtkd_other", stage1)
    begin = "exp/mtkd_other/valid.loss.best.pth:encoder:encoder"
    write_config(own_recipe, "asr_teacher", {"init_param": ["exp/asr_first/x.pth"]})
    write_config(own_recipe, "asr_first", {"init_param": [begin]})
    card = pack(own_recipe, "--kd_teacher_exp", "exp/asr_teacher")
    assert row(card, "mms0")[2] == "cc-by-nc-4.0"
    assert "non-commercial-teacher" in card.data.tags
    assert "by way of the teacher transducer" in row(card, "mms0")[3]


def test_what_is_a_part_of_the_model_is_told():
    from espnet_mtkd.publish.facts import IN_MODEL, list_teachers
    from espnet_mtkd.publish.lineage import Lineage

    config = dict(frontend="s3prl", frontend_conf={"frontend_conf": NESTED})
    (found,) = list_teachers(config, None, Lineage([], [], None, None), None, {})
    assert (found.role, found.origin.hub_id) == (
        IN_MODEL,
        "facebook/hubert-large-ll60k",
    )


def test_pseudo_labels_are_named(own_recipe):
    data = own_recipe / "dump/raw/train_pseudo_t_sp"
    data.mkdir(parents=True)
    (data / "pseudo_labels.tsv").write_text(
        "utterance\tconfidence\ttokens\tkept\treason\ttext\n"
        "a\t0.9\t3\t1\t\tA\nb\t0.8\t3\t1\t\tB\nc\t0.1\t3\t0\tx\tC\n"
    )
    scp = ["dump/raw/train_pseudo_t_sp/wav.scp", "speech", "sound"]
    edit_config(own_recipe, "asr_tiny", train_data_path_and_name_and_type=[scp])
    card = pack(own_recipe)
    assert "pseudo-labels" in row(card, "path_teacher")[3]
    assert "h; 2 with a teacher's transcript" in section(card, "Data")


@pytest.mark.parametrize("stage1", ["mtkd_tiny", "mtkd_other", "mtkd_gone"])
def test_kept_teachers_are_named(own_recipe, stage1):
    """Of the stage 1 that the student began with, of another, of one that is gone."""
    hubert = dict(name="hubert", upstream="hubert_base", layers=[3])
    write_config(own_recipe, "mtkd_other", dict(teachers=[hubert]))
    file = f"exp/{stage1}/valid.loss.best.pth"
    edit_config(own_recipe, "asr_tiny", keep_teachers_from=file)
    card = pack(own_recipe)
    whisper, wavlm = row(card, "whisper"), row(card, "wavlm")
    if stage1 == "mtkd_tiny":
        assert whisper[3] == wavlm[3] == "embeddings, in both stages"
        assert wavlm[4] == "9, 18"
    else:
        assert whisper[3] == wavlm[3] == "embeddings"
        name = "hubert" if stage1 == "mtkd_other" else "kept_teacher"
        assert row(card, name)[3] == "embeddings, in stage 2"


@pytest.mark.parametrize("made_by", ["whisper_base", None])
def test_transcripts_of_another_recogniser_are_named(own_recipe, made_by):
    data = own_recipe / "dump/raw/train_pseudo_text_w"
    data.mkdir(parents=True)
    (data / "pseudo_labels.tsv").write_text("utterance\tkept\na\t1\nb\t0\n")
    made_by = made_by and dict(upstream=made_by)
    (data / "pseudo_source.json").write_text(json.dumps(dict(made_by=made_by)))
    scp = ["dump/raw/train_pseudo_text_w/wav.scp", "speech", "sound"]
    changes = dict(train_data_path_and_name_and_type=[scp], path_targets_dir=None)
    edit_config(own_recipe, "asr_tiny", **changes)
    command = list(COMMAND)
    forget("--kd_teacher_exp")(own_recipe, command)
    card = pack(own_recipe, command=command)
    found = row(card, "recogniser")
    assert found[3] == "transcripts (pseudo-labels)"
    assert ("openai/whisper-base" in found[1]) == (made_by is not None)
    supervised = next(x for x in card.content.splitlines() if "Supervised" in x)
    assert "recogniser" in supervised
    assert "h; 1 with a recogniser's transcript" in section(card, "Data")


def test_the_file_that_is_looked_for_is_the_one_that_is_written():
    from espnet_mtkd.publish import lineage
    from espnet_mtkd.transducer import given

    assert lineage.SOURCE == given.SOURCE


def test_a_recogniser_of_espnet_is_a_supervised_teacher():
    from espnet_mtkd.publish.teachers import find_origin

    origin = find_origin("espnet_local", "exp/asr_teacher")
    assert origin.is_supervised and origin.licence == UNKNOWN


def drop_init(root, command):
    edit_config(root, "asr_tiny", init_param=[])


def drop_paths(root, command):
    edit_config(root, "asr_tiny", path_targets_dir=None)


def other_init(root, command):
    edit_config(root, "asr_tiny", init_param=["exp/mtkd_y/a.pth:encoder:encoder"])


def other_checkpoint(root, command):
    edit_config(root, "asr_tiny", init_param=["exp/mtkd_tiny/3epoch.pth"])


def forget(flag):
    def change(root, command):
        i = command.index(flag)
        del command[i : i + 2]

    return change


def forget_behind_a_first_part(root, command):
    """As mtkd.sh trains: stage 2 begins with its head, that with stage 1."""
    config = config_of(root, "asr_tiny")
    edit_config(root, "asr_tiny", init_param=["exp/asr_tiny/head/valid.loss.best.pth"])
    write_config(root, "asr_tiny/head", config)
    forget("--mtkd_exp")(root, command)


def forget_pseudo(root, command):
    scp = ["dump/raw/train_pseudo_t/wav.scp", "speech", "sound"]
    changes = dict(train_data_path_and_name_and_type=[scp], path_targets_dir=None)
    edit_config(root, "asr_tiny", **changes)
    forget("--kd_teacher_exp")(root, command)


def other_streamed_weights(root, command):
    write_stream(root, "exp/asr_tiny/valid.loss.best.pth")


def other_options(root, command):
    log = root / "exp/asr_tiny/decode_asr_asr_model_valid.loss.ave/test/logdir"
    log.mkdir()
    (log / "asr_inference.1.log").write_text(
        "# python3 -m espnet2.bin.asr_inference --batch_size 1 --ngpu 0 "
        "--data_path_and_name_and_type dump/raw/test/wav.scp,speech,sound "
        "--output_dir x --asr_model_file exp/asr_tiny/valid.loss.ave.pth "
        "--beam_size 7 \n"
    )


MTKD = "exp/mtkd_tiny"


@pytest.mark.parametrize(
    "change, values",
    [
        (forget("--mtkd_exp"), ["--mtkd_exp", MTKD, "init_param", "none"]),
        (forget_behind_a_first_part, ["--mtkd_exp", MTKD, "head/config.yaml", "none"]),
        (drop_init, ["--mtkd_exp", MTKD, "no init_param"]),
        (other_init, ["--mtkd_exp", MTKD, "exp/mtkd_y"]),
        (other_checkpoint, ["--mtkd_model_file", "3epoch.pth", "valid.loss.best.pth"]),
        (forget("--kd_teacher_exp"), ["--kd_teacher_exp", "exp/paths", "none"]),
        (drop_paths, ["--kd_teacher_exp", "exp/asr_paths", "path_targets_dir"]),
        (forget_pseudo, ["--kd_teacher_exp", "train_pseudo_t", "none"]),
        (other_streamed_weights, ["valid.loss.best.pth", "valid.loss.ave.pth"]),
        (other_options, ["'beam_size': 7", "'beam_size': 1", "decode_asr_asr_model"]),
    ],
)
def test_contradictions_are_refused(own_recipe, capsys, change, values):
    command = list(COMMAND)
    change(own_recipe, command)
    with pytest.raises(SystemExit) as end:
        pack(own_recipe, command=command)
    message = capsys.readouterr().err
    assert end.value.code == 2
    for value in values:
        assert value in message
    assert not (own_recipe / "model.zip").exists()


def test_a_moved_recipe_is_no_contradiction(own_recipe):
    """Its configs name directories where they were."""
    edit_config(
        own_recipe,
        "asr_tiny",
        init_param=["/gone/exp/mtkd_tiny/valid.loss.best.pth:encoder:encoder"],
    )
    assert row(pack(own_recipe), "whisper")[3] == "embeddings"


@pytest.mark.remedy(
    "--mtkd_exp: expected",
    "--kd_teacher_exp: expected",
    "each of which may be unknown",
)
def test_what_nobody_knows_is_unknown(own_recipe):
    edit_config(own_recipe, "asr_tiny", init_param=["downloads/model.pth:::ctc"])
    flags = [
        f"--teacher={x}=unknown,unknown" for x in ("path_teacher", "initialisation")
    ]
    card = pack(own_recipe, *flags, command=SCRATCH_COMMAND)
    text = section(card, "Teachers")
    assert "from scratch" not in card.text and "No weights of a teacher" not in text
    for name, role in (
        ("initialisation", "initial weights"),
        ("path_teacher", "alignment paths"),
    ):
        found = row(card, name)
        assert found[1:4] == ["unknown", UNKNOWN, role]


# ------------------------------------------------------------- streamed scores


def write_stream(root, model_file=None, dset="test", options="") -> None:
    """Scores of the streaming decoder, and the log that the launcher leaves."""
    folder = root / "exp/asr_tiny/decode_stream" / dset
    write_score(folder, {u: (20, 100, 0, 0, 0, 0, 50, 1) for u in ("wer", "cer")})
    if model_file:
        (folder / "stream.log").write_text(
            "# python3 -m espnet_mtkd.bin.mtkd_asr_stream --asr_train_config "
            f"exp/asr_tiny/config.yaml --asr_model_file {model_file} --wav_scp "
            f"dump/raw/{dset}/wav.scp --out x/text --endpoint_silence inf "
            f"--max_segment inf {options}\n# Started at\nRTF: 0.1\n"
        )


def test_the_streaming_command_is_the_one_scored(own_recipe):
    from espnet_mtkd.bin.mtkd_asr_stream import get_parser

    model = "exp/asr_tiny/valid.loss.ave_5best.pth"  # what valid.loss.ave.pth links to
    write_stream(own_recipe, model, options="--beam_size 3")
    card = pack(own_recipe)
    (line,) = re.findall(r"mtkd_asr_stream (.*)", section(card, "How to load"))
    args = get_parser().parse_args(shlex.split(line))
    assert args.model_tag == "USER/MODEL" and args.beam_size == 3
    assert args.endpoint_silence == args.max_segment == float("inf")
    assert args.wav_scp is args.out is args.asr_model_file is None
    assert "`decode_stream` |" in section(card, "Results")
    names = {r.metric_name for r in card.data.eval_results}
    assert names == {"WER / %", "CER / %"}


def test_without_a_log_the_weights_and_options_are_unknown(own_recipe):
    write_stream(own_recipe)
    card = pack(own_recipe)
    assert "`decode_stream`, by unknown weights |" in section(card, "Results")
    assert "unknown for the scores of test" in section(card, "How to load")
    names = {r.metric_name for r in card.data.eval_results}
    assert "WER / %, weights unknown" in names


def test_options_of_the_log_are_taken_where_none_are_given(own_recipe):
    other_options(own_recipe, None)
    command = [x for x in COMMAND if x not in ("--inference_args", "--beam_size 1")]
    assert "beam_size=7" in section(pack(own_recipe, command=command), "How to load")


def test_a_bar_in_a_sets_name_does_not_break_the_card(own_recipe):
    write_stream(own_recipe, "exp/asr_tiny/valid.loss.ave.pth", "te|st")
    assert "| te\\|st, streamed | 100 |" in section(pack(own_recipe), "Results")
