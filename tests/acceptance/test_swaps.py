"""The model is exchanged while sets are at work; the long version: `python -m tests.campaigns.swaps`."""

from pathlib import Path

import pytest

from tests.campaigns.swaps import run


def test_models_are_exchanged_under_load(tmp_path: Path) -> None:
    """Each kind of bad file once, twice as many good ones: no failed set, each by a model that could be trusted."""
    assert run(27, 3, tmp_path, real=False) == []


@pytest.mark.slow
@pytest.mark.timeout(900)  # each new network is a new process that loads TensorFlow
def test_networks_are_exchanged_under_load(tmp_path: Path) -> None:
    """The same with real networks: one whose card describes none, then a good one."""
    assert run(2, 3, tmp_path, real=True) == []
