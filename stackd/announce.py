"""After each set: the user's own command, and a Prometheus text file. Neither may stop the work.

Both are off unless config.toml names them. The command is given the set's name and verdict as
arguments, never a shell; the text file is replaced in one step, as node_exporter asks.
"""

import subprocess
from pathlib import Path

from loguru import logger

from stackd.disk.ledger import Ledger
from stackd.jobs.delivery import Outcome

_STATES = ("done", "duplicate", "quarantined", "retry", "running")


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
    counts = ledger.counts()
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
