"""What every test stands on: a quiet TensorFlow, no STACKD_ settings from outside, a seeded generator."""

import os

import numpy as np
import pytest

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before TensorFlow is imported anywhere
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the same arithmetic on every machine


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own STACKD_ variables must not change what a test sees."""
    for variable in list(os.environ):
        if variable.startswith("STACKD_") or variable in ("STATE_DIRECTORY", "NOTIFY_SOCKET"):
            monkeypatch.delenv(variable)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that draws the same in every run."""
    return np.random.default_rng(20190308)
