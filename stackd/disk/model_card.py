"""card.json: what one model version is, beside its weights.

Light, for whoever only asks which model there is. Knows no arrays.
"""

import json
import os
from pathlib import Path
from typing import Any

from stackd.errors import ModelError

WEIGHTS = "weights.safetensors"
CARD = "card.json"
MAX_CARD_BYTES = 4 << 20
# Raised whenever a network of another stackd could not be run: 2 since the banks hold maps of the background.
FORMAT, FIRST_FORMAT = 2, 1  # the first one is of cards that name none, too
FILLED_IN = ("name", "version", "sha256", "arrays", "format")  # by weights.write_version, in every card


def read_card(folder: Path) -> dict[str, Any]:
    """The card of the version in `folder`. Raises ModelError if it is missing or says too little."""
    path = folder / CARD
    content = read_whole(path, MAX_CARD_BYTES)
    try:
        card = json.loads(content)
    except ValueError as error:
        raise ModelError(f"{path}: is not JSON ({error}); publish the model again") from None
    if not isinstance(card, dict) or not all(isinstance(card.get(key), str) for key in FILLED_IN[:3]):
        raise ModelError(f"{path}: must name the model, its version and the sha256 of its weights")
    if (found := card.get("format", FIRST_FORMAT)) != FORMAT:
        older = isinstance(found, int) and found < FORMAT
        remedy = "train the model again, or use an older stackd" if older else "update stackd to use it"
        raise ModelError(f"{path}: is of format {found!r}, this stackd reads format {FORMAT}; {remedy}")
    if not isinstance(card.get("arrays"), dict):
        raise ModelError(f"{path}: does not list the arrays of {WEIGHTS}")
    return card


def read_whole(path: Path, max_bytes: int) -> bytes:
    """A regular file in one read. A link may lead elsewhere and change, so it is refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise ModelError(f"{path}: larger than {max_bytes >> 20} MiB, no model of stackd is")
    return content
