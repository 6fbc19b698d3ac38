"""All teachers over all data directories: `extract` for each pair of them."""

from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.data.audio import prepare_audio
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.targets.codebooks import get_codebooks
from espnet_mtkd.targets.extract import extract
from espnet_mtkd.targets.plan import Settings, Utterance
from espnet_mtkd.teachers.base import TeacherConfig
from espnet_mtkd.teachers.s3prl import S3PRLTeacher, check_length, read_teachers


def extract_all(
    teachers,
    data_dirs: Sequence[Path],
    shape_dir: Path,
    out_dir: Path,
    nj: int,
    settings: Settings,
) -> list[Path]:
    """Write this process's share of all stores, `<out_dir>/<teacher>/<data set>`.

    One teacher is loaded at a time.

    Args:
        teachers: see `parse_teachers`.
        data_dirs: Kaldi data directories, whose names are those of the data sets.
            Codebooks are trained on the first.
        shape_dir, nj: see `prepare_audio`.
        out_dir: of all targets.
        settings: see there.

    Returns:
        Folders of the stores that are not whole yet.

    Raises:
        ConfigError: see `read_teachers`; two directories of one name; a teacher whose
            targets have different frame shifts.
        DataError: see `prepare_audio` and `check_length`.
        TargetStoreError, DiskError: see `extract`.
    """
    configs = read_teachers(teachers)
    names = [d.name for d in data_dirs]
    if len(set(names)) != len(names):
        raise ConfigError(f"--data_dir: two directories have one name: {names}")
    audio = {d.name: prepare_audio(d, shape_dir, nj) for d in data_dirs}
    unfinished = []
    for config in configs:
        unfinished += _extract_one(config, audio, out_dir / config.name, settings)
    return unfinished


def _extract_one(
    config: TeacherConfig, audio: dict, folder: Path, settings: Settings
) -> list[Path]:
    """One teacher over all data sets; `audio`: name -> what `prepare_audio` gives."""
    teacher = S3PRLTeacher(config)
    teacher.dtype = settings.dtype
    data = {
        name: _utterances(teacher, lengths, files)
        for name, (lengths, files) in audio.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    books = None
    if settings.form == "codes":
        books = get_codebooks(teacher, next(iter(data.values())), folder, settings)
    return [
        folder / name
        for name, utts in data.items()
        if not extract(teacher, utts, folder / name, settings, books)
    ]


def _utterances(
    teacher: S3PRLTeacher, lengths: dict[str, int], files: dict[str, str]
) -> list[Utterance]:
    """A data set's utterances, with the frames that the teacher gives of each."""
    shift = _frame_shift(teacher)
    check_length(teacher, lengths.values(), list(lengths))
    frames = teacher.count_frames(lengths.values(), shift)
    return [
        Utterance(utt, files[utt], num_samples, num_frames)
        for (utt, num_samples), num_frames in zip(lengths.items(), frames, strict=True)
    ]


def _frame_shift(teacher: S3PRLTeacher) -> int:
    """Samples between two frames of any target of the teacher."""
    shifts = {spec.frame_shift for spec in teacher.targets}
    if len(shifts) > 1:
        raise ConfigError(
            f"teacher '{teacher.config.name}': its layers have different frame shifts "
            f"{sorted(shifts)} (samples): give each a teacher of its own"
        )
    return shifts.pop()
