"""Precision against yield: numbers that are worked out by hand."""

import pytest

from espnet_mtkd.errors import DataError
from espnet_mtkd.transducer.curve import count_words, draw_curve, format_curve
from espnet_mtkd.transducer.pseudo import NOT_CONFIDENT, PseudoLabel

LABELS = [
    PseudoLabel("a", "THE CAT SAT", 3.0, 9, 0.95, None),
    PseudoLabel("b", "A DOG", 1.0, 4, 0.7, NOT_CONFIDENT),
    PseudoLabel("c", "HA HA HA HA", 4.0, 9, 0.99, "repeats itself"),
    PseudoLabel("d", "", 2.0, 0, 0.0, "empty"),
]
REFERENCES = {"a": "THE CAT SAT", "b": "A FAT HOG", "c": "HI", "d": "X"}


def test_points():
    low, high, none = draw_curve(LABELS, REFERENCES, (0.5, 0.9, 1.0))
    assert (low.num_utts, high.num_utts, none.num_utts) == (2, 1, 0)
    assert (low.seconds_share, high.seconds_share, none.seconds_share) == (0.4, 0.3, 0)
    # "A DOG" for "A FAT HOG": a word right, one wrong, one left out.
    assert low.word_precision == pytest.approx(4 / 5)
    assert low.wer == pytest.approx(2 / 6)
    assert low.exact_share == 0.5
    assert (high.word_precision, high.wer, high.exact_share) == (1, 0, 1)
    assert (none.word_precision, none.wer, none.exact_share) == (None, None, None)
    assert format_curve([none]).splitlines()[1] == "1.0000\t0\t0.0000\t-\t-\t-"


@pytest.mark.parametrize(
    "hypothesis, reference, expected",
    [
        ("a b c", "a b c", (3, 0)),
        ("", "a b", (0, 2)),
        ("a b", "", (0, 2)),
        ("a x c d", "a b c", (2, 2)),
        ("x y", "a b c", (0, 3)),
    ],
)
def test_words(hypothesis, reference, expected):
    assert count_words(hypothesis.split(), reference.split()) == expected


def test_utterances_without_a_reference_are_named():
    with pytest.raises(DataError, match="of its 4 hypotheses 1 have none.*'b'"):
        draw_curve(LABELS, {k: v for k, v in REFERENCES.items() if k != "b"})
    with pytest.raises(DataError, match="of its 0 hypotheses"):
        draw_curve([], REFERENCES)
