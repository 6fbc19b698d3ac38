"""RESULTS.md and training curves of a recipe, computed from what the stages wrote."""

import dataclasses
import platform
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from espnet_mtkd.errors import DataError
from espnet_mtkd.files import read_yaml

STREAMED = "decode_stream"  # directory of what was decoded chunk by chunk
DECODING = "decoding"  # file that names the decoding which counts


@dataclasses.dataclass(frozen=True)
class Score:
    """Raw counts of one sclite result.

    Attributes:
        num_ref: reference tokens.
        num_err: substitutions + deletions + insertions.
    """

    num_ref: int
    num_err: int

    @property
    def rate(self) -> float:
        """Error rate in percent; of an empty reference 0."""
        return 100.0 * self.num_err / max(1, self.num_ref)


def read_sclite(path: Path) -> Score:
    """Error counts from sclite's `result.txt` (its table of raw counts, row `Sum`).

    Raises:
        DataError: no such file, or no such row in it.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: has this row been scored (stage 13)?")
    text = path.read_text(encoding="utf-8", errors="replace")
    # | Sum    |   83    429 |  150   200   79   10   289   80 |
    match = re.search(r"^\s*\|\s*Sum\s*\|([\d\s]+)\|([\d\s]+)\|", text, re.M)
    if match is None:
        raise DataError(f"{path}: expected sclite's table with a row 'Sum', found none")
    num_ref = int(match[1].split()[1])
    num_err = int(match[2].split()[4])
    return Score(num_ref, num_err)


def find_score_dirs(asr_exp: Path, model_file: str | None = None) -> dict[str, Path]:
    """Test set -> its directory with `score_wer` and `score_cer`.

    What the streaming decoder gave (`decode_stream`) is a set of its own. Where a set
    was decoded in several ways, the recipe's counts: the one that the file `decoding`
    names, which mtkd.sh writes when it has scored.

    Args:
        asr_exp: directory of stage 2.
        model_file: name of weights: of several decodings those by others do not count.

    Raises:
        DataError: the experiment holds no score; or a set has several, and none of them
            is named, or none by that name: the candidates are listed.
    """
    candidates: dict[str, dict[str, Path]] = {}
    for decoding, dset, folder in list_scores(asr_exp):
        if decoding == STREAMED:
            dset += ", streamed"
        candidates.setdefault(dset, {})[decoding] = folder
    if not candidates:
        raise DataError(f"{asr_exp}: no scores in it: run stages 12 and 13 first")
    named = asr_exp / DECODING
    name = named.read_text(encoding="utf-8").strip() if named.is_file() else None
    found = {}
    for dset, folders in candidates.items():
        if model_file is not None:
            ending = f"_asr_model_{Path(model_file).stem}"
            folders = {
                k: v for k, v in folders.items() if k.endswith(ending)
            } or folders
        if len(folders) > 1 and name not in folders:
            raise DataError(
                f"{asr_exp}: '{dset}' was decoded in several ways: "
                f"{', '.join(sorted(folders))}: write the name of the one that counts "
                f"into {named}, or remove the others"
            )
        found[dset] = folders[name] if name in folders else next(iter(folders.values()))
    return found


def list_scores(asr_exp: Path) -> list[tuple[str, str, Path]]:
    """Name of the decoding, test set and directory of all scores of a student.

    ESPnet puts a decoding's arguments into its name, slashes included, and a validation
    set under `org/`.
    """
    folders = [path.parent for path in sorted(asr_exp.rglob("score_wer"))]
    return [
        (decoding_of(asr_exp, folder), folder.name, folder)
        for folder in folders
        if folder.parent != asr_exp
    ]


def decoding_of(asr_exp: Path, folder: Path) -> str:
    """Name of the decoding that a directory with scores belongs to."""
    decoding = folder.parent
    if decoding.name == "org":
        decoding = decoding.parent
    return decoding.relative_to(asr_exp).as_posix()


def same_sets(rows: Sequence[tuple[Path, dict[str, Path]]]) -> list[str]:
    """Test sets of several seeds.

    Args:
        rows: directory of stage 2 and its scores, of each seed.

    Raises:
        DataError: a seed lacks a set that another has.
    """
    sets = dict.fromkeys(dset for _, dirs in rows for dset in dirs)
    for dset in sets:
        lacking = [str(asr_exp) for asr_exp, dirs in rows if dset not in dirs]
        if lacking:
            raise DataError(
                f"{', '.join(lacking)}: no scores of '{dset}', which other seeds of "
                "this row have: decode and score it (stages 12 and 13), or leave the "
                "seed out"
            )
    return list(sets)


def mean_rate(scores: list[Score]) -> float:
    """Mean error rate of several seeds, in percent."""
    return sum(s.rate for s in scores) / len(scores)


def reduction(baseline: list[Score], scores: list[Score]) -> float | None:
    """Relative reduction of the mean error rate in percent (WERR, for words).

    Returns:
        None where the baseline makes no errors.
    """
    rate = mean_rate(baseline)
    return None if rate == 0 else 100.0 * (1.0 - mean_rate(scores) / rate)


def _rate_cell(scores: list[Score]) -> str:
    cell = f"{mean_rate(scores):.1f}"
    if len(scores) > 1:
        rates = [s.rate for s in scores]
        cell += f" ({min(rates):.1f}-{max(rates):.1f})"
    return cell


def results_table(rows: list[tuple[str, Path]]) -> str:
    """Markdown table of WER, CER and their relative reductions, in the order of `rows`.

    Args:
        rows: (name, directory of stage 2). A name is "<encoder>: <what>"; reductions
            are against the first name with the same encoder. Rows of the same name are
            seeds: their mean is given, with the least and the greatest.

    Returns:
        One line per name and test set.
    """
    lines = [
        "| student | row | set | words | WER / % | WERR / % | CER / % | CERR / % |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    baselines = {}
    for name in dict.fromkeys(name for name, _ in rows):
        student, _, what = name.rpartition(": ")
        exps = [asr_exp for n, asr_exp in rows if n == name]
        seeds = [find_score_dirs(asr_exp) for asr_exp in exps]
        if len(seeds) > 1:
            what += f", {len(seeds)} seeds"
        for dset in same_sets(list(zip(exps, seeds, strict=True))):
            wer, cer = (
                [read_sclite(dirs[dset] / kind / "result.txt") for dirs in seeds]
                for kind in ("score_wer", "score_cer")
            )
            first = baselines.setdefault((student, dset), (name, wer, cer))
            cells = [student, what, dset, str(wer[0].num_ref)]
            for scores, baseline in ((wer, first[1]), (cer, first[2])):
                cells.append(_rate_cell(scores))
                reduced = None if first[0] == name else reduction(baseline, scores)
                cells.append("" if reduced is None else f"{reduced:.1f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def times_table(tsv: Path, experiments: Collection[str]) -> str:
    """Markdown table of the wall time of every stage that did something.

    Args:
        tsv: `stage_times.tsv`, which mtkd.sh writes.
        experiments: names of the directories of stage 2 that are counted.
    """
    lines = ["| row | stage | what | seconds |", "|---|---:|---|---:|"]
    total = 0
    for line in tsv.read_text(encoding="utf-8").splitlines():
        row, number, title, seconds = line.split("\t")
        if row not in experiments:
            continue
        total += int(seconds)
        lines.append(f"| {row} | {number} | {title.split(':')[0]} | {seconds} |")
    lines.append(f"| all | | | {total} |")
    return "\n".join(lines)


def espnet_sections(text: str, experiments: Collection[str]) -> str:
    """Of what ESPnet's show_asr_result.sh prints the parts of some experiments.

    Args:
        text: its output: environment, then `## <directory>` for each experiment.
        experiments: names of the directories that stay.
    """
    head, *parts = re.split(r"^(?=## \S*/)", text, flags=re.M)
    kept = [x for x in parts if Path(x.split("\n")[0][3:]).name in experiments]
    return "".join([head, *kept])


def read_curve(run_dir: Path, phase: str) -> tuple[list[int], list[float]]:
    """Epochs and losses of one training from its tensorboard files.

    Args:
        run_dir: experiment directory; the epochs of its first part, in `head/`, are
            counted before its own.
        phase: `train` or `valid`.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(phase, tag):
        folder = str(run_dir / "tensorboard" / phase)
        events = EventAccumulator(folder, size_guidance={"scalars": 0})
        events.Reload()
        return events.Scalars(tag) if tag in events.Tags()["scalars"] else []

    # ESPnet counts updates, and puts means over some of them between the epochs'.
    epochs = {s.step: int(s.value) for s in scalars("train", "iter_epoch")}
    # A resumed training writes an epoch again: the last one counts.
    points = {
        epochs[s.step]: s.value for s in scalars(phase, "loss") if s.step in epochs
    }
    first = []
    if (run_dir / "head").is_dir():
        first = read_curve(run_dir / "head", phase)[1]
    return (
        [*range(1, len(first) + 1), *(len(first) + epoch for epoch in points)],
        [*first, *points.values()],
    )


def pretraining_of(asr_exp: Path) -> Path | None:
    """Directory of the stage 1 that a student's encoder comes from, by its config."""
    config = asr_exp / "config.yaml"
    if (asr_exp / "head").is_dir():
        config = asr_exp / "head/config.yaml"
    params = read_yaml(config).get("init_param") if config.is_file() else None
    return Path(params[0].split(":")[0]).parent if params else None


def plot_curves(asr_exps: list[Path], png: Path) -> None:
    """Draw training and validation loss of students, their stage 1 beside stage 2.

    Args:
        asr_exps: their directories of stage 2.
        png: the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    pretrainings = dict.fromkeys(map(pretraining_of, asr_exps))
    plots = {
        "stage 1: distillation loss": [d for d in pretrainings if d and d.is_dir()],
        "stage 2: transducer loss": asr_exps,
    }
    height = 4 + 0.2 * len(asr_exps)  # inches
    figure, axes = plt.subplots(1, 2, figsize=(11, height))
    for axis, (title, run_dirs) in zip(axes, plots.items(), strict=True):
        colors = plt.colormaps["turbo"](np.linspace(0, 1, len(run_dirs)))
        for color, run_dir in zip(colors, run_dirs, strict=True):
            for phase, style in (("train", ":"), ("valid", "-")):
                epochs, losses = read_curve(run_dir, phase)
                axis.plot(
                    epochs,
                    losses,
                    style,
                    color=color,
                    label=run_dir.name.partition("_")[2] if phase == "valid" else None,
                )
        axis.set(title=title + " (dotted: train)", xlabel="epoch", ylabel="loss")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(
                fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False
            )
    figure.tight_layout()
    temporary = png.with_name(png.name + ".tmp")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(png)
    plt.close(figure)


def machine() -> str:
    """Processor, number of cores and system of this machine."""
    import os

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"^model name\s*:\s*(.*)$", info.read_text(), re.M)
        cpu = match[1] if match else cpu
    return f"{os.cpu_count()} cores of {cpu}, {platform.system()}"
