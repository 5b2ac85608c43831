"""The two files of one model version: weights.safetensors (arrays by variable path) and card.json.

Writes them durably and reads them back only if they are exactly what the card says: one file, read
once, by digest, with the named arrays, shapes and dtypes, every value finite. The format holds
numbers alone, so a foreign file cannot run anything. Knows nothing of names, stores or what is current.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stackd.disk.durable import durable
from stackd.disk.model_card import CARD, FORMAT, WEIGHTS, read_whole
from stackd.errors import ModelError

MAX_WEIGHTS_BYTES = 2 << 30  # far beyond any network that stackd builds

Weights = dict[str, NDArray[Any]]


def write_version(folder: Path, name: str, stamp: str, weights: Weights, card: dict[str, Any]) -> str:
    """Write both files into an existing folder and fsync them; returns the version `<stamp>-<sha12>`.

    Raises ModelError for weights that are empty or not finite, OSError where the disk refuses.
    """
    arrays = {path: np.asarray(values, order="C") for path, values in sorted(weights.items())}
    if not arrays:
        raise ModelError(f"model {name!r} has no weights; nothing was stored")
    _refuse_not_finite(arrays, f"model {name!r}")
    content = save(arrays)
    sha256 = hashlib.sha256(content).hexdigest()
    version = f"{stamp}-{sha256[:12]}"
    listed = {path: {"shape": list(values.shape), "dtype": str(values.dtype)} for path, values in arrays.items()}
    full = card | {"name": name, "version": version, "sha256": sha256, "arrays": listed, "format": FORMAT}
    with durable(folder / WEIGHTS) as file:
        file.write(content)
    with durable(folder / CARD, "w") as file:
        json.dump(full, file, indent=1, ensure_ascii=False, default=_plain)
    return version


def read_weights(folder: Path, card: dict[str, Any]) -> Weights:
    """The arrays of the version in `folder`, checked against its card. Raises ModelError."""
    path = folder / WEIGHTS
    content = read_whole(path, MAX_WEIGHTS_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    if digest != card["sha256"]:
        raise ModelError(
            f"{path}: damaged or exchanged: its sha256 is {digest[:12]}..., the card says {card['sha256'][:12]}..."
        )
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors: {error}") from None
    _refuse_other_arrays(arrays, card["arrays"], path)
    _refuse_not_finite(arrays, str(path))
    return arrays


def _refuse_other_arrays(arrays: Weights, listed: dict[str, Any], path: Path) -> None:
    if set(arrays) != set(listed):
        odd = sorted(set(arrays) ^ set(listed))
        raise ModelError(f"{path}: its arrays are not those of the card: {', '.join(odd[:5])}")
    for name, values in arrays.items():
        found = {"shape": list(values.shape), "dtype": str(values.dtype)}
        if found != listed[name]:
            raise ModelError(f"{path}: {name} is {found}, the card says {listed[name]}")


def _refuse_not_finite(arrays: Weights, where: str) -> None:
    for name, values in arrays.items():
        if values.dtype.kind not in "fiub":
            raise ModelError(f"{where}: {name} has dtype {values.dtype}; weights are plain numbers")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ModelError(f"{where}: {name} holds values that are not finite; the training went wrong")


def _plain(value: Any) -> Any:
    """numpy's numbers in a card, as JSON's own."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a card cannot hold a {type(value).__name__}")
