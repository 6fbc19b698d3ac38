"""The `teachers:` list: every way to give it, and every problem at once."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers.base import TeacherConfig, parse_teachers

ENTRIES = [
    {"name": "a", "upstream": "hubert_base", "layers": [3, 9], "weight": 2},
    {"name": "b_2", "upstream": "fbank", "normalize": True, "extra_conf": {"x": 1}},
]
EXPECTED = [
    TeacherConfig("a", "hubert_base", layers=(3, 9), weight=2),
    TeacherConfig("b_2", "fbank", normalize=True, extra_conf={"x": 1}),
]


def test_list_file_and_string_say_the_same(tmp_path):
    plain, keyed = tmp_path / "plain.yaml", tmp_path / "keyed.yml"
    plain.write_text(yaml.safe_dump(ENTRIES))
    keyed.write_text(yaml.safe_dump({"teachers": ENTRIES}))
    for value in (ENTRIES, str(plain), str(keyed), yaml.safe_dump(ENTRIES), EXPECTED):
        assert parse_teachers(value) == EXPECTED


@given(
    st.one_of(
        st.none(),
        st.integers(-20, 20),
        st.lists(st.integers(-20, 20), min_size=1, max_size=4),
    )
)
def test_layers_are_none_one_or_a_list(layers):
    (config,) = parse_teachers([{"name": "a", "upstream": "b", "layers": layers}])
    if layers is None:
        assert config.layers is None
    elif isinstance(layers, int):
        assert config.layers == (layers,)
    else:
        assert config.layers == tuple(layers)


@pytest.mark.parametrize("layers", [[], "last", [1.5], [True], True, ["3"], {"a": 1}])
def test_other_layers_are_refused(layers):
    with pytest.raises(ConfigError, match="layers: expected an integer or a list"):
        parse_teachers([{"name": "a", "upstream": "b", "layers": layers}])


def test_all_problems_are_told_at_once_with_the_closest_keys():
    with pytest.raises(ConfigError) as error:
        parse_teachers(
            [
                {"name": "a", "upstrem": "hubert_base"},
                {"name": "b c", "upstream": "fbank"},
                {"name": "d", "upstream": "fbank", "weight": 0},
                {"name": "e", "upstream": "fbank", "wieght": 2, "layer": [1]},
                {"name": "f", "upstream": 7, "normalize": "yes", "extra_conf": []},
                "hubert",
                {"name": "g", "upstream": "fbank"},
                {"name": "g", "upstream": "fbank"},
            ]
        )
    message = str(error.value)
    for part in (
        "teachers[0]: unknown key 'upstrem', did you mean 'upstream'?",
        "teachers[0]: the key 'upstream' is missing",
        "teachers[1]: name: expected letters, digits and '_', found 'b c'",
        "teachers[2]: weight: expected above 0, found 0",
        "teachers[3]: unknown key 'wieght', did you mean 'weight'?",
        "teachers[3]: unknown key 'layer', did you mean 'layers'?",
        "teachers[4]: upstream: expected a string, found 7",
        "teachers[4]: extra_conf: expected a mapping",
        "teachers[4]: normalize: expected true or false",
        "teachers[5]: expected a mapping, found str",
        "the name 'g' is used by more than one teacher",
    ):
        assert part in message
    assert f"{len(message.splitlines()) - 1} problem(s)" in message
    assert error.value.exit_code == 2


@pytest.mark.parametrize("value", [None, [], {}, "", "hubert", 3, "{a: 1}"])
def test_what_is_no_list_of_teachers_shows_an_example(value):
    with pytest.raises(ConfigError, match="upstream: hubert_base"):
        parse_teachers(value)


def test_missing_file_and_bad_yaml_name_the_file(tmp_path):
    with pytest.raises(ConfigError, match="nowhere/teachers.yaml"):
        parse_teachers("nowhere/teachers.yaml")
    bad = tmp_path / "teachers.yaml"
    bad.write_text("- name: [")
    with pytest.raises(ConfigError, match=f"{bad}: not valid YAML"):
        parse_teachers(str(bad))


@pytest.mark.parametrize("weight", [".inf", ".nan", "-1"])
def test_a_weight_that_is_no_share_is_refused(weight):
    text = f"[{{name: a, upstream: fbank, weight: {weight}}}]"
    with pytest.raises(ConfigError, match=r"teachers\[0\]: weight: expected"):
        parse_teachers(text)
