"""Pictures side by side, each with its name: for README, the demo and the benchmark.

Takes linear images of one sky and one grid, shows all with one stretch, gives an 8-bit picture (H, W, 3).
"""

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from stackd.imaging.preview import Stretch, apply_stretch

Picture = NDArray[np.uint8]
GAP_PX = 6
CAPTION_PX = 30
INK = (225, 225, 225)


def side_by_side(images: Mapping[str, NDArray[np.float32]], stretch: Stretch) -> Picture:
    """Images (H, W) or (3, H, W) of one size in a row, captions above. ASCII captions only."""
    columns = [_with_caption(name, apply_stretch(image, stretch)) for name, image in images.items()]
    gap = np.zeros((columns[0].shape[0], GAP_PX, 3), np.uint8)
    return np.hstack([part for column in columns for part in (column, gap)][:-1])


def liveliest(image: NDArray[np.float32], height_px: int, width_px: int) -> tuple[slice, slice]:
    """Rows and columns of the window with the most light in an image (bands, H, W) without NaN: worth a close look."""
    height_px, width_px = min(height_px, image.shape[1]), min(width_px, image.shape[2])
    light = np.arcsinh(image.mean(0) / max(float(np.std(image)), 1e-30))
    mean = uniform_filter(light, (height_px, width_px), mode="constant")
    inside = mean[height_px // 2 :, width_px // 2 :]
    inside = inside[: image.shape[1] - height_px + 1, : image.shape[2] - width_px + 1]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return slice(int(top), int(top) + height_px), slice(int(left), int(left) + width_px)


def _with_caption(name: str, picture: Picture) -> Picture:
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    band = np.zeros((CAPTION_PX, rgb.shape[1], 3), np.uint8)
    cv2.putText(band, name, (4, CAPTION_PX - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, INK, 1, cv2.LINE_AA)
    return np.vstack([band, rgb])
