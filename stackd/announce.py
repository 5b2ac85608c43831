"""Who else is told: systemd, after each set the user's own command, and a Prometheus text file.

None of them may stop the work. Command and text file are off unless config.toml names them: the command is given the
set's name and verdict as arguments, never a shell; the text file is replaced in one step, as node_exporter asks.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import sdnotify
from loguru import logger

from stackd.disk import outbox
from stackd.disk.ledger import Ledger
from stackd.errors import OutputError
from stackd.jobs.delivery import Outcome
from stackd.status import sets_by_state

PATIENCE_S = 0.5  # with a service manager that does not listen: the work goes on without it

_STATES = ("done", "duplicate", "quarantined", "retry", "running")


class Systemd:
    """READY, STATUS, WATCHDOG and STOPPING; without systemd nothing happens."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.settimeout(PATIENCE_S)  # sdnotify's own would wait for ever, and all work with it
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._ping_every_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 4e6 if mine else 0.0
        self._pinged_s = float("-inf")

    def say(self, words: str) -> None:
        """One state, such as "READY=1"."""
        if self._notifier is not None:
            self._notifier.notify(words)

    def close(self) -> None:
        """Give the socket back, which sdnotify never does."""
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()

    def ping(self, now_s: float, *, at_once: bool = False) -> None:
        """Tell the watchdog that the loop comes round: now and then, `at_once` before what may take nearly its time."""
        if self._ping_every_s and (at_once or now_s - self._pinged_s >= self._ping_every_s):
            self._pinged_s = now_s
            self.say("WATCHDOG=1")


def notify(command: list[str], timeout_s: float, outcome: Outcome) -> None:
    """Run the user's command; what goes wrong with it is logged."""
    if not command:
        return
    try:
        ended = subprocess.run(
            [*command, outcome.set_name, outcome.verdict],
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("notify.command failed: {}", error)
        return
    if ended.returncode:
        logger.warning("notify.command ended with exit code {}", ended.returncode)


class Metrics:
    """The Prometheus text file: written at the start and whenever a number in it changed. Off until it has a name."""

    def __init__(self, ledger: Ledger, results: Path) -> None:
        """`results` is the outbox, whose space is told, too."""
        self._ledger, self._results = ledger, results
        self._written: tuple[Path, dict[str, int]] | None = None
        self._refused = ""  # as the log was told

    def tell(self, textfile: Path | None, view: dict[str, Any], *, anew: bool) -> None:
        """Write what became of sets, given status's `view`, if that changed or `anew`. What goes wrong is logged once
        and tried again."""
        if textfile is None:
            return
        try:
            counts = sets_by_state(self._ledger, view)
            if anew or self._written != (textfile, counts):
                _replace(textfile, _as_prometheus(counts, self._free_mb()))
                self._written = textfile, counts
            self._refused = ""
        except (OSError, OutputError) as error:
            if str(error) != self._refused:
                logger.warning("metrics.textfile is left as it is: {}", error)
            self._refused = str(error)

    def _free_mb(self) -> float:
        try:
            return outbox.free_mb(self._results)
        except OSError:
            return 0.0  # gone: nothing can be written there


def _as_prometheus(counts: dict[str, int], free_mb: float) -> str:
    lines = ["# HELP stackd_sets Sets by state, as `stackd status` shows them.", "# TYPE stackd_sets gauge"]
    lines += [f'stackd_sets{{state="{state}"}} {counts.get(state, 0)}' for state in _STATES]
    lines += [
        "# HELP stackd_outbox_free_bytes Space left for results.",
        "# TYPE stackd_outbox_free_bytes gauge",
        f"stackd_outbox_free_bytes {free_mb * (1 << 20):.0f}",
    ]
    return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    """In one step. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(text, "utf-8")
    unfinished.replace(path)
