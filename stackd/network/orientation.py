"""The ways to hold a picture: turned by quarters, then mirrored. Loads no TensorFlow, so simulators stay light."""

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def held(image: Image, quarters: int, mirrored: bool) -> Image:
    """A view of (H, W, ...), turned by so many quarters and then mirrored top to bottom; writing to it turns back."""
    turned = np.rot90(image, quarters)
    return turned[::-1] if mirrored else turned
