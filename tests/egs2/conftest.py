"""What the recipes' tests share: a Python that starts at once."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def stub_python(warm_python):
    """For what a recipe of stubs runs in earnest (`stub_recipe.py`)."""
    os.environ["STUB_PYTHON"] = str(warm_python)
    yield
    del os.environ["STUB_PYTHON"]
