"""The clean pictures of a training: those of a folder that can teach, decoded when asked for, split by picture.

Names what is left out in the log. Knows no network.
"""

import hashlib
from pathlib import Path

import numpy as np
from loguru import logger

from stackd.disk.gallery import find_pictures, read_picture, survey
from stackd.errors import ConfigError


class Pictures:
    """Pictures on disk as a sequence of arrays (h, w, 3) in 0..1, decoded when asked for: memory stays flat."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_picture(self.paths[index])

    def split(self, held_out_share: float) -> tuple["Pictures", "Pictures"]:
        """(to train on, held out): by the name's hash, so a picture stays on its side when others come or go; of two or
        more pictures at least one on either side."""
        ranked = sorted(self.paths, key=lambda path: rank(path.name))
        wanted = sum(rank(path.name) < held_out_share for path in ranked)
        held_out = ranked[: min(max(wanted, 1), max(len(ranked) - 1, 0))]
        return Pictures([p for p in self.paths if p not in set(held_out)]), Pictures(sorted(held_out))


def rank(name: str) -> float:
    """A place in 0..1 that depends on the name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def usable_pictures(folder: Path, *, least: int = 1) -> Pictures:
    """The pictures of a folder that can be trained on; the log names each that is left out, and why.

    Raises ConfigError where fewer than `least` are left.
    """
    gallery = survey(find_pictures(folder))
    for picture in gallery.left_out:
        logger.warning("{} is left out: {}", picture.path, picture.reason)
    if len(gallery.paths) < least:
        remedy = "name another folder, or train without --pictures" if least == 1 else f"at least {least} are needed"
        found = f"{len(gallery.paths)} usable pictures" if gallery.paths else "no usable picture in it"
        raise ConfigError(f"{folder}: {found}; {remedy}")
    return Pictures(list(gallery.paths))
