"""What telling others promises: nobody who does not listen can hold up the work."""

import socket
from pathlib import Path

import pytest

from stackd import announce


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
