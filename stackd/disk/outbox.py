"""A finished set appears in the outbox by one rename, whole and on the disk, or not at all.

Staging folders, publication, the manifests that prove what is finished, quarantine's error.json and
the archive of used frames. Never overwrites, never deletes what it did not make. Knows no ledger.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from stackd.disk.durable import durable, sync
from stackd.errors import OutputError
from stackd.records import Sighting

STAGING = ".stackd-tmp"
MANIFEST = "result.json"
REPORT = "error.json"
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})
_FRAME_KEYS = frozenset({"path", "size_bytes", "mtime_ns"})
_JOB_KEYS = frozenset({"set", "identity", "digest", "attempt", "frames"})
_REPORT_KEYS = frozenset({"set", "identity", "attempts", "reason", "file", "remedy", "frames"})
_MIB = 1 << 20
_PIECE_BYTES = 16 * _MIB  # of a copy to another disk, between two calls of `on_step`


def make_staging(outbox: Path, set_name: str, attempt: int) -> Path:
    """An empty folder for one attempt's files, on the outbox's own file system. Raises OSError.

    There is one attempt at a time: what a disk that refused kept of an earlier one goes now.
    """
    staging = _inside(outbox / STAGING, f"{set_name}.{attempt}")
    sweep(outbox)
    staging.parent.mkdir(exist_ok=True)  # the outbox itself is not made here: its mount may be gone
    staging.mkdir()
    return staging


def drop_staging(staging: Path) -> None:
    """Remove one attempt's files, whatever they are; a folder that is gone already is as good."""
    shutil.rmtree(staging, ignore_errors=True)


def sweep(outbox: Path) -> list[str]:
    """Remove what a crash left of unfinished attempts; gives their names."""
    folder = outbox / STAGING
    left = sorted(os.listdir(folder)) if folder.is_dir() else []
    for name in left:
        shutil.rmtree(folder / name)
    return left


def write_manifest(staging: Path, content: dict[str, Any]) -> None:
    """Write result.json, the proof that the set is done."""
    _write_json(staging / MANIFEST, content)


def publish(staging: Path, outbox: Path, set_name: str) -> Path:
    """Make a staged set durable and visible under its name, or the next free `<name>__r2`, `__r3` ...

    One rename of the folder: nobody sees half a set, and a folder that is there stays as it is.
    Raises OSError; the set is then not published, or it is and `find_published` will tell.
    """
    sync_tree(staging)
    for target in _names(outbox, set_name):
        if os.path.lexists(target):
            continue
        try:
            staging.rename(target)
        except OSError as error:
            if error.errno in _TAKEN:
                continue
            raise
        sync(outbox / STAGING)
        sync(outbox)
        return target
    raise AssertionError("names never run out")


def place(staging: Path, target: Path) -> None:
    """Make a finished result durable and visible as `target`, which is missing or empty. Raises OSError."""
    sync_tree(staging)
    staging.rename(target)
    sync(target.parent)


def find_published(outbox: Path, set_name: str, identity: str) -> tuple[Path, dict[str, Any]] | None:
    """Folder and manifest of a set that is in the outbox already, or None."""
    for folder in _names(outbox, set_name):
        if not os.path.lexists(folder):
            return None
        manifest = read_manifest(folder)
        if manifest and manifest["job"]["identity"] == identity:
            return folder, manifest
    return None


def published_folders(outbox: Path) -> list[Path]:
    """Folders in the outbox that may hold a finished set, by name."""
    with os.scandir(outbox) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
    return [outbox / name for name in sorted(names)]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A finished set's result.json with its `job` block, or None where there is no such thing."""
    content = _read_json(folder / MANIFEST)
    return content if content and _is_record(content.get("job"), _JOB_KEYS) else None


def write_report(quarantine: Path, set_name: str, content: dict[str, Any]) -> Path:
    """Write quarantine/<set>/error.json, replacing an earlier one in one step. Raises OSError."""
    folder = _inside(quarantine, set_name)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{REPORT}.tmp"
    _write_json(unfinished, content)
    unfinished.replace(folder / REPORT)
    sync(folder)
    sync(quarantine)
    return folder / REPORT


def reports(quarantine: Path) -> Iterator[dict[str, Any]]:
    """The content of every error.json."""
    for folder in sorted(quarantine.iterdir()) if quarantine.is_dir() else []:
        content = _read_json(folder / REPORT)
        if _is_record(content, _REPORT_KEYS):
            yield content


def clear_report(quarantine: Path, set_name: str) -> None:
    """Remove a set's error.json, and its folder unless somebody put something there."""
    folder = _inside(quarantine, set_name)
    if not os.path.lexists(folder):
        return  # asked before each set: a quarantine that cannot be written now must not hinder it
    try:
        (folder / REPORT).unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    except NotADirectoryError:
        return


def free_mb(folder: Path) -> float:
    """Space left for us on a folder's file system, MiB. Raises OSError where it is gone."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize / _MIB


def archive_frames(
    inbox: Path, archive: Path, folder_name: str, frames: Sequence[Sighting], on_step: Callable[[], None]
) -> list[str]:
    """Move a finished set's frames to archive/<folder_name>/; gives what was left where it is, and why.

    A frame that changed since, or whose place is taken, is not touched. `on_step` is called often: it may be gigabytes,
    and another disk. Raises OSError.
    """
    folder = _inside(archive, folder_name)
    folder.mkdir(parents=True, exist_ok=True)
    left = []
    for frame in frames:
        source, target = inbox / frame.path, folder / frame.path.rpartition("/")[2]
        if not os.path.lexists(source):
            continue
        if changed_frames(inbox, [frame]):
            left.append(f"{frame.path}: changed since it was used")
        elif os.path.lexists(target):
            left.append(f"{frame.path}: {target} is taken")
        else:
            _move(source, target, on_step)
        on_step()
    sync(folder)
    return left


def remove_empty(folder: Path, unchanged_since_s: float) -> bool:
    """Remove an empty folder that nobody has touched since (Unix time); whether it went.

    Tidiness alone: what does not let itself be removed, a hidden file in it or a disk that refuses, stays.
    """
    try:
        if folder.lstat().st_mtime > unchanged_since_s:
            return False
        folder.rmdir()
    except OSError:
        return False
    return True


def changed_frames(inbox: Path, frames: Iterable[Sighting]) -> list[str]:
    """Frames that lie there otherwise than they were seen; those that are gone do not count."""
    changed = []
    for frame in frames:
        try:
            status = os.lstat(inbox / frame.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if (status.st_size, status.st_mtime_ns) != (frame.size_bytes, frame.mtime_ns):
            changed.append(frame.path)
    return changed


def missing_frames(inbox: Path, frames: Iterable[Sighting]) -> list[str]:
    """Frames that are gone."""
    return [frame.path for frame in frames if not os.path.lexists(inbox / frame.path)]


def as_output_error(error: OSError) -> OutputError:
    """The same trouble in words for people."""
    what_to_do = "free some space there" if error.errno in NO_SPACE else "check that the disk is there and writable"
    return OutputError(f"{error.filename or 'the outbox'}: cannot be written: {error.strerror or error} ({what_to_do})")


def _names(parent: Path, name: str) -> Iterator[Path]:
    first = _inside(parent, name)
    yield first
    for number in count(2):
        yield first.with_name(f"{name}__r{number}")


def _inside(parent: Path, name: str) -> Path:
    """A child of `parent`: names are made elsewhere from what users wrote, so look once more."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name for a set's folder")
    return parent / name


def _move(source: Path, target: Path, on_step: Callable[[], None]) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        unfinished = target.with_name(f".{target.name}.tmp")
        _copy(source, unfinished, on_step)
        unfinished.rename(target)
        sync(target.parent)
        try:
            source.unlink()
        except OSError:
            target.unlink()  # the inbox lets nothing go: a frame lies in one place
            raise


def _copy(source: Path, target: Path, on_step: Callable[[], None]) -> None:
    """Each piece is on the disk before the next, so that not all of a giant is waited for at the end."""
    with source.open("rb") as old, target.open("wb") as new:
        while piece := old.read(_PIECE_BYTES):
            new.write(piece)
            new.flush()
            os.fdatasync(new.fileno())
            on_step()
    shutil.copystat(source, target)
    sync(target)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with durable(path, "w") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None for anything else, as people put all sorts of files there."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _is_record(content: Any, keys: frozenset[str]) -> bool:
    """Whether this was written here: all keys, and frames with all of theirs."""
    return (
        isinstance(content, dict)
        and keys <= content.keys()
        and isinstance(content["frames"], list)
        and all(isinstance(frame, dict) and frame.keys() >= _FRAME_KEYS for frame in content["frames"])
    )


def sync_tree(folder: Path) -> None:
    """Bring all files of a folder, and their names, to the disk. Raises OSError."""
    for parent, _, files in os.walk(folder, topdown=False):
        for file in files:
            sync(Path(parent, file))
        sync(Path(parent))
