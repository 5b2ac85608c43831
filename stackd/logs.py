"""Where the log goes: stderr (for people or for journald), the outbox's day file, a set's own set.log.

Called by the command line and at a worker's start only; everybody else says
`from loguru import logger`. No sink may stop the work: a full or vanished disk costs log lines only.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from loguru import logger

SET_LOG = "set.log"
_LINE = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {extra[set]}{message}\n{exception}"
_JOURNAL_LINE = "<{extra[priority]}>{extra[set]}{message}\n{exception}"
_SYSLOG_PRIORITY = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "SUCCESS": 5, "INFO": 6, "DEBUG": 7, "TRACE": 7}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}


def configure(level: str, outbox: Path | None = None, keep_days: int = 30) -> None:
    """Send the log to stderr and, if an outbox is given, to `outbox/stackd-YYYY-MM-DD.log`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's C++ writes to stderr past every sink
    warnings.showwarning = _log_warning
    logger.remove()
    logger.configure(extra={"set": "", "priority": 6}, patcher=_make_safe)
    form = _JOURNAL_LINE if under_systemd() else _LINE
    logger.add(_to_stderr, level=level, format=lambda _: form, backtrace=False, diagnose=False)
    if outbox is not None:
        logger.add(DayFile(outbox, keep_days), level=level, format=lambda _: _LINE, backtrace=False, diagnose=False)


def under_systemd() -> bool:
    """Whether stderr ends in journald, which wants a priority instead of a time."""
    return "JOURNAL_STREAM" in os.environ or "INVOCATION_ID" in os.environ


@contextmanager
def of_set(name: str, folder: Path | None = None) -> Iterator[None]:
    """Mark every line of the block with the set's name; with a folder, also write them to its set.log.

    The file is closed at the end, so that the folder can be flushed and published. It is part of the result: raises
    OSError where it could not be written whole.
    """
    if folder is None:
        with logger.contextualize(set=f"{name}: "):
            yield
        return
    with SetFile(folder / SET_LOG) as file, logger.contextualize(set=f"{name}: "):
        form = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {message}\n{exception}"
        sink = logger.add(file.write, level="DEBUG", format=lambda _: form, backtrace=False, diagnose=False)
        try:
            yield
        finally:
            logger.remove(sink)


@contextmanager
def without_stderr() -> Iterator[None]:
    """Keep C++ quiet that greets on file descriptor 2 past every setting, as TensorFlow does when imported."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class SetFile:
    """One set's log. A disk that refuses stops neither the set nor its log elsewhere: the end of the block says so."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._file = path.open("xb", buffering=0)  # unbuffered: nothing is left to be written when it closes
        self._path = path
        self._refused: OSError | None = None

    def write(self, message: str) -> None:
        """Append one line, unless an earlier one failed already."""
        rest = message.encode("utf-8", "backslashreplace")
        try:
            while rest and self._refused is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._refused = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if self._refused is not None and error is None:
            raise OSError(self._refused.errno, self._refused.strerror, str(self._path)) from self._refused


class DayFile:
    """One log file a day in a folder; several processes may append, old days are removed.

    Opened for each line: a mount that went and came back, or a folder replaced, needs no care then.
    """

    def __init__(self, folder: Path, keep_days: int) -> None:
        self._folder, self._keep_days = folder, keep_days
        self._day = ""
        self._failing = False

    def write(self, message: str) -> None:
        """Append one line; on a disk that cannot take it, say so once on stderr and go on."""
        day = datetime.now(UTC).date().isoformat()
        try:
            with open(self._folder / f"stackd-{day}.log", "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(message)
            if day != self._day:
                self._day = day
                self._remove_old(day)
            self._failing = False
        except OSError as error:
            if not self._failing:
                sys.stderr.write(f"the day's log cannot be written and pauses: {error}\n")
            self._failing = True

    def _remove_old(self, day: str) -> None:
        oldest = (datetime.fromisoformat(day) - timedelta(days=self._keep_days)).date().isoformat()
        for file in self._folder.glob("stackd-????-??-??.log"):
            if file.stem.removeprefix("stackd-") < oldest:
                file.unlink(missing_ok=True)


def _log_warning(message: Warning | str, category: type[Warning], *place: object) -> None:
    """Python's own warnings, such as of an overflow in a strange frame, as lines of the log like any other."""
    logger.debug("{}: {}", category.__name__, message)


def _to_stderr(message: str) -> None:
    """Whatever stderr is now: a progress bar puts itself in its place."""
    sys.stderr.write(message)


def _make_safe(record: Any) -> None:
    """File names come from outside: no control character may forge a line or paint a terminal."""
    record["message"] = record["message"].translate(_CONTROL)
    record["extra"]["priority"] = _SYSLOG_PRIORITY.get(record["level"].name, 6)
