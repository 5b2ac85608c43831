"""One capture in memory. Knows no file format."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stackd.records import FrameFacts

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Frame:
    """One capture in memory."""

    path: str  # absolute
    sha256: str
    facts: FrameFacts
    pixels: Image  # (H, W), a mosaic if facts.bayer, or (3, H, W); file units (ADU)
    saturation_adu: float
    cards: tuple[str, ...] = ()  # the header's own 80-character cards; empty for pictures
