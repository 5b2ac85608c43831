"""FITS bytes -> float32 pixels in the file's unit.

Takes a checked FitsHeader and the file's whole content; gives a new array, NaN where the file has
no value.
"""

import numpy as np
from numpy.typing import NDArray

from stackd.disk.fits_header import FitsHeader, Value, number_of
from stackd.disk.frame import Image
from stackd.errors import SetError

_AT_ONCE = 1 << 22  # pixels; a giant's float64 copy need not exist as a whole
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
    blank = header.values.get("BLANK") if header.bits > 0 else None
    meaning = (scale, zero, None if isinstance(blank, bool) else blank)
    if raw[0] == raw[-1] and raw.min() == raw.max():  # a giant of nothing takes no memory
        pixels = np.broadcast_to(_values_of(raw[:1], *meaning), shape)
    else:
        flat = np.empty(raw.size, np.float32)
        for start in range(0, raw.size, _AT_ONCE):
            flat[start : start + _AT_ONCE] = _values_of(raw[start : start + _AT_ONCE], *meaning)
        pixels = flat.reshape(shape)
    return pixels[0] if header.bands == 1 else pixels


def _values_of(raw: NDArray[np.generic], scale: float, zero: float, blank: Value | None) -> Image:
    """The samples' meaning, float32; what overflows is no finite number, and the caller sees to that."""
    # 16 bits and their offset fit into float32 without loss, larger integers need float64 in between.
    exact = np.float64 if raw.dtype.itemsize > 2 and raw.dtype != np.dtype(">f4") else np.float32
    with np.errstate(all="ignore"):
        values = raw.astype(exact)
        if (scale, zero) != (1.0, 0.0):
            values = values * exact(scale) + exact(zero)
        if isinstance(blank, int):
            values[raw == blank] = np.nan
        return values.astype(np.float32)
