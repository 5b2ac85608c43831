"""Killed at any call that changes a disk, stackd loses, doubles and halves nothing: samples of the campaign.

`python -m tests.campaigns.calls` is the whole of it, as a process of its own, since it forks.
"""

import subprocess
import sys
from pathlib import Path

import pytest

NO_STRACE = 77
# What the campaign must say of each way to get it wrong, so that it is caught for the right reason.
SYMPTOMS = {
    "in-place": "partial: A: holds",
    "early-done": "A in the ledger, None in the outbox",
    "no-requeue": "running in the ledger",
    "late-count": "is tried for ever",
}


def campaign(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it in a folder of ours."""
    command = [sys.executable, "-m", "tests.campaigns.calls", "--folder", str(folder), *options]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_system_calls_every_set_comes_out_once(tmp_path: Path) -> None:
    """strace's inject, one kind of call at a time; in both processes at once and in each of them."""
    ended = campaign(tmp_path, "--every", "25")
    if ended.returncode == NO_STRACE:
        pytest.skip(ended.stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_calls_of_python_every_set_comes_out_once(tmp_path: Path) -> None:
    """The same promise without strace: the process kills itself before what Python and SQLite do to the disk."""
    ended = campaign(tmp_path, "--trap", "python", "--every", "8")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_while_it_archives_every_frame_is_in_one_place(tmp_path: Path) -> None:
    """Where stackd moves captures it never loses one, nor leaves it twice."""
    ended = campaign(tmp_path, "--trap", "python", "--place", "house", "--after", "archive", "--every", "5")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", SYMPTOMS)
def test_the_campaign_catches_each_way_to_get_it_wrong(tmp_path: Path, mutant: str) -> None:
    """A harness that lets a broken house pass proves nothing."""
    ended = campaign(tmp_path, "--trap", "python", "--place", "house", "--stop-at-first", "--mutant", mutant)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert SYMPTOMS[mutant] in ended.stdout
