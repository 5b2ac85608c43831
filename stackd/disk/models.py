"""The model store: models/<name>/<version>/{weights.safetensors, card.json}, and which one is current.

Publishes, lists, promotes, rolls back and prunes versions; where the store has none of a name, the
model shipped with the package serves. What is inside a version and whether it can be trusted is
weights.py's to say. Knows no network and no settings.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stackd.disk.weights import CARD, WEIGHTS, Weights, read_card, read_weights, write_version
from stackd.errors import ModelError

SHIPPED = Path(__file__).resolve().parents[1] / "shipped"  # package data: one folder a model name
POINTER = "current.json"  # {"current": version or null, "before": [older ones]}; null: the shipped model
UNFINISHED = ".tmp"
LEFTOVER_S = 86_400
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

    Reads the card alone; `verify` and `load_weights` look at the weights.
    """
    name, at, version = wanted.partition("@")
    _check_name(name)
    current = _pointer(store, name)["current"]
    if not at and current is None:
        return _shipped(store, name)
    version = version if at else current
    folder = store / name / version
    if NAME.fullmatch(version) and folder.is_dir():
        return replace(at_path(folder), name=name, version=version, current=version == current)
    if (SHIPPED / name / CARD).is_file() and version == _shipped(store, name).version:
        return _shipped(store, name)
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
        for version in () if at else reversed(_pointer(store, name)["before"]):
            with suppress(ModelError):
                yield _shipped(store, name) if version is None else resolve(store, f"{name}@{version}")


def files_seen(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Size and time of change (ns) of a version's files, None for one that is not there: another when mended."""
    return tuple(_seen(folder / file) for file in (CARD, WEIGHTS))


def list_versions(store: Path) -> list[ModelVersion]:
    """All versions of all models, shipped ones too, by name and age (oldest first).

    A version whose card cannot be read is listed with an empty sha256; `verify` says what is wrong.
    """
    names = {folder.name for root in (SHIPPED, store) if root.is_dir() for folder in root.iterdir() if folder.is_dir()}
    versions = []
    for name in sorted(name for name in names if NAME.fullmatch(name)):
        if (SHIPPED / name / CARD).is_file():
            versions.append(replace(_shipped(store, name), current=_pointer(store, name)["current"] is None))
        versions += _stored(store, name)
    return versions


def load_weights(version: ModelVersion) -> tuple[dict[str, Any], Weights]:
    """(card, arrays by variable path), checked: digest, length, names, shapes, dtypes, finite. Raises ModelError."""
    card = read_card(version.path)
    if version.sha256 and card["sha256"] != version.sha256:
        raise ModelError(f"{version.path / CARD}: the model was exchanged while it was being opened; start again")
    return card, read_weights(version.path, card)


def verify(version: ModelVersion) -> None:
    """Raise ModelError with the reason if `version` could not be loaded."""
    load_weights(version)


def publish(store: Path, name: str, weights: Weights, card: dict[str, Any], at: datetime | None = None) -> ModelVersion:
    """Put a new version into the store by one rename. It is not made current: `promote` does that.

    `card` tells what the model is (architecture, settings, data, seed, commit, scores); name, version,
    sha256 and the list of arrays are filled in here. `at` (default: now) names the version.
    Raises ModelError for weights that could never be loaded again or where the disk refuses.
    """
    _check_name(name)
    stamp = (at or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    unfinished = store / UNFINISHED / f"{name}-{stamp}-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        version = write_version(unfinished, name, stamp, weights, card)
        final = store / name / version
        if final.exists():
            raise ModelError(f"{final}: exists already; a version is never overwritten")
        final.parent.mkdir(exist_ok=True)
        unfinished.rename(final)
        _sync_folder(final.parent)
        _sync_folder(store)
    except OSError as error:
        raise ModelError(f"{store}: model {name!r} could not be stored: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return at_path(final)


def promote(store: Path, wanted: str) -> ModelVersion:
    """Make "NAME@VERSION" the current one of its name, once it has been verified. Raises ModelError."""
    name, _, version = wanted.partition("@")
    if not version:
        raise ModelError(f"{wanted!r} names no version; write {name}@VERSION (`stackd models list` shows them)")
    chosen = resolve(store, wanted)
    verify(chosen)
    pointer = _pointer(store, name)
    target = None if chosen.shipped else version
    if pointer["current"] != target:
        _write_pointer(store, name, target, [*pointer["before"], pointer["current"]])
    return replace(chosen, current=True)


def rollback(store: Path, name: str) -> ModelVersion:
    """Back to what was current before the last promotion, in the end the shipped model.

    Versions removed since or no longer loadable are passed over. Raises ModelError if none is left.
    """
    _check_name(name)
    before = list(_pointer(store, name)["before"])
    while before:
        version = before.pop()
        try:
            chosen = _shipped(store, name) if version is None else resolve(store, f"{name}@{version}")
            verify(chosen)
        except ModelError:
            continue  # not an answer to the question; the next older one may be
        _write_pointer(store, name, version, before)
        return replace(chosen, current=True)
    raise ModelError(f"{store / name}: no earlier version of model {name!r} to go back to")


def prune(store: Path, name: str, keep: int) -> list[ModelVersion]:
    """Remove all but the newest `keep` versions and the current one; returns what was removed.

    What an interrupted `publish` left behind goes too, once it is a day old.
    """
    _check_name(name)
    for leftover in (store / UNFINISHED).glob("*"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
            shutil.rmtree(leftover)
    old = [version for version in _stored(store, name)[: -max(keep, 1)] if not version.current]
    for version in old:
        doomed = store / UNFINISHED / f"{name}-{version.version}-removed-{os.getpid()}"
        doomed.parent.mkdir(exist_ok=True)
        version.path.rename(doomed)  # gone from the store in one step, whatever happens to the rest
        shutil.rmtree(doomed)
    return old


def _seen(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ModelError(f"{name!r} is no model name; use letters, digits, '.', '_' and '-'")


def _shipped(store: Path, name: str) -> ModelVersion:
    if not (SHIPPED / name / CARD).is_file():
        what = "has no current version" if (store / name).is_dir() else "is neither in the store nor shipped"
        raise ModelError(f"{store}: model {name!r} {what}; `stackd models list` shows those there are")
    return replace(at_path(SHIPPED / name), current=_pointer(store, name)["current"] is None)


def _stored(store: Path, name: str) -> list[ModelVersion]:
    folder = store / name
    current = _pointer(store, name)["current"]
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


def _pointer(store: Path, name: str) -> dict[str, Any]:
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


def _write_pointer(store: Path, name: str, current: str | None, before: list[str | None]) -> None:
    """Swap the pointer in one step: a reader sees the old one or the new one, also after a power cut."""
    folder = store / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{POINTER}.{os.getpid()}"
        with fresh.open("w", encoding="utf-8") as stream:
            json.dump({"current": current, "before": before}, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(folder / POINTER)
        _sync_folder(folder)
    except OSError as error:
        raise ModelError(f"{folder / POINTER}: could not be written: {error}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
