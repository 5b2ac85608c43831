"""What `stackd status` says of a house that cannot work, and of one that works with a remark."""

from pathlib import Path
from typing import Any

import pytest

from stackd import inspection, status
from stackd.errors import OutputError
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


def test_an_outbox_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Neither there nor not there, as a mount whose server has gone: said, and whatever else is known, too."""
    nobody_knows = tmp_path / ("x" * 300)  # the file system refuses to look, like a stale mount
    settings = settings_in(tmp_path, 0)
    settings = settings.model_copy(update={"folders": settings.folders.model_copy(update={"outbox": nobody_knows})})
    said = lines_of(settings)

    [paused] = [line for line in said if line.startswith("paused")]
    assert str(nobody_knows) in paused
    assert "outbox (cannot be read: File name too long), state " in said[-1]
    [problem] = inspection.problems_of_house(settings, None)
    assert problem.startswith(f"folders.outbox ({nobody_knows}) cannot be read: File name too long")


def test_a_state_folder_that_cannot_be_read_is_an_error_in_words(tmp_path: Path) -> None:
    """All that status tells lies there."""
    settings = settings_in(tmp_path, 0)
    folders = settings.folders.model_copy(update={"state": tmp_path / ("x" * 300)})
    with pytest.raises(OutputError, match=r"folders\.state cannot be read: File name too long"):
        status.gather(settings.model_copy(update={"folders": folders}))


@pytest.mark.parametrize("name", ["inbox", "quarantine", "state"])
def test_check_tells_of_every_folder_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """One problem each, and the others are looked at all the same; so of a set that is named."""
    settings = settings_in(tmp_path, 10**9)
    nobody_knows = tmp_path / ("x" * 300)
    settings = settings.model_copy(update={"folders": settings.folders.model_copy(update={name: nobody_knows})})
    problems = inspection.problems_of_house(settings, None)

    assert [one for one in problems if one.startswith(f"folders.{name} ({nobody_knows}) cannot be read")]
    assert [one for one in problems if one.startswith("folders.outbox") and "min_free_mb" in one]
    [problem], _ = inspection.problems_of_set(nobody_knows, settings)
    assert problem.startswith(f"{nobody_knows} cannot be read: File name too long")


def test_remarks_stop_nothing_and_are_shown(tmp_path: Path) -> None:
    """A refused model, a quarantine that cannot be written."""
    said = lines_of(settings_in(tmp_path, 0), remarks=["the model is refused"])
    assert "remark       the model is refused" in said
    assert not [line for line in said if line.startswith("paused")]


def test_files_ignored_for_one_reason_share_a_line(tmp_path: Path) -> None:
    """A night of RAW+JPEG has hundreds; few are named, and none is forgotten in the count."""
    twins = [f"M33/IMG_{k}.JPG: a picture" for k in range(200)]

    said = lines_of(settings_in(tmp_path, 0), ignored=[*twins, "notes.txt: not a format"])

    ignored = [line for line in said if line.startswith("ignored")]
    assert ignored == [
        "ignored      M33/IMG_0.JPG, M33/IMG_1.JPG, M33/IMG_2.JPG and 197 more: a picture",
        "ignored      notes.txt: not a format",
    ]
