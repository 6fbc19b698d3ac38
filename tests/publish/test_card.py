"""What the model card says, to the Hub and to people."""

import contextlib

import pytest
import yaml
from card_parts import read_card, row, section
from espnet2.tasks.asr import ASRTask
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
from espnet_mtkd.publish.card import STUDENT_KEYS, check_card
from espnet_mtkd.publish.teachers import (
    UNKNOWN,
    UPSTREAMS,
    find_origin,
    parse_corrections,
)

RATES = {unit: 100 * counts[6] / counts[1] for unit, counts in COUNTS.items()}


@pytest.fixture(scope="module")
def card(archive) -> ModelCard:
    return read_card(archive)


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


def test_a_config_without_its_choice_would_be_another_model():
    """ESPnet takes no `*_conf` without the key that says what it is of."""
    optional = set(ASRTask.get_default_config())
    for key in (x for x in STUDENT_KEYS if x.endswith("_conf")):
        choice = key.removesuffix("_conf")
        assert choice in STUDENT_KEYS or choice not in optional or choice == "model"


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
