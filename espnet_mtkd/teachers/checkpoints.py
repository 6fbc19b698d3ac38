"""A teacher's checkpoint, compared with what its upstream reads before s3prl loads it.

One of another form is refused with what it is and how to go on.
"""

import importlib.util
import re
import shlex
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers.checkpoint_forms import (
    DAMAGED,
    ESPNET,
    FAIRSEQ,
    FAIRSEQ_MODELS,
    HF_FOLDER,
    HF_WEIGHT_NAMES,
    HF_WEIGHTS,
    MICROSOFT,
    OPENAI,
    S3PRL,
    Found,
    inspect,
    some,
)

NAMESPACE = "argparse.Namespace"
DICTIONARY = "fairseq.data.dictionary.Dictionary"
_BY_CONVERTER = "a dict with {}, as s3prl's converter writes it"
_BY_MICROSOFT = "a dict with cfg and model, as Microsoft publishes it"
_OF_HF = "a Hugging Face directory of a {} model: config.json, preprocessor_config.json"
_OF_HF += " and weights"
_SHORT = "task_cfg, model_cfg, model_weight"
# Upstream without its ending: what is expected, and what that is by `inspect`.
FORMS = {
    "hubert": (
        _BY_CONVERTER.format(f"{_SHORT}, dictionaries_symbols"),
        {(S3PRL, "hubert")},
    ),
    "wav2vec2": (_BY_CONVERTER.format(_SHORT), {(S3PRL, "wav2vec2")}),
    "data2vec": (_BY_CONVERTER.format(_SHORT), {(S3PRL, "data2vec")}),
    "wavlm": (_BY_MICROSOFT, {(MICROSOFT, "wavlm")}),
    "unispeech_sat": (_BY_MICROSOFT, {(MICROSOFT, "wavlm")}),
    "whisper": (
        "a Hugging Face directory of a whisper model (config.json and "
        "model.safetensors), or OpenAI's file",
        {(HF_FOLDER, "whisper"), (OPENAI, "whisper")},
    ),
    "hf_hubert": (_OF_HF.format("hubert"), {(HF_FOLDER, "hubert")}),
    "hf_wav2vec2": (_OF_HF.format("wav2vec2"), {(HF_FOLDER, "wav2vec2")}),
}
# Upstream that reads a form; the converter's is <family>_local.
_READERS = {
    (HF_FOLDER, "hubert"): "hf_hubert_custom",
    (HF_FOLDER, "wav2vec2"): "hf_wav2vec2_custom",
    (HF_FOLDER, "whisper"): "whisper_local",
    (MICROSOFT, "wavlm"): "wavlm_local",
    (OPENAI, "whisper"): "whisper_local",
    **{(S3PRL, name): f"{name}_local" for name in FAIRSEQ_MODELS.values()},
}
# Packages and types whose objects a real training of fairseq may have left.
_TRAININGS = {"argparse", "enum", "fairseq", "numpy", "omegaconf", "typing"}
_TYPES = {f"builtins.{x}" for x in "bool dict float int list long str tuple".split()}
_TYPES.add("collections.defaultdict")
# s3prl's own copies of models whose Hugging Face form it cannot read.
_PUBLISHED = {
    "wavlm": "wavlm_base_plus or wavlm_large",
    "data2vec": "data2vec_base_960 or data2vec_large_ll60k",
    "unispeech_sat": "unispeech_sat_base_plus or unispeech_sat_large",
}


def check_checkpoint(config) -> None:
    """Refuse a teacher's local checkpoint that its upstream does not read.

    Args:
        config: `TeacherConfig`.

    Raises:
        ConfigError: with what the checkpoint is, what the upstream expects and how to
            go on. Nothing is said of a path where there is nothing.
    """
    family, _, ending = config.upstream.rpartition("_")
    if not config.path_or_url or ending not in ("local", "custom", "url"):
        return
    if family not in FORMS and ending != "local":
        return
    path = Path(config.path_or_url)
    found = inspect(path)
    if found is None or (family not in FORMS and found.kind != DAMAGED):
        return
    by_fairseq = any(config.extra_conf.get(key) for key in ("fairseq", "legacy"))
    if by_fairseq and found.kind == FAIRSEQ and importlib.util.find_spec("fairseq"):
        return  # s3prl lets fairseq read it
    expected, accepted = FORMS.get(family, ("a checkpoint of its own", ()))
    if (found.kind, found.family) in accepted:
        problem, remedy = _fault(found, path, family)
        if by_fairseq and not problem:
            problem = f"one, and extra_conf {config.extra_conf}, which is for fairseq's"
            remedy = "Leave it out of extra_conf."
        if not problem:
            return
    else:
        problem, remedy = found.what, remedy_of(found, path)
    if found.names and found.kind != FAIRSEQ:
        problem += f"; it names {some(found.names)}, of which nothing was run"
    raise ConfigError(
        f"teacher '{config.name}': path_or_url: {path}: expected for upstream "
        f"'{config.upstream}' {expected}, found {problem}. {remedy}".rstrip()
    )


def _fault(found: Found, path: Path, family: str) -> tuple[str, str]:
    """What is wrong with a checkpoint of the right form, if anything; the remedy."""
    if found.names:
        what = "one with other objects in it than tensors and plain values"
        return what, "Take it from its authors anew."
    if family == "hubert" and "dictionaries_symbols" not in found.keys:
        return "one without dictionaries_symbols", "Convert it again."
    if found.kind != HF_FOLDER:
        return "", ""
    weights = [name for name in found.keys if re.fullmatch(HF_WEIGHT_NAMES, name)]
    if family == "whisper" and weights and "model.safetensors" not in found.keys:
        whole = f"{path}.safetensors"
        code = "from transformers import WhisperModel as M; "
        code += f"M.from_pretrained({str(path)!r})"
        code += f".save_pretrained({whole!r}, max_shard_size='99GB')"
        remedy = f"Write it anew, then name {whole}: python -c {shlex.quote(code)}"
        return f"one with {some(weights)} in place of model.safetensors", remedy
    missing = [] if weights else ["model.safetensors"]
    if family != "whisper" and "preprocessor_config.json" not in found.keys:
        missing.append("preprocessor_config.json")
    names = " and ".join(missing)
    return (f"one without {names}", f"Fetch {names} into it.") if missing else ("", "")


def remedy_of(found: Found, path: Path) -> str:
    """How to go on with a checkpoint of another form than is expected.

    Args:
        found: what `inspect` says of it.
        path: of it.
    """
    if found.remedy:
        return found.remedy
    if found.kind == FAIRSEQ:
        return _convert(found, path)
    if found.kind == ESPNET:
        where = path if path.is_dir() else path.parent
        return (
            f"If it is a recogniser: upstream: espnet_local, path_or_url: {where} ; if "
            f"it is a student of this package: upstream: mtkd_student, path_or_url: "
            f"{where}"
        )
    reader = _READERS.get((found.kind, found.family))
    if reader:
        text = f"Name the upstream that reads it: upstream: {reader}."
        problem, remedy = _fault(found, path, re.sub("_(local|custom)$", "", reader))
        return f"{text} It is {problem}. {remedy}" if problem else text
    if found.kind in (HF_FOLDER, HF_WEIGHTS):
        published = _PUBLISHED.get(found.family)
        if published:
            return f"s3prl reads a copy of its own: upstream: {published}"
        by_name = [r for (kind, _), r in _READERS.items() if kind == HF_FOLDER]
        reader = _READERS.get((HF_FOLDER, found.family), " or ".join(by_name))
        if found.kind == HF_FOLDER:
            return f"Directories of other models can be read: {reader}."
        if (path.parent / "config.json").is_file():
            return f"Name its directory: upstream: {reader}, path_or_url: {path.parent}"
        name = (
            "model.safetensors" if "safetensors" in found.what else "pytorch_model.bin"
        )
        return (
            f"Put it as {name} into a directory with the model's config.json and "
            f"preprocessor_config.json, and name that: upstream: {reader}"
        )
    return "Name the file that the model's authors publish."


def _convert(found: Found, path: Path) -> str:
    """How to go on with a checkpoint of fairseq."""
    if found.family is None:
        return (
            f"Of fairseq's models {', '.join(FAIRSEQ_MODELS)} can be converted, as "
            "they were pre-trained: take such a checkpoint."
        )
    file, upstream = shlex.quote(str(path)), f"{found.family}_local"
    others = sorted(set(found.names) - {NAMESPACE, DICTIONARY})
    if not others:
        out = path.with_name(f"{path.stem}.converted.pt")
        return (
            f"Convert it, then name {out} with upstream: {upstream}: "
            f"python -m espnet_mtkd.bin.mtkd_convert_checkpoint --checkpoint {file} "
            f"--upstream {upstream} --out {shlex.quote(str(out))}"
        )
    if {name.partition(".")[0] for name in set(others) - _TYPES} <= _TRAININGS:
        return (
            f"It names {some(others)}, which fairseq alone can load. If you trust its "
            "origin (code that it names is run), convert it where fairseq is "
            f"installed: python -m s3prl.upstream.{found.family}.convert {file} "
            "--output_dir DIR"
        )
    return f"It names {some(others)}, of which nothing was run: do not load it."
