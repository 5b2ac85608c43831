"""What `stackd status` says of a house that cannot work, and of one that works with a remark."""

from pathlib import Path
from typing import Any

from stackd import status
from stackd.settings import Settings, load


def settings_in(folder: Path, min_free_mb: int) -> Settings:
    for name in ("inbox", "outbox", ".stackd"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "config.toml").write_text(f"[limits]\nmin_free_mb = {min_free_mb}\n")
    return load(folder / "config.toml", {})


def lines_of(settings: Settings, **changes: Any) -> list[str]:
    return status.as_text(status.gather(settings) | changes).splitlines()


def test_a_full_disk_is_told_whatever_the_daemon_could_write(tmp_path: Path) -> None:
    """status.json does not fit on a full disk: who asks is told all the same which folder, and how much it takes."""
    settings = settings_in(tmp_path, min_free_mb=10**9)
    [line] = [line for line in lines_of(settings) if line.startswith("paused")]
    assert str(tmp_path / "outbox") in line
    assert "limits.min_free_mb = 1000000000 MB" in line

    assert not [line for line in lines_of(settings_in(tmp_path, 0)) if line.startswith("paused")]


def test_a_pause_says_that_it_ends_by_itself(tmp_path: Path) -> None:
    """Nobody need restart anything; a daemon that does not run goes on with nothing."""
    settings = settings_in(tmp_path, 0)
    said = lines_of(settings, trouble="outbox: cannot be written", daemon="running")
    assert "paused       outbox: cannot be written (goes on by itself once that has passed)" in said
    assert "paused       outbox: cannot be written" in lines_of(settings, trouble="outbox: cannot be written")


def test_remarks_stop_nothing_and_are_shown(tmp_path: Path) -> None:
    """A refused model, a quarantine that cannot be written."""
    said = lines_of(settings_in(tmp_path, 0), remarks=["the model is refused"])
    assert "remark       the model is refused" in said
    assert not [line for line in said if line.startswith("paused")]
