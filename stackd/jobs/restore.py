"""Stacks become a picture: fused, restored by the network, held to the plain stack's fluxes, guarded.

Says in words what the network changed too much and what of a set it has never seen the like of; then the picture
falls back towards the plain stack. Knows no files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stackd.disk.frame import Image
from stackd.imaging.closure import (
    CHECKING_SNR,
    CLOSING_SNR,
    FluxCheck,
    check_fluxes,
    close_fluxes,
    darkest_around,
    mean_psf,
    stack_view,
    widened,
)
from stackd.imaging.faint import settle_faint
from stackd.imaging.fuse import Bank, fuse
from stackd.imaging.psf import Psf
from stackd.imaging.quality import pixel_noise
from stackd.imaging.stack import Stack
from stackd.imaging.star_light import LARGEST_EXCESS, aperture_px, stars_in_stack
from stackd.imaging.stars import Stars
from stackd.jobs.align import UNSATURATED_SHARE, Aligned

ASSUMED_PSF = Psf(2.8, 4.0)  # of a sharp planetary or lunar frame
SHARPENING_MAP = 1  # of the Wiener maps: sharp, and quiet enough for eight frames
NETWORK_MARGIN = 5.0  # before its stars were set right the network may be off by so many times the tolerance
AFFORDABLE_PX = 48_000_000  # of all bands and orientations together: the network's work of a minute on two cores
COMMON_MARGIN = 3.0  # what all stars have in common may be the wings' fault: it may be so many times the tolerance
HOLE_SIGMA = 4.0  # of a picture's own noise, by which it may be darker than any sky around
SATURATION_REACH_PX = 6  # so far from saturated pixels the stack tells of their charge, not of stars
NO_SHAPE = "no star shape could be measured (too few stars, or trailed or very sharp ones): the network is left out,"
CLASSIC_WARNING = "the network of 2019 knows no star shapes, fluxes or errors: sigma is the plain stack's"


class AnyRestorer(Protocol):
    """`network.restorer.Restorer` or `network.classic.ClassicRestorer`, whose modules load TensorFlow: a set that takes
    no network must not need them."""

    card: dict[str, Any]
    knows_stars: bool  # is told their shapes and gives an error; the network of 2019 sees frames alone


@dataclass(frozen=True, slots=True)
class Picture:
    """A restored set: (bands, H, W) planes in the reference's ADU above its sky."""

    restored: Image
    sigma: Image
    stack: Image
    strength: float  # of the network in it
    orientations: int  # in which the network saw it
    network_fluxes: FluxCheck | None  # what the network did to star fluxes
    fluxes: FluxCheck | None  # what is left of that in the picture
    warnings: tuple[str, ...] = ()
    sharpened: bool = False  # linearly, without the network


def restore(
    aligned: Aligned,
    stacks: list[Stack],
    restorer: AnyRestorer | None,
    settings: dict[str, Any],
    progress: Callable[[float], None],
) -> Picture:
    """The network's picture at the strength that `settings` (restore) and the guard over star fluxes allow.

    Without a restorer the plain stack alone. Raises SetError where the model cannot take this set.
    """
    plain = np.stack([s.mean for s in stacks])
    plain_sigma = np.stack([s.noise * np.maximum(s.spread, 1) for s in stacks])
    if restorer is None:
        return Picture(plain, plain_sigma, plain, 0.0, 0, None, None)
    if not restorer.knows_stars:
        clean = np.stack([restorer.restore_frames(frames) for frames in aligned.bands])
        strength = settings["strength"]
        mixed = _mixed(np.where(np.isnan(plain), np.nan, clean), plain, strength)
        return Picture(mixed, plain_sigma, plain, strength, 1, None, None, (CLASSIC_WARNING,))
    if aligned.psfs is None:
        if aligned.by_stars:
            return Picture(plain, plain_sigma, plain, 0.0, 0, None, None, (f"{NO_SHAPE} and this is the plain stack",))
        return _sharpened(aligned, stacks, plain, plain_sigma, settings)
    orientations = settings["orientations"] or _affordable_orientations(plain.size)
    bands = restorer.restore(_fuse(aligned, stacks, restorer), progress, orientations=orientations)
    clean, changed, fluxes = _close(aligned, stacks, np.stack([b.image for b in bands]), restorer.target_fwhm_px)
    strength, warnings = _allowed_strength(settings, changed, fluxes)
    warnings += _outside_training(aligned, restorer)
    clean, sigma = _without_holes(clean, np.stack([b.sigma for b in bands]), stacks)
    clean, sigma, too_sharp = _at_wanted_width(clean, sigma, restorer.target_fwhm_px, settings["target_fwhm_px"])
    warnings += too_sharp
    restored, claimed = _mixed(clean, plain, strength), _mixed(sigma, plain_sigma, strength)
    return Picture(restored, claimed, plain, strength, orientations, changed, fluxes, tuple(warnings))


def _affordable_orientations(pixels: int) -> int:
    """As many of them as cost no more than a minute for so many pixels of all bands together; one at least."""
    return max((n for n in (1, 2, 4) if n * pixels <= AFFORDABLE_PX), default=1)


def _mixed(clean: Image, plain: Image, strength: float) -> Image:
    """The two in the proportion of the strength; NaN where no frame saw the sky."""
    return np.where(np.isnan(plain), np.nan, strength * clean + (1 - strength) * plain).astype(np.float32)


def _sharpened(
    aligned: Aligned, stacks: list[Stack], plain: Image, plain_sigma: Image, settings: dict[str, Any]
) -> Picture:
    """Where no star tells the blur (Moon, planets): the plain stack, deconvolved mildly and linearly.

    The network was trained on skies with measured star shapes; on a lunar limb it would guess.
    """
    banks = [
        fuse(frames, noise, stack, (ASSUMED_PSF,) * len(frames), settings["target_fwhm_px"])
        for frames, noise, stack in zip(aligned.bands, aligned.noise_adu, stacks)
    ]
    sharp = np.stack([b.wiener[SHARPENING_MAP] * b.unit_adu + b.floor_adu for b in banks])
    louder = np.array([pixel_noise(s) / max(pixel_noise(p), 1e-6) for s, p in zip(sharp, plain)])
    strength = settings["strength"]
    warning = f"{NO_SHAPE} and the plain stack is sharpened as if stars were {ASSUMED_PSF.fwhm_px} px wide"
    sigma = plain_sigma * np.maximum(louder, 1)[:, None, None]
    restored, claimed = _mixed(sharp, plain, strength), _mixed(sigma, plain_sigma, strength)
    return Picture(restored, claimed, plain, 0.0, 0, None, None, (warning,), sharpened=True)


def _at_wanted_width(clean: Image, sigma: Image, trained_px: float, wanted_px: float) -> tuple[Image, Image, list[str]]:
    """The network gives one star width; a wider one is a blur away, a narrower one would be invented.

    The error is blurred like the picture, as if errors nearby were one, which is too careful and never too bold: on
    simulated nights at 3 px the sky's real error is 0.9 of it, that of the brightest stars a third. Taken for noise as
    fine as a star, the sky's would be 1.3 of it.
    """
    if wanted_px > trained_px:
        wide, error = (np.stack([widened(band, trained_px, wanted_px) for band in planes]) for planes in (clean, sigma))
        return wide, np.maximum(error, sigma.min()), []
    if wanted_px < trained_px:
        told = f"target_fwhm_px = {wanted_px} is sharper than the model gives: stars are {trained_px} px wide"
        return clean, sigma, [told]
    return clean, sigma, []


def _close(
    aligned: Aligned, stacks: list[Stack], clean: Image, target_fwhm_px: float
) -> tuple[Image, FluxCheck | None, FluxCheck | None]:
    """The network's picture with its stars held to the plain stack, the bright ones' fluxes and what faint peaks claim,
    and the check of fluxes before and after.

    Both tell the worst figures of all bands; None with too few bright stars.
    """
    weights = np.mean(aligned.noise_adu**-2.0, axis=0)
    psf = mean_psf(aligned.psfs, weights)
    saturated = _near_saturation(aligned)
    x, y = _outside(saturated, aligned.stars)
    excess = _excess(aligned, weights, x, y)
    alike = np.abs(excess(aperture_px(psf))) < LARGEST_EXCESS
    noise_adu = [float(np.nanmin(stack.noise)) for stack in stacks]
    measured = [stars_in_stack(stack.mean, noise, psf, x, y) for stack, noise in zip(stacks, noise_adu)]
    flux, snr = (np.array(values) for values in zip(*measured))
    bright, brightest = (snr > CLOSING_SNR).any(0), (snr > CHECKING_SNR) & alike
    stacked = stack_view(clean.shape[1:], aligned.psfs, weights, target_fwhm_px, aligned.field)
    by_network = stacked(clean)
    plain = np.stack([stack.mean for stack in stacks])
    closed = close_fluxes(
        clean, plain, np.where(saturated, plain, by_network), psf, x[bright], y[bright], flux[:, bright], noise_adu,
        target_fwhm_px, lambda radius_px: excess(radius_px)[bright],
    )  # fmt: skip
    closed_again = np.where(saturated, plain, stacked(closed))
    noise = np.stack([stack.noise for stack in stacks])
    settled = settle_faint(closed, plain, closed_again, noise, psf, target_fwhm_px)

    def checked(seen: Image) -> FluxCheck | None:
        rows = zip(plain, seen, flux, brightest)
        return _worst([check_fluxes(stack, view, psf, x[q], y[q], light[q]) for stack, view, light, q in rows])

    return settled, checked(by_network), checked(stacked(settled))


def _near_saturation(aligned: Aligned) -> NDArray[np.bool_]:
    """(H, W): where the reference reaches the sensor's limit in any band, and as far around as its charge spreads: a
    column that bleeds beside a star would else pass for light that the star has too much of."""
    full = np.nan_to_num(aligned.single).max(0) >= UNSATURATED_SHARE * aligned.saturation_adu
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * SATURATION_REACH_PX + 1,) * 2)
    return cv2.dilate(full.astype(np.uint8), around) > 0


def _outside(saturated: NDArray[np.bool_], stars: Stars) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x, y (px) of the stars whose peak does not lie there."""
    rows, columns = (np.round(v).astype(int) for v in (stars.y, stars.x))
    usable = ~saturated[rows, columns]
    return stars.x[usable], stars.y[usable]


def _without_holes(clean: Image, sigma: Image, stacks: list[Stack]) -> tuple[Image, Image]:
    """The bands nowhere darker than any sky around, but for noise: beside bleeding, lopsided and very bright stars the
    network digs holes. The error is no less there than what was mended."""
    darkest = np.stack([darkest_around(stack.mean) for stack in stacks])
    noise = np.stack([np.maximum(stack.noise, HOLE_SIGMA * pixel_noise(band)) for stack, band in zip(stacks, clean)])
    filled = np.where(clean < darkest - noise, darkest, clean)
    return filled, np.maximum(sigma, filled - clean)


def _excess(aligned: Aligned, weights: NDArray[np.float64], x, y) -> Callable[[float], NDArray[np.float64]]:
    """How much more of the light of stars at x, y (px) the plain stack has within a radius (px) there than in all of
    it: other than 0 where only the sharpest or only the softest frames saw the place."""
    rows, columns = np.round(y).astype(int), np.round(x).astype(int)
    seen = np.isfinite(aligned.bands[0][:, rows, columns]) * weights[:, None]

    def within(radius_px: float) -> NDArray[np.float64]:
        shares = np.array([one.share_within(radius_px) for one in aligned.psfs])
        return shares @ seen / np.maximum(seen.sum(0), 1e-12 * weights.max()) / np.average(shares, weights=weights) - 1

    return within


def _worst(checks: list[FluxCheck | None]) -> FluxCheck | None:
    """The largest change and the largest scatter of all bands, which need not be one band's."""
    known = [c for c in checks if c is not None]
    if not known:
        return None
    return FluxCheck(
        max((c.change_mag for c in known), key=abs), max(c.scatter_mag for c in known), min(c.stars for c in known)
    )


def _allowed_strength(
    settings: dict[str, Any], by_network: FluxCheck | None, left: FluxCheck | None
) -> tuple[float, list[str]]:
    """The wanted strength, less where star fluxes are off by more than the settings tolerate.

    What the network did before its stars were set right counts too, at a fraction: a network that
    gets fluxes grossly wrong did not understand the picture around the stars either.
    """
    wanted, tolerance = settings["strength"], settings["flux_tolerance"]
    if by_network is None or left is None:
        return wanted, []
    off = max(left.scatter_mag, abs(left.change_mag) / COMMON_MARGIN, by_network.scatter_mag / NETWORK_MARGIN)
    if off <= tolerance:
        return wanted, []
    strength = wanted * tolerance / off
    return strength, [
        f"star fluxes differ from the plain stack's by {left.change_mag:.3f} mag in common and {left.scatter_mag:.3f} "
        f"mag among each other (by the network alone {by_network.scatter_mag:.3f}), too much for flux_tolerance "
        f"{tolerance}: the network's share is brought down to {strength:.2f}, the rest is the plain stack"
    ]


def _outside_training(aligned: Aligned, restorer: AnyRestorer) -> list[str]:
    """What of this set the model has never seen the like of."""
    known = restorer.card["trained_range"]
    figures = {
        "frames": [len(aligned.used)],
        "fwhm_px": [aligned.frames[k].fwhm_px for k in aligned.used],
        "ellipticity": [aligned.frames[k].ellipticity for k in aligned.used],
    }
    out = []
    for name, values in figures.items():
        low, high = known[name]
        worst = [v for v in values if math.isfinite(v) and not low <= v <= high]
        if worst:
            out.append(f"{name} {worst[0]:.3g} lies outside what the model was trained on ({low} to {high})")
    return out


def _fuse(aligned: Aligned, stacks: list[Stack], restorer: AnyRestorer) -> list[Bank]:
    return [
        fuse(frames, noise, stack, aligned.psfs, restorer.target_fwhm_px, aligned.field)
        for frames, noise, stack in zip(aligned.bands, aligned.noise_adu, stacks)
    ]
