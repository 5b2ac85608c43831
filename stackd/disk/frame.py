"""One capture in memory. Knows no file format."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stackd.records import FrameFacts

Image = NDArray[np.float32]
FULL_SCALE_ADU = 65535.0
NORMALISED_UP_TO = 2.0  # a flat lifts pixels above 1, and single ones may be anything


@dataclass(frozen=True, slots=True)
class Frame:
    """One capture in memory."""

    path: str  # absolute
    sha256: str
    facts: FrameFacts
    pixels: Image  # (H, W), a mosaic if facts.bayer, or (3, H, W); file units (ADU)
    saturation_adu: float
    cards: tuple[str, ...] = ()  # the header's own 80-character cards; empty for pictures

    @property
    def electrons_per_unit(self) -> float:
        """Of the pixels; 1 where the header is silent."""
        return (self.facts.electrons_per_adu or 1.0) * self.adu_per_unit

    @property
    def adu_per_unit(self) -> float:
        """Of the pixels. Calibration programs bring frames to 0..1 of full scale and leave the header's electrons per
        ADU as they were."""
        is_float = self.facts.sample_type.startswith("float")
        if is_float and float(np.nanquantile(self.pixels[..., ::7, ::7], 0.999)) <= NORMALISED_UP_TO:
            return FULL_SCALE_ADU
        return 1.0
