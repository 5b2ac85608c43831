"""Masters: what a detector shows without light, and how strongly each of its pixels answers to light.

Combined from calibration frames on the detector's own grid, (H, W), a mosaic, or (3, H, W), and taken out of raw
lights. Knows no files, no headers and not which frames belong together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stackd.imaging.cells import cells_of, medians_of
from stackd.imaging.cosmetic import SITES, middle_of
from stackd.imaging.quality import MAD_TO_SIGMA, pixel_noise, rounding_noise

Image = NDArray[np.float32]
TOGETHER = 8  # frames in memory at once, among which outliers are told
LEAST_TOGETHER = 3
KAPPA = 5.0
STRIP_ROWS = 128
BRIGHTEST_QUANTILE = 0.98
BRIGHTEST_CELL_PX = 16
LEAST_ANSWER = 0.1  # of the brightest part's; what sees less is left to the other frames
ABOVE_ONE = 0.97  # a saturated pixel that is more sensitive than the brightest part comes out as much lower
DARKEST_QUANTILE = 0.1
OFFSET_SIGMA = 10.0  # of a bias's noise, from which on a camera's offset is one


@dataclass(frozen=True, slots=True)
class Masters:
    """What calibrates a set's frames, each (H, W) or (3, H, W); None is left as it is.

    `dark_adu` is what a pixel holds without light in a frame of the set, the camera's offset included; `flat` its
    answer to light, 1 in the brightest part of the field, NaN where hardly any light falls.
    """

    dark_adu: Image | None = None
    flat: Image | None = None

    def applied_to(self, pixels: Image) -> Image:
        """A raw frame calibrated; the same array where there is nothing to do."""
        if self.dark_adu is not None:
            pixels = pixels - self.dark_adu
        return pixels if self.flat is None else pixels / self.flat

    def cut(self, rows: slice, columns: slice) -> "Masters":
        """Of a part of the detector."""
        return Masters(*(None if one is None else one[..., rows, columns] for one in (self.dark_adu, self.flat)))

    def limit_adu(self, saturation_adu: float) -> float:
        """What a saturated pixel comes to, or a little less."""
        if self.dark_adu is not None:
            saturation_adu -= float(np.nanmedian(self.dark_adu))
        return saturation_adu if self.flat is None else ABOVE_ONE * saturation_adu


NOTHING_KNOWN = Masters()


@dataclass(frozen=True, slots=True)
class Mean:
    """Of darks or of biases. Frames of programs that calibrate, and of raw files, have lost the camera's offset."""

    pixels: Image
    has_offset: bool


def mean_frame(frames: Iterable[Image]) -> Image | None:
    """The mean of frames of one shape, without what stands out by 5 sigma among some eight of them at a time (cosmic
    rays, stars in flats of the twilight sky): memory does not grow with their number. None of no frames."""
    total: NDArray[np.float64] | None = None
    count = 0
    for together in _batches(frames):
        mean = len(together) * _clipped_mean(together).astype(np.float64)
        total = mean if total is None else total + mean
        count += len(together)
        del together  # before the next ones are read
    return None if total is None else (total / count).astype(np.float32)


def _batches(frames: Iterable[Image]) -> Iterator[list[Image]]:
    """Of TOGETHER or fewer, never so few that none can be told for wild, unless there are no more in all."""
    held: list[Image] = []
    for frame in frames:
        held.append(frame)
        if len(held) == TOGETHER + LEAST_TOGETHER:
            yield [held.pop(0) for _ in range(TOGETHER)]
    if len(held) > TOGETHER:
        yield [held.pop(0) for _ in range(len(held) // 2)]
    if held:
        yield held


def _clipped_mean(frames: list[Image]) -> Image:
    """A pixel's own scatter counts where it is larger than the usual one: a hot pixel is loud in every frame."""
    if len(frames) < LEAST_TOGETHER:
        return np.mean(frames, axis=0, dtype=np.float32)
    mean = np.empty_like(frames[0])
    least = rounding_noise(frames[0])  # of whole numbers half or more may be equal
    for top in range(0, mean.shape[-2], STRIP_ROWS):
        strip = np.s_[..., top : top + STRIP_ROWS, :]
        samples = np.stack([frame[strip] for frame in frames])
        off = np.abs(samples - _median(samples))
        own = MAD_TO_SIGMA * _median(off)
        far = off > KAPPA * np.maximum(own, max(float(np.nanmedian(own)), least))
        mean[strip] = np.where(far, 0, samples).sum(0) / np.maximum((~far).sum(0), 1)
    return mean


def _median(samples: Image) -> Image:
    """Over the first axis; NaN where any sample is."""
    ordered = np.sort(samples, axis=0)
    return np.where(np.isnan(ordered[-1]), np.float32(np.nan), middle_of(ordered))


@dataclass(frozen=True, slots=True)
class Unlit:
    """What a frame's pixels hold without light, and whether the mean dark and the mean bias have a part in it."""

    pixels: Image
    by_dark: bool
    by_bias: bool


def without_light(has_offset: bool, dark: Mean | None, bias: Mean | None, dark_scale: float = 1.0) -> Unlit | None:
    """Of a frame that `has_offset` and lasts `dark_scale` times as long as the dark.

    Darks and biases may have lost the camera's offset where the frame has it, or the other way round. None where they
    cannot tell.
    """
    offset = Unlit(bias.pixels, False, True) if bias is not None and bias.has_offset == has_offset else None
    if dark is None:
        return offset
    if dark.has_offset == has_offset and dark_scale == 1:
        return Unlit(dark.pixels, True, False)
    current = None if dark.has_offset else Unlit(dark.pixels, True, False)
    if bias is not None and bias.has_offset == dark.has_offset:
        current = Unlit(dark.pixels - bias.pixels, True, True)
    if current is None or (offset is None and has_offset):
        return offset
    gathered = np.float32(dark_scale) * current.pixels
    return Unlit(gathered, True, current.by_bias) if offset is None else Unlit(offset.pixels + gathered, True, True)


def offset_of(dark: Mean | None) -> np.float32 | None:
    """About the camera's offset, from a dark of any length, for frames so bright that its current is nothing to them;
    None where it has lost it."""
    if dark is None or not dark.has_offset:
        return None
    return np.float32(np.nanquantile(dark.pixels[..., ::7, ::7], DARKEST_QUANTILE))


def lacks_offset(dark: Image, bias: Image) -> bool:
    """Whether a dark, as some programs keep their masters, holds what gathers in it alone, as a bias tells."""
    offset = float(np.nanmedian(bias))
    return offset > OFFSET_SIGMA * pixel_noise(_planes(bias)[0]) and float(np.nanmedian(dark)) < offset / 2


def evened(flat_adu: Image, unlit_adu: Image | np.float32 | None) -> Image:
    """A flat's light alone, its median 1: the sky at dusk fades from one to the next. Zero where it shows no light."""
    light = flat_adu if unlit_adu is None else flat_adu - unlit_adu
    level = float(np.nanmedian(light))
    return light / np.float32(level) if level > 0 else np.zeros_like(light)


def answer_to_light(flat: Image, *, bayer: bool) -> Image:
    """A mean flat with its brightest part at 1, each colour by itself, as the light of a flat is not white; NaN where
    next to no light falls."""
    scaled = np.empty_like(flat)
    for place in SITES if bayer else (np.s_[...],):
        for plane, to in zip(_planes(flat[place]), _planes(scaled[place])):
            to[...] = plane / np.float32(_brightest(plane))
    return np.where(scaled >= LEAST_ANSWER, scaled, np.float32(np.nan))


def _planes(image: Image) -> Image:
    """A view as (bands, H, W)."""
    return image[None] if image.ndim == 2 else image


def _brightest(plane: Image) -> float:
    """The level of the brightest part, as no single pixel tells it."""
    rows, columns = (min(BRIGHTEST_CELL_PX, n) for n in plane.shape)
    return float(np.nanquantile(medians_of(cells_of(plane, (rows, columns))), BRIGHTEST_QUANTILE))
