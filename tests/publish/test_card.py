"""What the model card says, to the Hub and to people."""

import contextlib
import re
import shlex
import zipfile

import pytest
import yaml
from huggingface_hub import ModelCard
from publish_recipe import (
    COMMAND,
    COUNTS,
    SCRATCH_COMMAND,
    from_scratch,
    write_score,
)

from espnet_mtkd.bin.mtkd_pack import main
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.publish.card import check_card
from espnet_mtkd.publish.teachers import (
    UNKNOWN,
    UPSTREAMS,
    find_origin,
    parse_corrections,
)

RATES = {unit: 100 * counts[6] / counts[1] for unit, counts in COUNTS.items()}


def read_card(archive) -> ModelCard:
    with zipfile.ZipFile(archive) as packed:
        return ModelCard(packed.read("README.md").decode())


@pytest.fixture(scope="module")
def card(archive) -> ModelCard:
    return read_card(archive)


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"## {title}\n")[1].split("\n## ")[0]


def row(card: ModelCard, teacher: str) -> list[str]:
    line = next(
        x
        for x in section(card, "Teachers").splitlines()
        if x.startswith(f"| {teacher} ")
    )
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rates_of_the_scored_files_are_in_the_model_index_and_the_table(card):
    results = {r.metric_type: r for r in card.data.eval_results}
    assert set(results) == {"wer", "cer"}
    for unit, rate in RATES.items():
        assert results[unit].metric_value == pytest.approx(rate, abs=0.005)
        assert results[unit].dataset_split == "test"
        assert results[unit].task_type == "automatic-speech-recognition"
    wer, cer = (f"{RATES[unit]:.1f}" for unit in ("wer", "cer"))
    assert f"| test | 123 | {wer} | {cer} |" in section(card, "Results")


def test_metadata_is_what_the_hub_filters_by(card):
    data = card.data
    assert (data.library_name, data.license) == ("espnet", "cc-by-sa-3.0")
    assert data.pipeline_tag == "automatic-speech-recognition"
    assert data.language == ["en"]
    assert {"espnet", "automatic-speech-recognition", "streaming"} <= set(data.tags)
    assert data.base_model == [
        *("openai/whisper-base", "microsoft/wavlm-large", "facebook/mms-1b"),
        "openai/whisper-small",
    ]
    # As the Hub reads it, not as the library does.
    raw = yaml.safe_load(card.content.split("---\n")[1])
    metrics = raw["model-index"][0]["results"][0]["metrics"]
    assert {m["type"] for m in metrics} == {"wer", "cer"}


def test_licences_of_teachers_are_told_flagged_and_not_guessed(card):
    assert row(card, "whisper")[2].startswith("apache-2.0 (MIT")
    assert row(card, "wavlm")[2].startswith(UNKNOWN)
    assert row(card, "wavlm")[4] == "9, 18"
    assert row(card, "mms")[2] == "cc-by-nc-4.0"
    text = section(card, "Teachers")
    assert "**Non-commercial teacher: mms.**" in text
    assert "trained on transcribed speech: whisper, path_teacher." in text
    assert "non-commercial-teacher" in card.data.tags


def test_a_card_has_data_configs_versions_and_limits(card):
    assert "`train`: 2 utterances, " in section(card, "Data")
    configs = section(card, "Configs").split("```")
    student = yaml.safe_load(configs[1].removeprefix("yaml"))
    assert student["encoder"] == "contextual_block_conformer"
    assert student["encoder_conf"]["block_size"] == 12
    assert yaml.safe_load(configs[3].removeprefix("yaml"))["align"] == "concat"
    assert "espnet 202611" in section(card, "Versions")
    assert "Measured on test of A Corpus" in section(card, "Limits")


def test_hours_are_the_samples_of_all_training_audio(own_recipe):
    samples = [1_600_000 + i for i in range(90)]
    lines = [f"u{i} {n}\n" for i, n in enumerate(samples)]
    (own_recipe / "exp/stats/speech_shape").write_text("".join(lines))
    text = section(pack(own_recipe), "Data")
    assert f"`train`: 90 utterances, {sum(samples) / 16000 / 3600:.2f} h" in text


def pack(root, *extra, command=COMMAND) -> ModelCard:
    with contextlib.chdir(root):
        main([*command, "--out", "model.zip", *extra])
    return read_card(root / "model.zip")


def test_flags_reach_the_card(own_recipe):
    card = pack(
        own_recipe,
        *("--title", "A student", "--dataset", "user/corpus", "--language", "de", "en"),
        *("--limits", "Read speech.", "--teacher", "wavlm=microsoft/wavlm-large,mit"),
        *("--teacher", "mms=some/model,apache-2.0"),
    )
    assert card.text.lstrip().startswith("# A student\n")
    assert card.data.datasets == ["user/corpus"]
    assert card.data.eval_results[0].dataset_type == "user/corpus"
    assert card.data.language == ["de", "en"]
    assert "- Read speech." in section(card, "Limits")
    assert row(card, "wavlm")[2] == "mit"
    assert "some/model" in card.data.base_model
    assert "Non-commercial" not in section(card, "Teachers")
    assert "non-commercial-teacher" not in card.data.tags


def test_a_student_from_scratch_has_no_teachers(own_recipe):
    from_scratch(own_recipe)
    card = pack(own_recipe, command=SCRATCH_COMMAND)
    assert card.data.base_model is None
    assert "trained from scratch" in section(card, "Teachers")
    assert "knowledge-distillation" not in card.data.tags


# ------------------------------------------------------------- lineage


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


def test_streamed_scores_are_a_row_of_their_own(own_recipe):
    folder = own_recipe / "exp/asr_tiny/decode_stream/test"
    write_score(folder, {u: (20, 100, 0, 0, 0, 0, 50, 1) for u in ("wer", "cer")})
    card = pack(own_recipe)
    values = {
        (r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results
    }
    assert values["test, streamed", "wer"] == 50.0
    assert values["test", "wer"] == pytest.approx(RATES["wer"], abs=0.005)


@pytest.mark.parametrize(
    "upstream, path, hub_id",
    [
        ("hubert_large_ll60k", None, "facebook/hubert-large-ll60k"),
        ("whisper_large_v3", None, "openai/whisper-large-v3"),
        ("whisper_local", "/data/whisper_small_en.pt", "openai/whisper-small.en"),
        ("whisper_local", "openai/whisper-base", "openai/whisper-base"),
        (
            "hf_hubert_custom",
            "facebook/hubert-large-ll60k",
            "facebook/hubert-large-ll60k",
        ),
        ("hf_hubert_custom", "someone/hubert", "someone/hubert"),
        ("hubert_local", "hubert_mine.pt", None),
        ("hubert_local", "wavlm_large.pt", None),  # HuBERT's loader reads no WavLM
        ("byol_a_2048", None, None),
    ],
)
def test_teachers_are_looked_up_by_name_and_never_guessed(upstream, path, hub_id):
    origin = find_origin(upstream, path)
    assert origin.hub_id == hub_id
    if hub_id is None or hub_id.startswith("someone"):
        assert origin.licence == UNKNOWN


def test_the_table_names_upstreams_that_are_there():
    from espnet_mtkd.teachers.hub import import_s3prl_hub

    hub = import_s3prl_hub()
    by_hub_id_alone = {"mms_300m", "mms_1b", "whisper_large"}
    missing = {x for x in UPSTREAMS if not hasattr(hub, x)}
    assert missing == by_hub_id_alone
    for origin in UPSTREAMS.values():
        assert origin.is_non_commercial == ("-nc-" in origin.licence)
        assert origin.is_supervised == origin.hub_id.startswith("openai/")


@pytest.mark.parametrize("flag", ["wavlm", "wavlm=a/b", "wavlm=a/b,mit,x", "=a,b", ""])
def test_corrections_have_one_form(flag):
    with pytest.raises(ConfigError, match="NAME=HUB_ID,LICENCE"):
        parse_corrections([flag])


@pytest.mark.parametrize(
    "change, missing",
    [
        (lambda d: d.pop("license"), "license"),
        (lambda d: d.pop("language"), "language"),
        (lambda d: d.pop("model-index"), "a WER in model-index"),
        (
            lambda d: d["model-index"][0]["results"][0]["metrics"].pop(0),
            "a WER in model-index",
        ),
    ],
)
def test_a_card_that_lacks_something_is_refused(card, change, missing):
    _, head, body = card.content.split("---\n", 2)
    data = yaml.safe_load(head)
    check_card(card.content, "README.md")  # as it is, it passes
    change(data)
    with pytest.raises(DataError, match=missing):
        check_card(f"---\n{yaml.safe_dump(data)}---\n{body}", "README.md")


def test_a_card_without_metadata_is_refused():
    for text in ("# A model\n", "---\n- a\n: b\n---\n", ""):
        with pytest.raises(DataError, match="README.md"):
            check_card(text, "README.md")
