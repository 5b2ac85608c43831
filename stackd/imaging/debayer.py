"""A Bayer mosaic made a colour image.

Takes the raw mosaic of one frame (H, W) and its colour pattern, gives (3, H, W) in the same unit.
Linear filters in float: nothing is clipped and nothing is rounded. Must not know where the pattern was read.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

PATTERNS = ("RGGB", "GRBG", "GBRG", "BGGR")

# Malvar, He and Cutler (2004), in eighths: bilinear interpolation of the missing colour, corrected by
# the Laplacian of the colour that was measured there.
_GREEN_AT_RED_OR_BLUE = [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
_ALONG_ROW_AT_GREEN = [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
_OPPOSITE = [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]


def debayer(mosaic: NDArray[np.float32], pattern: str) -> NDArray[np.float32]:
    """Mosaic (H, W) -> (3, H, W) in R, G, B order; the measured values stay as they are.

    `pattern` names the colours of the pixels (0, 0), (0, 1), (1, 0), (1, 1), such as "RGGB". Flat
    colours and straight gradients come out exact (the outermost two pixels apart). NaN spreads by two
    pixels: repair before. Raises ValueError for another pattern.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"no Bayer pattern: {pattern!r}; one of {', '.join(PATTERNS)}")
    raw = np.ascontiguousarray(mosaic, np.float32)
    green_guess = _filter(raw, _GREEN_AT_RED_OR_BLUE)
    row_guess = _filter(raw, _ALONG_ROW_AT_GREEN)
    column_guess = _filter(raw, np.transpose(_ALONG_ROW_AT_GREEN))
    opposite_guess = _filter(raw, _OPPOSITE)

    colour = np.empty((3, *raw.shape), np.float32)
    for index, here in enumerate(pattern):
        row, column = divmod(index, 2)
        site = np.s_[row::2, column::2]
        beside = pattern[2 * row + (1 - column)]  # the other colour in this row
        if here == "G":
            colour[1][site] = raw[site]
            colour["RGB".index(beside)][site] = row_guess[site]
            colour[0 if beside == "B" else 2][site] = column_guess[site]
        else:
            colour["RGB".index(here)][site] = raw[site]
            colour[1][site] = green_guess[site]
            colour[0 if here == "B" else 2][site] = opposite_guess[site]
    return colour


def _filter(raw: NDArray[np.float32], eighths: list[list[float]] | NDArray[np.float64]) -> NDArray[np.float32]:
    """Mirroring about the edge pixel keeps every colour at its own parity."""
    kernel = np.asarray(eighths, np.float32) / 8
    return cv2.filter2D(raw, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
