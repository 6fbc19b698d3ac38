"""A recogniser's text in the writing of a training set."""

import pytest

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.transducer.writing import Writing

UPPER = ["ONE TWO", "DON'T QUIT", "FABLES GH JKMPVXYZ"]


@pytest.mark.parametrize(
    "texts, case",
    [
        (UPPER, "upper"),
        (["one two"], "lower"),
        (["One two"], "keep"),
        (["ÄPFEL"], "upper"),
        ([], "upper"),
        (["我们"], "upper"),
    ],
)
def test_the_case_is_seen_from_the_training_set(texts, case):
    assert Writing.like(texts).case == case


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One, two.", ("ONE TWO", None)),
        (" Don't   quit! ", ("DON'T QUIT", None)),
        ("Don’t quit", ("DON'T QUIT", None)),
        ("'Two' – one-two", ("TWO ONE TWO", None)),
        ("...", ("", None)),
        ("one 2", ("ONE 2", "has digits")),
        ("one & two", ("ONE & TWO", "has signs that are read aloud")),
        ("10%", ("10%", "has digits")),
        ("Café", ("CAFÉ", "characters that no transcript has")),
        ("Cafe\u0301", ("CAFÉ", "characters that no transcript has")),
        ("[MUSIC] one", ("[MUSIC] one", "an annotation")),
        ("(laughs)", ("(laughs)", "an annotation")),
        ("♪ la la ♪", ("♪ la la ♪", "an annotation")),
    ],
)
def test_like_a_training_set_in_capitals(text, expected):
    like = Writing.like([*UPPER, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    assert like.write(text) == expected


def test_what_the_training_set_has_is_kept():
    writing = Writing.like(["route 66, at 5 %"])
    assert writing.write("Route 5, at 6%") == ("route 5, at 6%", None)


def test_an_apostrophe_that_it_never_has_is_left_out():
    assert Writing.like(["dont"]).write("Don't") == ("dont", None)


def test_without_a_training_set_letters_of_any_kind_pass():
    writing = Writing.like([])
    assert writing.write("Grüße, don't!") == ("GRÜSSE DON'T", None)
    assert writing.write("4 of us")[1] == "has digits"
    assert writing.write("A & B")[1] == "has signs that are read aloud"


def test_a_text_that_is_in_the_writing_stays_as_it_is():
    writing = Writing.like(UPPER)
    for text in UPPER:
        assert writing.write(text) == (text, None)


def test_another_case_is_refused():
    with pytest.raises(ConfigError, match="--case: expected auto or upper"):
        Writing.like([], "title")
