"""The ledger keeps what was promised of it through crashes, damage and a full disk."""

import fcntl
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stackd.disk.ledger import (
    DONE,
    DUPLICATE,
    LEDGER_NAME,
    QUARANTINED,
    RETRY,
    RUNNING,
    Ledger,
    digest_of,
    identity_of,
)
from stackd.disk.lock import LOCK_NAME, Lock, filesystem_of, is_held
from stackd.errors import InstanceError, OutputError
from stackd.records import CaptureSet, Sighting

FRAMES = tuple(Sighting(f"M27/{n}.fits", 100 + n, 1_000 + n, n) for n in range(8))
M27 = CaptureSet("M27", FRAMES)
KEY = identity_of(FRAMES)


@pytest.fixture
def ledger(tmp_path: Path):
    """A fresh ledger, closed at the end."""
    one = Ledger(tmp_path)
    yield one
    one.close()


def test_identity_is_of_files_not_of_order_or_inode() -> None:
    """A set is the same set however it was listed, and another one when a file was rewritten."""
    renumbered = [Sighting(f.path, f.size_bytes, f.mtime_ns, 99) for f in reversed(FRAMES)]
    rewritten = [*FRAMES[:7], Sighting(FRAMES[7].path, FRAMES[7].size_bytes, FRAMES[7].mtime_ns + 1, 7)]

    assert identity_of(renumbered) == KEY
    assert identity_of(rewritten) != KEY


def test_attempts_are_on_the_disk_before_the_work(tmp_path: Path) -> None:
    """A process that is killed right after `start` leaves its attempt counted."""
    code = (
        "import os, sys; from pathlib import Path; from stackd.disk.ledger import Ledger;"
        "from stackd.records import CaptureSet, Sighting;"
        "Ledger(Path(sys.argv[1])).start(CaptureSet('M27', (Sighting('a', 1, 2, 3),)), 5.0); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9

    ledger = Ledger(tmp_path)
    [entry] = ledger.entries(RUNNING)
    ledger.close()
    assert (entry.name, entry.attempts) == ("M27", 2)


def test_only_counted_ends_keep_their_attempt(ledger: Ledger) -> None:
    """A full disk costs no attempt, a dead worker does."""
    assert ledger.start(M27, 1.0) == 1
    ledger.give_back(KEY, "no space", 50.0, 2.0, counted=False)
    assert ledger.start(M27, 3.0) == 1
    ledger.give_back(KEY, "died", 60.0, 4.0, counted=True)

    entry = ledger.entry(KEY)
    assert entry is not None
    assert (entry.state, entry.attempts, entry.delays, entry.next_try_s, entry.reason) == (RETRY, 1, 1, 60.0, "died")
    assert ledger.start(M27, 5.0) == 2


PATHS = [frame.path for frame in M27.frames]


def test_a_set_to_be_tried_again_holds_neither_frames_nor_name(ledger: Ledger) -> None:
    """Those of a set at work or done are spoken for."""
    ledger.start(M27, 1.0)
    assert [(one.name, identity_of(one.frames)) for one in ledger.touching(PATHS)] == [("M27", KEY)]
    assert ledger.named("M27") == 1

    ledger.give_back(KEY, "", 0.0, 2.0, counted=False)
    assert ledger.touching(PATHS) == []
    assert ledger.named("M27") == 0

    ledger.start(M27, 3.0)
    ledger.finish(KEY, "d", "M27", 4.0)
    assert [one.name for one in ledger.touching(PATHS)] == ["M27"]
    assert ledger.named("M27") == 1


def test_a_set_with_one_frame_left_in_the_inbox_comes_whole(ledger: Ledger) -> None:
    """One whose frames are all gone does not come, but keeps its name."""
    ledger.start(M27, 1.0)

    assert ledger.touching([]) == ledger.touching(["other.fits"]) == []
    assert ledger.named("M27") == 1
    assert identity_of(ledger.touching(["other.fits", PATHS[3]])[0].frames) == KEY


def test_a_look_sees_what_another_process_wrote(ledger: Ledger, tmp_path: Path) -> None:
    """`stackd retry` beside a running daemon frees a set with the daemon's next look."""
    ledger.start(M27, 1.0)
    ledger.quarantine(KEY, "blank", None, "", 2.0)
    assert len(ledger.touching(PATHS)) == 1

    other = Ledger(tmp_path)
    other.back_to_work(KEY, 3.0)
    other.close()

    assert ledger.touching(PATHS) == []


def test_a_set_forgets_what_it_replaces(ledger: Ledger) -> None:
    """Of its name or with one of its files, put off or away; what is done stays, and so does everybody else's."""
    mended = (*FRAMES[:7], Sighting(FRAMES[7].path, 1, 1, 1))
    others = {
        "M27": FRAMES,  # the same set before a frame was mended
        "loose": (FRAMES[0], Sighting("x", 1, 1, 1)),  # shares a file
        "M31": (Sighting("M31/0.fits", 1, 1, 1),),  # has nothing to do with it
    }
    for name, frames in others.items():
        ledger.start(CaptureSet(name, frames), 1.0)
    ledger.quarantine(KEY, "blank", None, "", 2.0)
    ledger.give_back(identity_of(others["loose"]), "died", 0.0, 2.0, counted=True)
    ledger.quarantine(identity_of(others["M31"]), "blank", None, "", 2.0)
    done = CaptureSet("earlier", (FRAMES[1], Sighting("y", 1, 1, 1)))
    ledger.start(done, 3.0)
    ledger.finish(identity_of(done.frames), "d", "earlier", 4.0)

    assert ledger.start(CaptureSet("M27", mended), 5.0) == 1
    assert {(one.name, one.state) for one in ledger.entries()} == {
        ("M27", RUNNING), ("M31", QUARANTINED), ("earlier", DONE)
    }  # fmt: skip
    assert ledger.frames(KEY) == ()


def test_ends_are_told_apart(ledger: Ledger) -> None:
    """Done, duplicate and quarantined sets are found by state, name and content."""
    digest = digest_of(["b", "a"])
    assert digest == digest_of(["a", "b"])
    ledger.start(M27, 1.0)
    ledger.finish(KEY, digest, "M27__r2", 2.0)
    again = CaptureSet("copy", (Sighting("x", 1, 1, 1),))
    ledger.start(again, 3.0)
    ledger.repeat(identity_of(again.frames), digest, "M27", 4.0)

    found = ledger.done_with(digest)
    assert found is not None
    assert (found.name, found.folder) == ("M27", "M27__r2")
    assert ledger.counts() == {DONE: 1, DUPLICATE: 1}
    assert ledger.entries(QUARANTINED) == []


@pytest.mark.parametrize("damage", ["bits", "half", "text"])
def test_a_damaged_ledger_is_set_aside(tmp_path: Path, damage: str) -> None:
    """Damage makes a fresh ledger, and nothing of the old one is deleted."""
    ledger = Ledger(tmp_path)
    for n in range(200):
        ledger.start(CaptureSet(f"s{n}", (Sighting(f"{n}", n, n, n),)), 1.0)
    ledger.close()
    path = tmp_path / LEDGER_NAME
    content = bytearray(path.read_bytes())
    if damage == "bits":
        content[4096:12288] = bytes(255 - byte for byte in content[4096:12288])
    path.write_bytes({"bits": content, "half": content[: len(content) // 2], "text": b"no database " * 1000}[damage])

    fresh = Ledger(tmp_path)
    fresh.start(M27, 1.0)

    assert fresh.was_damaged is not None
    assert fresh.was_damaged.is_file()
    assert fresh.counts() == {RUNNING: 1}
    fresh.close()


def test_a_full_disk_is_an_output_error_and_passes(ledger: Ledger) -> None:
    """When the ledger cannot grow, the caller hears so and the ledger goes on once it can."""
    ledger._db.execute("PRAGMA max_page_count = 1")
    many = tuple(Sighting(f"{'x' * 200}{n}", n, n, n) for n in range(500))
    with pytest.raises(OutputError, match="ledger cannot be written"):
        ledger.start(CaptureSet("big", many), 1.0)

    ledger._db.execute("PRAGMA max_page_count = 1000000")
    assert ledger.counts() == {}
    assert ledger.start(M27, 2.0) == 1


def test_reading_alone_needs_a_ledger_and_changes_nothing(tmp_path: Path) -> None:
    """`status` never makes a ledger."""
    with pytest.raises(OutputError, match="cannot be read"):
        Ledger(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []

    Ledger(tmp_path).close()
    reader = Ledger(tmp_path, read_only=True)
    with pytest.raises((sqlite3.OperationalError, OutputError)):
        reader.start(M27, 1.0)
    reader.close()


def test_second_instance_is_told_who_is_there(tmp_path: Path) -> None:
    """One stackd a state folder; the lock ends with its holder."""
    assert not is_held(tmp_path)
    lock = Lock(tmp_path)
    assert is_held(tmp_path)
    with pytest.raises(InstanceError, match=r"process \d+"):
        Lock(tmp_path)
    lock.release()

    assert not is_held(tmp_path)
    Lock(tmp_path).release()


def test_who_only_asks_keeps_nobody_out(tmp_path: Path) -> None:
    """`stackd status` has the lock for a moment: a daemon that starts just then would stay down till somebody comes."""
    with open(tmp_path / LOCK_NAME, "a") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        gone = threading.Timer(0.2, fcntl.flock, [asking, fcntl.LOCK_UN])
        gone.start()
        lock = Lock(tmp_path)
        gone.join()

    assert is_held(tmp_path)
    with pytest.raises(InstanceError):
        Lock(tmp_path, patience_s=0.0)
    lock.release()


def test_file_system_is_named(tmp_path: Path) -> None:
    """/proc is one kind, a temporary folder another, and no relative of a mount point is taken for it."""
    assert filesystem_of(Path("/proc")) == "proc"
    assert filesystem_of(tmp_path) not in ("", "proc")
