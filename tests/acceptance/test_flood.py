"""A flood of frames and a long history: the small versions of tests/campaigns/flood.py and ready.py."""

from pathlib import Path

import pytest

from stackd.disk.ledger import DONE, Ledger
from tests.campaigns.flood import MOST_GROWTH_MB, flood
from tests.campaigns.house import House
from tests.campaigns.ready import LONGEST_START_S, lose_ledger, make_history, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_thousand_frames_while_the_daemon_is_stopped_and_every_event_is_lost(tmp_path: Path) -> None:
    """Every set is done after, none twice, and the supervisor stays small: the scan is the truth."""
    found = flood(tmp_path / "house", 1000, stopped=True, deadline_s=400.0)

    assert found.overflowed
    assert found.audit.kept, found
    assert found.growth_mb < MOST_GROWTH_MB


def test_the_daemon_is_ready_in_time_with_ten_thousand_finished_sets(tmp_path: Path) -> None:
    """READY=1 within 5 s of the supervisor's own computing (0.9 s; the clock counts other programs too)."""
    house = House(tmp_path / "house")
    try:
        make_history(house, 10_000)
        _, computed_s = start(house)
    finally:
        house.close()

    assert computed_s < LONGEST_START_S


def test_a_lost_ledger_is_rebuilt_before_the_daemon_is_ready(tmp_path: Path) -> None:
    """From the manifests, every set."""
    house = House(tmp_path / "house")
    try:
        make_history(house, 300)
        lose_ledger(house)
        start(house)
    finally:
        house.close()

    ledger = Ledger(house.state, read_only=True)
    counts = ledger.counts()
    ledger.close()
    assert counts == {DONE: 300}
