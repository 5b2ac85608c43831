"""One turn after another on real files, with a clock moved by hand and the worker's work in this process."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from standin import WORK, write_frame

from stackd.disk import outbox
from stackd.disk.inbox import read_once
from stackd.disk.ledger import DONE, DUPLICATE, QUARANTINED, RETRY, RUNNING, Ledger
from stackd.errors import OutputError
from stackd.jobs.delivery import Delivery, try_again
from stackd.jobs.notes import error_json
from stackd.jobs.runner import SerialRunner
from stackd.records import Report, Sighting
from stackd.settings import Settings, load
from stackd.turn import PAUSE_S, Turn


class House:
    """Folders, a ledger and turns on a clock of our own."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.folder = folder
        self.clock_s = 1000.0
        for name in ("inbox", "outbox", "quarantine", ".stackd"):
            (folder / name).mkdir(exist_ok=True)
        self.settings = self.settings_with(**values)
        self.open()

    def settings_with(self, **values: Any) -> Settings:
        """settle_s 5, scans every 10 s, no network; values as section__key."""
        environment = {"STACKD_RESTORE__NETWORK": "false", "STACKD_LIMITS__MIN_FREE_MB": "0"}
        environment |= {f"STACKD_{key.upper()}": json.dumps(value) for key, value in values.items()}
        (self.folder / "config.toml").touch()
        return load(self.folder / "config.toml", environment)

    def open(self) -> None:
        """As at a start: recovery, then a turn with nothing in mind."""
        self.ledger = Ledger(self.settings.folders.state)
        self.delivery = Delivery(self.settings, self.ledger, now=lambda: self.clock_s)
        self.delivery.recover()
        self.runner = SerialRunner(WORK, self.known, lambda *step: None)
        self.turn = Turn(self.settings, self.ledger, self.delivery, self.runner)

    def reopen(self) -> None:
        """As after a crash."""
        self.ledger.close()
        self.open()

    def known(self, digest: str) -> str | None:
        entry = self.ledger.done_with(digest)
        return entry.name if entry else None

    def pass_time(self, seconds: float) -> list[str]:
        """Turns every half second; gives "set verdict" lines."""
        said: list[str] = []
        for _ in range(int(seconds * 2)):
            said += [f"{one.set_name} {one.verdict}" for one in self.turn.advance(self.clock_s)]
            self.clock_s += 0.5
        return said

    def drop(self, name: str, frames: int = 8, first: int = 0, **orders: Any) -> None:
        """A set's folder; the first frame asks for a behaviour."""
        for n in range(first, first + frames):
            file = self.folder / "inbox" / name / f"{n}.fits"
            write_frame(file, n, target=name, **(orders if n == first else {}))

    def result(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / "outbox" / name / "result.json").read_text("utf-8"))

    def published(self) -> list[str]:
        return sorted(path.name for path in outbox.published_folders(self.settings.folders.outbox))

    def states(self) -> dict[str, str]:
        return {entry.name: entry.state for entry in self.ledger.entries()}

    def error(self, name: str) -> dict[str, Any] | None:
        path = self.folder / "quarantine" / name / "error.json"
        return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house with an empty inbox."""
    one = House(tmp_path)
    yield one
    one.ledger.close()


def test_a_set_is_restored_once_and_the_inbox_stays_as_it_was(house: House) -> None:
    """Eight settled frames become one folder, and never another."""
    house.drop("M27")
    before = {path: path.stat().st_mtime_ns for path in sorted((house.folder / "inbox").rglob("*"))}

    assert house.pass_time(4.0) == []
    assert house.pass_time(30.0) == ["M27 done"]
    assert house.pass_time(60.0) == []
    house.reopen()
    assert house.pass_time(30.0) == []

    assert house.published() == ["M27"]
    assert {path: path.stat().st_mtime_ns for path in sorted((house.folder / "inbox").rglob("*"))} == before
    job = json.loads((house.folder / "outbox/M27/result.json").read_text())["job"]
    assert [frame["path"] for frame in job["frames"]] == [f"M27/{n}.fits" for n in range(8)]
    assert all(len(frame["sha256"]) == 64 for frame in job["frames"])


def test_a_bad_set_is_put_away_with_its_reason_and_retried_when_asked(house: House, tmp_path: Path) -> None:
    """Quarantine names reason, file and remedy; the others go on; `retry` frees it."""
    mended = tmp_path / "mended"
    house.drop("A", do="refuse", until=str(mended))
    house.drop("B", first=20)
    assert sorted(house.pass_time(30.0)) == ["A quarantined", "B done"]

    error = house.error("A")
    assert error is not None
    assert (error["reason"], error["file"], error["remedy"]) == ("the frames show nothing", "a.fits", "take others")
    assert (error["attempts"], len(error["frames"])) == (1, 8)
    assert house.pass_time(30.0) == []

    mended.touch()
    assert try_again(house.settings, house.ledger, ["A", "C"], house.clock_s) == ["C"]
    assert house.error("A") is None
    assert house.pass_time(30.0) == ["A done"]


def test_three_deaths_are_enough(house: House) -> None:
    """What nobody foresaw is tried `attempts` times, ever later, then put away."""
    house.drop("M27", do="fail")
    assert house.pass_time(200.0) == ["M27 retry", "M27 retry", "M27 quarantined"]
    error = house.error("M27")
    assert error is not None
    assert error["attempts"] == 3


def test_a_bad_disk_is_tried_for_ever_and_costs_no_attempt(house: House, tmp_path: Path) -> None:
    """An input or output error is not the set's fault."""
    passed = tmp_path / "passed"
    house.drop("M27", do="bad disk", until=str(passed))
    assert set(house.pass_time(400.0)) == {"M27 retry"}
    [entry] = house.ledger.entries(RETRY)
    assert entry.attempts == 0
    assert entry.delays >= 4

    passed.touch()
    assert house.pass_time(400.0) == ["M27 done"]


def test_no_space_pauses_the_house_and_it_goes_on_by_itself(house: House, tmp_path: Path) -> None:
    """Nothing is claimed meanwhile, no attempt is counted, nothing half is left."""
    passed = tmp_path / "passed"
    house.drop("A", do="no space", until=str(passed))
    house.drop("B", first=20)
    assert house.pass_time(PAUSE_S) == ["A retry"]
    assert house.turn.trouble is not None
    assert house.published() == []
    assert os.listdir(house.folder / "outbox" / outbox.STAGING) == []

    passed.touch()
    assert sorted(house.pass_time(3 * PAUSE_S)) == ["A done", "B done"]
    assert house.turn.trouble is None
    assert json.loads((house.folder / "outbox/A/result.json").read_text())["job"]["attempt"] == 1


def test_too_little_space_left_stops_claims_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below limits.min_free_mb no set is started; above it the work goes on."""
    house = House(tmp_path, limits__min_free_mb=100)
    monkeypatch.setattr(outbox, "free_mb", lambda folder: 99.0)
    house.drop("M27")
    assert house.pass_time(60.0) == []
    assert house.turn.trouble is not None
    assert "min_free_mb" in house.turn.trouble.what

    monkeypatch.setattr(outbox, "free_mb", lambda folder: 101.0)
    assert house.pass_time(60.0) == ["M27 done"]
    house.ledger.close()


@pytest.mark.parametrize("step", ["write_manifest", "publish", "make_staging"])
def test_a_full_outbox_at_any_step_leaves_nothing_half(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The supervisor's own writes may fail, too."""

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "outbox")

    house.drop("M27")
    with monkeypatch.context() as patched:
        patched.setattr(outbox, step, full)
        assert "M27 done" not in house.pass_time(60.0)
        assert house.turn.trouble is not None
        assert house.published() == []
        assert house.states().get("M27") in (None, RETRY)
    assert house.pass_time(90.0) == ["M27 done"]
    [entry] = house.ledger.entries(DONE)
    assert entry.attempts == 1


def test_a_ledger_that_cannot_be_written_after_publication_makes_no_second_output(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is the proof: the set is believed done when the ledger can be written again."""

    def full(*args: Any) -> None:
        raise OutputError("ledger.db: the ledger cannot be written now: full")

    house.drop("M27")
    with monkeypatch.context() as patched:
        patched.setattr(house.ledger, "finish", full)
        house.pass_time(20.0)
        assert house.published() == ["M27"]
        assert house.states() == {"M27": RUNNING}
    house.pass_time(90.0)
    assert house.published() == ["M27"]
    assert house.states() == {"M27": DONE}


def test_recovery_believes_the_outbox(house: House) -> None:
    """Ledger lost: rebuilt from results and error.json; nothing is done again, nothing deleted."""
    house.drop("A", do="refuse")
    house.drop("B", first=20)
    house.pass_time(30.0)
    house.ledger.close()
    shutil.rmtree(house.settings.folders.state)
    house.settings.folders.state.mkdir()
    house.open()

    assert house.states() == {"A": QUARANTINED, "B": DONE}
    assert house.pass_time(60.0) == []
    assert house.published() == ["B"]


def test_a_recovery_that_is_stopped_is_finished_by_the_next(house: House) -> None:
    """SIGTERM while a lost ledger is rebuilt: what was not looked at is looked at later, nothing is done again."""
    for n, name in enumerate("ABC"):
        house.drop(name, first=8 * n)
    house.pass_time(30.0)
    house.ledger.close()
    shutil.rmtree(house.settings.folders.state)
    house.settings.folders.state.mkdir()
    house.ledger = Ledger(house.settings.folders.state)
    asked = iter([False, True])
    Delivery(house.settings, house.ledger).recover(lambda: next(asked))
    assert house.states() == {"A": DONE}

    house.reopen()
    assert house.states() == dict.fromkeys("ABC", DONE)
    assert house.pass_time(30.0) == []


def test_recovery_counts_the_deaths_of_the_whole_house(house: House) -> None:
    """A set at work at each of three power cuts is put away, not tried for ever."""
    house.drop("M27")
    house.turn.claiming = False
    house.pass_time(8.0)
    [capture_set] = house.turn.assembly.complete
    states = []
    for _ in range(3):
        assert house.delivery.claim(capture_set, "") is not None
        house.reopen()  # nobody delivered: the power went
        states.append(house.states()["M27"])

    assert states == [RETRY, RETRY, QUARANTINED]
    assert os.listdir(house.folder / "outbox" / outbox.STAGING) == []
    error = house.error("M27")
    assert error is not None
    assert "stopped unexpectedly" in error["reason"]


def test_same_content_under_another_name_is_a_duplicate(house: House) -> None:
    """One output for the same eight frames."""
    house.drop("M27")
    house.pass_time(30.0)
    shutil.copytree(house.folder / "inbox/M27", house.folder / "inbox/again", copy_function=shutil.copy)

    assert house.pass_time(30.0) == ["again duplicate"]
    assert house.states() == {"M27": DONE, "again": DUPLICATE}
    assert house.published() == ["M27"]


def test_a_frame_rewritten_after_the_end_makes_a_revision(house: House) -> None:
    """The first result is not touched."""
    house.drop("M27")
    house.pass_time(30.0)
    first = (house.folder / "outbox/M27/result.json").read_bytes()
    write_frame(house.folder / "inbox/M27/3.fits", 3, target="M27", better=True)

    assert house.pass_time(30.0) == ["M27 done"]
    assert house.published() == ["M27", "M27__r2"]
    assert (house.folder / "outbox/M27/result.json").read_bytes() == first


def test_a_frame_replaced_during_the_work_voids_the_result(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict holds only for the files that it was made on."""
    submit = house.runner.submit

    def replaced_meanwhile(job: Any) -> None:
        submit(job)
        write_frame(house.folder / "inbox/M27/3.fits", 3, target="M27", late=True)

    house.drop("M27")
    with monkeypatch.context() as patched:
        patched.setattr(house.runner, "submit", replaced_meanwhile)
        assert house.pass_time(8.0) == ["M27 handed back"]
    assert house.published() == []
    assert house.pass_time(30.0) == ["M27 done"]


def test_a_frame_that_the_disk_refuses_waits_and_is_told_once(house: House, tmp_path: Path) -> None:
    """No permission, a sick disk: looked at again scan by scan, not without a pause; the set goes on when it passes."""
    told: list[str] = []
    sink = logger.add(told.append, level="WARNING", format="{message}")
    passed = tmp_path / "passed"
    looks: list[str] = []
    probe = house.runner.probe
    house.runner.probe = lambda paths, limits: (looks.extend(paths), probe(paths, limits))[1]  # type: ignore[method-assign]
    house.drop("M27", look="refused", until=str(passed))

    assert house.pass_time(120.0) == []
    logger.remove(sink)
    assert len([line for line in told if "0.fits: cannot be read for now: Permission denied" in line]) == 1
    assert 8 <= len([path for path in looks if path.endswith("/0.fits")]) <= 30
    assert house.turn.idle()
    assert house.turn.unread
    [waiting] = house.turn.assembly.waiting
    assert "Permission denied" in waiting.reason

    passed.touch()
    assert house.pass_time(30.0) == ["M27 done"]
    assert not house.turn.unread


def test_a_clock_that_was_a_day_ahead_delays_nothing(house: House, tmp_path: Path) -> None:
    """A try put off before the clock was set right does not wait for the wrong day."""
    house.clock_s += 86_400.0
    house.drop("M27", do="bad disk", until=str(tmp_path / "passed"))
    assert house.pass_time(15.0) == ["M27 retry"]
    (tmp_path / "passed").touch()
    house.delivery._now = lambda: house.clock_s - 86_400.0

    assert house.pass_time(60.0) == ["M27 done"]


def test_a_vanished_inbox_deletes_nothing_and_comes_back(house: House) -> None:
    """A mount that goes is no reason to forget anything."""
    house.drop("M27")
    house.pass_time(30.0)
    house.drop("half", frames=3, first=20)
    house.pass_time(20.0)
    (house.folder / "inbox").rename(house.folder / "away")

    assert house.pass_time(60.0) == []
    assert house.turn.inbox_trouble
    assert [one.set_name for one in house.turn.assembly.waiting] == ["half"]
    (house.folder / "away").rename(house.folder / "inbox")
    house.drop("half", frames=5, first=23)
    assert house.pass_time(60.0) == ["half done"]
    assert not house.turn.inbox_trouble


def test_a_spoiled_set_is_reported_and_revives_when_the_file_is_replaced(house: House) -> None:
    """A text file among the frames: error.json says so, and goes when the user has mended it."""
    house.drop("M27")
    house.drop("good", first=20)
    (house.folder / "inbox/M27/3.fits").write_text("no capture at all }")
    assert sorted(house.pass_time(60.0)) == ["M27 spoiled", "good done"]
    error = house.error("M27")
    assert error is not None
    assert "3.fits" in json.dumps(error)
    house.reopen()
    house.pass_time(30.0)
    assert house.error("M27") is not None

    write_frame(house.folder / "inbox/M27/3.fits", 3, target="M27")
    assert house.pass_time(60.0) == ["M27 done"]
    assert house.error("M27") is None


def test_archive_moves_finished_frames(tmp_path: Path) -> None:
    """With set.after = "archive" the inbox empties itself, and only of finished sets."""
    house = House(tmp_path, set__after="archive")
    house.drop("M27")
    house.drop("bad", first=20, do="refuse")
    house.pass_time(40.0)

    assert os.listdir(tmp_path / "inbox/M27") == []
    assert len(os.listdir(tmp_path / "archive/M27")) == 8
    assert len(os.listdir(tmp_path / "inbox/bad")) == 8
    house.ledger.close()


def test_the_report_of_a_loose_file_goes_with_its_reason(house: House) -> None:
    """Its set has another name; the report stays while the file has still to be read, also by the next start."""
    for n in range(8):
        write_frame(house.folder / f"inbox/{n}.fits", n, target="M27", **({"pixels": 2000} if n == 3 else {}))
    house.turn.adopt(house.settings_with(limits__max_pixels=1000))
    assert house.pass_time(30.0) == ["3.fits spoiled"]
    house.settings = house.settings_with(limits__max_pixels=1000)
    house.reopen()
    assert house.pass_time(2.0) == []
    assert house.error("3.fits") is not None
    assert house.pass_time(30.0) == []
    assert house.error("3.fits") is not None

    house.turn.adopt(house.settings_with(limits__max_pixels=2000))
    house.turn.advance(house.clock_s)
    assert house.error("3.fits") is not None
    [done] = house.pass_time(30.0)

    assert done.startswith("M27_")
    assert os.listdir(house.folder / "quarantine") == []


def test_the_report_of_a_file_that_a_finished_set_holds_goes_with_the_next_start(house: House) -> None:
    """Whatever kept it there: such a file is not read again."""
    for n in range(8):
        write_frame(house.folder / f"inbox/{n}.fits", n, target="M27")
    house.pass_time(30.0)
    found = (house.folder / "inbox/3.fits").stat()
    frames = [Sighting("3.fits", found.st_size, found.st_mtime_ns, 0)]
    report = Report("3.fits", False, reason="has too many pixels")
    outbox.write_report(house.folder / "quarantine", "3.fits", error_json(report, frames, "", 0, "2026-01-01"))
    house.reopen()

    assert house.pass_time(30.0) == []
    assert os.listdir(house.folder / "quarantine") == []


def test_a_spoiled_set_that_waits_is_not_told_twice(tmp_path: Path) -> None:
    """More frames arrive for it while nothing was mended: the report stays, and nobody is notified again."""
    house = House(tmp_path, set__partial="quarantine", set__partial_after_s=20.0)
    house.drop("M27", frames=3)
    assert house.pass_time(40.0) == ["M27 spoiled"]
    write_frame(tmp_path / "inbox/M27/9.fits", 9, look="refused", until=str(tmp_path / "passed"))
    assert house.pass_time(20.0) == []
    assert house.error("M27") is not None
    (tmp_path / "inbox/M27/9.fits").unlink()
    assert house.pass_time(60.0) == []
    assert house.error("M27") is not None
    house.ledger.close()


def test_finished_sets_are_archived_one_a_turn(house: House) -> None:
    """However many wait: between two of them the daemon looks after its worker, and within one it is told of steps."""
    for n, name in enumerate("ABC"):
        house.drop(name, first=8 * n)
    house.pass_time(30.0)
    house.turn.adopt(house.settings_with(set__after="archive"))
    steps: list[int] = []
    house.turn._on_step = lambda: steps.append(1)

    left = []
    for _ in range(4):
        house.turn.advance(house.clock_s)
        left.append((len(list((house.folder / "archive").iterdir())), house.turn._left_to_archive, len(steps) >= 8))
        steps.clear()

    assert left == [(1, True, True), (2, True, True), (3, False, True), (3, False, False)]


def test_an_archive_that_cannot_be_written_costs_no_set(tmp_path: Path) -> None:
    """It is a remark, told once; the other sets come out, and their frames move when it can be written again."""
    told: list[str] = []
    sink = logger.add(told.append, level="ERROR", format="{message}")
    house = House(tmp_path, set__after="archive")
    (tmp_path / "archive").write_text("somebody's file")
    for n, name in enumerate("ABC"):
        house.drop(name, first=8 * n)

    assert sorted(house.pass_time(20.0)) == ["A done", "B done", "C done"]
    house.pass_time(100.0)
    logger.remove(sink)
    assert house.turn.trouble is None
    assert house.turn.idle()
    [remark] = house.turn.remarks
    assert str(tmp_path / "archive") in remark
    assert len([line for line in told if "archive" in line]) == 1

    (tmp_path / "archive").unlink()
    house.pass_time(PAUSE_S + 5.0)
    assert sorted(os.listdir(tmp_path / "archive")) == ["A", "B", "C"]
    assert house.turn.remarks == ()
    house.ledger.close()


def test_the_frames_of_a_set_that_is_open_again_are_not_archived(tmp_path: Path) -> None:
    """They belong to the revision that is to come, which would lack them."""
    house = House(tmp_path)
    house.drop("M27")
    house.pass_time(30.0)
    write_frame(tmp_path / "inbox/M27/3.fits", 3, target="M27", better=True)
    house.turn.adopt(house.settings_with(set__after="archive"))

    assert house.pass_time(30.0) == ["M27 done"]
    assert house.published() == ["M27", "M27__r2"]
    assert len(os.listdir(tmp_path / "archive/M27__r2")) == 8
    assert os.listdir(tmp_path / "archive") == ["M27__r2"]
    house.ledger.close()


def test_emptied_folders_go_once_nobody_adds_to_them(tmp_path: Path) -> None:
    """Not at once, as the next frame may be on its way; never one that stackd did not empty, or with a file in it."""
    house = House(tmp_path, set__after="archive")
    for name in ("M27", "noted"):
        house.drop(name, first={"M27": 0, "noted": 20}[name])
    (tmp_path / "inbox/noted/.note").write_text("mine")
    (tmp_path / "inbox/tonight").mkdir()
    house.pass_time(60.0)
    assert sorted(os.listdir(tmp_path / "inbox")) == ["M27", "noted", "tonight"]

    for name in ("M27", "noted", "tonight"):
        os.utime(tmp_path / "inbox" / name, (0, 0))
    house.pass_time(20.0)
    assert sorted(os.listdir(tmp_path / "inbox")) == ["noted", "tonight"]
    assert os.listdir(tmp_path / "inbox/noted") == [".note"]
    house.ledger.close()


def test_a_quarantined_set_that_is_mended_leaves_no_trace(house: House) -> None:
    """Neither a row in the ledger nor an error.json that a lost ledger would bring back, whenever the house dies."""
    house.drop("M27", do="refuse")
    house.drop("M31", first=20, do="bad disk")
    assert sorted(house.pass_time(10.0)) == ["M27 quarantined", "M31 retry"]
    write_frame(house.folder / "inbox/M27/0.fits", 0, target="M27", mended=True)
    write_frame(house.folder / "inbox/M31/20.fits", 20, target="M31", mended=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(house.ledger, "finish", lambda *asked: (_ for _ in ()).throw(OutputError("full")))
        house.pass_time(20.0)
    assert house.error("M27") is None
    house.reopen()

    house.pass_time(60.0)
    assert house.published() == ["M27", "M31"]
    assert [(one.name, one.state) for one in house.ledger.entries()] == [("M27", DONE), ("M31", DONE)]
    assert os.listdir(house.folder / "quarantine") == []


def test_the_log_names_the_file_at_fault(house: House) -> None:
    """Who reads only the log must know which frame to look at."""
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    house.drop("M27", do="refuse")
    house.pass_time(10.0)
    logger.remove(sink)

    assert any("put into quarantine: a.fits: the frames show nothing" in line for line in lines)


def test_a_late_second_scan_does_not_end_the_wait(house: House) -> None:
    """A machine that is busy for minutes between two scans: the files have still to be seen settled."""
    house.drop("M27")
    house.turn.advance(house.clock_s)
    house.clock_s += 600.0
    assert not house.turn.idle()
    assert house.pass_time(20.0) == ["M27 done"]
    assert house.turn.idle()


def test_a_broken_model_gives_way_to_the_one_that_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad promotion stops nothing; without an earlier model the sets wait, unblamed."""
    wanted = "good"

    def resolve(store: Path, name: str) -> Any:
        return type("Version", (), {"path": Path(wanted)})()

    monkeypatch.setattr("stackd.jobs.serving.models.resolve", resolve)
    house.turn.adopt(house.settings_with(restore__network=True))
    wanted = "broken"
    house.drop("A")
    assert house.pass_time(8.0) == ["A retry"]
    wanted = "good"
    assert house.pass_time(30.0) == ["A done"]
    wanted = "broken, too"
    house.drop("B", first=20)
    assert house.pass_time(30.0) == ["B retry", "B done"]
    assert json.loads((house.folder / "outbox/B/result.json").read_text())["model"] == "good"


def test_a_set_is_calibrated_by_its_own_darks_else_by_those_of_all_sets(tmp_path: Path) -> None:
    """Kind by kind; and loose frames by those of all."""
    house = House(tmp_path)
    for name in ("darks/all", "flats/all", "M31/darks/own"):
        write_frame(tmp_path / "inbox" / f"{name}.fits", 50)
    house.drop("M31")
    house.drop("", first=20)

    house.pass_time(30)

    calibrated = {name: house.result(name)["calibrated_by"] for name in house.published()}
    assert calibrated.pop("M31") == [["darks/own.fits"], ["darks/all.fits", "flats/all.fits"]]
    assert list(calibrated.values()) == [[[], ["darks/all.fits", "flats/all.fits"]]]


def test_a_set_waits_for_darks_that_still_arrive(tmp_path: Path) -> None:
    """They were copied with it, and after its lights."""
    house = House(tmp_path)
    house.drop("M31")
    house.pass_time(4)
    for number in range(6):
        write_frame(tmp_path / "inbox/M31/darks" / f"{number}.fits", number)
        assert house.pass_time(3) == []

    assert "darks/" in house.turn.assembly.waiting[0].reason
    assert house.pass_time(25) == ["M31 done"]
    assert len(house.result("M31")["calibrated_by"][0]) == 6


def test_darks_that_are_taken_one_after_the_other_are_waited_for(tmp_path: Path) -> None:
    """Twice as long as the last one took: a set is not begun again with each."""
    house = House(tmp_path)
    second = tmp_path / "inbox/M31/darks/1.fits"
    house.drop("M31", do="drop", until=str(second))
    write_frame(second.with_name("0.fits"), 50)

    said = house.pass_time(20)  # begun with the first one when that has settled, and the second comes meanwhile
    assert said == ["M31 handed back"]
    assert house.pass_time(18) == []
    assert "darks/1.fits has just come, and more may follow" in house.turn.assembly.waiting[0].reason
    write_frame(second.with_name("2.fits"), 51)
    assert house.pass_time(40) == []
    assert house.pass_time(30) == ["M31 done"]
    assert len(house.result("M31")["calibrated_by"][0]) == 3


def test_darks_that_come_while_a_set_is_at_work_are_not_missed(tmp_path: Path) -> None:
    """The work begins again with them; those of all sets may come at any time and wait for the next set."""
    house = House(tmp_path)
    dark, later = tmp_path / "inbox/M31/darks/d.fits", tmp_path / "inbox/flats/f.fits"
    dark.parent.mkdir(parents=True)
    later.parent.mkdir()
    house.drop("M31", do="drop", until=str(dark))
    house.drop("M33", first=20, do="drop", until=str(later))

    said = house.pass_time(60)

    assert said.count("M31 handed back") == 1
    assert said.count("M33 handed back") == 0
    assert "darks/d.fits" in house.result("M31")["calibrated_by"][0]
    assert house.result("M31")["attempt"] == 1
    assert house.published() == ["M31", "M33"]


def test_a_file_that_changes_all_the_time_keeps_no_set_for_ever(tmp_path: Path) -> None:
    """Neither the inbox, by one among those of all sets, nor its own, by being begun again with each change."""
    house = House(tmp_path)
    restless = tmp_path / "inbox/M31/darks/d.fits"
    house.drop("M31", do="touch", file=str(restless))
    house.drop("M33", first=20)
    write_frame(restless, 50)
    shared = tmp_path / "inbox/darks/growing.fits"
    said = []
    for number in range(40):
        write_frame(shared, number)
        said += house.pass_time(10)

    assert said.count("M33 done") == 1
    assert (said.count("M31 handed back"), said.count("M31 done")) == (2, 1)


def test_the_same_frames_with_other_darks_are_another_set(tmp_path: Path) -> None:
    """Restored once without darks, a copy of the folder with darks in it is no repetition; what changes among those of
    all sets makes no old set a new one."""
    house = House(tmp_path)
    house.drop("M31")
    house.pass_time(20)
    write_frame(tmp_path / "inbox/darks/all.fits", 60)
    shutil.copytree(tmp_path / "inbox/M31", tmp_path / "inbox/again")
    shutil.copytree(tmp_path / "inbox/M31", tmp_path / "inbox/with darks")
    write_frame(tmp_path / "inbox/with darks/darks/d.fits", 50)

    assert sorted(house.pass_time(40)) == ["again duplicate", "with darks done"]


def test_a_dark_that_is_no_file_to_read_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A giant, or one that the disk refuses, is left to the work to leave out."""
    house = House(tmp_path, limits__max_file_mb=1)

    def refusing(path: Path, max_bytes: int) -> tuple[bytes, str]:
        if path.name == "refused.fits":
            raise OSError(errno.EIO, "input/output error", str(path))
        return read_once(path, max_bytes)

    monkeypatch.setattr("stackd.jobs.worker.read_once", refusing)
    write_frame(tmp_path / "inbox/M31/darks/refused.fits", 50)
    house.drop("M31")
    giant = tmp_path / "inbox/M31/darks/d.fits"
    giant.write_bytes(bytes(2 << 20))

    assert house.pass_time(30) == ["M31 done"]
