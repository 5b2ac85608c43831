"""The corruption of 2019: eight blurred and noisy frames made from one clean picture.

Takes and returns arrays in 0..1 of full scale. One blur a picture, fresh noise a frame, no shifts and no
outliers: what the experiment had and no more. The skies that the default network learns from are
imaging/skies.py's and camera.py's; knows nothing of them, of networks or of files.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

Image = NDArray[np.float32]

FRAMES = 8
HEIGHT_PX, WIDTH_PX = 120, 160
KERNEL_PX = 10
NOISE = 0.05  # standard deviation, of full scale
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of R G B (ITU-R BT.601)


def reduce_picture(picture: Image) -> Image:
    """A picture (H, W, 3) as the experiment saw it: (120, 160) luminance, from the largest 4:3 field at its middle."""
    height, width = picture.shape[:2]
    field_height, field_width = min(height, width * 3 // 4), min(width, height * 4 // 3)
    top, left = (height - field_height) // 2, (width - field_width) // 2
    field = picture[top : top + field_height, left : left + field_width]
    return cv2.resize(field @ LUMINANCE, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA).astype(np.float32)


def corrupt(picture: Image, rng: np.random.Generator) -> Image:
    """Eight frames (H, W, 8) of one picture (H, W) in 0..1: one random blur, fresh noise each, clipped to 0..1."""
    kernel = random_kernel(rng)
    blurred = fftconvolve(picture, kernel, mode="same")
    noise = rng.normal(0, NOISE, (*picture.shape, FRAMES))
    return np.clip(blurred[..., None] + noise, 0, 1).astype(np.float32)


def random_kernel(rng: np.random.Generator) -> NDArray[np.float64]:
    """A Gaussian (10, 10) of sum 1; its standard deviation on each axis is 0.01 + u^(1/4) px, u uniform in 0..1."""
    along_y, along_x = (_gaussian(0.01 + rng.uniform() ** 0.25) for _ in range(2))
    return np.outer(along_y, along_x)


def _gaussian(sigma_px: float) -> NDArray[np.float64]:
    # an even width has no middle tap; this one is where "same" takes the middle to be, so nothing shifts
    offsets_px = np.arange(KERNEL_PX) - (KERNEL_PX - 1) // 2
    taps = np.exp(-(offsets_px**2) / (2 * sigma_px**2))
    return taps / taps.sum()
