"""Many frames into one small bank of maps, whatever their number and order, without loss for the network.

With known PSFs and sky-limited noise, frames Y_k with transfer functions H_k and noise s_k
compress without loss into sum conj(H) Y / s^2 and sum |H|^2 / s^2 (Zackay & Ofek 2017). From these
two come Wiener estimates of the sky at the target star width, from sharp and noisy to soft and quiet,
and the matched-filter significance. Knows nothing of networks; frames must lie on one grid.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stackd.imaging.background import SCALES_PX, backgrounds
from stackd.imaging.cells import cells_of, medians_of
from stackd.imaging.psf import Psf, target_otf
from stackd.imaging.psf_field import PsfField, pieces
from stackd.imaging.quality import pixel_noise
from stackd.imaging.stack import Stack

Image = NDArray[np.float32]

# Regularisation of the Wiener maps relative to the power at zero frequency: from nearly full
# deconvolution to little more than smoothing.
REGULARISATIONS = (0.001, 0.02, 0.3)
FLOOR_CELL_PX = 32
FLOOR_QUANTILE = 0.02
PAD_PX = 40  # mirrored at the edges so that the transform's wrap-around stays outside


@dataclass(frozen=True, slots=True)
class Bank:
    """What the network sees of one band; planes are (H, W).

    `plain` is the clipped mean, `wiener` (M, H, W) the estimates at target width, `background` (S, H, W) the plain
    stack's sky behind its sources on ever larger scales, all in units of `unit_adu` (the stack's sky noise where all
    frames overlap); `score` the matched filter in sigma; `spread` the frames' scatter in sigma; `depth` the local noise
    over `unit_adu`. `conditions` (C,) are facts of the whole picture: logs of the star widths and of each map's noise.

    All maps count from `floor_adu`, the darkest smooth part of the picture: where a set's measured sky lies is an
    accident of how much nebula or glow is in it, and the network takes what lies below zero for noise.
    """

    plain: Image
    wiener: Image
    background: Image
    score: Image
    spread: Image
    depth: Image
    unit_adu: float
    floor_adu: float
    conditions: NDArray[np.float32]


ESTIMATES = 1 + len(REGULARISATIONS) + len(SCALES_PX)  # of the sky's light: the plain stack, Wiener maps, backgrounds
CONDITIONS = 3 + 1 + len(REGULARISATIONS)


def fuse(
    frames: Image,
    noise_adu: NDArray[np.float64],
    stack: Stack,
    psfs: tuple[Psf, ...] | None,
    target_fwhm_px: float,
    field: PsfField | None = None,
) -> Bank:
    """The bank of one band from (N, H, W) frames, their sky noise (N,) and their PSFs on this grid, which a `field`
    tells to change over it.

    Without PSFs (no stars to measure them on) the Wiener maps are the plain stack itself. Samples that the stack left
    out are taken from its mean. Pixels that no frame saw are NaN in no map: they hold 0.
    """
    unit = float(np.nanmin(stack.noise))
    floor = _darkest(stack.mean)
    stack = replace(stack, mean=stack.mean - np.float32(floor))
    plain = np.nan_to_num(stack.mean) / unit
    depth = np.nan_to_num(stack.noise / unit, nan=1.0)
    if psfs is None:
        wiener = np.repeat(plain[None], len(REGULARISATIONS), 0)
        score, widths = plain, (target_fwhm_px, target_fwhm_px)
    else:
        wiener, score = _wiener_over(frames, floor, noise_adu, stack, psfs, target_fwhm_px, field)
        wiener /= unit
        widths = _mean_width(psfs, noise_adu), min(p.fwhm_px for p in psfs)
    conditions = [np.log(w / target_fwhm_px) for w in widths] + [float(psfs is None)]
    conditions += [np.log(max(pixel_noise(m), 1e-3)) for m in (plain, *wiener)]
    spread = np.nan_to_num(stack.spread, nan=1.0)
    unseen = np.isnan(stack.mean)
    background = backgrounds(*(np.where(unseen, np.nan, plane).astype(np.float32) for plane in (plain, score)))
    parts = (plain, wiener, background, score, spread, depth)
    return Bank(*(p.astype(np.float32, copy=False) for p in parts), unit, floor, np.array(conditions, np.float32))


def _darkest(mean: Image) -> float:
    """The level of the darkest smooth sky: a low quantile of the medians of cells, so noise does not decide."""
    rows, columns = (min(FLOOR_CELL_PX, n) for n in mean.shape)
    medians = medians_of(cells_of(mean, (rows, columns)))
    known = medians[np.isfinite(medians)]
    return float(np.quantile(known, FLOOR_QUANTILE)) if known.size else 0.0


def _mean_width(psfs: tuple[Psf, ...], noise_adu: NDArray[np.float64]) -> float:
    """FWHM (px) of the plain stack's stars: the frames' own by their weights in it."""
    return float(np.average([p.fwhm_px for p in psfs], weights=noise_adu**-2.0))


def _wiener_over(
    frames: Image, floor_adu: float, noise_adu, stack: Stack, psfs, target_fwhm_px: float, field: PsfField | None
) -> tuple[Image, Image]:
    """Wiener maps (M, H, W) in the frames' unit and the matched-filter map (H, W) in sigma of frames above the floor,
    piece by piece where star shapes change over the field."""
    fill = np.nan_to_num(stack.mean)
    if field is None:
        return _wiener(frames, floor_adu, noise_adu, fill, stack.good, psfs, target_fwhm_px)
    wiener, score = np.zeros((len(REGULARISATIONS), *fill.shape), np.float32), np.zeros(fill.shape, np.float32)
    for piece in pieces(fill.shape, psfs, field):
        here = piece.window
        inside, good = frames[:, *here], stack.good[:, *here]
        sharp, found = _wiener(inside, floor_adu, noise_adu, fill[here], good, piece.psfs, target_fwhm_px)
        wiener[:, *here] += piece.share * sharp
        score[here] += piece.share * found
    return wiener, score


def _wiener(
    frames: Image, floor_adu: float, noise_adu, fill: Image, good: NDArray[np.bool_], psfs, target_fwhm_px: float
) -> tuple[Image, Image]:
    """The same with one star shape a frame. `fill` (H, W) stands in where `good` says that a sample is not."""
    height, width = fill.shape
    shape = padded_shape((height, width))
    numerator = np.zeros((shape[0], shape[1] // 2 + 1), np.complex64)
    power = np.zeros(numerator.shape, np.float32)
    for k, frame in enumerate(frames):
        filled = np.where(good[k], frame - np.float32(floor_adu), fill)
        otf = psfs[k].otf(shape).astype(np.complex64)
        numerator += np.conj(otf) * fft.rfft2(padded(filled, shape)) / np.float32(noise_adu[k] ** 2)
        power += np.abs(otf) ** 2 / np.float32(noise_adu[k] ** 2)
    target = target_otf(shape, target_fwhm_px).astype(np.float32)
    window = (slice(PAD_PX, PAD_PX + height), slice(PAD_PX, PAD_PX + width))
    full = power[0, 0]
    wiener = [fft.irfft2(numerator * target * (1 + r) / (power + r * full), shape)[window] for r in REGULARISATIONS]
    # mean of |H|^2 over the whole plane: rfft2 holds the inner columns once where fft2 has them twice
    doubled = power[:, 1 : (shape[1] + 1) // 2].sum(dtype=float)
    mean_power = (power.sum(dtype=float) + doubled) / (shape[0] * shape[1])
    score = fft.irfft2(numerator, shape)[window] / np.sqrt(mean_power)
    return np.array(wiener, np.float32), score.astype(np.float32)


def padded_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """A shape with PAD_PX or more to spare on each side that transforms fast."""
    height, width = (fft.next_fast_len(n + 2 * PAD_PX, real=True) for n in shape)
    return height, width


def padded(image: Image, shape: tuple[int, int]) -> Image:
    """The image at (PAD_PX, PAD_PX) in a plane of this shape, mirrored around as far as it reaches."""
    after = [n - have - PAD_PX for n, have in zip(shape, image.shape)]
    mode = "symmetric" if min(image.shape) >= max(PAD_PX, *after) else "edge"
    return np.pad(image, ((PAD_PX, after[0]), (PAD_PX, after[1])), mode=mode)
