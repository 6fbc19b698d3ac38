"""RESULTS.md and report.html of the rows that are scored so far."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.files import write_atomically
from espnet_mtkd.ladder.schedule import Runner, say


def is_scored(asr_exp: Path, since: Path | None = None) -> bool:
    """Whether the test sets of a directory of stage 2 are scored; since that file's
    last change, where it is there."""
    after = since.stat().st_mtime_ns if since and since.exists() else -1
    return any(x.stat().st_mtime_ns > after for x in asr_exp.glob(".done/13_*"))


class Page:
    """Calls mtkd_report.

    Args:
        runner: what starts it.
        values: the ladder's options.
        pairs: names of rows that are compared.
        order: all rows, where they end in another order than theirs; else none. The
            first is what reductions are against.
    """

    def __init__(
        self,
        runner: Runner,
        values: dict[str, str],
        pairs: Sequence[tuple[str, str]],
        order: Sequence[tuple[str, Path]] = (),
    ):
        self._runner = runner
        self._pairs = pairs
        self.expdir = Path(values["expdir"])
        self._python = values["python"].split()
        self._command, self._note = values["command"], values["note"]
        self._report_mb = values["report_mb"]
        self._path = self.expdir / "RESULTS.md"
        self._order = list(order)
        self._rows: list[tuple[str, Path]] = []  # that have ended well
        self._last: tuple | None = None  # what RESULTS.md was last made of

    def add(self, row: tuple[str, Path]) -> int:
        """A row that has ended well: a ladder that is stopped has a table of those.

        Returns:
            Exit code of mtkd_report, 0 where there was no need for it.
        """
        self._rows.append(row)
        if not is_scored(row[1], self._path):
            return 0
        if self._order:
            return self.write(self._order, set(self._order) - set(self._rows))
        return self.write(list(self._rows))

    def finish(self, rows: Sequence[tuple[str, Path]], lost: bool = False) -> int:
        """The page of all rows, once more where it lacks some.

        Args:
            rows: all of them, in their order.
            lost: whether some failed: they are named as not finished.
        """
        unfinished = set(rows) - set(self._rows) if lost else set()
        if self._last == (list(rows), unfinished):
            return 0
        return self.write(rows, unfinished)

    def write(self, rows, unfinished=frozenset()) -> int:
        """The page of these rows; those that are not scored are named below."""
        self._last = (list(rows), set(unfinished))
        scored = [x for x in rows if x not in unfinished and is_scored(x[1])]
        missing = "; ".join(dict.fromkeys(n for n, d in rows if (n, d) not in scored))
        if missing:
            say(f"Not scored yet (stage 13): {missing}")
        if not scored:
            return 0
        note = self._note
        if missing:
            note += (" " if note else "") + f"Rows not finished: {missing}."
        names = {name for name, _ in scored}
        pairs = [x for x in self._pairs if set(x) <= names]
        words = [f"{name}={folder}" for name, folder in scored]
        stamp = self.expdir / ".done_report"
        key = [self._command, note, self._report_mb, *words]
        key = "\n".join([*key, *map(" / ".join, pairs)])
        if self._is_made(stamp, key):
            say(f"{self._path}: finished before")
            return 0
        begin = time.time_ns()
        espnet = self.expdir / "results_espnet.md"
        with open(espnet, "w") as out:
            show = ["bash", "scripts/utils/show_asr_result.sh", str(self.expdir)]
            code = subprocess.run(show, stdout=out).returncode
        if code:
            return code
        command = [*self._python, "-m", "espnet_mtkd.bin.mtkd_report"]
        command += ["--expdir", str(self.expdir), "--espnet_results", str(espnet)]
        command += ["--report_mb", self._report_mb]
        command += [f"--command={self._command}", f"--note={note}"]
        command += [x for a, b in pairs for x in ("--compare", a, b)]
        code = self._runner.run([*command, "--rows", *words])
        if code == 0:
            write_atomically(stamp, key.encode())
            # Of before the report: a stage that has ended meanwhile is newer.
            os.utime(stamp, ns=(begin, begin))
        return code

    def _is_made(self, stamp: Path, key: str) -> bool:
        """Of these rows, by this command, and no stage has run since?"""
        made = [self.expdir / x for x in ("RESULTS.md", "curves.png", "report.html")]
        made.append(stamp)
        if not all(x.is_file() for x in made):
            return False
        if stamp.read_text(encoding="utf-8") != key:
            return False
        times = self.expdir / "stage_times.tsv"
        return not (
            times.is_file() and times.stat().st_mtime_ns > stamp.stat().st_mtime_ns
        )
