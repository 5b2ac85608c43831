"""I wake, take a turn, tell systemd how it goes, and stop politely.

The loop sleeps until the bell rings (a file event, a signal), the worker has something to say or the
next scan is due. Watching only rings the bell: events are a hint, the scan is the truth. The
supervisor loads neither TensorFlow nor astropy.
"""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

from loguru import logger

from stackd import announce, logs, status
from stackd.disk import outbox
from stackd.disk.ledger import Ledger
from stackd.disk.lock import lock_outbox, lock_state
from stackd.errors import ConfigError, OutputError
from stackd.jobs.delivery import Delivery, Outcome
from stackd.jobs.runner import Limits, OnProgress, WorkerRunner
from stackd.jobs.worker import Work, WorkerStart
from stackd.settings import Settings
from stackd.turn import Turn
from stackd.watcher import Bell, Watcher

LONGEST_SLEEP_S = 1.0  # deadlines, dead watchers and systemd's watchdog are looked after so often
SHORTEST_SCAN_GAP_S = 0.5  # a rain of events makes no rain of scans


class Daemon:
    """The house, wired: locks, ledger, worker, turn. Made by the command line, closed at its end.

    `reread` gives the settings anew (SIGHUP) and may raise ConfigError. `hear` is told every outcome.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        work: Work | None = None,
        reread: Callable[[], Settings] | None = None,
        hear: Callable[[Outcome], None] | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Take the locks, open the ledger, recover. Raises InstanceError, ConfigError or OutputError."""
        self.settings = settings
        self._work, self._reread, self._hear, self._on_progress = work or Work(), reread, hear, on_progress
        self._step = ""
        self._said: dict[str, Any] = {}
        self._unwritten = False  # status.json is older than what was said last
        self._stop_signals: list[int] = []
        self._reload = False
        self._systemd = announce.Systemd()
        make_folders(settings)
        with ExitStack() as held:
            self._bell = Bell()
            held.callback(self._bell.close)
            held.callback(self._systemd.close)
            self._take_signals(held)
            held.callback(lock_state(settings.folders.state).release)
            self._hold_outbox(held)
            self._ledger = Ledger(settings.folders.state)
            held.callback(self._ledger.close)
            self._metrics = announce.Metrics(self._ledger, settings.folders.outbox)
            delivery = self._recovered()
            start, limits = _worker_rules(settings, self._work)
            self._runner = WorkerRunner(start, limits, self._known, self._note)
            held.callback(self._runner.close)
            self.turn = Turn(settings, self._ledger, delivery, self._runner, self._on_step)
            self._held = held.pop_all()

    def run(self) -> None:
        """Turn until SIGTERM or SIGINT, then finish the set at hand or free it."""
        watcher = Watcher(self.settings.folders.inbox, self.settings.set.watch, self._bell)
        try:
            watch = watcher.keep_alive()
            if not self._stop_signals:
                self._systemd.say("READY=1")
                logger.info("stackd watches {} ({})", self.settings.folders.inbox, watch)
            while not self._stop_signals:
                self._round(watch)
                watch = watcher.keep_alive()
                self._sleep()
            self._stop()
        finally:
            watcher.close()

    def once(self) -> None:
        """Turn until nothing is complete and nothing at work; a signal stops it as it stops `run`."""
        if not self._stop_signals:
            self._round("")
        while not self._stop_signals and not self.turn.idle() and self.turn.trouble is None:
            self._sleep()
            self._round("")
        if self._stop_signals:
            self._stop()

    def close(self) -> None:
        """Give everything back; the locks last but for the bell."""
        self._held.close()

    def _take_signals(self, held: ExitStack) -> None:
        """From here on, so that even a recovery is stopped politely; given back at the end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            held.callback(signal.signal, number, signal.signal(number, self._on_signal))

    def _hold_outbox(self, held: ExitStack) -> None:
        """For results it may lie on any disk: where one knows no locks, somebody else must see to it."""
        folder = self.settings.folders.outbox
        try:
            held.callback(lock_outbox(folder).release)
        except OSError as error:
            logger.warning("{} cannot be locked ({}): let no second stackd write to this outbox", folder, error)

    def _recovered(self) -> Delivery:
        if self._ledger.was_damaged:
            logger.error("the ledger was damaged; it lies in {} and is rebuilt", self._ledger.was_damaged)
        delivery = Delivery(self.settings, self._ledger)
        try:
            delivery.recover(lambda: bool(self._stop_signals))
        except OSError as error:
            raise outbox.as_output_error(error) from error
        return delivery

    def _round(self, watch: str) -> None:
        """One turn and what follows from it."""
        if self._reload:
            self._reload = False
            self._adopt_new_settings()
        now_s = time.monotonic()
        outcomes = self.turn.advance(now_s)
        self._tell(outcomes)
        self._publish_status(watch)
        self._metrics.tell(self.settings.metrics.textfile, self._said, anew=bool(outcomes))
        self._systemd.ping(now_s)

    def _sleep(self) -> None:
        """Until something happens or is due."""
        now_s = time.monotonic()
        due_s = self.turn.next_scan_s - now_s
        wait([self._bell, *self._runner.handles], timeout=min(max(due_s, 0.0), LONGEST_SLEEP_S))
        if self._bell.hush():
            self.turn.next_scan_s = min(self.turn.next_scan_s, self.turn.last_scan_s + SHORTEST_SCAN_GAP_S)

    def _stop(self) -> None:
        """No new claim; the set at hand may finish within limits.stop_timeout_s (a second signal: now)."""
        self._systemd.say("STOPPING=1")
        logger.info("{}: stopping", signal.Signals(self._stop_signals[0]).name)
        self.turn.claiming = False
        end_s = time.monotonic() + self.settings.limits.stop_timeout_s
        while self.turn.claimed is not None and time.monotonic() < end_s and len(self._stop_signals) < 2:
            self._round("stopping")
            if self.turn.claimed is not None:
                wait([self._bell, *self._runner.handles], timeout=LONGEST_SLEEP_S)
                self._bell.hush()
        if self.turn.claimed is not None:
            logger.warning("{}: handed back, its restoration was cut short", self.turn.claimed.capture_set.name)
            self.turn.hand_back("stackd was stopped")
        self._publish_status("stopped")
        logger.info("stopped")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Only a flag and the bell: the loop acts."""
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stop_signals.append(number)
        self._bell.ring()

    def _adopt_new_settings(self) -> None:
        """SIGHUP: all of the new config or, if it is not valid, none of it."""
        if self._reread is None:
            return
        try:
            new = self._reread()
        except ConfigError as error:
            for line in str(error).splitlines():
                logger.error("the new config is not valid, the old one stays: {}", line)
            return
        if new.folders != self.settings.folders or new.set.watch != self.settings.set.watch:
            logger.warning("new folders and set.watch are taken up at the next start only")
            kept = new.set.model_copy(update={"watch": self.settings.set.watch})
            new = new.model_copy(update={"folders": self.settings.folders, "set": kept})
        if new.log != self.settings.log:
            logs.configure(new.log.level, new.folders.outbox, new.log.keep_days)
        self.settings = new
        self.turn.adopt(new)
        self._runner.adopt(*_worker_rules(new, self._work))
        logger.info("the config was read anew")

    def _tell(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if self._hear is not None:
                self._hear(outcome)
            self._systemd.ping(time.monotonic(), at_once=True)  # several slow commands are not a hang
            announce.notify(self.settings.notify.command, self.settings.notify.timeout_s, outcome)

    def _on_step(self) -> None:
        """A slow archive is not a hang."""
        self._systemd.ping(time.monotonic())

    def _publish_status(self, watch: str) -> None:
        """Only when it changed; a disk that cannot take it costs the status alone."""
        view = status.snapshot(self.turn, self._step, watch)
        if view != self._said:
            self._said = view
            self._systemd.say(f"STATUS={status.one_line(view)}")
        elif not self._unwritten:
            return
        try:
            status.write(self.settings.folders.state, view)
            self._unwritten = False
        except OSError as error:
            if not self._unwritten:
                logger.warning("status.json cannot be written for now: {}", error)
            self._unwritten = True

    def _known(self, digest: str) -> str | None:
        entry = self._ledger.done_with(digest)
        return entry.name if entry else None

    def _note(self, set_name: str, step: str, fraction: float) -> None:
        self._step = f"{step} {fraction:.0%}"
        if self._on_progress is not None:
            self._on_progress(set_name, step, fraction)


def make_folders(settings: Settings) -> None:
    """The folders that stackd writes to. Raises OutputError."""
    for name in ("outbox", "quarantine", "state"):
        folder: Path = getattr(settings.folders, name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"folders.{name} ({folder}) cannot be made: {error.strerror}") from error


def _worker_rules(settings: Settings, work: Work) -> tuple[WorkerStart, Limits]:
    log, limits = settings.log, settings.limits
    start = WorkerStart(work, log.level, str(settings.folders.outbox), log.keep_days, limits.memory_mb)
    return start, Limits(limits.set_timeout_s, limits.sets_per_worker)
