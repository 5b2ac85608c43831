"""The daemon's process: wakes, watches, re-reads its config, tells systemd, stops politely, is alone."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loguru import logger
from standin import WORK, write_frame
from watchdog.observers.api import BaseObserver

from stackd import status
from stackd import watcher as watching
from stackd.daemon import Daemon
from stackd.disk import model_store, models, outbox
from stackd.disk.model_card import CARD, WEIGHTS
from stackd.errors import ConfigError, InstanceError
from stackd.settings import MetricsSettings, RestoreSettings, Settings, load
from stackd.watcher import Bell, Watcher
from tests.campaigns.house import CHILD

CONFIG = "[set]\nsettle_s = 0.2\nscan_interval_s = {scan}\n[restore]\nnetwork = false\n[limits]\nstop_timeout_s = 2.0\n"


def settings_in(folder: Path, scan_interval_s: float = 0.5) -> Settings:
    """Quick settings, and an inbox."""
    (folder / "inbox").mkdir(exist_ok=True)
    (folder / "config.toml").write_text(CONFIG.format(scan=scan_interval_s))
    return load(folder / "config.toml", {})


def drop(folder: Path, name: str, **orders: Any) -> None:
    """A set of eight frames; the first asks for a behaviour. Contents differ between names."""
    for n in range(8):
        write_frame(folder / "inbox" / name / f"{n}.fits", n, target=name, **(orders if n == 0 else {}))


def until(look: Callable[[], Any], deadline_s: float = 30.0) -> Any:
    """What `look` gives once it gives something."""
    end_s = time.monotonic() + deadline_s
    while not (found := look()):
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)
    return found


@pytest.fixture
def bell() -> Iterator[Bell]:
    """A bell, given back at the end."""
    one = Bell()
    yield one
    one.close()


@pytest.fixture
def notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What systemd was told so far."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def collect() -> list[str]:
            try:
                while True:
                    heard.append(ear.recv(65536).decode())
            except BlockingIOError:
                return heard

        yield collect


def run_until(daemon: Daemon, done: Callable[[], Any], number: int = signal.SIGTERM) -> None:
    """`run` in this thread; another one sends the signal when `done`, or after a while."""

    def watch() -> None:
        try:
            until(done)
        finally:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        daemon.run()
    finally:
        thread.join()
        daemon.close()


def test_events_wake_the_daemon_and_systemd_hears_the_story(
    tmp_path: Path, notices: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an hour between two scans an event alone brings a set through; READY first, STOPPING last."""
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    daemon = Daemon(settings_in(tmp_path, 3600.0), work=WORK)
    before = signal.getsignal(signal.SIGTERM)

    def done() -> bool:
        notices()
        if not (tmp_path / "inbox/M27").exists() and "READY=1" in notices():
            drop(tmp_path, "M27")
        return (tmp_path / "outbox/M27/result.json").exists()

    run_until(daemon, done)

    heard = notices()
    assert heard[0] == "READY=1"
    assert heard.count("WATCHDOG=1") >= 2
    assert "STOPPING=1" in heard
    assert any(one.startswith("STATUS=M27") for one in heard)
    assert signal.getsignal(signal.SIGTERM) is not before


def test_one_turn_restores_everything_complete(tmp_path: Path) -> None:
    """`once` ends by itself, with a set that is still incomplete left alone."""
    drop(tmp_path, "A")
    drop(tmp_path, "B", do="refuse")
    write_frame(tmp_path / "inbox/C/1.fits", 1)
    heard: list[str] = []
    daemon = Daemon(settings_in(tmp_path), work=WORK, hear=lambda o: heard.append(f"{o.set_name} {o.verdict}"))
    daemon.once()
    daemon.close()

    assert sorted(heard) == ["A done", "B quarantined"]


def test_a_slow_archive_is_no_hang(
    tmp_path: Path, notices: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd's watchdog hears of every frame that is moved."""
    monkeypatch.setenv("WATCHDOG_USEC", "4")
    heard: list[int] = []
    move = outbox._move

    def noted(*asked: Any) -> None:
        heard.append(notices().count("WATCHDOG=1"))
        move(*asked)

    monkeypatch.setattr(outbox, "_move", noted)
    settings_in(tmp_path)
    drop(tmp_path, "M27")
    daemon = Daemon(load(tmp_path / "config.toml", {"STACKD_SET__AFTER": "archive"}), work=WORK)
    daemon.once()
    daemon.close()

    assert len(os.listdir(tmp_path / "archive/M27")) == 8
    assert [after - before for before, after in pairwise(heard)] == [1] * 7


def test_once_restores_everything_beside_an_archive_that_cannot_be_written(tmp_path: Path) -> None:
    """And ends, though the frames are left."""
    settings_in(tmp_path)
    (tmp_path / "archive").write_text("somebody's file")
    for name in "AB":
        drop(tmp_path, name)
    heard: list[str] = []
    settings = load(tmp_path / "config.toml", {"STACKD_SET__AFTER": "archive"})
    daemon = Daemon(settings, work=WORK, hear=lambda o: heard.append(f"{o.set_name} {o.verdict}"))
    daemon.once()
    said = status.as_text(status.gather(settings))
    daemon.close()

    assert sorted(heard) == ["A done", "B done"]
    assert "remark" in said
    assert str(tmp_path / "archive") in said


@pytest.mark.parametrize("signals", [1, 2])
def test_a_set_that_does_not_end_is_handed_back(tmp_path: Path, signals: int) -> None:
    """SIGTERM in mid-set: no output, no attempt counted, nothing left in staging; the next start does it."""
    gate = tmp_path / "gate"
    drop(tmp_path, "M27", do="hang", until=str(gate))
    daemon = Daemon(settings_in(tmp_path), work=WORK)

    def at_work() -> bool:
        return any((tmp_path / "outbox/.stackd-tmp").glob("M27.*/restored.fits"))

    began_s = time.monotonic()
    run_until(daemon, lambda: until(at_work) and (signals == 1 or not os.kill(os.getpid(), signal.SIGINT)))
    assert time.monotonic() - began_s < 20.0
    assert os.listdir(tmp_path / "outbox/.stackd-tmp") == []
    assert not (tmp_path / "outbox/M27").exists()

    gate.touch()
    daemon = Daemon(settings_in(tmp_path), work=WORK)
    daemon.once()
    daemon.close()
    assert '"attempt": 1' in (tmp_path / "outbox/M27/result.json").read_text()


def test_second_instance_is_refused_and_the_first_unharmed(tmp_path: Path) -> None:
    """Exit 75 and a clear line; the signals are given back."""
    settings = settings_in(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    daemon = Daemon(settings, work=WORK)
    second = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path / "config.toml"), "once"], capture_output=True, text=True, check=False
    )
    assert second.returncode == 75
    assert f"process {os.getpid()}" in second.stderr
    with pytest.raises(InstanceError):
        Daemon(settings, work=WORK)

    drop(tmp_path, "M27")
    daemon.once()
    daemon.close()
    assert (tmp_path / "outbox/M27").is_dir()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_instance_needs_an_outbox_of_its_own(tmp_path: Path) -> None:
    """Another state folder alone is not enough: each would sweep the other's unfinished results away."""
    settings = settings_in(tmp_path)
    daemon = Daemon(settings, work=WORK)
    unfinished = tmp_path / "outbox/.stackd-tmp/M27.1"
    unfinished.mkdir(parents=True)
    elsewhere = {"STACKD_FOLDERS__STATE": str(tmp_path / "second")}
    with pytest.raises(InstanceError, match=rf"^{tmp_path}/outbox: .*process {os.getpid()}.*outbox and folders.inbox"):
        Daemon(load(tmp_path / "config.toml", elsewhere), work=WORK)
    assert unfinished.is_dir()
    Daemon(load(tmp_path / "config.toml", elsewhere | {"STACKD_FOLDERS__OUTBOX": "mine"}), work=WORK).close()

    daemon.close()
    Daemon(load(tmp_path / "config.toml", elsewhere), work=WORK).close()


@pytest.mark.parametrize("why", ["no locks", "no file"])
def test_an_outbox_that_cannot_be_locked_is_worked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """On a network disk that knows no locks, or one where the lock's file cannot be made: a warning, and the work."""

    def refused(file: Any, operation: int) -> None:
        if Path(file.name) == tmp_path / "outbox/.stackd-lock":
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(file, operation)

    flock = fcntl.flock
    if why == "no file":
        (tmp_path / "outbox/.stackd-lock").mkdir(parents=True)
    else:
        monkeypatch.setattr(fcntl, "flock", refused)
    told: list[str] = []
    sink = logger.add(told.append, level="WARNING", format="{message}")
    drop(tmp_path, "M27")
    daemon = Daemon(settings_in(tmp_path), work=WORK)
    logger.remove(sink)
    daemon.once()
    daemon.close()

    assert (tmp_path / "outbox/M27/result.json").is_file()
    [warning] = told
    assert f"{tmp_path}/outbox cannot be locked" in warning


def test_metrics_count_what_status_shows(tmp_path: Path) -> None:
    """From the start on; a set spoiled before it was begun is in quarantine like one that was refused after it."""
    textfile = tmp_path / "stackd.prom"
    settings = settings_in(tmp_path)
    settings = settings.model_copy(update={"metrics": MetricsSettings(textfile=textfile)})

    def told() -> tuple[str, int]:
        daemon = Daemon(settings, work=WORK)
        daemon.once()
        daemon.close()
        [line] = [line for line in textfile.read_text().splitlines() if 'state="quarantined"' in line]
        view = status.gather(settings)
        return line.rpartition(" ")[2], len(view["spoiled"]) + len(view["quarantined"])

    assert told() == ("0", 0)
    drop(tmp_path, "refused", do="refuse")
    drop(tmp_path, "unreadable")
    (tmp_path / "inbox/unreadable/3.fits").write_text("no capture }")
    assert told() == ("2", 2)
    write_frame(tmp_path / "inbox/unreadable/3.fits", 3, target="unreadable")
    (tmp_path / "inbox/refused/3.fits").write_text("no capture }")  # its end is forgotten, and it is spoiled now
    assert told() == ("1", 1)


@pytest.mark.parametrize("harm", ["weights cut off", "no card"])
def test_status_names_the_model_that_serves(tmp_path: Path, harm: str) -> None:
    """The current one is refused and an older one serves; one promoted since is named, though no set has come yet."""
    settings = settings_in(tmp_path)
    settings = settings.model_copy(update={"restore": RestoreSettings()})
    good, bad = promoted(settings, 1), promoted(settings, 2)
    if harm == "no card":
        (bad.path / CARD).unlink()
    else:
        os.truncate(bad.path / WEIGHTS, 10)
    drop(tmp_path, "M27")
    daemon = Daemon(settings, work=replace(WORK, load="standin:load_checked"))
    daemon.once()

    result = json.loads((tmp_path / "outbox/M27/result.json").read_text())
    assert result["model"]["version"] == good.version
    view = status.gather(settings)
    assert (view["model"], view["model_folder"]) == (f"default {good.version}", str(good.path))
    assert f"model        default {good.version}" in status.as_text(view).splitlines()
    newest = promoted(settings, 3)
    assert status.gather(settings)["model_folder"] == str(newest.path)
    daemon.close()


def promoted(settings: Settings, number: int) -> models.ModelVersion:
    """A version that is current from now on."""
    store = settings.folders.models
    made = model_store.publish(store, "default", {"a": np.full(3, number, np.float32)}, {})
    return model_store.promote(store, f"default@{made.version}")


def test_sighup_takes_up_a_valid_config_whole_and_an_invalid_one_not_at_all(tmp_path: Path) -> None:
    """Folders stay those of the start."""
    settings = settings_in(tmp_path)
    answers: list[Any] = [
        ConfigError("config.toml: unknown key"),
        load(tmp_path / "config.toml", {"STACKD_SET__FRAMES": "4", "STACKD_FOLDERS__OUTBOX": "elsewhere"}),
    ]

    def reread() -> Settings:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    daemon = Daemon(settings, work=WORK, reread=reread)
    for n in range(4):
        write_frame(tmp_path / f"inbox/M27/{n}.fits", n)
    seen: list[int] = []

    def done() -> bool:
        if len(seen) == 2 - len(answers) and answers:
            seen.append(daemon.settings.set.frames)
            os.kill(os.getpid(), signal.SIGHUP)
        return (tmp_path / "outbox/M27").exists()

    run_until(daemon, done)

    assert seen == [8, 8]
    assert daemon.settings.set.frames == 4
    assert daemon.settings.folders == settings.folders


@pytest.mark.parametrize("mode", ["auto", "poll"])
def test_a_dead_watch_is_built_anew(tmp_path: Path, bell: Bell, mode: str) -> None:
    """An emitter that died, an inbox that was deleted and made again: files ring the bell again."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    watcher = Watcher(inbox, mode, bell)
    name = {"auto": "events", "poll": "poll"}[mode]
    assert watcher.keep_alive() == name

    def rings(file: str) -> None:
        bell.hush()
        (inbox / file).write_text("x")
        until(bell.hush)

    rings("a")
    for emitter in watcher._observer.emitters:
        emitter.stop()
        emitter.join()
    assert watcher.keep_alive() == name
    rings("b")

    shutil.rmtree(inbox)
    watcher.keep_alive()
    inbox.mkdir()
    assert until(lambda: watcher.keep_alive() == name)
    rings("c")
    watcher.close()


def test_without_an_inbox_the_scans_go_on(tmp_path: Path, bell: Bell) -> None:
    """A mount that comes later is found."""
    watcher = Watcher(tmp_path / "inbox", "auto", bell)
    assert watcher.keep_alive() == "scans alone"
    (tmp_path / "inbox").mkdir()
    assert watcher.keep_alive() == "events"
    watcher.close()


def test_a_watch_that_the_kernel_refuses_is_told_once(
    tmp_path: Path, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No inotify watch is left: the scans go on, the log stays quiet, and in time the watch is asked for again."""

    def none_left(observer: Any) -> None:
        tries.append(observer)
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    tries: list[Any] = []
    told: list[str] = []
    (tmp_path / "inbox").mkdir()
    watcher = Watcher(tmp_path / "inbox", "auto", bell)
    sink = logger.add(told.append, level="WARNING", format="{message}")
    with monkeypatch.context() as patched:
        patched.setattr(BaseObserver, "start", none_left)
        assert {watcher.keep_alive() for _ in range(100)} == {"scans alone"}
        assert len(tries) == 1
        patched.setattr(watching, "REBUILD_S", 0.0)
        watcher._next_build_s = 0.0
        assert {watcher.keep_alive() for _ in range(100)} == {"scans alone"}
        assert len(tries) > 2
    logger.remove(sink)
    assert len(told) == 1
    assert watcher.keep_alive() == "events"
    watcher.close()


def test_the_supervisor_loads_neither_tensorflow_nor_a_fits_reader() -> None:
    """What a stranger's file can harm stays in the worker."""
    code = "import sys, stackd.daemon; print(*{'tensorflow', 'keras', 'astropy', 'cv2', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
