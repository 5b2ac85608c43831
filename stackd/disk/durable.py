"""Writing that outlasts a power cut: what has returned from here is on the disk, not on its way there.

Knows single files and folders, not what they mean or which of them belong together.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def durable(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file open for writing (text as UTF-8) that is on the disk when the block ends without an error."""
    with path.open(mode, encoding=None if "b" in mode else "utf-8") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
