"""A frame -> a FITS file as capture programs write it: 16-bit counts and the cards that keywords.py reads.

For the demo, the benchmark and tests, which make their own nights. The mirror of reader.py: what is written
here is read there as the same facts and pixels. Never writes into a user's inbox by itself.
"""

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from stackd.disk.frame import Image
from stackd.disk.outbox import as_output_error
from stackd.records import FrameFacts

CARDS = {
    "IMAGETYP": "type of frame",
    "OBJECT": "target",
    "FILTER": "filter in front of the camera",
    "EXPTIME": "[s] exposure",
    "DATE-OBS": "UTC, start of the exposure",
    "INSTRUME": "camera",
    "GAIN": "setting of the camera",
    "EGAIN": "[e-/ADU] conversion",
    "CCD-TEMP": "[C] of the sensor",
    "CALSTAT": "bias (B), dark (D), flat (F) taken out",
    "XBINNING": "pixels read as one",
    "YBINNING": "pixels read as one",
    "BAYERPAT": "colours of the mosaic, from the top",
    "ROWORDER": "which row of the picture comes first",
}


def write_capture(path: Path, pixels: Image, facts: FrameFacts) -> None:
    """Write counts (H, W) or (3, H, W), 0 to 65535, rounded to whole numbers. Raises OutputError.

    What the facts say of size and samples is the pixels' own; where they are silent no card is written. A mosaic's
    pattern is that of the array, so rows must start at the top.
    """
    if facts.bayer and facts.bottom_up:
        raise ValueError("a mosaic is written from its top row on; turn the array and its pattern first")
    counts = np.clip(np.rint(pixels), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    unit = fits.PrimaryHDU(counts)
    for name, value in _values(facts).items():
        if value is not None:
            unit.header[name] = (value, CARDS[name])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unit.writeto(path)
    except OSError as error:
        raise as_output_error(error) from error


def _values(facts: FrameFacts) -> dict[str, Any]:
    """A value for each of CARDS, None for what the facts do not say."""
    across, down = (int(n) for n in facts.binning.split("x")) if facts.binning else (None, None)
    values = (
        f"{facts.image_type.capitalize()} Frame" if facts.image_type else None,
        facts.target, facts.filter, facts.exposure_s, facts.taken_at, facts.camera, facts.gain,
        facts.electrons_per_adu, facts.temperature_c, facts.calibrated or None, across, down, facts.bayer,
        "BOTTOM-UP" if facts.bottom_up else "TOP-DOWN",
    )  # fmt: skip
    return dict(zip(CARDS, values, strict=True))
