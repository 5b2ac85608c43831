"""What a report shows beside the pictures: maps in false colour, and where to look closely.

Takes linear images with NaN where nothing was seen, gives RGB pictures and plain numbers. Brightness
of the pictures themselves is preview.py's to decide.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

DARK, BLUE, ORANGE = (18, 20, 26), (72, 149, 239), (255, 170, 76)


def paint_sigma(sigma: NDArray[np.float32]) -> tuple[Picture, float, float]:
    """An uncertainty map (H, W) in false colour: (RGB picture, darkest and brightest value shown)."""
    finite = sigma[np.isfinite(sigma)]
    low, high = (float(v) for v in np.percentile(finite, (1, 99))) if finite.size else (0.0, 0.0)
    levels = np.nan_to_num((sigma - low) / max(high - low, 1e-12), nan=0.0).clip(0, 1)
    picture = cv2.applyColorMap((levels * 255).astype(np.uint8), cv2.COLORMAP_CIVIDIS)
    picture[~np.isfinite(sigma)] = 0
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), low, high


def paint_change(change: NDArray[np.float32]) -> tuple[Picture, float]:
    """A difference (H, W) of two images, blue where light was taken and orange where it was added.

    Returns (RGB picture, the change in ADU at full colour).
    """
    finite = np.abs(change[np.isfinite(change)])
    limit = float(np.percentile(finite, 99.7)) if finite.size else 0.0
    part = np.nan_to_num(change / max(limit, 1e-12), nan=0.0).clip(-1, 1)
    taken, added = np.maximum(-part, 0)[..., None], np.maximum(part, 0)[..., None]
    ground, blue, orange = (np.asarray(colour, np.float32) for colour in (DARK, BLUE, ORANGE))
    return (ground + (blue - ground) * taken + (orange - ground) * added).astype(np.uint8), limit


def find_detail(picture: Picture, height_px: int, width_px: int) -> tuple[int, int]:
    """(top row, left column) of the window of a stretched picture with the most to see in it.

    Small structure counts, and so does a nebula's smooth light above the sky; the picture's border, where
    few frames overlap, is left out where the picture is large enough to spare it.
    """
    grey = picture if picture.ndim == 2 else picture.mean(axis=2)
    grey = grey.astype(np.float32) / 255
    smooth = cv2.GaussianBlur(grey, (0, 0), 2)
    wide = cv2.GaussianBlur(grey, (0, 0), 12)
    interest = 2 * np.minimum(np.abs(smooth - wide), 0.3) + 0.5 * np.clip(wide - np.median(wide), 0, 0.4)
    sums = cv2.boxFilter(interest, -1, (width_px, height_px), normalize=True, borderType=cv2.BORDER_CONSTANT)
    rows, columns = grey.shape
    margin_y, margin_x = (
        min(max(window // 2, side // 12), (side - 1) // 2) for window, side in ((height_px, rows), (width_px, columns))
    )
    inner = sums[margin_y : rows - margin_y, margin_x : columns - margin_x]
    row, column = np.unravel_index(int(np.argmax(inner)), inner.shape)
    top = np.clip(row + margin_y - height_px // 2, 0, max(rows - height_px, 0))
    left = np.clip(column + margin_x - width_px // 2, 0, max(columns - width_px, 0))
    return int(top), int(left)
