"""How right pseudo-labels are, and how many are left, at each threshold.

For a set that has transcripts which the teacher did not learn from: its hypotheses are
judged as those of unlabelled audio are, and what is kept is compared with them.
"""

import dataclasses

from rapidfuzz.distance import Levenshtein

from espnet_mtkd.errors import DataError
from espnet_mtkd.transducer.pseudo import NOT_CONFIDENT, PseudoLabel

THRESHOLDS = (*(i / 20 for i in range(20)), 0.96, 0.97, 0.98, 0.99, 1.0)


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """What is kept at a threshold.

    Attributes:
        min_confidence: the threshold.
        num_utts: kept.
        seconds_share: of the audio, 0 to 1: the yield.
        word_precision: correct words : words kept; None where none is.
        wer: word errors : words of the references of what is kept; None likewise.
        exact_share: of the kept transcripts, without an error; None likewise.
    """

    min_confidence: float
    num_utts: int
    seconds_share: float
    word_precision: float | None
    wer: float | None
    exact_share: float | None


def count_words(hypothesis: list[str], reference: list[str]) -> tuple[int, int]:
    """Correct words, and errors (substituted, left out, put in), of one transcript."""
    kinds = [x.tag for x in Levenshtein.editops(reference, hypothesis)]
    return len(hypothesis) - kinds.count("insert") - kinds.count("replace"), len(kinds)


def draw_curve(
    labels: list[PseudoLabel], references: dict[str, str], thresholds=THRESHOLDS
) -> list[CurvePoint]:
    """Precision and yield at each threshold, with all other filters as they are.

    Args:
        labels: of `read_pseudo_labels`, at any threshold.
        references: utterance -> transcript.
        thresholds: of confidence.

    Raises:
        DataError: no label, or an utterance without a reference.
    """
    missing = [x.utt for x in labels if x.utt not in references]
    if missing or not labels:
        raise DataError(
            f"--reference: expected the text of the decoded set: of its {len(labels)} "
            f"hypotheses {len(missing)} have none, the first is {missing[:1]}"
        )
    total = sum(x.seconds for x in labels)
    rows = []
    for label in labels:
        if label.reason in (None, NOT_CONFIDENT):
            words, reference = label.text.split(), references[label.utt].split()
            rows.append(
                (label, len(words), len(reference), *count_words(words, reference))
            )
    points = []
    for threshold in thresholds:
        kept = [row for row in rows if row[0].confidence >= threshold]
        num_words, num_reference, correct, errors = (
            sum(row[i] for row in kept) for i in range(1, 5)
        )
        exact = sum(row[4] == 0 for row in kept)
        points.append(
            CurvePoint(
                threshold,
                len(kept),
                sum(row[0].seconds for row in kept) / total if total else 0.0,
                correct / num_words if num_words else None,
                errors / num_reference if num_reference else None,
                exact / len(kept) if kept else None,
            )
        )
    return points


def format_curve(points: list[CurvePoint]) -> str:
    """Tab-separated, a line a threshold, with a heading; `-` where there is nothing."""
    names = [field.name for field in dataclasses.fields(CurvePoint)]
    lines = ["\t".join(names)]
    for point in points:
        values = [getattr(point, name) for name in names]
        values = ["-" if v is None else v for v in values]
        lines.append(
            "\t".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in values)
        )
    return "".join(f"{line}\n" for line in lines)
