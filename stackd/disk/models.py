"""The model store, looked at: models/<name>/<version>/{weights.safetensors, card.json}, and which one is current.

Where the store has none of a name, the model shipped with the package serves. Reads cards and the pointer alone, so
the supervisor may ask; what changes the store is model_store.py's. Knows no network and no settings.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stackd.disk.model_card import CARD, WEIGHTS, read_card
from stackd.errors import ModelError

SHIPPED = Path(__file__).resolve().parents[1] / "shipped"  # package data: one folder a model name
POINTER = "current.json"  # {"current": version or null, "before": [older ones]}; null: the shipped model
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model on disk."""

    name: str
    version: str
    path: Path  # its folder
    sha256: str  # of the weight file, as its card says
    current: bool = False  # resolve(store, name) gives this one
    shipped: bool = False  # came with the package, not from the store


def resolve(store: Path, wanted: str) -> ModelVersion:
    """The version that "NAME" (its current one) or "NAME@VERSION" means. Raises ModelError.

    Reads the card alone; model_store.py looks at the weights.
    """
    name, at, version = wanted.partition("@")
    check_name(name)
    current = read_pointer(store, name)["current"]
    if not at and current is None:
        return shipped(store, name)
    version = version if at else current
    folder = store / name / version
    if NAME.fullmatch(version) and folder.is_dir():
        return replace(at_path(folder), name=name, version=version, current=version == current)
    if (SHIPPED / name / CARD).is_file() and version == shipped(store, name).version:
        return shipped(store, name)
    raise ModelError(f"{folder}: no such version of model {name!r}; `stackd models list` shows those there are")


def at_path(folder: Path) -> ModelVersion:
    """The version that lies in `folder`, as a job names it. Raises ModelError.

    Its name and version are its card's, as the store says nothing about a folder elsewhere.
    """
    card = read_card(folder)
    return ModelVersion(card["name"], card["version"], folder, card["sha256"], shipped=folder.parent == SHIPPED)


def earlier(store: Path, wanted: str) -> Iterator[ModelVersion]:
    """What was current of a NAME before, latest first; nothing for NAME@VERSION, which means that one alone.

    Those that cannot be used are left out. Never raises.
    """
    name, at, _ = wanted.partition("@")
    with suppress(ModelError):
        for version in () if at else reversed(read_pointer(store, name)["before"]):
            with suppress(ModelError):
                yield shipped(store, name) if version is None else resolve(store, f"{name}@{version}")


def files_seen(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Size and time of change (ns) of a version's files, None for one that is not there: another when mended."""
    return tuple(_seen(folder / file) for file in (CARD, WEIGHTS))


def list_versions(store: Path) -> list[ModelVersion]:
    """All versions of all models, shipped ones too, by name and age (oldest first).

    A version whose card cannot be read is listed with an empty sha256; model_store.verify says what is wrong.
    """
    names = {folder.name for root in (SHIPPED, store) if root.is_dir() for folder in root.iterdir() if folder.is_dir()}
    versions = []
    for name in sorted(name for name in names if NAME.fullmatch(name)):
        if (SHIPPED / name / CARD).is_file():
            versions.append(replace(shipped(store, name), current=read_pointer(store, name)["current"] is None))
        versions += stored(store, name)
    return versions


def _seen(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def check_name(name: str) -> None:
    """Raise ModelError for what cannot be a folder in the store."""
    if not NAME.fullmatch(name):
        raise ModelError(f"{name!r} is no model name; use letters, digits, '.', '_' and '-'")


def shipped(store: Path, name: str) -> ModelVersion:
    """The version of a name that came with the package. Raises ModelError."""
    if not (SHIPPED / name / CARD).is_file():
        what = "has no current version" if (store / name).is_dir() else "is neither in the store nor shipped"
        raise ModelError(f"{store}: model {name!r} {what}; `stackd models list` shows those there are")
    return replace(at_path(SHIPPED / name), current=read_pointer(store, name)["current"] is None)


def stored(store: Path, name: str) -> list[ModelVersion]:
    """The versions of a name that are in the store, oldest first. Raises ModelError."""
    folder = store / name
    current = read_pointer(store, name)["current"]
    found = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    return [
        ModelVersion(name, entry.name, entry, _sha256_of(entry), current=entry.name == current)
        for entry in found
        if NAME.fullmatch(entry.name)
    ]


def _sha256_of(folder: Path) -> str:
    try:
        return read_card(folder)["sha256"]
    except ModelError:
        return ""


def read_pointer(store: Path, name: str) -> dict[str, Any]:
    """Which version of a name is `current`, and which were `before`, oldest first; None is the shipped one.

    Raises ModelError.
    """
    path = store / name / POINTER
    try:
        pointer = json.loads(path.read_text("utf-8"))
        current, before = pointer["current"], pointer["before"]
        if not all(version is None or isinstance(version, str) for version in [current, *before]):
            raise TypeError("versions must be names")
    except FileNotFoundError:
        return {"current": None, "before": []}
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "delete that file and promote a version"
        raise ModelError(f"{path}: does not say which version is current ({error}); {remedy}") from None
    return {"current": current, "before": before}
