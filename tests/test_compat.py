"""The one place that knows versions."""

import importlib.util
import inspect
import pickle
import random
import subprocess
import sys

import pytest
import torch
import typeguard

from espnet_mtkd.compat import preserved_rng, require_espnet
from espnet_mtkd.teachers.hub import import_s3prl_hub


@pytest.mark.parametrize("fails", [False, True])
def test_the_random_state_is_kept_also_where_loading_fails(fails):
    torch.manual_seed(5)
    random.seed(6)
    expected = torch.rand(3), random.random()
    torch.manual_seed(5)
    random.seed(6)
    try:
        with preserved_rng():
            random.seed(0)
            torch.manual_seed(0)
            torch.rand(7), random.random()
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]


def test_s3prls_own_names_and_ours_are_in_one_list():
    hub = import_s3prl_hub()
    assert import_s3prl_hub() is hub  # twice changes nothing
    names = hub.options()
    assert len(names) == len(set(names)) > 100
    assert {"wav2vec2_local", "whisper_local", "whisper_base"} <= set(names)


def test_without_espnet_a_message_says_how_to_get_it():
    """In an interpreter of its own, with this package and the rest but no ESPnet."""
    code = (
        "import sys; sys.modules['espnet2'] = None\n"
        "from espnet_mtkd.bin.mtkd_train import main\n"
        "main([])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ESPnet is not importable")
    assert "tools/setup.sh" in result.stderr and result.stderr.count("\n") == 2


def test_with_espnet_it_is_given_back():
    assert require_espnet().__name__ == "espnet2"


MARKED = """
from typeguard import typechecked

class Base:
    def factor(self):
        return 2

class Child(Base):
    @typechecked
    def times(self, x: int) -> int:
        return super().factor() * x

    @classmethod
    @typechecked
    def named(cls, name: str = "a"):
        return cls.__name__ + name

@typechecked
def numbers(n: int):
    yield from range(n)

@typechecked
def wrong(x: int) -> str:
    return x

@typechecked
def last(x: int):
    return x * 2
"""


def test_types_are_checked_from_the_first_call_on(tmp_path, monkeypatch):
    """All that typeguard does, but nothing before a function is called."""
    decorators = sys.modules["typeguard._decorators"]
    rewritten, instrument = [], decorators.instrument
    monkeypatch.setattr(
        decorators, "instrument", lambda f: rewritten.append(f) or instrument(f)
    )
    (tmp_path / "marked.py").write_text(MARKED)
    spec = importlib.util.spec_from_file_location("marked", tmp_path / "marked.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "marked", module)
    spec.loader.exec_module(module)
    assert rewritten == []
    child = module.Child()
    for _ in range(2):
        assert child.times(3) == 6 and module.Child.named() == "Childa"
        assert list(module.numbers(3)) == [0, 1, 2]
        for call in (
            lambda: child.times("3"),
            lambda: module.Child.named(name=4),
            lambda: list(module.numbers("3")),
            lambda: module.wrong(1),
        ):
            with pytest.raises(typeguard.TypeCheckError):
                call()
    assert len(rewritten) == 4  # each once
    (tmp_path / "marked.py").write_text(MARKED.replace("* 2", "* 3") + "\n# changed")
    assert module.last(4) == 8 and module.last("ab") == "abab"  # as it was imported
    assert str(inspect.signature(module.Child.named)) == "(name: str = 'a')"
    assert pickle.loads(pickle.dumps(module.numbers)) is module.numbers
