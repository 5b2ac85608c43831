"""One stackd a state folder, and only where a lock means something: on a local disk.

Takes the folder of the state; the kernel lets go of the lock however its holder ends.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from stackd.errors import ConfigError, InstanceError

LOCK_NAME = "lock"
PATIENCE_S = 1.0  # with whoever holds the lock
RETRY_S = 0.05
NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.rclone", "ceph"})


class Lock:
    """The one instance's hold on a state folder; the kernel lets go of it however the process ends."""

    def __init__(self, state: Path, patience_s: float = PATIENCE_S) -> None:
        """Raises InstanceError if another stackd holds it all that time, ConfigError where a lock means nothing."""
        kind = filesystem_of(state)
        if kind in NETWORK_FILESYSTEMS:
            raise ConfigError(f"{state}: folders.state lies on {kind}, a network disk; name a folder on a local one")
        self._file = open(state / LOCK_NAME, "a+")  # noqa: SIM115 - held until `release`
        if not self._taken(time.monotonic() + patience_s):
            self._file.seek(0)
            holder = self._file.read().strip() or "?"
            self._file.close()
            raise InstanceError(
                f"{state}: another stackd (process {holder}) is at work in this folder; "
                "stop it first, or name another one as folders.state"
            )
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

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
