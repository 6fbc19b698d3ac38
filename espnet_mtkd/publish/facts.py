"""What a model card is written from: scores, teachers, data."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.publish.foundation import foundation_models
from espnet_mtkd.publish.lineage import (
    INITIAL,
    PATHS,
    RECOGNISER,
    Lineage,
    find_folder,
    is_given_text,
    is_pseudo_labelled,
    read_source,
    training_dirs,
)
from espnet_mtkd.publish.teachers import Origin, find_origin
from espnet_mtkd.results.commands import argument, decoding_arguments
from espnet_mtkd.results.scores import (
    STREAMED,
    Score,
    decoding_of,
    find_score_dirs,
    read_sclite,
)

SAMPLE_RATE = 16000  # Hz
IN_MODEL = "a part of this model"  # role of what came trained


@dataclasses.dataclass(frozen=True)
class TestResult:
    """Scores of one test set.

    Attributes:
        dset: its name; ", streamed" where it was decoded chunk by chunk.
        decoding: name of the directory of its hypotheses.
        is_of_weights: that it is of the packed weights is known.
        arguments: of the decoder, as its log has them; None where there is no log.
    """

    __test__ = False  # no class of tests

    dset: str
    decoding: str
    wer: Score
    cer: Score
    is_of_weights: bool = True
    arguments: Sequence[str] | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether it was decoded chunk by chunk."""
        return self.decoding == STREAMED


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One teacher for the card.

    Attributes:
        name: in configs and logs.
        upstream: what loaded it.
        layers: hidden states that were learnt; empty: one at 3/4 of the depth.
        role: what the student learnt from it.
    """

    name: str
    upstream: str
    origin: Origin
    layers: Sequence[int] = ()
    role: str = "embeddings"


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """All that a card is written from.

    Attributes:
        title: of the model.
        licence: identifier as the Hub knows it.
        languages: ISO codes, or `multilingual`.
        corpus: name of the corpus, for people.
        dataset: id of the corpus on the Hub; empty where it is not there.
        results: of the test sets.
        teachers: empty for a student from scratch.
        data: what it was trained on, a line each.
        asr_config, mtkd_config: as they are packed; the second is None without stage 1.
        options: keyword arguments with which `Speech2Text` decodes as it was scored.
        num_parameters: of the transducer.
        versions: package -> version.
        limits: further sentences.
    """

    title: str
    licence: str
    languages: Sequence[str]
    corpus: str
    dataset: str
    results: Sequence[TestResult]
    teachers: Sequence[Teacher]
    data: Sequence[str]
    asr_config: dict
    mtkd_config: dict | None
    options: dict
    num_parameters: int
    versions: dict[str, str]
    limits: Sequence[str] = ()


def read_results(asr_exp: Path, model_file: str) -> list[TestResult]:
    """Scores of the model file that is packed.

    Args:
        asr_exp: directory of stage 2.
        model_file: name of the weights; ESPnet's decoding directories end with
            `_asr_model_<name without suffix>`, a streaming decoding's log has them.

    Raises:
        DataError: no scores, or those of other weights alone.
        ConfigError: a log says that streamed scores are of other weights.
    """
    ending = f"_asr_model_{Path(model_file).stem}"
    results = []
    for dset, folder in find_score_dirs(asr_exp, model_file).items():
        decoding = decoding_of(asr_exp, folder)
        if "_asr_model_" in decoding and not decoding.endswith(ending):
            raise DataError(
                f"{asr_exp}: the scores of '{dset}' are of other weights: expected a "
                f"directory *{ending}, found {decoding}: decode and score {model_file} "
                "(stages 12 and 13), or pack those"
            )
        arguments = decoding_arguments(folder)
        decoded = argument(arguments, "asr_model_file")
        if decoded is not None and not _is_same_file(asr_exp, decoded, model_file):
            raise ConfigError(
                f"--asr_model_file: expected {Path(decoded).name}, by which '{dset}' "
                f"was decoded as the log in {folder} says, found {model_file}: decode "
                "and score it (stages 12 and 13), or pack the other"
            )
        wer, cer = (
            read_sclite(folder / kind / "result.txt")
            for kind in ("score_wer", "score_cer")
        )
        is_known = decoded is not None or decoding.endswith(ending)
        results.append(TestResult(dset, decoding, wer, cer, is_known, arguments))
    return results


def _is_same_file(asr_exp: Path, decoded: str, model_file: str) -> bool:
    """Whether weights that a log names are the packed ones, links followed."""
    name = Path(decoded).name
    packed = asr_exp / model_file
    return name == model_file or (asr_exp / name).resolve() == packed.resolve()


def _teacher(
    name: str, model: tuple[str, str | None], corrections: dict[str, Origin], role: str
) -> Teacher:
    origin = corrections.get(name) or find_origin(*model)
    return Teacher(name, model[0], origin, (), role)


def _embedding_teachers(
    mtkd_config: dict, corrections: dict[str, Origin], role: str = "embeddings"
) -> list[Teacher]:
    """Teachers of a stage 1."""
    return [
        dataclasses.replace(
            _teacher(
                entry["name"],
                (entry["upstream"], entry.get("path_or_url")),
                corrections,
                role,
            ),
            layers=entry.get("layers") or (),
        )
        for entry in mtkd_config.get("teachers") or []
    ]


def list_teachers(
    asr_config: dict,
    mtkd_config: dict | None,
    lineage: Lineage,
    kd_lineage: Lineage | None,
    corrections: dict[str, Origin],
    root: Path = Path(),
) -> list[Teacher]:
    """All models that the student learnt from, or has in it.

    Args:
        asr_config: of the student.
        mtkd_config: of stage 1, as trained.
        lineage: of the student.
        kd_lineage: of the teacher transducer whose paths or transcripts were learnt.
        corrections: what the user knows of a teacher, by its name.
        root: what relative paths start from.

    Raises:
        ConfigError: a correction of a teacher that is not there.
    """
    nothing = ("unknown", None)
    teachers = [
        _teacher(f"part_{i}" if i else "part", model, corrections, IN_MODEL)
        for i, model in enumerate(foundation_models(asr_config))
    ]
    role = "embeddings"
    began = {Path(file).parent.name for _, file in lineage.sources}
    kept_of_others = []
    for where, file in lineage.kept:
        if Path(file).parent.name in began:
            role = "embeddings, in both stages"
        else:
            kept_of_others.append((where, file))
    teachers += _embedding_teachers(mtkd_config or {}, corrections, role)
    for where, file in kept_of_others:
        folder = find_folder(Path(file).parent, where.parent, root)
        config = {} if folder is None else read_yaml(folder / "config.yaml")
        role = "embeddings, in stage 2"
        found = _embedding_teachers(config, corrections, role)
        teachers += found or [_teacher("kept_teacher", nothing, corrections, role)]
    if lineage.sources and mtkd_config is None:
        teachers.append(_teacher(INITIAL, nothing, corrections, "initial weights"))
    roles = ["alignment paths"] if lineage.path_targets else []
    roles += ["transcripts (pseudo-labels)"] if lineage.pseudo_labels else []
    if roles:
        models = foundation_models(kd_lineage.configs[0][1]) if kd_lineage else []
        for i, model in enumerate(models or [nothing]):
            name = f"{PATHS}_{i}" if i else PATHS
            teachers.append(_teacher(name, model, corrections, ", ".join(roles)))
        for where, file in kd_lineage.sources if kd_lineage else []:
            folder = find_folder(Path(file).parent, where.parent, root)
            config = {} if folder is None else read_yaml(folder / "config.yaml")
            role = f"{', '.join(roles)}, by way of the teacher transducer"
            found = _embedding_teachers(config, corrections, role)
            teachers += found or [_teacher(f"{PATHS}_began_with", nothing, {}, role)]
    if lineage.given_text:
        teachers.append(_recogniser(lineage.given_text[1], corrections))
    unknown = set(corrections) - {t.name for t in teachers}
    if unknown:
        raise ConfigError(
            f"--teacher: no such teacher: {', '.join(sorted(unknown))} (there are: "
            f"{', '.join(t.name for t in teachers) or 'none'})"
        )
    return teachers


def _recogniser(data_dir: Path, corrections: dict[str, Origin]) -> Teacher:
    """What transcribed unlabelled audio, which has learnt from transcripts itself."""
    model = read_source(data_dir).get("upstream", "unknown")
    found = _teacher(RECOGNISER, (model, None), corrections, "transcripts")
    origin = dataclasses.replace(found.origin, is_supervised=True)
    return dataclasses.replace(found, origin=origin, role="transcripts (pseudo-labels)")


def describe_data(config: dict, root: Path) -> list[str]:
    """What a training heard: data directories, utterances, hours of 16 kHz audio."""
    lines = []
    paths = [x / "wav.scp" for x in training_dirs(config, root)]
    shapes = [s for s in config.get("train_shape_file") or [] if "speech" in s]
    paths += [root / x for x in config.get("unlabelled_wav_scp") or []]
    shapes += config.get("unlabelled_shape_file") or []
    for scp, shape in itertools.zip_longest(paths, shapes[: len(paths)]):
        line = f"`{scp.parent.name}`"
        if shape is not None and (root / shape).is_file():
            lengths = (root / shape).read_text(encoding="utf-8").splitlines()
            samples = [int(x.split()[1].split(",")[0]) for x in lengths if x.strip()]
            hours = sum(samples) / SAMPLE_RATE / 3600
            line += f": {len(samples)} utterances, {hours:.2f} h"
        if is_pseudo_labelled(scp.parent):
            whose = "recogniser" if is_given_text(scp.parent) else "teacher"
            line += (
                f"; {_count_pseudo(scp.parent)} with a {whose}'s transcript, unchecked"
            )
        lines.append(line)
    return lines


def _count_pseudo(data_dir: Path) -> str:
    """How many utterances have a teacher's transcript."""
    path = data_dir / "pseudo_labels.tsv"
    if not path.is_file():
        return "an unknown number"
    rows = [x.split("\t") for x in path.read_text(encoding="utf-8").splitlines()]
    column = rows[0].index("kept")
    return str(sum(row[column] == "1" for row in rows[1:]))
