"""A training run's state on disk: one file, replaced by rename, so that a kill leaves the old or the new one."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackd.disk.durable import durable
from stackd.errors import ConfigError, ModelError

NAME = "checkpoint.npz"
SPOILT = "checkpoint.spoilt.npz"

State = dict[str, NDArray[Any]]


def save(folder: Path, state: State) -> None:
    """Write the state into `folder` (made if missing)."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{NAME}.tmp"
    with durable(unfinished) as file:
        np.savez(file, **state)
    unfinished.replace(folder / NAME)


def load(folder: Path) -> State:
    """The last saved state. Raises ConfigError where there is none, ModelError where it cannot be read."""
    path = folder / NAME
    if not path.is_file():
        raise ConfigError(f"{path}: no interrupted training to resume; start without --resume")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"it is damaged: {error}") from error


def put_aside(folder: Path) -> None:
    """Keep the state, if there is one, under another name, from which no run goes on by itself."""
    if (folder / NAME).exists():
        (folder / NAME).replace(folder / SPOILT)


def remove(folder: Path) -> None:
    """Forget a run that has ended."""
    (folder / NAME).unlink(missing_ok=True)
