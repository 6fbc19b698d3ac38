"""What a distillation is asked to do: which settings mean something."""

import math

import pytest

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.transducer.model import PathKDConfig


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "0.5", True, None, [1]])
@pytest.mark.parametrize("key", ["weight", "temperature"])
def test_weight_and_temperature_are_finite_numbers_above_0(key, value):
    with pytest.raises(ConfigError, match=rf"path_kd_conf\.{key}: expected above 0"):
        PathKDConfig(**{key: value})


@pytest.mark.parametrize("value", [-2, -1, 1.5, 2.0, "2", True, None, math.nan])
def test_a_time_shift_is_a_whole_number_from_0(value):
    message = r"path_kd_conf\.time_shift: expected a whole number of frames from 0"
    with pytest.raises(ConfigError, match=message):
        PathKDConfig(time_shift=value)


@pytest.mark.parametrize("value", ["all", None, 3, ["topk"]])
def test_another_variant_is_refused(value):
    with pytest.raises(ConfigError, match=r"path_kd_conf\.variant: expected one of"):
        PathKDConfig(variant=value)


@pytest.mark.remedy("path_kd_conf.")
def test_what_means_something_is_taken():
    kd = PathKDConfig(weight=1, temperature=2, time_shift=3, variant="collapsed")
    assert (kd.weight, kd.temperature, kd.time_shift) == (1, 2, 3)
