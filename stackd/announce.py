"""Who else is told: systemd, and after each set the user's own command and a Prometheus text file.

None of them may stop the work. Command and text file are off unless config.toml names them: the command is given the
set's name and verdict as arguments, never a shell; the text file is replaced in one step, as node_exporter asks.
"""

import os
import subprocess
from pathlib import Path

import sdnotify
from loguru import logger

from stackd.disk.ledger import Ledger
from stackd.errors import OutputError
from stackd.jobs.delivery import Outcome

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

    def ping(self, now_s: float) -> None:
        """Tell the watchdog that the loop comes round."""
        if self._ping_every_s and now_s - self._pinged_s >= self._ping_every_s:
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


def write_metrics(textfile: Path | None, ledger: Ledger, free_mb: float) -> None:
    """Rewrite the metrics' text file; what goes wrong with it is logged."""
    if textfile is None:
        return
    try:
        counts = ledger.counts()
    except OutputError as error:
        logger.warning("metrics.textfile is left as it is: {}", error)
        return
    lines = ["# HELP stackd_sets Sets in the ledger by state.", "# TYPE stackd_sets gauge"]
    lines += [f'stackd_sets{{state="{state}"}} {counts.get(state, 0)}' for state in _STATES]
    lines += [
        "# HELP stackd_outbox_free_bytes Space left for results.",
        "# TYPE stackd_outbox_free_bytes gauge",
        f"stackd_outbox_free_bytes {free_mb * (1 << 20):.0f}",
    ]
    unfinished = textfile.with_name(f".{textfile.name}.tmp")
    try:
        unfinished.write_text("\n".join(lines) + "\n", "utf-8")
        unfinished.replace(textfile)
    except OSError as error:
        logger.warning("metrics.textfile cannot be written: {}", error)
