"""What lies in the inbox: I look, I never touch; each file is opened safely and read once.

`scan` takes the inbox's folder and gives a Listing of candidate captures, judged by name and stat
alone; `read_once` gives a file's bytes and digest. Knows nothing of sets, formats or time.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, TypeVar

from stackd.errors import SetError
from stackd.records import Sighting

RAW_SUFFIXES = frozenset(
    {".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".orf", ".rw2", ".raf", ".pef", ".mrw"}
)
TWIN_SUFFIXES = frozenset({".jpg", ".jpeg"})  # of what a camera saves beside a raw file
CAPTURE_SUFFIXES = RAW_SUFFIXES | {".fit", ".fits", ".fts", ".tif", ".tiff", ".png", ".jpg", ".jpeg"}
CALIBRATION_FOLDERS = {  # in small letters -> what lies in them; flats have darks of their own length
    "darks": "dark", "dark": "dark", "flatdarks": "dark", "darkflats": "dark",
    "flats": "flat", "flat": "flat", "biases": "bias", "bias": "bias",
}  # fmt: skip

# Unfinished copies of browsers, Syncthing and live stackers; ASTAP ends the names of used files with "_".
_TEMPORARY_BEGINNINGS = ("~", "tmp")
_COPY_ENDINGS = (".part", ".partial", ".crdownload", ".tmp", ".temp", ".filepart", ".swp")
_TEMPORARY_ENDINGS = ("_", "~", *_COPY_ENDINGS)
_FOREIGN_SYSTEM_NAMES = frozenset({"thumbs.db", "desktop.ini", "@eadir", "lost+found"})
# A name that needs no closer look, so that an inbox of ten thousand frames is seen in well below 0.1 s.
_PLAIN_CAPTURE = re.compile(r"(?!tmp)[a-z0-9_][ -~]*\.(?:fits?|fts|tiff?|png|jpe?g)", re.IGNORECASE | re.ASCII)
_MIB = 1 << 20
T = TypeVar("T", Sighting, "Ignored")


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
    calibration: tuple[Sighting, ...] = ()  # files "darks/a.fits", for all sets, and "M31/darks/a.fits", for M31's own
    ignored: tuple[Ignored, ...] = ()  # hidden and system names are left out silently, everything else is named


def scan(inbox: Path) -> Listing:
    """What lies in the inbox now: its files and those of its direct sub-folders.

    Follows no symbolic link. A file or folder that vanishes meanwhile is simply not there; any
    other OSError (the inbox itself missing, a mount gone) reaches the caller, who must then keep
    what is known and not take the files for deleted.
    """
    sightings: list[Sighting] = []
    calibration: list[Sighting] = []
    ignored: list[Ignored] = []
    empty: list[str] = []
    for folder in _look_into(inbox, "", sightings, ignored):
        if _calibrates(folder):
            calibration += _calibration_in(inbox, folder, ignored)
        elif reason := _why_not_entered(folder):
            ignored.append(Ignored(folder, reason))
        else:
            before = len(sightings)
            calibration += _look_into_set(inbox, folder, sightings, ignored)
            if len(sightings) == before:
                empty.append(folder)
    return Listing(
        _sorted(_without_twins(sightings, ignored)),
        tuple(sorted(empty)),
        _sorted(_without_twins(calibration, ignored)),
        _sorted(ignored),
    )


def own_calibration(inbox: Path, folder: str) -> tuple[Sighting, ...]:
    """The darks, flats and biases that lie in a set's folder now, as `scan` lists them. Raises OSError."""
    return _sorted(_without_twins(_look_into_set(inbox, folder, [], []), []))


def is_calibration(path: str) -> bool:
    """Whether a path in the inbox lies in a folder of darks, flats or biases."""
    return _calibrates(path.rpartition("/")[0].rpartition("/")[2])


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


def _look_into(folder: Path, prefix: str, sightings: list[Sighting], ignored: list[Ignored]) -> list[str]:
    """Put each file where it belongs; gives the names of the folders in it, but for hidden and system ones.

    A sub-folder that vanishes is empty; the inbox itself must be there.
    """
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if not (plain := _PLAIN_CAPTURE.fullmatch(name)) and not _is_usable(name, prefix, ignored):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif (status := _status(entry)) is None:
                    continue
                elif plain and stat.S_ISREG(status.st_mode):
                    sightings.append(Sighting(prefix + name, status.st_size, status.st_mtime_ns, status.st_ino))
                else:
                    _judge(prefix, name, status, sightings, ignored)
    except (FileNotFoundError, PermissionError) as error:
        if not prefix:
            raise
        if isinstance(error, PermissionError):
            ignored.append(Ignored(prefix.rstrip("/"), "stackd may not look into this folder; give it read permission"))
    return folders


def _look_into_set(inbox: Path, folder: str, sightings: list[Sighting], ignored: list[Ignored]) -> list[Sighting]:
    """Put the files of a set's folder where they belong; gives its calibration frames."""
    calibration: list[Sighting] = []
    for inner in _look_into(inbox / folder, f"{folder}/", sightings, ignored):
        if _calibrates(inner):
            calibration += _calibration_in(inbox, f"{folder}/{inner}", ignored)
        else:
            reason = _why_not_entered(inner) or "a folder inside a set's folder; frames lie directly in it"
            ignored.append(Ignored(f"{folder}/{inner}", reason))
    return calibration


def _calibration_in(inbox: Path, folder: str, ignored: list[Ignored]) -> list[Sighting]:
    found: list[Sighting] = []
    folders = _look_into(inbox / folder, f"{folder}/", found, ignored)
    reason = "a folder inside calibration frames, which lie directly in theirs"
    ignored += [Ignored(f"{folder}/{inner}", reason) for inner in folders]
    return found


def _calibrates(folder: str) -> bool:
    return folder.lower() in CALIBRATION_FOLDERS


def _sorted(found: Iterable[T]) -> tuple[T, ...]:
    return tuple(sorted(found, key=attrgetter("path")))


def _without_twins(sightings: list[Sighting], ignored: list[Ignored]) -> list[Sighting]:
    """Less the pictures that a camera saves beside its raw files, which would not agree with them."""
    raws = {stem.lower() for stem, suffix in map(_parted, sightings) if suffix in RAW_SUFFIXES}
    twins = {s.path for s in sightings if raws and _parted(s)[1] in TWIN_SUFFIXES and _parted(s)[0].lower() in raws}
    ignored += [Ignored(path, "the camera's own picture of the raw file beside it") for path in twins]
    return [sighting for sighting in sightings if sighting.path not in twins]


def _parted(sighting: Sighting) -> tuple[str, str]:
    """A path without its suffix, and that in small letters."""
    stem, dot, suffix = sighting.path.rpartition(".")
    return stem, (dot + suffix).lower()


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None where the file is gone by now."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_usable(name: str, prefix: str, ignored: list[Ignored]) -> bool:
    """Whether a person gave the name; one that no terminal can show is named, escaped."""
    if name.startswith(".") or name.lower() in _FOREIGN_SYSTEM_NAMES:
        return False
    if not name.isprintable():
        ignored.append(Ignored(ascii(prefix + name)[1:-1], "the name holds unprintable characters; rename it"))
        return False
    return True


def _judge(prefix: str, name: str, status: os.stat_result, sightings: list[Sighting], ignored: list[Ignored]) -> None:
    """What a file is comes before what it is called."""
    reason = _why_not_regular(status.st_mode) or _why_not_a_capture(name)
    if reason:
        ignored.append(Ignored(prefix + name, reason))
    else:
        sightings.append(Sighting(prefix + name, status.st_size, status.st_mtime_ns, status.st_ino))


def _why_not_regular(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISLNK(mode):
        return "a symbolic link; put the file itself there"
    kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return f"{kind}, not a file of pixels; remove it"


def _why_not_a_capture(name: str) -> str:
    lowered = name.lower()
    if lowered.startswith(_TEMPORARY_BEGINNINGS) or lowered.endswith(_TEMPORARY_ENDINGS):
        return "a name of unfinished copies"
    _, dot, suffix = lowered.rpartition(".")
    return "" if dot + suffix in CAPTURE_SUFFIXES else "not a format that stackd reads (FITS, TIFF, PNG, JPEG, raw)"


def _why_not_entered(name: str) -> str:
    return "a name of unfinished copies" if name.lower().endswith(_COPY_ENDINGS) else ""
