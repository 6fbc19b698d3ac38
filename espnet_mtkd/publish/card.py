"""The model card: metadata that the Hub reads, and a page for people."""

import re
from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from espnet_mtkd.errors import DataError
from espnet_mtkd.publish.facts import CardFacts
from espnet_mtkd.publish.licences import HUB_LICENCES

REPO = "USER/MODEL"  # stands in the card for the repository, until that is known
STREAMING_ENCODER = "contextual_block_conformer"
STUDENT_KEYS = (
    *("frontend", "frontend_conf", "specaug_conf", "normalize", "encoder"),
    *("encoder_conf", "decoder", "decoder_conf", "joint_net_conf", "model_conf"),
    *("token_type", "max_epoch", "optim", "optim_conf", "scheduler", "scheduler_conf"),
)
STAGE1_KEYS = ("align", "target_delay", "target_type", "loss_conf", "max_epoch")

# Python code, to be filled in with a repository and the arguments of decoding.
LOAD = """\
import soundfile
from espnet2.bin.asr_inference import Speech2Text

speech2text = Speech2Text.from_pretrained("{repo}"{options})
speech, rate = soundfile.read("speech.wav")  # 16000 Hz, one channel
print(speech2text(speech)[0][0])
"""
NO_LOSS = """\
import sys, types
sys.modules["warprnnt_pytorch"] = types.SimpleNamespace(RNNTLoss=lambda **kwargs: None)
"""


def metadata(facts: CardFacts) -> ModelCardData:
    """The card's YAML, with a model-index of WER and CER in percent for each set."""
    slug = re.sub(r"\W+", "_", facts.corpus.lower()).strip("_")
    results = [
        EvalResult(
            task_type="automatic-speech-recognition",
            task_name="Automatic Speech Recognition",
            dataset_type=facts.dataset or slug,
            dataset_name=f"{facts.corpus} ({result.dset})",
            dataset_split=result.dset,
            metric_type=kind,
            metric_name=f"{kind.upper()} / %",
            metric_value=round(score.rate, 2),
        )
        for result in facts.results
        for kind, score in (("wer", result.wer), ("cer", result.cer))
    ]
    hub_ids = dict.fromkeys(t.origin.hub_id for t in facts.teachers)
    tags = ["espnet", "audio", "automatic-speech-recognition", "transducer"]
    if facts.teachers:
        tags.append("knowledge-distillation")
    if facts.asr_config.get("encoder") == STREAMING_ENCODER:
        tags.append("streaming")
    if any(t.origin.is_non_commercial for t in facts.teachers):
        tags.append("non-commercial-teacher")
    return ModelCardData(
        library_name="espnet",
        pipeline_tag="automatic-speech-recognition",
        language=list(facts.languages),
        license=facts.licence,
        datasets=[facts.dataset] if facts.dataset else None,
        base_model=[x for x in hub_ids if x is not None] or None,
        tags=tags,
        model_name=facts.title,
        eval_results=results,
    )


def _results(facts: CardFacts) -> str:
    lines = [
        "| set | words | WER / % | CER / % | decoding |",
        "|---|---:|---:|---:|---|",
    ]
    for r in facts.results:
        lines.append(
            f"| {r.dset} | {r.wer.num_ref} | {r.wer.rate:.1f} | {r.cer.rate:.1f} | "
            f"`{r.decoding}` |"
        )
    return "\n".join([*lines, "", "Scored by sclite, as ESPnet's stage 13 does."])


def _load(facts: CardFacts) -> str:
    options = "".join(f", {k}={v!r}" for k, v in facts.options.items())
    text = (
        "Stock ESPnet, nothing of the package that trained it "
        "(`pip install espnet espnet_model_zoo soundfile`):\n\n"
        f"```python\n{LOAD.format(repo=REPO, options=options)}```\n\n"
        "ESPnet builds a transducer's loss even to decode, from `warprnnt_pytorch`. "
        "Where that is not installed, put this before the other lines:\n\n"
        f"```python\n{NO_LOSS}```"
    )
    if facts.asr_config.get("encoder") == STREAMING_ENCODER:
        text += (
            "\n\nChunk by chunk, which ESPnet cannot do with transducers, by "
            f"espnet_mtkd:\n\n```\npython -m espnet_mtkd.bin.mtkd_asr_stream "
            f"--model_tag {REPO} speech.wav\n```"
        )
    return text


def _teachers(facts: CardFacts) -> str:
    if not facts.teachers:
        return "None: this model was trained from scratch."
    lines = [
        "| teacher | on the Hub | its licence | learnt from it | hidden states |",
        "|---|---|---|---|---|",
    ]
    for t in facts.teachers:
        hub_id = t.origin.hub_id
        link = f"[{hub_id}](https://huggingface.co/{hub_id})" if hub_id else "unknown"
        note = f" ({t.origin.note})" if t.origin.note else ""
        layers = ", ".join(map(str, t.layers)) or "at 3/4 of the depth"
        lines.append(
            f"| {t.name} (`{t.upstream}`) | {link} | {t.origin.licence}{note} | "
            f"{t.role} | {layers if t.role == 'embeddings' else ''} |"
        )
    lines.append("")
    names = [t.name for t in facts.teachers if t.origin.is_non_commercial]
    if names:
        lines.append(
            f"**Non-commercial teacher: {', '.join(names)}.** Its licence forbids "
            "commercial use; whether that extends to a model that was trained on its "
            "outputs is for you to judge.\n"
        )
    names = [t.name for t in facts.teachers if t.origin.is_supervised]
    if names:
        lines.append(
            f"Supervised teachers, trained on transcribed speech: {', '.join(names)}."
        )
    lines.append("No weights of a teacher are in this repository.")
    return "\n".join(lines)


def _block(config: dict, keys: Sequence[str]) -> str:
    kept = {k: config[k] for k in keys if config.get(k) not in (None, {}, [])}
    text = yaml.safe_dump(kept, sort_keys=False, default_flow_style=None)
    return f"```yaml\n{text}```"


def _configs(facts: CardFacts) -> str:
    parts = ["The transducer:", _block(facts.asr_config, STUDENT_KEYS)]
    if facts.mtkd_config is not None:
        parts += [
            "Before it, its encoder learnt the teachers' embeddings:",
            _block(facts.mtkd_config, STAGE1_KEYS),
        ]
    return "\n\n".join(parts)


def _limits(facts: CardFacts) -> str:
    sets = ", ".join(r.dset for r in facts.results)
    limits = [
        f"Measured on {sets} of {facts.corpus} alone; other speakers, rooms and styles "
        "were not tried.",
        "16 kHz audio, one channel.",
        *facts.limits,
    ]
    return "\n".join(f"- {x}" for x in limits)


def build_card(facts: CardFacts) -> ModelCard:
    """The card. `USER/MODEL` stands in it where the repository's name belongs."""
    is_streaming = facts.asr_config.get("encoder") == STREAMING_ENCODER
    kind = "streaming" if is_streaming else "non-streaming"
    taught = "trained from scratch"
    if facts.teachers:
        taught = f"taught by {', '.join(t.name for t in facts.teachers)}"
    sections = {
        "Results": _results(facts),
        "How to load": _load(facts),
        "Teachers": _teachers(facts),
        "Data": "\n".join(f"- {line}" for line in facts.data) or facts.corpus,
        "Configs": _configs(facts),
        "Versions": ", ".join(f"{k} {v}" for k, v in facts.versions.items()),
        "Limits": _limits(facts),
    }
    body = f"# {facts.title}\n\n"
    body += (
        f"A {kind} transducer of ESPnet with {facts.num_parameters / 1e6:.2f} M "
        f"parameters, {taught}.\n"
    )
    for title, text in sections.items():
        body += f"\n## {title}\n\n{text}\n"
    return ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}")


def check_card(text: str, where: str) -> None:
    """Refuse a card that people could not judge the model by.

    Raises:
        DataError: no metadata, no licence that the Hub knows, or no WER in its
            model-index.
    """
    try:
        data = ModelCard(text).data
    except (ValueError, yaml.YAMLError) as e:
        raise DataError(f"{where}: its metadata cannot be read: {e}") from e
    missing = [
        key for key in ("license", "language", "library_name") if not data.get(key)
    ]
    results = [r for r in data.eval_results or [] if r.metric_type == "wer"]
    if not [r for r in results if re.fullmatch(r"\d+(\.\d+)?", str(r.metric_value))]:
        missing.append("a WER in model-index")
    licences = data.get("license") or []
    for licence in [licences] if isinstance(licences, str) else licences:
        if licence not in HUB_LICENCES:
            raise DataError(
                f"{where}: license: expected an identifier of the Hub, found "
                f"'{licence}': pack the model again with another --license (stage 14)"
            )
    if missing:
        raise DataError(
            f"{where}: expected {', '.join(missing)}, found none: score the model "
            "(stages 12 and 13) and pack it again (stage 14)"
        )
