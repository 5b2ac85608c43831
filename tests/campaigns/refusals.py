"""A disk that refuses, in this process: from the n-th change on, or that one alone, with an errno of choice.

What Python itself does to files below one folder is counted: opening for writing, each write, fsync, mkdir, rename,
removal; and what SQLite is asked to change (with EIO also to read). Works everywhere, needs no rights.
"""

import builtins
import errno
import io
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_SQLITE_SAYS = {
    errno.ENOSPC: ("database or disk is full", sqlite3.SQLITE_FULL),
    errno.EDQUOT: ("database or disk is full", sqlite3.SQLITE_FULL),
    errno.EROFS: ("attempt to write a readonly database", sqlite3.SQLITE_READONLY),
    errno.EACCES: ("attempt to write a readonly database", sqlite3.SQLITE_READONLY),
    errno.EIO: ("disk I/O error", sqlite3.SQLITE_IOERR),
}
_REMOVALS = ("unlink", "remove", "rmdir")  # a full disk lets go of files
_CHANGES = ("mkdir", "rename", "replace", *_REMOVALS)
_READS = ("SELECT", "PRAGMA")


class Refusals:
    """`with Refusals(folder, error, at=n):` refuses the n-th change below `folder` (1 is the first; 0: none).

    `lasting`: and every one after it until the block ends. `seen` counts the changes that were asked for, `what` names
    the first one refused.
    """

    def __init__(self, folder: Path, error: int, at: int, *, lasting: bool) -> None:
        self.folder, self.error, self.at, self.lasting = str(folder.resolve()), error, at, lasting
        self.seen, self.what = 0, ""
        self._kept: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        full = self.error in (errno.ENOSPC, errno.EDQUOT)
        for name in _CHANGES:
            if not (full and name in _REMOVALS):
                self._put(os, name, self._guarded(name, getattr(os, name)))
        self._put(os, "fsync", self._guarded("fsync", os.fsync))
        self._put(os, "open", self._guarded_os_open(os.open))
        opening = self._guarded_open(io.open)
        self._put(io, "open", opening)
        self._put(builtins, "open", opening)
        self._put(sqlite3, "connect", self._guarded_connect(sqlite3.connect))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place, name, original in reversed(self._kept):
            setattr(place, name, original)
        self.at = 0  # databases opened in the block are at peace, too

    def refuses(self, what: str) -> bool:
        """Count one change; whether it is to fail."""
        self.seen += 1
        fails = self.at > 0 and (self.seen == self.at or (self.lasting and self.seen > self.at))
        self.what = self.what or (what if fails else "")
        return fails

    def check(self, what: str, path: object) -> None:
        """Raises OSError where a change of `path` is to fail."""
        if self._concerns(path) and self.refuses(what):
            raise OSError(self.error, os.strerror(self.error), str(path))

    def _concerns(self, path: object) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        return isinstance(path, str | Path) and os.path.abspath(path).startswith(self.folder)

    def _put(self, place: Any, name: str, replacement: Any) -> None:
        self._kept.append((place, name, getattr(place, name)))
        setattr(place, name, replacement)

    def _guarded(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def change(path: Any, *args: Any, **options: Any) -> Any:
            folder = options.get("dir_fd")
            self.check(name, path if folder is None else f"{os.readlink(f'/proc/self/fd/{folder}')}/{path}")
            return original(path, *args, **options)

        return change

    def _guarded_os_open(self, original: Callable[..., int]) -> Callable[..., int]:
        def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.check("open", path)
            return original(path, flags, *args, **options)

        return opened

    def _guarded_open(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
            if not set("wxa+") & set(mode) or not self._concerns(file):
                return original(file, mode, buffering, *args, **options)
            self.check("open", file)
            raw = _Raw(self, file, mode)
            if buffering == 0:
                return raw
            binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return binary
            text = {key: value for key, value in options.items() if key in ("encoding", "errors", "newline")}
            return io.TextIOWrapper(binary, *args[:3], **text)

        return opened

    def _guarded_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connected(*args: Any, **options: Any) -> Any:
            db = original(*args, **options | {"factory": _Database})
            db.refusals = self
            return db

        return connected


class _Raw(io.FileIO):
    """A file whose writes may be refused."""

    def __init__(self, refusals: Refusals, file: Any, mode: str) -> None:
        super().__init__(file, mode.replace("b", "").replace("t", ""))
        self._refusals = refusals

    def write(self, content: Any) -> int:
        self._refusals.check("write", self.name)
        return super().write(content)


class _Database(sqlite3.Connection):
    """A database whose changes may be refused."""

    refusals: Refusals | None = None

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        self._check(query)
        return super().execute(query, *values)

    def executemany(self, query: str, *values: Any) -> sqlite3.Cursor:
        self._check(query)
        return super().executemany(query, *values)

    def executescript(self, script: str) -> sqlite3.Cursor:
        self._check(script.strip())
        return super().executescript(script)

    def _check(self, query: str) -> None:
        refusals, word = self.refusals, query.split()[0]
        if refusals is None or word == "ROLLBACK" or (word in _READS and refusals.error != errno.EIO):
            return
        if refusals.refuses(f"sqlite {word}"):
            words, code = _SQLITE_SAYS[refusals.error]
            failure = sqlite3.OperationalError(words)
            failure.sqlite_errorcode = code
            raise failure
