"""8- and 16-bit pictures -> bytes of PNG or JPEG files, and the same inside a page.

Takes arrays (H, W) or (H, W, 3) in RGB order. Knows neither files nor what is shown.
"""

import base64
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

QUALITIES = (90, 84, 76, 66)
SMALLER = 0.8


def encode(suffix: str, picture: NDArray[np.uint8] | NDArray[np.uint16], *options: int) -> bytes:
    """The picture as a file of the kind that `suffix` names (".png", ".jpg"). `options` are OpenCV's."""
    order = picture if picture.ndim == 2 else picture[..., ::-1]
    done, content = cv2.imencode(suffix, np.ascontiguousarray(order), list(options))
    if not done:
        raise ValueError(f"a picture of {picture.shape} {picture.dtype} cannot be saved as {suffix}")
    return content.tobytes()


def shrink(picture: NDArray[Any], longest_px: int) -> NDArray[Any]:
    """The picture with its longer side at most `longest_px`, each pixel the mean of those it stands for."""
    part = longest_px / max(picture.shape[:2])
    if part >= 1:
        return picture
    size = tuple(max(1, round(side * part)) for side in picture.shape[1::-1])
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)


def jpeg_within(picture: NDArray[np.uint8], longest_px: int, most_bytes: int) -> bytes:
    """A JPEG of at most `most_bytes`: quality gives way first, then size. Noise takes the most room."""
    while True:
        small = shrink(picture, longest_px)
        for quality in QUALITIES:
            content = encode(".jpg", small, cv2.IMWRITE_JPEG_QUALITY, quality)
            if len(content) <= most_bytes or longest_px < 64:
                return content
        longest_px = int(max(small.shape[:2]) * SMALLER)


def data_uri(content: bytes, kind: str) -> str:
    """The bytes as an address that a page can carry within itself. `kind`: "jpeg" or "png"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
