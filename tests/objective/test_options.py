"""What `objective_conf` may say, and what is refused."""

import re

import pytest

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.options import ObjectiveOptions, read_options


def test_an_empty_section_is_the_default():
    assert read_options({}) == ObjectiveOptions()


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (["a"], "expected a mapping, found"),
        (None, "expected a mapping, found None"),
        (dict(standardise="robust"), "did you mean 'standardize'"),
        (dict(standardize="phis"), "layernorm, none, found 'phis': did you mean 'phi-"),
        (dict(standardize=None), "robust, meanvar, phi-s, layernorm, none, found None"),
        (dict(head="mpl"), "one of linear, mlp, found 'mpl': did you mean 'mlp'"),
        (dict(layers="mix"), "each, mean, mixed, found 'mix': did you mean 'mixed'"),
        (dict(layers=[3]), r"each, mean, mixed, found \[3\]"),
        (dict(balance="runing"), "drop, found 'runing': did you mean 'running'"),
        (dict(blocks="lader"), "from 1, found 'lader': did you mean 'ladder'"),
        (dict(blocks=3), "or a list of numbers from 1, found 3"),
        (dict(blocks=[]), r"numbers from 1.*found \[\]"),
        (dict(blocks=[0, 2]), r"numbers from 1.*found \[0, 2\]"),
        (dict(blocks=[2, 2]), "each once"),
        (dict(blocks=[True]), "numbers from 1"),
        (dict(blocks=["2"]), "numbers from 1"),
        (dict(clip=-1), "finite number >= 0"),
        (dict(clip=float("inf")), "finite number >= 0"),
        (dict(clip=float("nan")), "finite number >= 0"),
        (dict(clip="3"), "finite number >= 0"),
        (dict(clip=True), "finite number >= 0"),
        (dict(hidden=-1), "integer >= 0"),
        (dict(hidden=2.5), "integer >= 0"),
    ],
)
def test_what_means_nothing_is_refused_with_what_would(conf, message):
    with pytest.raises(ConfigError, match=message):
        read_options(conf)


def test_blocks_are_those_of_the_student():
    assert ObjectiveOptions().block_numbers(None) is None
    assert ObjectiveOptions(blocks="ladder").block_numbers(3) == (1, 2, 3)
    some = ObjectiveOptions(blocks=[4, 1])
    assert some.block_numbers(4) == (1, 4)
    with pytest.raises(ConfigError, match=r"has the blocks 1 to 3, found \[4\]"):
        some.block_numbers(3)
    with pytest.raises(ConfigError, match="expected last where the encoder's output"):
        some.block_numbers(None)


def corrected(conf: dict, message: str) -> dict:
    """A section in which what a message is about is as the message says."""
    if typo := re.search(
        r"objective_conf: key: .*'(\w+)': did you mean '(\w+)'", message
    ):
        return {typo[2] if key == typo[1] else key: x for key, x in conf.items()}
    key, what = re.match(
        r"objective_conf\.(\w+): expected (.*), found", message
    ).groups()
    if hint := re.search("did you mean '(.*)'", message):
        return {**conf, key: hint[1]}
    if least := re.search(r"(?:finite number|integer) >= (\d)", what):
        return {**conf, key: int(least[1])}
    if what.startswith("one of "):
        return {**conf, key: what.removeprefix("one of ").split(", ")[0]}
    assert what.startswith("numbers from 1, each once")
    return {**conf, key: sorted({max(1, x) for x in conf[key]})}


@pytest.mark.remedy("objective_conf")
def test_one_message_after_the_other_is_followed():
    conf = dict(standardise="phis", heads="mpl", layers=3, balance="runing", clip=-1)
    conf |= dict(hidden=2.5, blocks=[0, 1, 2, 2])
    messages = []
    while len(messages) < 20:
        try:
            options = read_options(conf)
            break
        except ConfigError as e:
            messages.append(str(e))
            conf = corrected(conf, str(e))
    assert len(messages) == 9
    expected = dict(standardize="phi-s", head="mlp", layers="each", balance="running")
    assert options == ObjectiveOptions(**expected, clip=0, hidden=0, blocks=[1, 2])
