"""FITS bytes -> float32 pixels in the file's unit.

Takes a checked FitsHeader and the file's whole content; gives a new array, NaN where the file has
no value.
"""

import numpy as np

from stackd.disk.fits_header import FitsHeader, number_of
from stackd.errors import SetError
from stackd.records import Image

_SAMPLES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


def pixels_from(header: FitsHeader, content: bytes) -> Image:
    """The image, (H, W) or (3, H, W), float32, after BSCALE, BZERO and BLANK.

    Raises SetError for a scale that is zero or no number.
    """
    scale, zero = number_of(header.values.get("BSCALE", 1)), number_of(header.values.get("BZERO", 0))
    if not scale or zero is None:
        raise SetError("BSCALE or BZERO is no usable number", remedy="correct the header or remove the file")
    shape = (header.bands, header.height_px, header.width_px)
    raw = np.frombuffer(content, _SAMPLES[header.bits], count=int(np.prod(shape)), offset=header.data_offset)
    # 16 bits and their offset fit into float32 without loss, larger integers need float64 in between.
    exact = np.float32 if abs(header.bits) <= 16 or header.bits == -32 else np.float64
    values = raw.astype(exact)
    if (scale, zero) != (1.0, 0.0):
        values = values * exact(scale) + exact(zero)
    blank = header.values.get("BLANK")
    if header.bits > 0 and isinstance(blank, int):
        values[raw == blank] = np.nan
    with np.errstate(over="ignore"):
        pixels = values.astype(np.float32).reshape(shape)
    return pixels[0] if header.bands == 1 else pixels
