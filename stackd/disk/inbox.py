"""What lies in the inbox: I look, I never touch; each file is opened safely and read once.

`scan` takes the inbox's folder and gives a Listing of candidate captures, judged by name and stat
alone; `read_once` gives a file's bytes and digest. Knows nothing of sets, formats or time.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stackd.errors import SetError
from stackd.records import Sighting

CAPTURE_SUFFIXES = frozenset({".fit", ".fits", ".fts", ".tif", ".tiff", ".png", ".jpg", ".jpeg"})
CALIBRATION_FOLDERS = frozenset({"darks", "flats", "biases"})

# Unfinished copies of browsers, Syncthing and live stackers; ASTAP ends the names of used files with "_".
_TEMPORARY_BEGINNINGS = ("~", "tmp")
_COPY_ENDINGS = (".part", ".partial", ".crdownload", ".tmp", ".temp", ".filepart", ".swp")
_TEMPORARY_ENDINGS = ("_", "~", *_COPY_ENDINGS)
_FOREIGN_SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "@eadir", "lost+found"})
_MIB = 1 << 20


class Unfinished(SetError):
    """The file is shorter than it says, or changes under our eyes: it may still be arriving."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something in the inbox that is no capture. `path` is printable (escaped where it was not)."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """One look at the inbox. All tuples are sorted by path."""

    sightings: tuple[Sighting, ...] = ()  # candidates: files "a.fits" and files of direct sub-folders "M31/a.fits"
    empty_folders: tuple[str, ...] = ()  # direct sub-folders without any candidate
    ignored: tuple[Ignored, ...] = ()  # hidden and system names are left out silently, everything else is named


def scan(inbox: Path) -> Listing:
    """What lies in the inbox now: its files and those of its direct sub-folders.

    Follows no symbolic link. A file or folder that vanishes meanwhile is simply not there; any
    other OSError (the inbox itself missing, a mount gone) reaches the caller, who must then keep
    what is known and not take the files for deleted.
    """
    sightings: list[Sighting] = []
    ignored: list[Ignored] = []
    empty: list[str] = []
    for entry, path in _entries(inbox, "", ignored):
        if not entry.is_dir(follow_symlinks=False):
            _judge(entry, path, sightings, ignored)
            continue
        if entry.name.lower() in CALIBRATION_FOLDERS or entry.name.lower().endswith(_COPY_ENDINGS):
            ignored.append(Ignored(path, _why_not_entered(entry.name)))
            continue
        before = len(sightings)
        for inner, inner_path in _entries(inbox / entry.name, f"{entry.name}/", ignored):
            if inner.is_dir(follow_symlinks=False):
                ignored.append(Ignored(inner_path, _why_not_entered(inner.name)))
            else:
                _judge(inner, inner_path, sightings, ignored)
        if len(sightings) == before:
            empty.append(path)
    return Listing(
        tuple(sorted(sightings, key=lambda sighting: sighting.path)),
        tuple(sorted(empty)),
        tuple(sorted(ignored, key=lambda one: one.path)),
    )


@contextmanager
def open_safely(path: Path, max_bytes: int) -> Iterator[BinaryIO]:
    """A regular file open for reading: never through a link, never waiting for a pipe's other end.

    Raises SetError for anything but a regular file and for one larger than `max_bytes`; OSError
    where the disk itself fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SetError("is a symbolic link", file=str(path), remedy="put the file itself there") from error
        if error.errno == errno.ENXIO:
            raise SetError("is not a regular file", file=str(path), remedy="remove it") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SetError("is not a regular file", file=str(path), remedy="remove it")
        if status.st_size > max_bytes:
            sizes = f"{status.st_size / _MIB:.0f} MB, allowed are {max_bytes / _MIB:.0f} MB"
            raise SetError(f"is too large ({sizes})", file=str(path), remedy="raise limits.max_file_mb or remove it")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_once(path: Path, max_bytes: int) -> tuple[bytes, str]:
    """A regular file's bytes and their sha256 (hex), read in one go.

    Raises what `open_safely` does, and Unfinished for a file that changed while it was read.
    """
    with open_safely(path, max_bytes) as file:
        before = os.fstat(file.fileno())
        content = file.read(before.st_size + 1)
        after = os.fstat(file.fileno())
    if len(content) != before.st_size or _identity(before) != _identity(after):
        raise Unfinished("changed while it was read", file=str(path), remedy="wait until it is written")
    return content, hashlib.sha256(content).hexdigest()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _entries(folder: Path, prefix: str, ignored: list[Ignored]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Entries with a usable, visible name; sub-folders that vanish are skipped, the inbox itself not."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except (FileNotFoundError, PermissionError) as error:
        if not prefix:
            raise
        if isinstance(error, PermissionError):
            ignored.append(Ignored(prefix.rstrip("/"), "stackd may not look into this folder; give it read permission"))
        return
    for entry in found:
        if entry.name.startswith(".") or entry.name.lower() in _FOREIGN_SYSTEM_NAMES:
            continue
        path = prefix + entry.name
        if entry.name.isprintable():
            yield entry, path
        else:
            ignored.append(Ignored(ascii(path)[1:-1], "the name holds unprintable characters; rename it"))


def _judge(entry: os.DirEntry[str], path: str, sightings: list[Sighting], ignored: list[Ignored]) -> None:
    """Put a non-folder entry where it belongs."""
    reason = _why_not_a_capture(entry.name)
    if not reason:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        reason = _why_not_regular(status.st_mode)
    if reason:
        ignored.append(Ignored(path, reason))
    else:
        sightings.append(Sighting(path, status.st_size, status.st_mtime_ns, status.st_ino))


def _why_not_a_capture(name: str) -> str:
    lowered = name.lower()
    if lowered.startswith(_TEMPORARY_BEGINNINGS) or lowered.endswith(_TEMPORARY_ENDINGS):
        return "a name of unfinished copies"
    _, dot, suffix = lowered.rpartition(".")
    return "" if dot + suffix in CAPTURE_SUFFIXES else "not a format that stackd reads (FITS, TIFF, PNG, JPEG)"


def _why_not_regular(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    return "a symbolic link; put the file itself there" if stat.S_ISLNK(mode) else "not a regular file"


def _why_not_entered(name: str) -> str:
    if name.lower() in CALIBRATION_FOLDERS:
        return "calibration frames, which are not part of the set"
    if name.lower().endswith(_COPY_ENDINGS):
        return "a name of unfinished copies"
    return "a folder inside a set's folder; frames lie directly in the set's folder"
