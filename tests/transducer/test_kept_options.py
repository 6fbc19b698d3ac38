"""The kept teachers' weight over a training, and which settings mean something."""

import math
import re

import pytest

from espnet_mtkd.bin.mtkd_preflight import main
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.transducer.kept_options import (
    KeptOptions,
    parse_kept_options,
    parse_kept_words,
)


@pytest.mark.parametrize("until", [1.0, 0.4])
def test_the_weight_falls_as_its_formula_says(until):
    for i in range(11):
        progress = i / 10
        x = progress / until
        expected = dict(none=1.0, linear=1 - x, cosine=(1 + math.cos(math.pi * x)) / 2)
        for decay, share in expected.items():
            found = KeptOptions(200, decay, until).weight_at(progress)
            share = share if x < 1 else 0.0
            assert found == pytest.approx(200 * share, abs=1e-9), (decay, progress)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "300", True, None, [1]])
def test_a_weight_is_a_finite_number_above_0(value):
    with pytest.raises(ConfigError, match=r"_conf\.weight: expected a finite"):
        KeptOptions(weight=value)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (dict(until=0), "until: expected a number above 0, up to 1, found 0"),
        (dict(until=1.5), "until: expected a number above 0, up to 1, found 1.5"),
        (dict(unlabelled=-1), "unlabelled: expected a finite number from 0"),
        (dict(decay="exp"), "decay: expected none, linear or cosine, found 'exp'"),
        (dict(decay=None), "decay: expected none, linear or cosine, found None"),
        (dict(targets_dir=3), "targets_dir: expected a directory, found 3"),
        (dict(wieght=3), "unknown key 'wieght', did you mean 'weight'[?]"),
        ({3: 3}, "unknown key '3' [(]known: weight, decay, until"),
    ],
)
def test_other_settings_that_mean_nothing_are_refused(conf, message):
    with pytest.raises(ConfigError, match=message):
        parse_kept_options(conf)


def test_words_of_the_recipe_are_read():
    words = "weight=30.5 decay=linear until=0.5 unlabelled=1 targets_dir=exp/t".split()
    expected = KeptOptions(30.5, "linear", 0.5, 1, "exp/t")
    assert parse_kept_words(words) == expected


@pytest.mark.remedy("keep_teachers_conf")
def test_what_is_refused_becomes_what_is_expected(capsys):
    """One fault after the other, by the key and the values that the messages name."""
    words = "wieght=300 decay=exp until=1.5 unlabelled=-1"
    for pattern in (
        r"'(\w+)', did you mean '(\w+)'",
        r"\.until: expected .* up to (\S+), found (\S+)",
        r"\.unlabelled: expected .* from (\S+), found (\S+)",
        r"\.decay: expected none, (\w+) or cosine, found '(\w+)'",
    ):
        with pytest.raises(SystemExit):
            main(["--keep_teachers", words])
        error = capsys.readouterr().err
        new, old = re.search(pattern, error).groups()
        if "did you mean" in pattern:
            new, old = old, new
        assert old in words
        words = words.replace(old, new)
    main(["--keep_teachers", words])
    assert words == "weight=300 decay=linear until=1 unlabelled=0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("weight", "expected words <key>=<value>"),
        ("weight=", "expected words <key>=<value>"),
        ("weight=300 deccay=linear", "did you mean 'decay'?"),
        ("weight=.inf", "found inf"),
        ("weight={", "not valid YAML"),
        ("weight=3e2", "found '3e2'"),
    ],
)
def test_the_recipe_refuses_them_before_anything_runs(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--keep_teachers", words])
    assert end.value.code == 2 and message in capsys.readouterr().err
