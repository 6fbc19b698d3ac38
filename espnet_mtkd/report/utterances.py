"""What each row heard: references and hypotheses, with sclite's alignment."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import DataError
from espnet_mtkd.report.titles import run_titles
from espnet_mtkd.results.intervals import read_utterances
from espnet_mtkd.results.scores import STREAMED_SET, find_score_dirs

STARS = re.compile(r"\*+")


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """What one row heard of one utterance.

    Attributes:
        text: its words.
        ops: an operation for each aligned pair, from sclite: C correct, S substituted,
            D deleted, I inserted; empty where its alignment could not be read.
        errors: sclite's count.
    """

    text: str
    ops: str
    errors: int


@dataclasses.dataclass(frozen=True)
class Utterance:
    """An utterance and what each decoding made of it.

    Attributes:
        name: as scored, `<speaker>-<utterance>`.
        reference: its words.
        hypotheses: one for each decoding of the set.
    """

    name: str
    reference: str
    hypotheses: list[Hypothesis]

    @property
    def change(self) -> int:
        """Between the decoding with the most errors and that with the fewest."""
        errors = [x.errors for x in self.hypotheses]
        return max(errors) - min(errors)


@dataclasses.dataclass(frozen=True)
class TestSet:
    """All decodings of a test set.

    Attributes:
        name: of the set.
        decodings: title -> directory with its scores.
        utterances: those that changed most first, of these those with most errors.
    """

    name: str
    decodings: dict[str, Path]
    utterances: list[Utterance]


def read_test_sets(rows: Sequence[tuple[str, Path]]) -> list[TestSet]:
    """Utterances of each set that is scored, with all its decodings.

    Args:
        rows: name and directory, as of `results.report.results_table`.

    Raises:
        DataError: a damaged file of scores, or decodings of other utterances.
    """
    decodings: dict[str, dict[str, Path]] = {}
    for title, asr_exp in run_titles(rows):
        for dset, folder in find_score_dirs(asr_exp).items():
            base = dset.removesuffix(STREAMED_SET)
            streamed = STREAMED_SET if base != dset else ""
            decodings.setdefault(base, {})[title + streamed] = folder / "score_wer"
    return [_read_set(name, found) for name, found in decodings.items()]


def _read_set(name: str, decodings: dict[str, Path]) -> TestSet:
    references: dict[str, str] = {}
    heard: dict[str, list[Hypothesis]] = {}
    for i, folder in enumerate(decodings.values()):
        ref, hyp = (read_trn(folder / f"{x}.trn") for x in ("ref", "hyp"))
        counts = read_utterances(folder / "result.txt")
        for what, found in (("ref.trn", ref), ("hyp.trn", hyp)):
            if found.keys() != counts.keys():
                raise DataError(
                    f"{folder / what}: expected the {len(counts)} utterances of "
                    f"result.txt, found {len(found)}: score this set again (--stage 13)"
                )
        ops = read_alignments(folder / "result.txt")
        references = references or ref
        if ref != references:
            raise DataError(
                f"{folder}: other references than in {next(iter(decodings.values()))}: "
                "score both against one reference (stage 13)"
            )
        for utt, (_, errors) in counts.items():
            found = Hypothesis(hyp[utt], ops.get(utt, ""), errors)
            heard.setdefault(utt, []).append(found)
        assert all(len(x) == i + 1 for x in heard.values())
    utterances = [Utterance(u, references[u], heard[u]) for u in references]
    utterances.sort(key=lambda x: (-x.change, -x.hypotheses[0].errors))
    return TestSet(name, decodings, utterances)


def read_trn(path: Path) -> dict[str, str]:
    """Utterance, in small letters as in `result.txt`, -> words of a file for sclite.

    Raises:
        DataError: no such file, or a line without `(<utterance>)` at its end.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: score this set again (--stage 13)")
    found = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(?:(.*)\s)?\((\S+)\)\s*", line)
        if match is None:
            raise DataError(
                f"{path}:{number}: expected '<words> (<utterance>)', found "
                f"'{line[:80]}': score this set again (--stage 13)"
            )
        found[match[2].lower()] = " ".join((match[1] or "").split())
    return found


def read_alignments(path: Path) -> dict[str, str]:
    """Utterance -> operations of its aligned pairs, from sclite's `result.txt`.

    sclite marks a gap with stars and writes long alignments in pieces, each after the
    first with `>>`. An utterance whose counts are others than sclite's (words that are
    stars, say) is left out.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    found = {}
    for part in re.split(r"^id: \(", text, flags=re.M)[1:]:
        utt, _, rest = part.partition(")\n")
        scores = re.search(
            r"^Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", rest, re.M
        )
        lines = [
            " ".join(re.findall(rf"^(?:>> )?{x}: (.*)$", rest, re.M)).split()
            for x in ("REF", "HYP")
        ]
        if scores is None or len(lines[0]) != len(lines[1]):
            continue
        ops = "".join(map(_operation, *lines))
        if [ops.count(x) for x in "CSDI"] == [int(x) for x in scores.groups()]:
            found[utt.strip()] = ops
    return found


def _operation(ref: str, hyp: str) -> str:
    if STARS.fullmatch(ref):
        return "I"
    if STARS.fullmatch(hyp):
        return "D"
    # (sclite takes small and capital letters as one in ASCII alone)
    return "C" if ref.encode().lower() == hyp.encode().lower() else "S"
