"""A simulated night: atmosphere, telescope and camera turn a sky into frames, with all that goes wrong.

Seeing that differs by frame, tracking drift, coma and defocus, transparency, cloud, gradients, photon and read
noise, hot pixels, cosmic rays, satellite trails, saturation, Bayer mosaics. Lengths in px, light in
electrons, frames out in ADU. Everything random comes from the `rng` handed in. Frames look onto the
sky's own grid: pixel (y, x) of frame 0 is pixel (y, x) of the sky.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from stackd.imaging.psf import Psf, frequencies
from stackd.imaging.skies import Sky, blur, splat, splat_otf

Image = NDArray[np.float32]
SHARP_FWHM_PX = 2.5  # stars below it are more than their values at a pixel's middle tell
FINE = 2  # pixels per pixel and axis that such stars are drawn on
FIELD_STAMP_PX = 20  # radius to which stars are drawn that differ over the field
BAYER_BANDS = {"RGGB": ((0, 1), (1, 2)), "GRBG": ((1, 0), (2, 1)), "GBRG": ((1, 2), (0, 1)), "BGGR": ((2, 1), (1, 0))}


@dataclass(frozen=True, slots=True)
class Night:
    """What a whole set has in common, and the ranges its frames are drawn from."""

    frames: int = 8
    fwhm_px: tuple[float, float] = (2.3, 4.2)
    beta: tuple[float, float] = (2.5, 4.5)
    ellipticity: tuple[float, float] = (0.0, 0.15)
    drift_px: float = 0.0  # length of the line that tracking errors draw, 1 sigma
    defocus_chance: float = 0.0
    coma_chance: float = 0.0
    corner_growth: float = 0.0  # so much wider, and elongated away from the middle, stars are in the corners
    shift_px: float = 12.0
    rotation_deg: float = 1.0
    transparency: tuple[float, float] = (0.75, 1.0)
    sky: tuple[float, float] = (150.0, 600.0)
    gradient: float = 0.15  # of the sky, edge to edge
    read_noise: float = 5.0
    electrons_per_adu: float = 1.0
    offset_adu: float = 300.0
    saturation_adu: float = 65535.0
    hot_pixels: float = 2e-4  # fraction
    cosmic_rays_per_mpx: float = 4.0
    trail_chance: float = 0.0
    cloud_chance: float = 0.0
    bayer: str = ""
    sensitivity: Image | float = 1.0  # (H, W): of each pixel to light, as flats show it: vignetting, dust, its own
    dark_current: Image | float = 0.0  # (H, W): electrons that gather in each pixel without light during an exposure


@dataclass(frozen=True, slots=True)
class Exposure:
    """One frame and what is true of it.

    `pixels` in ADU: (H, W) of a mono or Bayer camera, (3, H, W) of one that sees three bands at once;
    `matrix` (2, 3) maps its px to the sky's grid.
    """

    pixels: Image
    matrix: NDArray[np.float64]
    psf: Psf  # the round-about truth: seeing without drift, coma and defocus
    transparency: float
    sky_adu: float
    cloudy: bool
    trail: bool


def expose(sky: Sky, night: Night, rng: np.random.Generator) -> list[Exposure]:
    """A set of frames of one sky. The first one's pose is the identity."""
    shape = sky.diffuse.shape[1:]
    hot = (rng.random(shape) < night.hot_pixels) * rng.exponential(3000, shape)
    return [_one_frame(sky, night, hot, rng, first=k == 0) for k in range(night.frames)]


def _one_frame(sky: Sky, night: Night, hot, rng, first: bool) -> Exposure:
    shape = sky.diffuse.shape[1:]
    matrix = np.eye(2, 3) if first else _pose(shape, night, rng)
    psf = Psf(*(rng.uniform(*r) for r in (night.fwhm_px, night.beta, night.ellipticity)), rng.uniform(0, np.pi))
    optics = _random_optics(psf, night, rng)
    transparency, level = rng.uniform(*night.transparency), rng.uniform(*night.sky)
    cloudy = rng.random() < night.cloud_chance
    if cloudy:
        transparency, level = transparency * rng.uniform(0.2, 0.5), level * rng.uniform(1.5, 3)
    light = _through_filters(sky, night, matrix, optics) * transparency
    ground = level * (1 + _tilt(shape, night.gradient, rng))
    gathered = (light + ground) * night.sensitivity + night.dark_current
    electrons = rng.poisson(np.maximum(gathered, 0)).astype(np.float32)
    electrons += rng.normal(0, night.read_noise, light.shape).astype(np.float32) + hot.astype(np.float32)
    for plane in electrons:
        _cosmic_rays(plane, night.cosmic_rays_per_mpx, rng)
    trail = rng.random() < night.trail_chance
    if trail:
        electrons += _trail(shape, rng, transparency)
    pixels = _counts(electrons, night)
    pixels = pixels if len(pixels) > 1 else pixels[0]
    return Exposure(pixels, matrix, psf, transparency, level / night.electrons_per_adu, cloudy, trail)


def uneven(night: Night, shape: tuple[int, int], rng: np.random.Generator) -> Night:
    """The same night by a camera that needs calibrating: corners with half the light, shadows of dust, pixels that
    differ by 1 %, dark current with hot pixels among it and a glowing corner. Every frame shows the same."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    off_axis = ((x - shape[1] / 2) ** 2 + (y - shape[0] / 2) ** 2) / ((shape[1] / 2) ** 2 + (shape[0] / 2) ** 2)
    answer = rng.normal(1, 0.01, shape) / (1 + 0.4 * off_axis) ** 2
    for _ in range(rng.poisson(30 * shape[0] * shape[1] / 1e6) + 1):
        away = np.hypot(x - rng.uniform(0, shape[1]), y - rng.uniform(0, shape[0]))
        outer = rng.uniform(6, 24)
        answer *= 1 - rng.uniform(0.03, 0.12) * ((away < outer) & (away > 0.4 * outer))  # the mirror's own shadow
    dark = rng.exponential(6, shape) + (rng.random(shape) < night.hot_pixels) * rng.exponential(3000, shape)
    dark += 40 * np.exp(-(x**2 + y**2) / (0.2 * shape[1]) ** 2)
    return replace(night, sensitivity=answer.astype(np.float32), dark_current=dark.astype(np.float32), hot_pixels=0.0)


def calibration_frame(
    night: Night, shape: tuple[int, int], rng: np.random.Generator, *, light: float = 0.0, exposures: float = 1.0
) -> Image:
    """A frame (H, W) in ADU of even light (electrons a pixel) or, without any, of a closed shutter, that lasts so many
    of the night's exposures: a flat, a dark, or (0 exposures) a bias."""
    gathered = light * night.sensitivity + exposures * night.dark_current
    electrons = rng.poisson(np.broadcast_to(gathered, shape)) + rng.normal(0, night.read_noise, shape)
    return _counts(electrons, night)


def _counts(electrons: NDArray[np.floating], night: Night) -> Image:
    adu = np.round(electrons / night.electrons_per_adu + night.offset_adu)
    return np.clip(adu, 0, night.saturation_adu).astype(np.float32)


def _pose(shape, night: Night, rng) -> NDArray[np.float64]:
    """A random frame-to-sky transform: turn about the middle, then shift."""
    turn = np.deg2rad(rng.uniform(-night.rotation_deg, night.rotation_deg))
    c, s = np.cos(turn), np.sin(turn)
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    rotation = np.array([[c, -s], [s, c]])
    shift = middle - rotation @ middle + rng.uniform(-night.shift_px, night.shift_px, 2)
    return np.column_stack([rotation, shift])


@dataclass(frozen=True, slots=True)
class _Optics:
    """What spreads a frame's light: seeing, and along one direction drift (a line) and coma (a growing tail), and
    defocus (a disc). 0 px: none."""

    psf: Psf
    angle_rad: float
    drift_px: float
    defocus_px: float
    coma_px: float

    def otf(self, shape: tuple[int, int], fine: int = 1) -> NDArray[np.complex128]:
        """Transfer function on a grid of this shape, `fine` of whose pixels make one of the camera's."""
        ky, kx = (fine * k for k in frequencies(shape))
        along = ky * np.sin(self.angle_rad) + kx * np.cos(self.angle_rad)
        otf = replace(self.psf, fwhm_px=fine * self.psf.fwhm_px).otf(shape)
        if self.drift_px:
            otf *= np.sinc(self.drift_px * along)
        if self.defocus_px:
            k = 2 * np.pi * self.defocus_px * np.hypot(ky, kx) + 1e-9
            otf *= 2 * j1(k) / k
        if self.coma_px:
            steps = np.arange(4)
            weights = np.exp(-steps / 1.2)
            tail = sum(
                w * np.exp(-2j * np.pi * self.coma_px * n * along - 2 * (0.4 * n * np.pi) ** 2 * (ky**2 + kx**2) / 4)
                for n, w in zip(steps, weights / weights.sum())
            )
            # a tail moves the centre of light; the frame's pose is that of the centre
            otf *= tail * np.exp(2j * np.pi * self.coma_px * along * float(steps @ weights / weights.sum()))
        return otf


def _random_optics(psf: Psf, night: Night, rng) -> _Optics:
    """A frame's, each part by its chance in this night."""
    angle_rad = rng.uniform(0, np.pi)
    drift_px = abs(rng.normal(0, night.drift_px)) if night.drift_px else 0.0
    defocus_px = rng.uniform(0.8, 2.2) if rng.random() < night.defocus_chance else 0.0
    coma_px = rng.uniform(0.5, 2.0) if rng.random() < night.coma_chance else 0.0
    return _Optics(psf, angle_rad, drift_px, defocus_px, coma_px)


def _through_filters(sky: Sky, night: Night, matrix, optics: _Optics) -> Image:
    """The light (planes, H, W) that falls on the pixels: each band, or one plane under a Bayer mosaic."""
    shape = sky.diffuse.shape[1:]
    inverse = cv2.invertAffineTransform(matrix)
    x, y = inverse[:, :2] @ np.stack([sky.x, sky.y]) + inverse[:, 2:]
    if night.corner_growth:
        drawn = _stars_over_field(shape, x, y, sky.flux, optics.psf, night.corner_growth)
    else:
        drawn = _stars(shape, x, y, sky.flux, optics)
    otf = optics.otf(shape)
    light = []
    for band, stars in zip(sky.diffuse, drawn):
        moved = cv2.warpAffine(
            band, matrix, shape[::-1], flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
        )
        light.append(blur(moved, otf) + stars)
    if not night.bayer:
        return np.array(light)
    mosaic = np.empty(shape, np.float32)
    for i, row in enumerate(BAYER_BANDS[night.bayer]):
        for j, band in enumerate(row):
            mosaic[i::2, j::2] = light[band][i::2, j::2]
    return mosaic[None]


def _stars(shape, x, y, flux, optics: _Optics) -> Iterator[Image]:
    """Each band's stars (H, W) at x, y (n,) px, of flux (bands, n)."""
    fine = FINE if optics.psf.fwhm_px < SHARP_FWHM_PX else 1
    grid = (shape[0] * fine, shape[1] * fine)
    to_stars = optics.otf(grid, fine) / splat_otf(grid)
    x, y = ((place + 0.5) * fine - 0.5 for place in (x, y))
    for band in flux:
        drawn = blur(splat(grid, x, y, band), to_stars)
        yield cv2.resize(drawn, shape[::-1], interpolation=cv2.INTER_AREA) * fine**2  # the sum of a pixel's parts


def _stars_over_field(shape, x, y, flux, psf: Psf, growth: float) -> list[Image]:
    """Each band's stars (H, W) where lenses draw them wider and longer the farther from the middle; each by itself, by
    seeing alone: drift, defocus and coma do not show on them."""
    height, width = shape
    edge = FIELD_STAMP_PX
    planes = np.zeros((len(flux), height + 2 * edge, width + 2 * edge))
    dx, dy = x - (width - 1) / 2, y - (height - 1) / 2
    off_axis = (dx**2 + dy**2) / ((width / 2) ** 2 + (height / 2) ** 2)
    columns, rows = np.round(x).astype(int), np.round(y).astype(int)
    for k in np.nonzero((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height))[0]:
        there = replace(
            psf, fwhm_px=psf.fwhm_px * (1 + growth * off_axis[k]), ellipticity=min(growth * off_axis[k], 0.6),
            angle_rad=float(np.arctan2(dy[k], dx[k])),
        )  # fmt: skip
        star = there.at(x[k : k + 1] - columns[k], y[k : k + 1] - rows[k], edge)[0]
        window = slice(rows[k], rows[k] + 2 * edge + 1), slice(columns[k], columns[k] + 2 * edge + 1)
        planes[:, *window] += flux[:, k, None, None] * star
    return list(planes[:, edge:-edge, edge:-edge].astype(np.float32))


def _tilt(shape, gradient: float, rng) -> Image:
    slope = rng.uniform(-gradient, gradient, 2)
    y, x = np.linspace(-0.5, 0.5, shape[0])[:, None], np.linspace(-0.5, 0.5, shape[1])[None, :]
    return (slope[0] * y + slope[1] * x).astype(np.float32)


def _cosmic_rays(electrons: Image, per_mpx: float, rng) -> None:
    """Short bright tracks, added in place."""
    height, width = electrons.shape
    for _ in range(rng.poisson(per_mpx * height * width / 1e6)):
        angle, steps = rng.uniform(0, np.pi), np.arange(0, rng.exponential(4) + 0.5, 0.5)
        rows = (rng.uniform(0, height) + steps * np.sin(angle)).astype(int)
        columns = (rng.uniform(0, width) + steps * np.cos(angle)).astype(int)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        energy = np.exp(rng.uniform(np.log(150), np.log(8000)))
        np.add.at(electrons, (rows[inside], columns[inside]), energy * rng.uniform(0.3, 1, inside.sum()))


def _trail(shape, rng, transparency: float) -> Image:
    """A satellite's or a plane's straight trail across the frame (H, W), sometimes blinking."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, away = rng.uniform(0, np.pi), rng.uniform(-0.45, 0.45) * min(shape)
    x, y = x - shape[1] / 2, y - shape[0] / 2
    distance = x * np.sin(angle) - y * np.cos(angle) - away
    profile = np.exp(-0.5 * (distance / rng.uniform(0.7, 2.5)) ** 2)
    if rng.random() < 0.2:
        profile *= np.sin((x * np.cos(angle) + y * np.sin(angle)) / rng.uniform(4, 20)) > 0
    return (np.exp(rng.uniform(np.log(50), np.log(3000))) * transparency * profile).astype(np.float32)
