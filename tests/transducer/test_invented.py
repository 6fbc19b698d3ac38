"""Filters for transcripts that a recogniser has made up."""

import math
import zlib

import pytest

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.transducer.invented import (
    InventionFilters,
    agreement,
    compression,
    judge_hypothesis,
)
from espnet_mtkd.transducer.recogniser import Hypothesis
from espnet_mtkd.transducer.writing import Writing

GOOD = dict(text="Where is the bus?", greedy="Where is the bus", logp=-0.2)


def reason(seconds=2.0, filters=None, **changes):
    hypothesis = Hypothesis(**{**GOOD, "no_speech": 0.1, **changes})
    filters = InventionFilters(**(filters or {}))
    return judge_hypothesis("u", hypothesis, seconds, Writing(), filters).reason


def test_a_good_one_is_kept_in_the_wanted_writing():
    label = judge_hypothesis(
        "u", Hypothesis(**GOOD, no_speech=0.1), 2.0, Writing(), InventionFilters()
    )
    assert (label.text, label.reason) == ("WHERE IS THE BUS", None)
    assert label.num_tokens == len("WHEREISTHEBUS")
    assert label.confidence == pytest.approx(math.exp(-0.2))


@pytest.mark.parametrize(
    "changes, expected, opened",
    [
        (dict(text="..."), "empty", None),
        (dict(text="Bus 5"), "has digits", None),
        (dict(seconds=60.0), "few letters a second", dict(min_chars_per_second=0)),
        (dict(seconds=0.2), "many letters a second", dict(max_chars_per_second=999)),
        (
            dict(text="yes " * 5, greedy="yes " * 5),
            "repeats itself",
            dict(max_repeats=9),
        ),
        (
            dict(text="see you and you and see you " * 3 + "yes " * 3, seconds=20),
            "says little in many words",
            dict(max_compression=9.0, min_agreement=0.0),
        ),
        (dict(no_speech=0.7), "perhaps no speech", dict(max_no_speech=1.0)),
        (
            dict(greedy="There was a fuss"),
            "two searches disagree",
            dict(min_agreement=0),
        ),
        (dict(logp=-2.0), "not confident", dict(min_confidence=0.1)),
    ],
)
def test_each_filter_has_its_reason_and_can_be_opened(changes, expected, opened):
    assert reason(**changes) == expected
    if opened is not None:
        assert reason(**changes, filters=opened) is None


def test_agreement_is_one_minus_edits_by_the_longer():
    assert agreement("A B C D", "A B C D") == 1.0
    assert agreement("A B C D", "A X C") == pytest.approx(0.5)
    assert agreement("", "") == 1.0 and agreement("A", "") == 0.0


def test_compression_is_zlibs():
    text = "THANK YOU FOR WATCHING " * 20
    assert compression(text) == len(text) / len(zlib.compress(text.encode())) > 10
    assert compression("A") < 1


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(min_confidence=80), "--min_confidence: expected 0 to 1"),
        (dict(min_agreement=-0.1), "--min_agreement"),
        (dict(max_no_speech=math.nan), "--max_no_speech"),
        (dict(max_compression=0), "--max_compression"),
        (dict(max_repeats=0), "--max_repeats"),
        (dict(min_chars_per_second=30), "--min_chars_per_second"),
    ],
)
def test_filters_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        InventionFilters(**values)
