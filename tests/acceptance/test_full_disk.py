"""A disk that is full, read-only or failing costs time and nothing else: no half result, no lost or doubled set.

Every change of one set's run refused in turn (in this process, everywhere), then real small file systems where mounts
are allowed. The long versions: `python -m tests.campaigns.full_disk`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from stackd import logs
from tests.campaigns import mounted
from tests.campaigns.full_disk import Case, broken_by, changes_of_a_run


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A hundred runs that are refused say much."""
    logger.remove()
    yield
    logger.remove()


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("error", ["ENOSPC", "EROFS", "EIO"])
def test_every_change_refused_in_turn(tmp_path: Path, error: str, lasting: bool) -> None:
    """Nothing half is ever visible; when the disk is well again the set comes out by itself, once, as attempt 1."""
    changes = changes_of_a_run(tmp_path / "count", error, real=False)
    assert changes > 20
    every = 1 if error == "ENOSPC" else 3
    broken = [
        broken_by(Case(error, at, lasting), tmp_path / str(at), real=False) for at in range(1, changes + 1, every)
    ]
    assert not list(filter(None, broken))


@pytest.mark.parametrize("case", mounted.CASES)
def test_on_a_real_file_system(case: str) -> None:
    """A daemon and its worker as processes of their own, on a small tmpfs that fills up, goes read-only or vanishes."""
    if why := mounted.why_not():
        pytest.skip(f"no mounts here, the refusals above guard the same promise: {why}")
    code, said = mounted.run_case(case)
    assert code == 0, said


def test_a_full_log_folder_costs_log_lines_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/full in the day's place: stderr goes on and names the trouble once; the file goes on when it can."""
    logs.configure("INFO", tmp_path)
    logger.info("first")
    [day] = tmp_path.glob("stackd-*.log")
    day.rename(tmp_path / "kept")
    os.symlink("/dev/full", day)
    logger.info("second")
    logger.info("third")
    day.unlink()
    logger.info("fourth")

    said = capsys.readouterr().err
    assert all(word in said for word in ("first", "second", "third", "fourth"))
    assert said.count("the day's log cannot be written") == 1
    assert "Logging error" not in said
    assert "first" in (tmp_path / "kept").read_text()
    assert "fourth" in day.read_text()


def test_a_set_whose_log_is_cut_off_is_no_result(tmp_path: Path) -> None:
    """set.log is part of the result: a disk that refused one line of it refuses the set, for now."""
    (tmp_path / "set.log").touch()
    with pytest.raises(FileExistsError), logs.of_set("M27", tmp_path):
        pass  # the folder is not fresh
    file = logs.SetFile(tmp_path / "other.log")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file._file.fileno())
    os.close(full)
    with pytest.raises(OSError, match="No space left"), file:
        file.write("a line\n")
