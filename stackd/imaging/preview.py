"""Linear images -> 8-bit pictures for people.

`find_stretch` reads one image and decides how its sky is best shown, `apply_stretch` shows any image
of the same sky with it, so that before and after are compared fairly. Arrays in, arrays out;
orientation and files are other rooms' concern.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from stackd.imaging.quality import measure_sky

Picture = NDArray[np.uint8]

SKY_BRIGHTNESS = 0.13  # of the displayed range: dark, yet a faint nebula's edge still shows
FOOT_SIGMA = 4.0  # black lies so far below the sky: a single frame's noise is shown, not cut off
WHITE_PERCENTILE = 99.9
COLOUR_BOOST = 0.7  # more saturation the brighter a pixel is; the sky's noise stays grey
BODY_BRIGHTNESS = 0.45  # of the median lit pixel of a Moon or planet
SAMPLE_PIXELS = 1_500_000
STRIP_PIXELS = 2_000_000  # bounds the temporary arrays of a large frame
BLOCK_PX = 8


@dataclass(frozen=True, slots=True)
class Stretch:
    """How pixel values become brightness: asinh above black (Lupton et al. 2004), one balance a band."""

    black_adu: tuple[float, ...]  # one a band; shown as black
    gain: tuple[float, ...]  # one a band, after black is taken off: makes sky and stars neutral
    white_adu: float  # above black; shown as white
    softening_adu: float  # linear below, logarithmic above


def find_stretch(image: NDArray[np.float32]) -> Stretch:
    """A stretch for an image (H, W) or (3, H, W), any unit, NaN where nothing was seen.

    Star fields and nebulae: the sky is set to SKY_BRIGHTNESS and the range above it compressed. A large
    bright body on black (Moon, planet) is shown nearly linear, else it would burn out.
    """
    bands = _sample(image)
    light = bands.mean(axis=0)
    if not np.isfinite(light).any():
        return Stretch((0.0,) * len(bands), (1.0,) * len(bands), 1.0, 1.0)
    return _body_stretch(bands, light) if is_bright_body(light) else _sky_stretch(bands)


def apply_stretch(image: NDArray[np.float32], stretch: Stretch) -> Picture:
    """`image` (H, W) or (3, H, W) as uint8 (H, W) or (H, W, 3); NaN is black."""
    colour = image.ndim == 3
    height, width = image.shape[-2:]
    picture = np.empty((height, width, 3) if colour else (height, width), np.uint8)
    rows = max(1, STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        strip = np.s_[top : top + rows]
        picture[strip] = _show_colour(image[:, strip], stretch) if colour else _show_grey(image[strip], stretch)
    return picture


def is_bright_body(light: NDArray[np.float32]) -> bool:
    """Whether a plateau of light, well above the noise, fills a good part of what is lit at all.

    Judged on block means, in which stars and noise fade: of the blocks brighter than a tenth of the
    range a Moon, a planet or an already stretched picture has more than a third above its half; the
    profile of a nebula or a galaxy falls off too steeply for that. A body that fills the frame leaves
    no sky at all: what clipping takes for the sky's noise is then structure, far above a pixel's own.
    """
    blocks = _block_means(light)
    if blocks.size < 16:
        return False
    low, high = np.percentile(blocks, (2, 99.8))
    noise = float(np.nanmedian(np.abs(np.diff(light, axis=1)))) * 1.05  # MAD of a difference of two
    lit = np.count_nonzero(blocks > low + 0.1 * (high - low))
    bright = np.count_nonzero(blocks > low + 0.5 * (high - low))
    if high - low < 20 * noise or lit < 0.01 * blocks.size:
        return False
    return bool(bright > lit / 3 or measure_sky(light).noise_adu > max(5 * noise, 0.1 * (high - low)))


def _sample(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(bands, h, w): a block of the image's pixels thin enough to measure quickly."""
    bands = np.asarray(image, np.float32).reshape(-1, *image.shape[-2:])
    step = int(np.ceil(np.sqrt(bands[0].size / SAMPLE_PIXELS)))
    return bands[:, :: max(step, 1), :: max(step, 1)]


def _sky_stretch(bands: NDArray[np.float32]) -> Stretch:
    skies = [measure_sky(band) for band in bands]
    above = bands - np.asarray([sky.level_adu for sky in skies], np.float32)[:, None, None]
    gain = _star_balance(above, [sky.noise_adu for sky in skies])
    light = (above * np.asarray(gain, np.float32)[:, None, None]).mean(axis=0)
    foot = FOOT_SIGMA * float(np.median([sky.noise_adu * g for sky, g in zip(skies, gain, strict=True)]))
    peak = float(np.nanpercentile(light, WHITE_PERCENTILE))
    foot = min(foot, float(np.nanmedian(light) - np.nanpercentile(light, 0.1) + foot / FOOT_SIGMA))
    foot = max(foot, _clipped_sky_noise(light, peak), 1e-4 * peak, 1e-12)
    white = max(peak + foot, foot / SKY_BRIGHTNESS * 1.5)
    black = tuple(sky.level_adu - foot / g for sky, g in zip(skies, gain, strict=True))
    return Stretch(black, gain, white, _softening(foot, white, SKY_BRIGHTNESS))


def _clipped_sky_noise(light: NDArray[np.float32], peak: float) -> float:
    """The spread of a sky that a camera clipped at black, where most pixels hold one value; else 0."""
    dark = light[light < np.nanpercentile(light, 99)]
    if dark.size == 0 or np.mean(np.abs(dark) < 1e-3 * peak) < 0.25:
        return 0.0
    return max(float(dark.std()), 0.01 * peak)


def _body_stretch(bands: NDArray[np.float32], light: NDArray[np.float32]) -> Stretch:
    """Black at the darkest part, white just above the brightest, the median lit pixel in between."""
    black = tuple(float(np.nanpercentile(band, 1)) for band in bands)
    above = light[np.isfinite(light)] - np.mean(black)
    white = max(float(np.percentile(above, 99.9)) * 1.08, 1e-12)
    middle = float(np.median(above[above > 0.1 * white])) if (above > 0.1 * white).any() else white
    return Stretch(black, (1.0,) * len(bands), white, _softening(middle, white, BODY_BRIGHTNESS))


def _softening(value: float, white: float, brightness: float) -> float:
    """The asinh softening that shows `value` at `brightness`; nearly linear where it is that bright anyway."""
    linear, steep = 10 * white, value * 1e-9

    def excess(log_softening: float) -> float:
        softening = np.exp(log_softening)
        return float(np.arcsinh(value / softening) / np.arcsinh(white / softening)) - brightness

    if excess(np.log(linear)) >= 0 or excess(np.log(steep)) <= 0:
        return linear
    return float(np.exp(brentq(excess, np.log(steep), np.log(linear))))


def _star_balance(above: NDArray[np.float32], noises: list[float]) -> tuple[float, ...]:
    """Band gains that make the middle star of the field white; 1 where there are too few to tell.

    What is left over a local median is a star's and not a nebula's light, so that a teal nebula
    stays teal. The gains keep the mean brightness and stay within a factor of 2.5.
    """
    if len(above) == 1 or min(above.shape[1:]) < 32:
        return (1.0,) * len(above)
    sharp = np.stack([_over_local_median(band) for band in above])
    light, noise = sharp.mean(axis=0), max(float(np.mean(noises)), 1e-12)
    bright = np.isfinite(light) & (light > 12 * noise) & (light < 0.8 * np.nanmax(light)) & (sharp > 0).all(axis=0)
    if np.count_nonzero(bright) < 50:
        return (1.0,) * len(above)
    colours = np.median(sharp[:, bright] / light[bright], axis=1)
    gain = np.clip(1 / colours, 1 / 2.5, 2.5)
    return tuple(float(g) for g in gain / np.exp(np.mean(np.log(gain))))


def _over_local_median(band: NDArray[np.float32]) -> NDArray[np.float32]:
    """The band less its local median, taken on block medians, which no star reaches."""
    height, width = (n // BLOCK_PX * BLOCK_PX for n in band.shape)
    blocks = band[:height, :width].reshape(height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
    coarse = np.nan_to_num(np.median(blocks, axis=(1, 3))).astype(np.float32)
    return band - cv2.resize(cv2.medianBlur(coarse, 5), band.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _block_means(light: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = (n // BLOCK_PX * BLOCK_PX for n in light.shape)
    blocks = light[:height, :width].reshape(height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX).mean(axis=(1, 3))
    return blocks[np.isfinite(blocks)]


def _curve(above_black: NDArray[np.float32], stretch: Stretch) -> NDArray[np.float32]:
    top = np.arcsinh(stretch.white_adu / stretch.softening_adu)
    return np.minimum(np.arcsinh(above_black / stretch.softening_adu) / np.float32(top), 1)


def _above_black(band: NDArray[np.float32], stretch: Stretch, index: int) -> NDArray[np.float32]:
    value = (band - np.float32(stretch.black_adu[index])) * np.float32(stretch.gain[index])
    return np.maximum(np.nan_to_num(value, nan=0.0, posinf=stretch.white_adu, neginf=0.0), 0)


def _show_grey(image: NDArray[np.float32], stretch: Stretch) -> Picture:
    return np.rint(_curve(_above_black(image, stretch, 0), stretch) * 255).astype(np.uint8)


def _show_colour(image: NDArray[np.float32], stretch: Stretch) -> Picture:
    """Brightness by the curve, hue by the linear ratios; what is too bright for its hue turns white."""
    rgb = np.stack([_above_black(band, stretch, index) for index, band in enumerate(image)], axis=-1)
    light = rgb.mean(axis=-1, keepdims=True)
    shown = _curve(light, stretch)
    rgb *= shown / np.maximum(light, 1e-12)
    brightest = rgb.max(axis=-1, keepdims=True)
    pull = np.where(brightest > 1, (1 - shown) / np.maximum(brightest - shown, 1e-6), 1)
    vivid = 1 + COLOUR_BOOST * shown * (1 - shown)
    return np.rint(np.clip(shown + (rgb - shown) * pull * vivid, 0, 1) * 255).astype(np.uint8)
