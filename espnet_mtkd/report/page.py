"""The page: its parts, put together in a template, and audio up to a size."""

import base64
import datetime
import json
import math
import secrets
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.machine import machine
from espnet_mtkd.report import audio, charts, configs, latency, stages, training
from espnet_mtkd.report.headline import headline
from espnet_mtkd.report.outcomes import read_outcomes
from espnet_mtkd.report.teachers import teachers_of, what_teachers_added
from espnet_mtkd.report.titles import run_titles, short_names, title_of
from espnet_mtkd.report.utterances import TestSet, read_test_sets
from espnet_mtkd.results.compare import compare_pairs

MEGABYTE = 1_000_000
TEXT_SHARE = 0.3  # of the limit, that references and hypotheses may take
MAX_WORDS = 400  # letters of the line about audio
LEAST_ROOM = 6 * MAX_WORDS + 100  # bytes for that line, as JSON


def write_page(
    expdir: Path,
    rows: Sequence[tuple[str, Path]],
    command: str = "",
    note: str = "",
    pairs: Sequence[tuple[str, str]] = (),
    max_mb: float = 10.0,
    with_audio: bool = True,
) -> Path:
    """Write report.html of a recipe's rows.

    Args:
        expdir: of the recipe; `stage_times.tsv` is read from it, where it is there.
        rows: as of `results.report.results_table`.
        command: that made the rows.
        note: a sentence below the table.
        pairs: names of rows that are compared with each other.
        max_mb: size of the page in millions of bytes. Audio fills what the rest leaves,
            that of the utterances that changed most first.
        with_audio: whether there is any.

    Returns:
        The page's path.

    Raises:
        ConfigError: a page without audio is larger than `max_mb`, or a damaged config.
        DataError: a damaged file, named.
    """
    limit = int(max_mb * MEGABYTE)
    sets = read_test_sets(rows)
    parts = _parts(expdir, rows, command, note, pairs)
    parts["sets"] = sets
    parts["data"] = {
        "sets": _texts(sets, int(TEXT_SHARE * limit)),
        "configs": [{"title": x.title, "config": x.config} for x in parts["made"]],
    }
    place = secrets.token_hex(16)  # where the audio goes: nothing else reads like it
    page = _environment().get_template("page.html").render(parts, place=place)
    size = len(page.encode()) + LEAST_ROOM
    room = limit - size
    if room < 0:
        # A larger limit lets in more text, which is a share of it.
        rest = size - len(json.dumps(parts["data"]["sets"]))
        least = math.ceil(max(size, rest / (1 - TEXT_SHARE)) / MEGABYTE * 10) / 10
        raise ConfigError(
            f"--report_mb: expected at least {least:.1f} for the page without audio, "
            f"found {max_mb:g}: give more"
        )
    sounds = _audio_json([{} for _ in sets], "Made without audio.")
    if with_audio:
        kept = audio.Encoded(expdir / ".report_audio")
        sounds = _sounds(sets, parts["data"]["sets"], room, kept)
        kept.drop_others()
    page = page.replace(place, sounds)
    path = expdir / "report.html"
    write_atomically(path, page.encode())
    return path


def _environment():
    import jinja2

    loader = jinja2.PackageLoader("espnet_mtkd.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "seconds": format_seconds,
        "bytes": format_bytes,
        "interval": format_interval,
        "number": format_number,
    }
    return environment


def _parts(expdir: Path, rows, command: str, note: str, pairs) -> dict:
    """What the template shows, and, of what there is nothing, a line each."""
    outcomes = read_outcomes(rows)
    compared = compare_pairs(rows, pairs)
    added = what_teachers_added(compared, teachers_of(rows))
    runs = run_titles(rows)
    titles = [title for title, _ in runs]
    trainings = training.read_trainings(runs)
    latencies = latency.read_latencies(rows)
    made = configs.read_made(rows)
    times = expdir / "stage_times.tsv"
    ran = []
    if times.is_file():
        ran = stages.read_stages(times, {x.name: title for title, x in runs})
    missing = [
        (
            compared,
            "Comparisons: these rows have no set in common."
            if pairs
            else "Comparisons: none was asked for (--compare).",
        ),
        (added, "What each teacher added: no row that leaves one out is compared."),
        (
            trainings.cosine,
            "Targets of each teacher: no stage 1 left tensorboard files with numbers.",
        ),
        (trainings.stage_2, "Curves of stage 2: no tensorboard files with numbers."),
        (latencies, "Latency: no streaming row."),
        (ran, "Time and disk: stage_times.tsv has none of these rows."),
    ]
    lines = [line for found, line in missing if not found]
    if trainings.without and trainings.stage_2:
        names = ", ".join(trainings.without)
        lines.append(f"No loss in tensorboard files: {names}.")
    return {
        "title": title_of(expdir),
        "headline": headline(outcomes),
        "outcomes": outcomes,
        "has_students": len({x.student for x in outcomes}) > 1,
        "note": note,
        "command": command,
        "machine": machine(),
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "compared": compared,
        "short": short_names([name for name, _ in rows]),
        "added": added,
        "trainings": trainings,
        "heats": {
            name: training.heat(found, titles)
            for name, found in (("cosine", trainings.cosine), ("loss", trainings.loss))
            if found
        },
        "latencies": latencies,
        "made": made,
        "stages": ran,
        "missing": lines,
        "charts": _charts(outcomes, added, trainings, latencies, titles),
    }


def _charts(outcomes, added, trainings, latencies, titles) -> dict[str, str]:
    """Each chart that has something to show; else nothing."""
    from markupsafe import Markup

    totals = {
        title: curves
        for title, curves in (
            ("stage 1: distillation", trainings.stage_1),
            ("stage 2: transducer", trainings.stage_2),
        )
        if curves
    }
    made = {"ladder": charts.ladder(outcomes)}
    if added:
        made["added"] = charts.added(added)
    if trainings.cosine:
        made["cosine"] = charts.curves("cosine", trainings.cosine, "cosine", titles)
    if trainings.loss:
        made["loss"] = charts.curves("loss", trainings.loss, "loss", titles)
    if totals:
        made["totals"] = charts.curves("totals", totals, "loss", titles)
    if any(x.bins for x in latencies):
        made["latency"] = charts.histogram(latencies)
    if latencies:
        made["tradeoff"] = charts.wer_against_latency(latencies)
    names = ("ladder", "added", "cosine", "loss", "totals", "latency", "tradeoff")
    return {name: Markup(made.get(name, "")) for name in names}


def _texts(sets: Sequence[TestSet], num_bytes: int) -> list[dict]:
    """References and hypotheses, the most changed of each set, up to a size."""
    found = []
    for dset in sets:
        left = num_bytes // len(sets)
        utterances = []
        for x in dset.utterances:
            heard = [[h.text, h.ops, h.errors] for h in x.hypotheses]
            item = [x.name, x.reference, heard]
            left -= len(json.dumps(item))
            if left < 0 and utterances:
                break
            utterances.append(item)
        errors = [
            sum(x.hypotheses[i].errors for x in dset.utterances)
            for i in range(len(dset.decodings))
        ]
        found.append(
            {
                "name": dset.name,
                "best": errors.index(min(errors)),
                "total": len(dset.utterances),
                "decodings": list(dset.decodings),
                "utterances": utterances,
            }
        )
    return found


def _sounds(
    sets: Sequence[TestSet], texts: Sequence[dict], room: int, to_opus: audio.Encoded
) -> str:
    """JSON, for each set: utterance -> Opus in base64, and a line on what is there."""
    shown = []
    for i, (dset, text) in enumerate(zip(sets, texts, strict=True)):
        names = [x[0] for x in text["utterances"]]
        folder = next(iter(dset.decodings.values())).parent
        files = audio.find_audio(folder, dset.name, names)
        order = {x.name: x.change for x in dset.utterances}
        shown += [(-order[x], i, x, files[x]) for x in names if x in files]
    shown.sort(key=lambda x: x[0])
    sounds: list[dict[str, str]] = [{} for _ in sets]
    bad = []
    left = room
    for _, i, name, path in shown:
        try:
            data = base64.b64encode(to_opus(path)).decode()
        except DataError as e:
            bad.append(str(e))
            continue
        left -= len(data) + len(json.dumps(name)) + len('"": ,')
        if left < 0:
            break
        sounds[i][name] = data
    num = sum(map(len, sounds))
    words = f"{num} of {len(shown)} utterances have audio"
    if num < len(shown) - len(bad):
        words += " (--report_mb lets more in)"
    if bad:
        words += f"; {len(bad)} cannot be read, first {bad[0]}"
    if not shown:
        words = "No audio: no wav.scp that has these utterances and files"
    return _audio_json(sounds, f"{words[:MAX_WORDS]}.")


def _audio_json(sounds: list[dict[str, str]], words: str) -> str:
    blob = json.dumps({"sounds": sounds, "words": words})
    return blob.replace("<", "\\u003c")


def format_seconds(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(num: int | None) -> str:
    """`512 B`, `1.2 MB`, `3.0 GB`; empty for None."""
    if num is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if num < 1000 or unit == "GB":
            return f"{num:.0f} {unit}" if unit in ("B", "kB") else f"{num:.1f} {unit}"
        num /= 1000
    raise AssertionError


def format_interval(interval) -> str:
    """`57.2 to 65.1`; empty for None."""
    return "" if interval is None else " to ".join(map(format_number, interval))


def format_number(value: float | None, digits: int = 1) -> str:
    """A number with a true minus and no `-0.0`; empty for None."""
    if value is None:
        return ""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\u2212")
