"""Stopping in time, whatever stackd is at, and being alone: the real process and real signals."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.campaigns import signals


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", signals.BOUNDS, ids=lambda case: case.__name__)
def test_stackd_stops_within_its_time(tmp_path: Path, case: Callable[[Path], float], record_property) -> None:
    """Idle, in the middle of a set, asked twice, during recovery; a second instance goes with exit code 75."""
    seconds = case(tmp_path / "house")
    record_property("seconds", round(seconds, 2))
    assert seconds <= signals.BOUNDS[case]
