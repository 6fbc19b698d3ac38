"""Tables and training curves of a recipe, computed from what the stages wrote."""

import dataclasses
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from espnet_mtkd.errors import DataError
from espnet_mtkd.files import read_yaml, write_atomically
from espnet_mtkd.results.scores import Score, find_score_dirs, read_sclite, same_sets
from espnet_mtkd.results.tables import table


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


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: a name and a test set.

    Attributes:
        student, what: the name "<student>: <what>".
        dset: test set.
        seeds: test set -> directory with its scores, of each seed.
        baseline: the same of the student's first name; None for that name itself, and
            where it has no scores of this set.
    """

    student: str
    what: str
    dset: str
    seeds: list[dict[str, Path]]
    baseline: list[dict[str, Path]] | None


def grouped_rows(rows: list[tuple[str, Path]]) -> Iterator[Row]:
    """Lines of a table, in the order of `rows`; see `results_table`.

    Raises:
        DataError: a row without scores, or a seed that lacks a set.
    """
    first: dict[str, tuple[str, list[dict[str, Path]]]] = {}
    for name in dict.fromkeys(name for name, _ in rows):
        student, _, what = name.rpartition(": ")
        exps = [asr_exp for n, asr_exp in rows if n == name]
        seeds = [find_score_dirs(asr_exp) for asr_exp in exps]
        baseline_name, baseline = first.setdefault(student, (name, seeds))
        for dset in same_sets(list(zip(exps, seeds, strict=True))):
            has_baseline = baseline_name != name and dset in baseline[0]
            yield Row(student, what, dset, seeds, baseline if has_baseline else None)


def results_table(rows: list[tuple[str, Path]]) -> str:
    """Markdown table of WER, CER and their relative reductions, in the order of `rows`.

    Args:
        rows: (name, directory of stage 2). A name is "<encoder>: <what>"; reductions
            are against the first name with the same encoder, where that has the set.
            Rows of the same name are seeds: their mean is given, with the least and
            the greatest.

    Returns:
        One line per name and test set.
    """
    columns = ["student", "row", "set", "words:"]
    columns += ["WER / %:", "WERR / %:", "CER / %:", "CERR / %:"]
    lines = []
    for row in grouped_rows(rows):
        what = row.what
        if len(row.seeds) > 1:
            what += f", {len(row.seeds)} seeds"
        cells = []
        for kind in ("score_wer", "score_cer"):
            scores, baseline = (
                [read_sclite(dirs[row.dset] / kind / "result.txt") for dirs in seeds]
                for seeds in (row.seeds, row.baseline or [])
            )
            if kind == "score_wer":
                cells.append(scores[0].num_ref)
            reduced = reduction(baseline, scores) if baseline else None
            cells.append(_rate_cell(scores))
            cells.append("" if reduced is None else f"{reduced:.1f}")
        lines.append([row.student, what, row.dset, *cells])
    return table(columns, lines)


def times_table(tsv: Path, experiments: Collection[str]) -> str:
    """Markdown table of the wall time of every stage that did something.

    Args:
        tsv: `stage_times.tsv`, which mtkd.sh writes; without it a sentence says so.
        experiments: names of the directories of stage 2 that are counted.

    Raises:
        DataError: a line of another form.
    """
    if not tsv.is_file():
        return f"Not known: there is no {tsv.name}."
    lines, total = [], 0
    for row, stage, title, seconds in read_times(tsv):
        if row in experiments:
            total += seconds
            lines.append([row, stage, title.split(":")[0], seconds])
    return table(
        ["row", "stage:", "what", "seconds:"], [*lines, ["all", "", "", total]]
    )


def read_times(tsv: Path) -> Iterator[tuple[str, str, str, int]]:
    """Row, stage, title and seconds of each line of `stage_times.tsv`.

    A last line without an end, of a run that was cut off, is left out.

    Raises:
        DataError: a line of another form.
    """
    whole = tsv.read_bytes().rpartition(b"\n")[0].decode()
    for number, line in enumerate(whole.splitlines(), 1):
        fields = line.split("\t")
        if len(fields) != 4 or not fields[3].isdecimal():
            raise DataError(
                f"{tsv}, line {number}: expected row, stage, title and seconds, with "
                f"tabs between, found '{line}': remove the line"
            )
        row, stage, title, seconds = fields
        yield row, stage, title, int(seconds)


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
    """Epochs and losses of one training; see `read_curves`."""
    return read_curves(run_dir, phase).get("loss", ([], []))


def read_curves(run_dir: Path, phase: str) -> dict[str, tuple[list[int], list[float]]]:
    """What one training wrote for tensorboard at the end of each epoch.

    Args:
        run_dir: experiment directory; the epochs of its first part, in `head/`, are
            counted before its own.
        phase: `train` or `valid`.

    Returns:
        Name -> epochs and values; empty where the training left no tensorboard files.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(phase):
        folder = run_dir / "tensorboard" / phase
        if not folder.is_dir():
            return {}
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}

    # ESPnet counts updates, and puts means over some of them between the epochs'.
    trained = scalars("train")
    epochs = {s.step: int(s.value) for s in trained.get("iter_epoch", [])}
    head, num_before = {}, 0
    if (run_dir / "head").is_dir():
        head = read_curves(run_dir / "head", phase)
        num_before = len(head.get("loss", ([], []))[0])
    curves = {}
    for tag, found in (trained if phase == "train" else scalars(phase)).items():
        # A resumed training writes an epoch again: the last one counts.
        points = {epochs[s.step]: s.value for s in found if s.step in epochs}
        first = head.get(tag, ([], []))
        curves[tag] = (
            [*first[0], *(num_before + epoch for epoch in points)],
            [*first[1], *points.values()],
        )
    return {**{k: v for k, v in head.items() if k not in curves}, **curves}


def pretraining_of(asr_exp: Path) -> Path | None:
    """Directory of the stage 1 that a student's encoder comes from, by its config."""
    config = asr_exp / "config.yaml"
    if (asr_exp / "head").is_dir():
        config = asr_exp / "head/config.yaml"
    params = read_yaml(config).get("init_param") if config.is_file() else None
    return Path(params[0].split(":")[0]).parent if params else None


def plot_curves(asr_exps: list[Path], png: Path) -> list[Path]:
    """Draw training and validation loss of students, their stage 1 beside stage 2.

    Args:
        asr_exps: their directories of stage 2.
        png: the picture.

    Returns:
        Directories of trainings that left no curve.
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
    without = []
    figure, axes = plt.subplots(1, 2, figsize=(11, height))
    for axis, (title, run_dirs) in zip(axes, plots.items(), strict=True):
        colors = plt.colormaps["turbo"](np.linspace(0, 1, len(run_dirs)))
        for color, run_dir in zip(colors, run_dirs, strict=True):
            found = {phase: read_curve(run_dir, phase) for phase in ("train", "valid")}
            if not any(epochs for epochs, _ in found.values()):
                without.append(run_dir)
                continue
            label = run_dir.name.partition("_")[2].replace("$", r"\$")  # no formula
            for phase, style in (("train", ":"), ("valid", "-")):
                epochs, losses = found[phase]
                axis.plot(
                    epochs,
                    losses,
                    style,
                    color=color,
                    label=label if phase == "valid" else None,
                )
        axis.set(title=title + " (dotted: train)", xlabel="epoch", ylabel="loss")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(
                fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False
            )
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    write_atomically(png, buffer.getbuffer())
    plt.close(figure)
    return without
