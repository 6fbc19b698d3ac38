"""What a student began with and learnt from, as its own configs say."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import read_yaml

INITIAL = "initialisation"  # what `--teacher` calls weights that are no stage 1 of ours
PATHS = "path_teacher"  # and the teacher transducer
RECOGNISER = "recogniser"  # and whatever else transcribed unlabelled audio
SOURCE = "pseudo_source.json"  # of a training set that mtkd.sh made with --pseudo_text


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The trainings of a transducer, one after the other.

    Attributes:
        configs: of its directory and of the transducers that it began with.
        sources: (config, file) of initial weights that are of no transducer that is at
            hand: stage 1, or unknown.
        path_targets: (config, directory) of stored paths; None: none were learnt.
        pseudo_labels: (config, data directory) with transcripts by a teacher.
        kept: (config, file) of stages 1 whose teachers were learnt from in stage 2 too.
        given_text: (config, data directory) with those by another recogniser.
    """

    configs: list[tuple[Path, dict]]
    sources: list[tuple[Path, str]]
    path_targets: tuple[Path, str] | None
    pseudo_labels: tuple[Path, Path] | None
    given_text: tuple[Path, Path] | None = None
    kept: Sequence[tuple[Path, str]] = ()


def find_folder(folder: Path, near: Path, root: Path) -> Path | None:
    """A directory that a config names, also where the recipe was moved since.

    Args:
        folder: as it was named.
        near: directory of the config.
        root: what relative paths start from.
    """
    places = (root, near, near.parent, near.parent.parent)
    candidates = [root / folder, *(place / folder.name for place in places)]
    return next((x for x in candidates if (x / "config.yaml").is_file()), None)


def training_dirs(config: dict, root: Path) -> list[Path]:
    """Data directories that a training read."""
    entries = config.get("train_data_path_and_name_and_type") or []
    paths = [Path(entry[0]) for entry in entries]
    return [root / path.parent for path in paths if path.name == "wav.scp"]


def is_pseudo_labelled(data_dir: Path) -> bool:
    """Whether transcripts of a data directory are by a teacher, as mtkd.sh makes it."""
    return (data_dir / "pseudo_labels.tsv").is_file() or "_pseudo_" in data_dir.name


def is_given_text(data_dir: Path) -> bool:
    """Whether pseudo-labels of a directory are not a teacher transducer's."""
    return (data_dir / SOURCE).is_file() or "_pseudo_text_" in data_dir.name


def read_source(data_dir: Path) -> dict:
    """What mtkd_transcribe told of itself; empty where something else transcribed."""
    path = data_dir / SOURCE
    source = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return source.get("made_by") or {}


def trace_lineage(asr_exp: Path, root: Path) -> Lineage:
    """Follow `init_param` from a transducer back to what it began with.

    Raises:
        ConfigError: a config cannot be read.
    """
    configs, sources, todo, seen = [], [], [asr_exp], set()
    while todo:
        folder = todo.pop(0)
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        where = folder / "config.yaml"
        config = read_yaml(where)
        configs.append((where, config))
        params = config.get("init_param") or []
        for param in [params] if isinstance(params, str) else params:
            file = param.split(":")[0]
            before = find_folder(Path(file).parent, folder, root)
            if before is None or "teachers" in read_yaml(before / "config.yaml"):
                sources.append((where, file))
            else:
                todo.append(before)
    paths = [
        (w, c["path_targets_dir"]) for w, c in configs if c.get("path_targets_dir")
    ]
    pseudo = [
        (where, data_dir)
        for where, config in configs
        for data_dir in training_dirs(config, root)
        if is_pseudo_labelled(data_dir)
    ]
    given = [x for x in pseudo if is_given_text(x[1])]
    pseudo = [x for x in pseudo if x not in given]
    first = [x[0] if x else None for x in (paths, pseudo, given)]
    kept = [
        (w, c["keep_teachers_from"]) for w, c in configs if c.get("keep_teachers_from")
    ]
    return Lineage(configs, list(dict.fromkeys(sources)), *first, kept)


def check_stage1(
    lineage: Lineage,
    mtkd_exp: Path | None,
    checkpoint: str,
    is_declared: bool,
    root: Path,
) -> None:
    """Refuse a stage 1 that is not the one which stage 2 began with.

    Args:
        lineage: of the transducer.
        mtkd_exp: as it was named; None: not at all.
        checkpoint: name of its weights.
        is_declared: the user says what else it began with.
        root: what relative paths start from.

    Raises:
        ConfigError: with what the config and the flag say.
    """
    for where, file in lineage.sources:
        says = f"init_param of {where} is {file}"
        folder = Path(file).parent
        if mtkd_exp is None:
            if is_declared:
                continue
            raise ConfigError(
                f"--mtkd_exp: expected {folder}, for {says}, found none: name it "
                "(of mtkd.sh: the --teachers it was trained with), or say what else "
                f"these weights are: --teacher {INITIAL}=HUB_ID,LICENCE, each of which "
                "may be unknown"
            )
        found = find_folder(folder, where.parent, root)
        is_same = folder.name == mtkd_exp.absolute().name
        if found is not None:
            is_same = found.resolve() == mtkd_exp.resolve()
        if not is_same:
            raise ConfigError(
                f"--mtkd_exp: expected {folder}, for {says}, found {mtkd_exp}"
            )
        began, packed = mtkd_exp / Path(file).name, mtkd_exp / checkpoint
        if began.name != packed.name and began.resolve() != packed.resolve():
            raise ConfigError(
                f"--mtkd_model_file: expected {began.name}, for {says}, found "
                f"{checkpoint}"
            )
    if mtkd_exp is not None and not lineage.sources:
        raise ConfigError(
            f"--mtkd_exp: expected none, for {lineage.configs[0][0]} has no init_param "
            f"that leads to it, found {mtkd_exp}"
        )


def check_path_teacher(
    lineage: Lineage, kd_teacher_exp: Path | None, is_declared: bool
) -> None:
    """Refuse a teacher transducer that was not learnt from, or that is not told of.

    Raises:
        ConfigError: with what the config and the flag say.
    """
    says = []
    if lineage.path_targets:
        where, folder = lineage.path_targets
        says.append(f"path_targets_dir of {where} is {folder}")
    if lineage.pseudo_labels:
        where, data_dir = lineage.pseudo_labels
        says.append(f"{where} trains on the pseudo-labels of {data_dir}")
    if says and kd_teacher_exp is None and not is_declared:
        raise ConfigError(
            "--kd_teacher_exp: expected the directory of the teacher transducer, for "
            f"{' and '.join(says)}, found none: name it, or say what is known of it: "
            f"--teacher {PATHS}=HUB_ID,LICENCE, each of which may be unknown"
        )
    if kd_teacher_exp is not None and not says:
        raise ConfigError(
            f"--kd_teacher_exp: expected none, for {lineage.configs[0][0]} has neither "
            f"path_targets_dir nor pseudo-labels, found {kd_teacher_exp}"
        )
