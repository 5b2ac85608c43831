"""What telling others promises: nobody who does not listen can hold up the work."""

import socket
from pathlib import Path

import pytest
from loguru import logger

from stackd import announce
from stackd.disk.ledger import Ledger

NOTHING = {"waiting": [], "spoiled": []}  # of status's snapshot


@pytest.fixture
def deaf_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """A service manager that never reads its socket."""
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = f"\0stackd-test-{tmp_path}"[:100]
    ear.bind(address)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + address[1:])
    return ear


@pytest.mark.timeout(60)
def test_a_manager_that_does_not_listen_holds_nobody_up(
    deaf_manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket takes a few messages and no more: the rest is dropped, and the first ones are there."""
    monkeypatch.setattr(announce, "PATIENCE_S", 0.001)
    systemd = announce.Systemd()

    for number in range(1000):
        systemd.say(f"STATUS={number}")

    systemd.close()
    with deaf_manager:
        assert deaf_manager.recv(100) == b"STATUS=0"


def test_metrics_are_written_when_a_number_changed(tmp_path: Path) -> None:
    """Not at every turn; a folder that is not there is told once, and the file comes when the folder does."""
    textfile = tmp_path / "later" / "stackd.prom"
    told: list[str] = []
    sink = logger.add(told.append, level="WARNING", format="{message}")
    ledger = Ledger(tmp_path)
    metrics = announce.Metrics(ledger, tmp_path)
    for _ in range(3):
        metrics.tell(textfile, NOTHING, anew=False)
    logger.remove(sink)
    assert len(told) == 1
    assert str(textfile.parent) in told[0]

    textfile.parent.mkdir()
    metrics.tell(textfile, NOTHING, anew=False)
    assert 'stackd_sets{state="quarantined"} 0\n' in textfile.read_text()
    textfile.unlink()
    metrics.tell(textfile, NOTHING, anew=False)
    assert not textfile.exists()
    metrics.tell(textfile, NOTHING | {"spoiled": [{"set": "M27"}]}, anew=False)
    assert 'stackd_sets{state="quarantined"} 1\n' in textfile.read_text()
    ledger.close()


def test_before_a_slow_command_the_watchdog_hears_at_once(
    deaf_manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short ago it was told: notify.timeout_s is nearly all the time that it waits."""
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    systemd = announce.Systemd()
    for now_s, at_once in ((100.0, False), (101.0, False), (102.0, True), (116.0, False), (117.0, False)):
        systemd.say(f"{now_s}")
        systemd.ping(now_s, at_once=at_once)
    systemd.close()

    with deaf_manager:
        heard = [deaf_manager.recv(100).decode() for _ in range(8)]
    assert heard == ["100.0", "WATCHDOG=1", "101.0", "102.0", "WATCHDOG=1", "116.0", "117.0", "WATCHDOG=1"]
