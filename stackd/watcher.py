"""Wakes the daemon early: a bell that any thread or signal may ring, and a watch on the inbox that rings it.

Events are a hint and may be lost; nothing depends on them but how soon a file is seen. Knows no turn and no settings.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from loguru import logger
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

POLL_INTERVAL_S = 2.0  # of set.watch = "poll"
REBUILD_S = 30.0  # a watch that the kernel refused is asked for again after so long: each time walks the whole inbox
# What wakes us. Not that a file was opened or closed unchanged: our own reading would, ten thousand times a flood.
_NEWS: list[type[FileSystemEvent]] = [
    *(FileCreatedEvent, FileModifiedEvent, FileMovedEvent, FileDeletedEvent, FileClosedEvent),
    *(DirCreatedEvent, DirMovedEvent, DirDeletedEvent),
]


class Bell:
    """Wakes the loop from any thread or signal handler; rings are not counted."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`."""
        return self._read

    def ring(self) -> None:
        """Wake the loop; a full pipe has rung enough."""
        with suppress(BlockingIOError):
            os.write(self._write, b"!")

    def hush(self) -> bool:
        """Whether it rang since the last time."""
        with suppress(BlockingIOError):
            return bool(os.read(self._read, 65536))
        return False

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._read)
        os.close(self._write)


class Watcher:
    """File events ring the bell. Rebuilt when any part of it is dead or the inbox is another folder.

    watchdog's own `is_alive` stays true when an emitter has died, so each is asked.
    """

    def __init__(self, inbox: Path, mode: str, bell: Bell) -> None:
        self._inbox, self._mode = inbox, mode
        self._handler = _Ring(bell)
        self._observer: Any = None
        self._watched: tuple[int, int] | None = None
        self._refused = ""  # why the inbox could not be watched, as the log was told
        self._next_build_s = float("-inf")

    def keep_alive(self) -> str:
        """Start or rebuild what is dead; gives "events", "poll" or "scans alone"."""
        there = self._identity()
        healthy = (
            self._observer is not None
            and self._observer.is_alive()
            and all(emitter.is_alive() for emitter in self._observer.emitters)
            and there == self._watched
        )
        if not healthy and (there != self._watched or time.monotonic() >= self._next_build_s):
            self._rebuild(there)
        return "scans alone" if self._observer is None else {"poll": "poll"}.get(self._mode, "events")

    def close(self) -> None:
        """Stop watching."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5.0)
            self._observer = None

    def _rebuild(self, there: tuple[int, int] | None) -> None:
        if self._observer is not None:
            logger.warning("the inbox is no longer watched; the watch is built anew")
        self.close()
        self._watched = there
        if there is None:
            return
        observer: Any = PollingObserver(timeout=POLL_INTERVAL_S) if self._mode == "poll" else Observer()
        try:
            observer.schedule(self._handler, str(self._inbox), recursive=True, event_filter=_NEWS)
            observer.start()
        except OSError as error:  # no inotify watches left, or the inbox went again
            if str(error) != self._refused:
                logger.warning("the inbox cannot be watched, scans alone find new files: {}", error)
            self._refused, self._next_build_s = str(error), time.monotonic() + REBUILD_S
            return
        self._observer, self._refused = observer, ""

    def _identity(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = os.stat(self._inbox)
            return found.st_dev, found.st_ino
        return None


class _Ring(FileSystemEventHandler):
    """Does as little as can be: an error in a handler would end watchdog's thread silently."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._bell.ring()
