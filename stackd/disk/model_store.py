"""The model store, changed: versions are published, promoted, rolled back to and pruned, each by one rename.

What is inside a version and whether it can be trusted is weights.py's to say, which versions there are models.py's.
Knows no network and no settings.
"""

import json
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stackd.disk.durable import durable, sync
from stackd.disk.model_card import CARD, read_card
from stackd.disk.models import (
    POINTER,
    ModelVersion,
    at_path,
    check_name,
    earlier,
    read_pointer,
    resolve,
    shipped,
    stored,
)
from stackd.disk.weights import Weights, read_weights, write_version
from stackd.errors import ModelError

UNFINISHED = ".tmp"
LEFTOVER_S = 86_400


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
    check_name(name)
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
        sync(final.parent)
        sync(store)
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
    pointer = read_pointer(store, name)
    target = None if chosen.shipped else version
    if pointer["current"] != target:
        _write_pointer(store, name, target, [*pointer["before"], pointer["current"]])
    return replace(chosen, current=True)


def rollback(store: Path, name: str) -> ModelVersion:
    """Back to what was current before the last promotion, in the end the shipped model.

    Versions removed since or no longer loadable are passed over. Raises ModelError if none is left.
    """
    check_name(name)
    before = list(read_pointer(store, name)["before"])
    while before:
        version = before.pop()
        try:
            chosen = shipped(store, name) if version is None else resolve(store, f"{name}@{version}")
            verify(chosen)
        except ModelError:
            continue  # not an answer to the question; the next older one may be
        _write_pointer(store, name, version, before)
        return replace(chosen, current=True)
    raise ModelError(f"{store / name}: no earlier version of model {name!r} to go back to")


def prune(store: Path, name: str, keep: int, spared: Collection[str] = ()) -> list[ModelVersion]:
    """Remove all but the newest `keep` versions, the current one, the one that a rollback would go to and the `spared`
    ones ("NAME@VERSION"); returns what was removed.

    The newest may all be refused candidates. What an interrupted `publish` left behind goes too, once it is a day old.
    """
    check_name(name)
    for leftover in (store / UNFINISHED).glob("*"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_S:
            shutil.rmtree(leftover)
    before = next(earlier(store, name), None)
    spared = {*spared, f"{name}@{before.version}"} if before else spared
    older = stored(store, name)[: -max(keep, 1)]
    old = [one for one in older if not one.current and f"{name}@{one.version}" not in spared]
    for version in old:
        doomed = store / UNFINISHED / f"{name}-{version.version}-removed-{os.getpid()}"
        doomed.parent.mkdir(exist_ok=True)
        version.path.rename(doomed)  # gone from the store in one step, whatever happens to the rest
        shutil.rmtree(doomed)
    return old


def _write_pointer(store: Path, name: str, current: str | None, before: list[str | None]) -> None:
    """Swap the pointer in one step: a reader sees the old one or the new one, also after a power cut."""
    folder = store / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{POINTER}.{os.getpid()}"
        with durable(fresh, "w") as stream:
            json.dump({"current": current, "before": before}, stream, indent=1)
        fresh.replace(folder / POINTER)
        sync(folder)
    except OSError as error:
        raise ModelError(f"{folder / POINTER}: could not be written: {error}") from error
