"""One stackd a state folder and one an outbox: two would do the same sets, or sweep away each other's unfinished ones.

Takes the folders; the kernel lets go of a lock however its holder ends. The state has to lie where a lock means
something, on a local disk; an outbox may lie anywhere.
"""

import fcntl
import os
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

from stackd.errors import ConfigError, InstanceError

LOCK_NAME = "lock"
OUTBOX_LOCK_NAME = ".stackd-lock"  # people look into the outbox
ADVICE = "stop it first, or give the second one a folders.state, folders.outbox and folders.inbox of its own"
PATIENCE_S = 1.0  # with whoever holds the lock
RETRY_S = 0.05
NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.rclone", "ceph"})


class Lock:
    """The one instance's hold on a folder; the kernel lets go of it however the process ends."""

    def __init__(self, folder: Path, name: str = LOCK_NAME, patience_s: float = PATIENCE_S) -> None:
        """Raises InstanceError if another stackd holds it all that time, OSError where the disk knows no locks."""
        self._file = _opened(folder / name)
        try:
            if not self._taken(time.monotonic() + patience_s):
                self._file.seek(0)
                holder = self._file.read().decode(errors="replace").strip() or "?"
                raise InstanceError(f"{folder}: another stackd (process {holder}) is at work in this folder; {ADVICE}")
        except BaseException:
            self._file.close()
            raise
        with suppress(OSError):  # a full disk, another user's file: then nobody is told who holds it
            (folder / name).write_text(f"{os.getpid()}\n")

    def _taken(self, until_s: float) -> bool:
        """Whether the kernel gave us the lock; who only asks `is_held` has it for a moment and keeps nobody out."""
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    return False
                time.sleep(RETRY_S)
            else:
                return True

    def release(self) -> None:
        """Let the next one in."""
        self._file.close()


def lock_state(state: Path) -> Lock:
    """Raises InstanceError if another stackd holds it, ConfigError where a lock means nothing."""
    kind = filesystem_of(state)
    if kind in NETWORK_FILESYSTEMS:
        raise ConfigError(f"{state}: folders.state lies on {kind}, a network disk; name a folder on a local one")
    return Lock(state)


def lock_outbox(outbox: Path) -> Lock:
    """Raises InstanceError if another stackd holds it, OSError where it cannot be locked, as on some network disks."""
    return Lock(outbox, OUTBOX_LOCK_NAME)


def is_held(state: Path) -> bool:
    """Whether a stackd is at work on this state folder now."""
    try:
        with open(state / LOCK_NAME) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _opened(path: Path) -> FileIO:
    """For reading, which is enough to lock it: a disk on which a file is open for writing cannot be made read-only.

    Raises OSError.
    """
    if not path.exists():
        path.touch()
    return open(path, "rb", buffering=0)


def filesystem_of(folder: Path) -> str:
    """The kind of file system that a folder lies on ("ext4", "nfs4" ...), "" where it cannot be told."""
    best, kind = "", ""
    target = os.path.realpath(folder)
    with suppress(FileNotFoundError), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            point = before.split()[4].encode("latin-1", "replace").decode("unicode_escape")
            inside = target == point or target.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, after.split()[0]
    return kind
