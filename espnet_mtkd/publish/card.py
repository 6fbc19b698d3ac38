"""The model card: metadata that the Hub reads, and a page for people."""

import re
import shlex
from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from espnet_mtkd.errors import DataError
from espnet_mtkd.publish.facts import IN_MODEL, CardFacts
from espnet_mtkd.publish.licences import HUB_LICENCES
from espnet_mtkd.results.tables import table

REPO = "USER/MODEL"  # stands in the card for the repository, until that is known
STREAMING_ENCODER = "contextual_block_conformer"
STUDENT_KEYS = (
    *("frontend", "frontend_conf", "specaug", "specaug_conf", "normalize"),
    *("encoder", "encoder_conf", "decoder", "decoder_conf", "joint_net_conf"),
    *("model_conf", "token_type", "max_epoch", "optim", "optim_conf"),
    *("scheduler", "scheduler_conf"),
)
# Of the streaming decoder: what was decoded, and where.
LOCAL_ARGUMENTS = {
    *("asr_train_config", "asr_model_file", "bpemodel", "wav_scp", "out"),
    *("ngpu", "num_threads"),
}
STAGE1_KEYS = (
    *("align", "target_delay", "target_type", "loss_conf", "objective_conf"),
    "max_epoch",
)

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
            metric_name=f"{kind.upper()} / %"
            + ("" if result.is_of_weights else ", weights unknown"),
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
    rows = [
        [
            r.dset,
            r.wer.num_ref,
            f"{r.wer.rate:.1f}",
            f"{r.cer.rate:.1f}",
            f"`{r.decoding}`" + ("" if r.is_of_weights else ", by unknown weights"),
        ]
        for r in facts.results
    ]
    columns = ["set", "words:", "WER / %:", "CER / %:", "decoding"]
    scored = "Scored by sclite, as ESPnet's stage 13 does."
    return f"{table(columns, rows)}\n\n{scored}"


def _streaming(facts: CardFacts) -> str:
    """How to decode chunk by chunk, as it was scored."""
    text = (
        "Chunk by chunk, which ESPnet's `asr_inference_streaming` cannot do with "
        "transducers, by espnet_mtkd"
    )
    call = f"python -m espnet_mtkd.bin.mtkd_asr_stream --model_tag {REPO}"
    streamed = [r for r in facts.results if r.is_streamed]
    if not streamed:
        return f"{text} (not scored so):\n\n```\n{call} speech.wav\n```"
    commands: dict[str, list[str]] = {}
    for r in streamed:
        name = r.dset.partition(",")[0]
        options = "unknown"
        if r.arguments is not None:
            options = shlex.join(_kept(r.arguments))
        commands.setdefault(options, []).append(name)
    parts = []
    for options, names in commands.items():
        sets = ", ".join(names)
        if options == "unknown":
            text = f"{text}, with options that are unknown for the scores of {sets}"
            parts.append(f"{text}:\n\n```\n{call} speech.wav\n```")
        else:
            words = f"{call} speech.wav {options}".strip()
            parts.append(f"{text}, as {sets} was scored:\n\n```\n{words}\n```")
    return "\n\n".join(parts)


def _kept(arguments: Sequence[str]) -> list[str]:
    """Arguments of the streaming decoder that say how, not what or where."""
    kept, is_kept = [], False
    for word in arguments:
        if word.startswith("--"):
            is_kept = word[2:].partition("=")[0] not in LOCAL_ARGUMENTS
        if is_kept:
            kept.append(word)
    return kept


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
        text += f"\n\n{_streaming(facts)}"
    return text


def _teachers(facts: CardFacts) -> str:
    if not facts.teachers:
        return "None: this model was trained from scratch."
    rows = []
    for t in facts.teachers:
        hub_id = t.origin.hub_id
        link = f"[{hub_id}](https://huggingface.co/{hub_id})" if hub_id else "unknown"
        note = f" ({t.origin.note})" if t.origin.note else ""
        layers = ", ".join(map(str, t.layers)) or "at 3/4 of the depth"
        rows.append(
            [
                f"{t.name} (`{t.upstream}`)",
                link,
                f"{t.origin.licence}{note}",
                t.role,
                layers if t.role.startswith("embeddings") else "",
            ]
        )
    columns = [
        "teacher",
        "on the Hub",
        "its licence",
        "learnt from it",
        "hidden states",
    ]
    lines = [table(columns, rows), ""]
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
    names = [t.name for t in facts.teachers if t.role in (IN_MODEL, "initial weights")]
    if names:
        lines.append(
            f"**Weights of {', '.join(names)} are in this model, or it began with "
            "them:** their licences hold for it too."
        )
    else:
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
        names = dict.fromkeys(t.name for t in facts.teachers if t.role != IN_MODEL)
        taught = f"taught by {', '.join(names)}" if names else "over a trained model"
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
