"""Which clean pictures can teach: photographs do; drawings, and a second copy of a picture, do not.

Takes pictures (H, W, 3) in 0..1, gives words and small prints of them that tell copies apart from other pictures,
also after shrinking, recompression or another stretch. Knows no files.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
BLACK = 24 / 255  # what is darker counts neither as flat nor as a colour: a clipped sky is no drawing
FLAT_SHARE = 0.75  # of the pixels that are like both neighbours: no photograph has so many
SUSPICIOUS_FLAT_SHARE, FEW_COLOURS = 0.3, 16
COLOUR_STEPS = 32  # a band; a photograph, JPEG or not, uses hundreds of their combinations
LEAST_CONTRAST = 0.02  # between the 1st and the 99.9th percentile of the light
LOOKED_AT_PX = 900  # of the middle, for colours and flat parts
PRINT_PX = 32
ALIKE = 0.99  # correlation of two prints; different star clusters reach 0.97, copies 0.995


def why_unfit(picture: Image) -> str:
    """Why nothing could be learnt from a picture: it is empty or drawn; "" for a photograph."""
    low, high = np.quantile(picture[::4, ::4].mean(2), (0.01, 0.999))
    picture = picture[_middle(picture.shape[0]), _middle(picture.shape[1])]
    if high - low < LEAST_CONTRAST:
        return "shows nothing: it is of one brightness all over"
    here, below, beside = picture[:-1, :-1], picture[1:, :-1], picture[:-1, 1:]
    lit = here.max(2) > BLACK
    flat = ((here == below) & (here == beside)).all(2)[lit].mean() if lit.any() else 0.0
    colours = _colours(here[lit]) if lit.any() else 0
    if flat > FLAT_SHARE or (flat > SUSPICIOUS_FLAT_SHARE and colours <= FEW_COLOURS):
        return f"looks drawn: {flat:.0%} of it is flat and {colours} colours make up nearly all of it"
    return ""


def _middle(size: int) -> slice:
    start = max(0, (size - LOOKED_AT_PX) // 2)
    return slice(start, start + LOOKED_AT_PX)


def print_of(picture: Image) -> NDArray[np.float32]:
    """A small print (PRINT_PX ** 2,) of mean 0 and length 1; the product of two is their correlation."""
    # the root brings nebulae and bright stars nearer to each other, as most stretches do
    small = np.sqrt(cv2.resize(picture.mean(2), (PRINT_PX, PRINT_PX), interpolation=cv2.INTER_AREA)).ravel()
    small = small - small.mean()
    return (small / max(float(np.linalg.norm(small)), 1e-9)).astype(np.float32)


def copy_among(mine: NDArray[np.float32], others: NDArray[np.float32]) -> int | None:
    """Index of the print among others (n, PRINT_PX ** 2) that shows the same picture; None where none does."""
    if not len(others):
        return None
    alike = others @ mine
    best = int(alike.argmax())
    return best if alike[best] > ALIKE else None


def _colours(pixels: Image) -> int:
    """How many of the COLOUR_STEPS ** 3 colours make up 99 % of the pixels (n, 3)."""
    steps = np.minimum((pixels * COLOUR_STEPS).astype(np.int32), COLOUR_STEPS - 1)
    codes = (steps[:, 0] * COLOUR_STEPS + steps[:, 1]) * COLOUR_STEPS + steps[:, 2]
    shares = np.sort(np.bincount(codes, minlength=COLOUR_STEPS**3))[::-1].cumsum() / len(codes)
    return int(np.searchsorted(shares, 0.99)) + 1
