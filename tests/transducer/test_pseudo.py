"""Pseudo-labels: which are kept, and the training set that they make."""

import math

import pytest

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.transducer.pseudo import (
    Filters,
    PseudoLabel,
    count_repeats,
    describe_kept,
    read_pseudo_labels,
    write_training_set,
)

# utterance: text, tokens, seconds and log-probabilities
HYPOTHESES = {
    "a0": ("ONE", "1 2 3", "1.0 -0.1 -0.2 0.0"),
    "a1": ("TWO", "4 5 6", "1.0 -1.0 -1.0 -1.0"),
    "a2": ("", "", "1.0"),
    "a3": ("THREE", "7 8 9 9 9", "6.0 -0.1 -0.1 -0.1 -0.1 -0.1"),
    "a4": ("A A A A", "1 1 1 1", "2.0 0.0 0.0 0.0 0.0"),
    "a5": ("FAST", "1 2 3 4", "0.1 0.0 0.0 0.0 0.0"),
    "a6": ("E", "5", "9.0 0.0"),
    "a7": ("LOST", "5 6", None),
}


@pytest.fixture
def sets(tmp_path):
    """A labelled set, an unlabelled one, and the teacher's hypotheses."""
    labelled, unlabelled = tmp_path / "train", tmp_path / "unlabelled_x"
    decoded = tmp_path / "decode/unlabelled_x"
    for folder in (labelled, unlabelled, decoded):
        folder.mkdir(parents=True)
    (labelled / "wav.scp").write_text("b1 /b1.flac\n")
    (labelled / "text").write_text("b1 HELLO WORLD\n")
    (labelled / "feats_type").write_text("raw\n")
    (unlabelled / "wav.scp").write_text("".join(f"{x} /{x}.flac\n" for x in HYPOTHESES))
    for i, name in enumerate(("text", "token_int", "token_logp")):
        lines = [f"{u} {x[i]}\n" for u, x in HYPOTHESES.items() if x[i] is not None]
        (decoded / name).write_text("".join(lines))
    return tmp_path


def read(sets, *filters):
    return read_pseudo_labels(sets / "decode/unlabelled_x", Filters(*filters))


def write(sets):
    labels = {sets / "unlabelled_x": read(sets)}
    write_training_set(sets / "train", labels, sets / "out")


def test_the_log_says_why_transcripts_are_left_out():
    reasons = [None, "empty", "not confident", "not confident"]
    labels = [PseudoLabel(str(i), "A", 1.0, 1, 0.5, x) for i, x in enumerate(reasons)]
    assert describe_kept(labels) == (
        "1 of 4 transcripts kept (not: 2 not confident, 1 empty)"
    )
    assert describe_kept(labels[:1]) == "1 of 1 transcripts kept"


def test_confident_transcripts_join_the_training_set(sets):
    write(sets)
    out = sets / "out"
    assert (out / "text").read_text() == "a0 ONE\na3 THREE\nb1 HELLO WORLD\n"
    scp = "a0 /a0.flac\na3 /a3.flac\nb1 /b1.flac\n"
    assert (out / "wav.scp").read_text() == scp
    assert (out / "feats_type").read_text() == "raw\n"
    rows = [x.split("\t") for x in (out / "pseudo_labels.tsv").read_text().splitlines()]
    found = {row[0]: row[1:] for row in rows[1:]}
    assert float(found["a0"][0]) == pytest.approx(math.exp(-0.1), abs=1e-4)
    assert found["a0"][1:] == ["3", "1", "", "ONE"]
    assert found["a1"][2:] == ["0", "not confident", "TWO"]
    assert found["a2"][2:4] == ["0", "empty"]
    assert found["a3"][2:] == ["1", "", "THREE"]
    assert found["a4"][2:4] == ["0", "repeats itself"]
    assert found["a5"][2:4] == ["0", "many tokens a second"]
    assert found["a6"][2:4] == ["0", "few tokens a second"]
    assert found["a7"][2:4] == ["0", "no usable audio"]


def test_each_filter_can_be_opened(sets):
    kept = {x.utt for x in read(sets, 0.0, 0.0, 1000.0, 1000) if x.reason is None}
    assert kept == set(HYPOTHESES) - {"a2", "a7"}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("token_logp", "a0 1.0 x\n", "a0: expected seconds and log-probabilities"),
        ("token_logp", "a0 1.0 -0.1\n", "a0: 3 tokens in token_int, 1 in token_logp"),
        ("token_logp", "a0\n", "a0: expected seconds"),
        ("text", None, "text: no such file"),
    ],
)
def test_hypotheses_that_cannot_be_read(sets, name, content, message):
    path = sets / "decode/unlabelled_x" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=message):
        read(sets)


def test_an_id_in_both_sets_and_one_without_audio(sets):
    (sets / "unlabelled_x/wav.scp").write_text("a0 /a0.flac\n")
    with pytest.raises(DataError, match="no utterance a3"):
        write(sets)
    (sets / "train/wav.scp").write_text("a0 /b1.flac\n")
    (sets / "train/text").write_text("a0 HELLO WORLD\n")
    with pytest.raises(DataError, match="utterance a0 stands in two"):
        write(sets)


@pytest.mark.remedy("no utterance {}, which has a hypothesis: decode that directory")
def test_hypotheses_of_what_is_there(sets):
    """As decoding it again leaves them."""
    (sets / "unlabelled_x/wav.scp").write_text("a0 /a0.flac\n")
    with pytest.raises(DataError, match="a3, which has a hypothesis: decode that dir"):
        write(sets)
    for name in ("text", "token_int", "token_logp"):
        path = sets / "decode/unlabelled_x" / name
        path.write_text(path.read_text().split("\n")[0] + "\n")
    write(sets)
    assert (sets / "out/text").read_text() == "a0 ONE\nb1 HELLO WORLD\n"


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(min_confidence=80), "--min_confidence: expected 0 to 1, found 80"),
        (dict(min_confidence=math.nan), "--min_confidence"),
        (dict(min_tokens_per_second=-1), "--min_tokens_per_second"),
        (dict(max_tokens_per_second=0.1), "--max_tokens_per_second: expected above"),
        (dict(max_repeats=0), "--max_repeats: expected from 1"),
    ],
)
def test_filters_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Filters(**values)


def repeats(tokens: str) -> int:
    """Every stretch of every place, as often as it goes on from there."""
    most = min(1, len(tokens))
    for start in range(len(tokens)):
        for n in range(1, len(tokens) - start + 1):
            unit, times = tokens[start : start + n], 1
            while tokens[start + times * n :].startswith(unit):
                times += 1
            most = max(most, times)
    return most


@pytest.mark.parametrize(
    "tokens, expected",
    [("", 0), ("a", 1), ("abc", 1), ("abab", 2), ("xabcabcabcy", 3), ("aabaabaab", 3)],
)
def test_repeats_of_tokens_in_a_row(tokens, expected):
    assert count_repeats(list(tokens)) == expected == repeats(tokens)


def test_repeats_are_those_of_a_plain_search():
    import random

    rng = random.Random(0)
    for _ in range(300):
        tokens = "".join(rng.choice("ab") for _ in range(rng.randrange(12)))
        assert count_repeats(tokens) == repeats(tokens), tokens
