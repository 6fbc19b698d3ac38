"""What a model card is written from: scores, teachers, data."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.publish.teachers import Origin, find_origin
from espnet_mtkd.results.scores import (
    Score,
    decoding_of,
    find_score_dirs,
    read_sclite,
)

SAMPLE_RATE = 16000  # Hz


@dataclasses.dataclass(frozen=True)
class TestResult:
    """Scores of one test set.

    Attributes:
        dset: its name; ", streamed" where it was decoded chunk by chunk.
        decoding: name of the directory of its hypotheses.
    """

    __test__ = False  # no class of tests

    dset: str
    decoding: str
    wer: Score
    cer: Score


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
            `_asr_model_<name without suffix>`.

    Raises:
        DataError: no scores, or those of other weights alone.
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
        wer, cer = (
            read_sclite(folder / kind / "result.txt")
            for kind in ("score_wer", "score_cer")
        )
        results.append(TestResult(dset, decoding, wer, cer))
    return results


def list_teachers(
    mtkd_config: dict | None, kd_config: dict | None, corrections: dict[str, Origin]
) -> list[Teacher]:
    """Teachers of both kinds.

    Args:
        mtkd_config: of stage 1, as trained.
        kd_config: of the teacher transducer whose paths were learnt.
        corrections: what the user knows of a teacher, by its name.

    Raises:
        ConfigError: a correction of a teacher that is not there.
    """
    teachers = []
    for entry in (mtkd_config or {}).get("teachers", []):
        origin = find_origin(entry["upstream"], entry.get("path_or_url"))
        origin = corrections.get(entry["name"], origin)
        layers = entry.get("layers") or ()
        teachers.append(Teacher(entry["name"], entry["upstream"], origin, layers))
    frontend = (kd_config or {}).get("frontend_conf", {})
    if "upstream" in frontend:
        origin = find_origin(frontend["upstream"], frontend.get("path_or_url"))
        origin = corrections.get("path_teacher", origin)
        teachers.append(
            Teacher("path_teacher", frontend["upstream"], origin, (), "alignment paths")
        )
    unknown = set(corrections) - {t.name for t in teachers}
    if unknown:
        raise ConfigError(
            f"--teacher: no such teacher: {', '.join(sorted(unknown))} (there are: "
            f"{', '.join(t.name for t in teachers) or 'none'})"
        )
    return teachers


def describe_data(config: dict, root: Path) -> list[str]:
    """What a training heard: data directories, utterances, hours of 16 kHz audio."""
    lines = []
    paths = [p[0] for p in config.get("train_data_path_and_name_and_type") or []]
    paths = [p for p in paths if p.endswith("wav.scp")]
    shapes = [s for s in config.get("train_shape_file") or [] if "speech" in s]
    paths += config.get("unlabelled_wav_scp") or []
    shapes += config.get("unlabelled_shape_file") or []
    for scp, shape in zip(paths, shapes, strict=False):
        line = f"`{Path(scp).parent.name}`"
        if (root / shape).is_file():
            lengths = (root / shape).read_text(encoding="utf-8").splitlines()
            samples = [int(x.split()[1].split(",")[0]) for x in lengths if x.strip()]
            hours = sum(samples) / SAMPLE_RATE / 3600
            line += f": {len(samples)} utterances, {hours:.2f} h"
        lines.append(line)
    return lines
