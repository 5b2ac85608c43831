"""Skies with a known truth: a diffuse part and a catalogue of stars, procedural or from a clean picture.

For training, tests and the demo. Units: electrons per frame at full transparency. Everything random
comes from the `rng` handed in. Knows no telescope: that is camera.py.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stackd.imaging.psf import FWHM_PER_SIGMA, frequencies, gaussian_otf, target_otf

Image = NDArray[np.float32]
# Stars are drawn as Gaussians first, whose transfer function is then divided out. Narrower ones than this are not told
# by their values at pixels: with 1.65 px the truth's stars were wrong by 1.4 % of their peaks, with 2.2 px by 0.2 %.
SPLAT_FWHM_PX = 2.2
SPLAT_RADIUS_PX = 5
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class Sky:
    """`diffuse` (bands, H, W); `x`, `y` (stars,) in px; `flux` (bands, stars)."""

    diffuse: Image
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]

    def truth(self, fwhm_px: float) -> Image:
        """The sky (bands, H, W) as a perfect camera of this star width would give it."""
        shape = self.diffuse.shape[1:]
        stars_otf = target_otf(shape, fwhm_px)
        diffuse_otf = gaussian_otf(shape, fwhm_px)
        return np.array(
            [
                blur(band, diffuse_otf) + blur(splat(shape, self.x, self.y, flux), stars_otf / splat_otf(shape))
                for band, flux in zip(self.diffuse, self.flux)
            ],
            np.float32,
        )


def blur(image: Image, otf: NDArray[np.complex128]) -> Image:
    """The image (H, W) through a transfer function of rfft2 layout; wraps around."""
    return fft.irfft2(fft.rfft2(image) * otf.astype(np.complex64), image.shape).astype(np.float32)


def splat(shape: tuple[int, int], x, y, flux) -> Image:
    """Stars as Gaussians of SPLAT_FWHM_PX on (H, W), each exact to a fraction of a pixel and of its full flux."""
    height, width = shape
    reach = SPLAT_RADIUS_PX
    inside = (x > -reach) & (x < width - 1 + reach) & (y > -reach) & (y < height - 1 + reach)
    x, y, flux = x[inside], y[inside], flux[inside]
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    steps = np.arange(-SPLAT_RADIUS_PX, SPLAT_RADIUS_PX + 1)
    sigma_px = SPLAT_FWHM_PX / FWHM_PER_SIGMA
    across = np.exp(-0.5 * ((steps - (x - column)[:, None]) / sigma_px) ** 2)
    along = np.exp(-0.5 * ((steps - (y - row)[:, None]) / sigma_px) ** 2)
    norm = flux / (across.sum(1) * along.sum(1))
    stamps = along[:, :, None] * across[:, None, :] * norm[:, None, None]
    edge = 2 * SPLAT_RADIUS_PX
    plane = np.zeros((height + 2 * edge) * (width + 2 * edge))
    rows = (row[:, None] + steps + edge)[:, :, None]
    columns = (column[:, None] + steps + edge)[:, None, :]
    np.add.at(plane, (rows * (width + 2 * edge) + columns).ravel(), stamps.ravel())
    return plane.reshape(height + 2 * edge, -1)[edge:-edge, edge:-edge].astype(np.float32)


def splat_otf(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Transfer function of `splat`."""
    return gaussian_otf(shape, SPLAT_FWHM_PX)


def procedural(shape: tuple[int, int], bands: int, rng: np.random.Generator, peak: float) -> Image:
    """A diffuse sky (bands, H, W) out of nothing: clouds of nebula and galaxies, brightest about `peak`.

    Nebulae are power-law random fields, exponentiated, as interstellar clouds are near log-normal;
    galaxies follow Sersic (1963).
    """
    clouds = np.zeros((bands, *shape), np.float32)
    if rng.random() < 0.7:
        clouds += _clouds(shape, bands, rng)
    for _ in range(rng.poisson(3)):
        clouds += _galaxy(shape, bands, rng)
    top = max(float(np.quantile(clouds, 0.999)), 1e-6)
    return clouds * np.float32(peak / top) if clouds.any() else clouds


def _clouds(shape, bands: int, rng) -> Image:
    ky, kx = frequencies(shape)
    k = np.hypot(ky, kx)
    k[0, 0] = np.inf
    slope = rng.uniform(1.3, 2.2)
    common = fft.rfft2(rng.normal(size=shape))
    contrast = rng.uniform(0.5, 2.0)
    out = []
    for _ in range(bands):
        own = fft.rfft2(rng.normal(size=shape))
        field = fft.irfft2((common + 0.4 * own) * k**-slope, shape)
        out.append(np.exp(contrast * field / field.std()))
    out = np.array(out, np.float32)
    return np.maximum(out - np.quantile(out, 0.1), 0) / np.quantile(out, 0.999)


def _galaxy(shape, bands: int, rng) -> Image:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y, x = y - rng.uniform(0, shape[0]), x - rng.uniform(0, shape[1])
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.25, 1)
    along, across = x * np.cos(turn) + y * np.sin(turn), (y * np.cos(turn) - x * np.sin(turn)) / flat
    radius_px, index = np.exp(rng.uniform(np.log(2), np.log(25))), rng.uniform(0.6, 3)
    profile = np.exp(-(2 * index - 1 / 3) * (np.sqrt(along**2 + across**2 + 1) / radius_px) ** (1 / index))
    tint = np.exp(rng.normal(0, 0.2, bands)) * rng.uniform(0.05, 1)
    return (profile / profile.max() * tint[:, None, None]).astype(np.float32)


def from_picture(picture: Image, shape: tuple[int, int], bands: int, rng: np.random.Generator, peak: float) -> Image:
    """A diffuse sky (bands, H, W) cut out of a clean picture (h, w, 3) with values 0 to 1.

    The display gamma is undone, the picture shrunk, much so that its own blur and noise fall below a pixel or little so
    that it is as soft as large telescopes' pixels make it, and its darkest part taken as sky.
    """
    height, width = shape
    least = max(height / picture.shape[0], width / picture.shape[1])
    shrink = max(least, rng.uniform(0.3, 0.9))
    size = max(width, round(picture.shape[1] * shrink)), max(height, round(picture.shape[0] * shrink))
    method = cv2.INTER_AREA if shrink < 1 else cv2.INTER_CUBIC
    small = cv2.resize(picture, size, interpolation=method)
    top, left = rng.integers(size[1] - height + 1), rng.integers(size[0] - width + 1)
    linear = np.clip(small[top : top + height, left : left + width], 0, 1) ** 2.2
    planes = linear.transpose(2, 0, 1) if bands == 3 else (linear @ LUMINANCE)[None]
    planes = planes - np.quantile(planes, 0.02)
    scale = max(float(np.quantile(planes, 0.999)), 1e-3)
    return (np.maximum(planes, 0) * (peak / scale)).astype(np.float32)


def soften(diffuse: Image, fwhm_px: float) -> Image:
    """The diffuse sky with all detail below this width gone, so that the catalogue is the whole truth on stars."""
    otf = gaussian_otf(diffuse.shape[1:], fwhm_px)
    return np.array([np.maximum(blur(band, otf), 0) for band in diffuse], np.float32)


def glow(shape: tuple[int, int], rng: np.random.Generator, peak: float) -> Image:
    """Light (H, W) that grows evenly across the picture, from nothing in one corner or side to `peak`."""
    y, x = np.linspace(0, 1, shape[0])[:, None], np.linspace(0, 1, shape[1])[None, :]
    slope = rng.uniform(-1, 1, 2)
    plane = slope[0] * y + slope[1] * x
    return (peak * (plane - plane.min()) / max(np.ptp(plane), 1e-6)).astype(np.float32)


def star_catalogue(
    shape: tuple[int, int], bands: int, rng: np.random.Generator, per_mpx: float, flux_range: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """x, y (stars,) and flux (bands, stars): counts grow as 1 / flux between the two ends, colours scatter."""
    count = rng.poisson(per_mpx * shape[0] * shape[1] / 1e6)
    low, high = flux_range
    flux = 1 / (1 / low + rng.random(count) * (1 / high - 1 / low))
    tint = np.exp(rng.normal(0, 0.3, (bands, count))) if bands > 1 else np.ones((1, count))
    return rng.uniform(0, shape[1], count), rng.uniform(0, shape[0], count), flux * tint
