"""One zip archive of a student: transducer, pre-trained encoder, model card.

The archive is what ESPnet's `espnet2.bin.pack` makes, so its model zoo loads it;
unpacked, it is the repository on the Hub.
"""

import contextlib
import dataclasses
import io
import os
import platform
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

import espnet_mtkd
from espnet_mtkd.errors import ConfigError, DiskError
from espnet_mtkd.files import is_disk_full, scratch_folder
from espnet_mtkd.publish.card import build_card
from espnet_mtkd.publish.configs import (
    ArchivePaths,
    check_stock_classes,
    public_asr_config,
    public_encoder_config,
    read_config,
)
from espnet_mtkd.publish.content import META, check_content
from espnet_mtkd.publish.facts import (
    CardFacts,
    describe_data,
    list_teachers,
    read_results,
)
from espnet_mtkd.publish.lineage import (
    INITIAL,
    PATHS,
    Lineage,
    check_path_teacher,
    check_stage1,
    trace_lineage,
)
from espnet_mtkd.publish.models import (
    check_encoder,
    check_loads,
    decoding_options,
    scored_options,
)
from espnet_mtkd.publish.stage import Stage
from espnet_mtkd.publish.teachers import Origin
from espnet_mtkd.publish.traces import CARD
from espnet_mtkd.student.weights import read_pth

ENCODER_PREFIXES = ("encoder.", "frontend.", "normalize.")


@dataclasses.dataclass(frozen=True)
class Student:
    """What is packed.

    Attributes:
        asr_exp: directory of stage 2.
        model_file: name of its weights.
        mtkd_exp: directory of stage 1; None for a student from scratch.
        checkpoint: name of the weights in it that stage 2 began with.
        kd_teacher_exp: directory of the teacher transducer, where one was used.
        root: the recipe's directory, which the paths in configs start from.
    """

    asr_exp: Path
    model_file: str = "valid.loss.ave.pth"
    mtkd_exp: Path | None = None
    checkpoint: str = "valid.loss.best.pth"
    kd_teacher_exp: Path | None = None
    root: Path = Path()


@dataclasses.dataclass(frozen=True)
class Description:
    """What the card says that no file tells; see `CardFacts`."""

    licence: str
    languages: Sequence[str]
    corpus: str
    dataset: str
    title: str = ""
    limits: Sequence[str] = ()
    corrections: dict[str, Origin] = dataclasses.field(default_factory=dict)
    inference_config: Path | None = None
    inference_args: str = ""


def _add_report(stage: Stage, model_dir: Path, folder: str) -> None:
    """RESULTS.md, with paths of the archive, and pictures."""
    results = model_dir / "RESULTS.md"
    if results.is_file():
        text = results.read_text(encoding="utf-8")
        for name in (str(model_dir.absolute()), str(model_dir)):
            text = text.replace(name, folder)
        stage.write(stage.paths.place(results, folder), text.encode())
    for png in sorted((model_dir / "images").glob("*.png")):
        stage.paths.place(png, f"{folder}/images")


def check_lineage(
    student: Student, description: Description
) -> tuple[Lineage, Lineage | None]:
    """What the configs of the student and of its teacher transducer say.

    Raises:
        ConfigError: a flag says something else, or nothing where it has to.
    """
    lineage = trace_lineage(student.asr_exp, student.root)
    known = description.corrections
    check_stage1(
        lineage, student.mtkd_exp, student.checkpoint, INITIAL in known, student.root
    )
    kd = student.kd_teacher_exp
    if kd is None:
        check_path_teacher(lineage, None, PATHS in known)
        return lineage, None
    read_config(kd, 11)
    check_path_teacher(lineage, kd, PATHS in known)
    return lineage, trace_lineage(kd, student.root)


def fill_stage(
    stage: Stage, student: Student, description: Description
) -> tuple[str, str]:
    """Write the archive's content.

    Returns:
        Names of the transducer's config and weights in it.
    """
    asr = read_config(student.asr_exp, 11)
    check_stock_classes(asr, student.asr_exp / "config.yaml")
    source = student.asr_exp / student.model_file
    state = read_pth(source)
    results = read_results(student.asr_exp, student.model_file)
    lineage, kd_lineage = check_lineage(student, description)
    place = stage.paths.place
    folder = f"exp/{student.asr_exp.absolute().name}"
    config_name = place(student.asr_exp / "config.yaml", folder)
    model_name = place(source, folder)
    public = stage.paths.place_named_files(
        public_asr_config(asr), student.asr_exp / "config.yaml"
    )
    stage.write_yaml(config_name, public)
    stage.write_weights(model_name, state, source)
    _add_report(stage, student.asr_exp, str(Path(model_name).parent))

    mtkd = public_mtkd = None
    if student.mtkd_exp is not None:
        where = student.mtkd_exp / "config.yaml"
        mtkd = read_config(student.mtkd_exp, 9)
        checkpoint = student.mtkd_exp / student.checkpoint
        encoder = {
            k: v
            for k, v in read_pth(checkpoint).items()
            if k.startswith(ENCODER_PREFIXES)
        }
        check_encoder(encoder, state, student.mtkd_exp)
        folder = f"exp/{student.mtkd_exp.absolute().name}"
        public_mtkd = stage.paths.place_named_files(public_encoder_config(mtkd), where)
        stage.write_yaml(place(where, folder), public_mtkd)
        stage.write_weights(place(checkpoint, folder), encoder)
        _add_report(stage, student.mtkd_exp, folder)
    stage.copy_named_files()

    teachers = list_teachers(
        asr, mtkd, lineage, kd_lineage, description.corrections, student.root
    )
    data = [f"stage 2: {line}" for line in describe_data(asr, student.root)]
    if mtkd is not None:
        data += [f"stage 1: {line}" for line in describe_data(mtkd, student.root)]
    given = None  # by the user
    if description.inference_config or description.inference_args:
        given = decoding_options(
            description.inference_config, description.inference_args
        )
    facts = CardFacts(
        title=description.title or student.asr_exp.absolute().name,
        licence=description.licence,
        languages=description.languages,
        corpus=description.corpus,
        dataset=description.dataset,
        results=results,
        teachers=teachers,
        data=data,
        asr_config=public,
        mtkd_config=public_mtkd,
        options=scored_options(results, given, student.root),
        num_parameters=check_loads(stage.folder / config_name, state, stage.folder),
        versions={
            "espnet": str(asr.get("version", "unknown")),
            "packed with torch": torch.__version__.partition("+")[0],
            "Python": platform.python_version(),
            "espnet_mtkd": espnet_mtkd.__version__,
        },
        limits=description.limits,
    )
    card = str(build_card(facts))
    stage.write(CARD, card.encode())
    return config_name, model_name


def pack(
    student: Student,
    description: Description,
    out: Path,
    ignored_names: Sequence[str] = (),
) -> list[str]:
    """Write the archive.

    Args:
        student: what is packed.
        description: for the card.
        out: the `.zip`; an older one is replaced when the new one is whole.
        ignored_names: user or host names and e-mail addresses that may occur.

    Returns:
        Names of the files in it, but for `meta.yaml`, which ESPnet adds.

    Raises:
        ConfigError: no model, no config, or a model that stock ESPnet cannot load.
        DataError: no scores, a file that the config names is missing, or something of
            this machine is left in a file.
        DiskError: no space.
    """
    from espnet2.bin import pack as espnet_pack

    if out.suffix != ".zip":
        raise ConfigError(f"--out: expected a name that ends with .zip, found {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    config = read_config(student.asr_exp, 11)
    tokens = set(config.get("token_list") or [])
    try:
        with scratch_folder(out) as temporary:
            folder = temporary / "stage"
            folder.mkdir()
            stage = Stage(folder, ArchivePaths(student.root, tokens))
            config_name, model_name = fill_stage(stage, student, description)
            command = ["asr", "--asr_train_config", config_name]
            command += ["--asr_model_file", model_name, "--outpath", "../model.zip"]
            for name in stage.names:
                if name not in (config_name, model_name):
                    command += ["--option", name]
            # ESPnet prints each file; its paths are relative to where it runs.
            with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
                espnet_pack.main(command)
            archive = folder.parent / "model.zip"
            with zipfile.ZipFile(archive) as packed:  # ESPnet writes it there alone
                packed.extract(META, folder)
            check_content(folder, "what is to be published", ignored_names)
            os.replace(archive, out)
    except OSError as e:
        if is_disk_full(e):
            size = shutil.disk_usage(out.parent).free / 1e6
            raise DiskError(
                f"no space left to pack into {out.parent} ({size:.0f} MB free): it "
                "takes about four times the size of the model file"
            ) from e
        raise
    return stage.names
