"""Which targets make one loss, and what is said where they cannot."""

import re

import pytest

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.goals import find_goals
from espnet_mtkd.teachers.base import TargetSpec


@pytest.mark.remedy("take layers: each")
@pytest.mark.parametrize("layers", ["mean", "mixed"])
@pytest.mark.parametrize("other", [dict(dim=8), dict(frame_shift=160)])
def test_layers_that_differ_have_a_loss_each(layers, other):
    form = dict(dim=4, frame_shift=320, frame_centre=200.0, weight=0.5)
    targets = [
        TargetSpec("a_l1", "a", 1, **form),
        TargetSpec("a_l2", "a", 2, **{**form, **other}),
        TargetSpec("b_l1", "b", 1, **form),
    ]
    with pytest.raises(ConfigError, match="of teacher 'a'") as error:
        find_goals(targets, layers, with_codes=False)
    layers = re.search(r"take layers: (\w+)", str(error.value))[1]
    goals = find_goals(targets, layers, with_codes=False)
    assert [goal.name for goal in goals] == ["a_l1", "a_l2", "b_l1"]
    assert [goal.specs for goal in goals] == [(spec,) for spec in targets]
    assert [goal.weight for goal in goals] == [0.5, 0.5, 0.5]
