"""From a set's frames to stacks of aligned bands: everything about the captures that the network must be told.

raw -> borders left out -> calibrated -> hot pixels mended -> debayered -> sky off -> registered -> warped -> star shape
and transparency measured -> one level. Takes Frames, gives `Aligned`; says why a frame was left out. Knows no files and
no network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stackd.disk.frame import Frame, Image
from stackd.errors import SetError
from stackd.imaging.borders import without_borders
from stackd.imaging.cosmetic import find_hot_pixels, find_loud_pixels, repair
from stackd.imaging.debayer import debayer
from stackd.imaging.level import light_ratio, tilt_between
from stackd.imaging.masters import NOTHING_KNOWN, Masters
from stackd.imaging.photometry import relative_light, star_fluxes
from stackd.imaging.points import Points, find_points
from stackd.imaging.psf import Psf
from stackd.imaging.psf_field import PsfField
from stackd.imaging.psf_field_fit import measure_field
from stackd.imaging.psf_fit import fit_psf
from stackd.imaging.quality import measure_sky, pixel_noise, rounding_noise, share_at_black
from stackd.imaging.register import Registration, register_set
from stackd.imaging.stars import Stars, find_stars
from stackd.imaging.warp import Transform, apply_transform, identity

BRIGHT = 200  # stars enough for a mean
CLEAR_LIGHT, FAINT_LIGHT = 1.0, 0.5  # sigmas of a pixel, in the mean of 3 x 3
UNSATURATED_SHARE = 0.8  # of the sensor's limit that an unsaturated star's peak may reach
LEAST_LIGHT = 0.05  # of the reference's; a frame with less adds nothing but its sky


@dataclass(frozen=True, slots=True)
class AlignedFrame:
    """What one frame came to. `reason` says why it was left out ("" if it was used)."""

    transform: Transform | None
    reason: str
    stars: int
    fwhm_px: float
    ellipticity: float
    sky_adu: float
    noise_adu: float
    light: float  # relative to the reference
    black_share: float  # of its pixels, cut off at the lowest value


@dataclass(frozen=True, slots=True)
class Aligned:
    """A set on the reference's grid, unit: the reference's ADU above its sky.

    `bands` holds (N, H, W) of the N used frames for each band, NaN where a frame saw nothing; `noise_adu` (bands, N);
    `psfs` one shape a frame, None where no star tells; `field` how they change over the picture, None where they do
    not. `single` (bands, H, W) is the reference alone.
    """

    reference: int  # among all frames
    used: tuple[int, ...]
    frames: tuple[AlignedFrame, ...]
    by_stars: bool  # stars told how the frames lie, or that they lie on each other as they are
    bands: tuple[Image, ...]
    noise_adu: NDArray[np.float64]
    psfs: tuple[Psf, ...] | None
    field: PsfField | None
    stars: Stars  # of the frames' mean
    points: Points  # those sources that are as narrow as stars: what tells the star shape
    single: Image
    hot_pixels: int
    saturation_adu: float  # above the sky


def align(
    frames: Sequence[Frame],
    *,
    aligned: bool,
    progress: Callable[[str, float], None],
    masters: Masters = NOTHING_KNOWN,
) -> Aligned:
    """Bring frames onto one grid. `aligned`: they already lie on each other. `masters` calibrate them first.

    Raises SetError where no two frames fit together.
    """
    bayer = frames[0].facts.bayer
    raw = [without_borders(frame.pixels) for frame in frames]
    black_shares = [share_at_black(pixels) for pixels in raw]
    raw = [masters.applied_to(pixels) for pixels in raw]
    noise_adu = np.array([_noise_by_band(pixels, bayer) for pixels in raw])
    loud = _loud(masters, float(np.median(noise_adu)), frames[0].electrons_per_unit, bayer)
    planes, hot_pixels = _clean_planes(raw, loud, bayer)
    del raw
    skies_adu = _without_sky(planes)
    luminance_noise_adu = noise_adu.mean(1) / np.sqrt(noise_adu.shape[1])
    saturation_adu = min(masters.limit_adu(f.saturation_adu) - sky_adu for f, sky_adu in zip(frames, skies_adu))
    progress("register", 0.1)
    registration = register_set(
        [image.mean(0) for image in planes], [float(n) for n in luminance_noise_adu], saturation_adu
    )
    by_stars = any(t is not None and t.method == "stars" for t in registration.transforms)
    if aligned:
        registration = _all_in_place(registration, len(frames))
    used = [k for k, t in enumerate(registration.transforms) if t is not None]
    _require_two(frames, used, registration.reasons)
    progress("warp", 0.25)
    single = planes[registration.reference].copy()
    bands = _warp(planes, registration, used)
    progress("measure", 0.4)
    told = _told({k: bands[:, n] for n, k in enumerate(used)}, registration, luminance_noise_adu, saturation_adu)
    reasons = [_dim(told.light.get(k, 1.0)) or reason for k, reason in enumerate(registration.reasons)]
    if any(reasons[k] for k in used):
        bands = bands[:, [not reasons[k] for k in used]]
        used = [k for k in used if not reasons[k]]
    _require_two(frames, used, reasons)
    light = np.array([told.light[k] for k in used])
    bands /= light.astype(np.float32)[:, None, None]
    _bring_to_one_level(bands, used.index(registration.reference))
    return Aligned(
        registration.reference, tuple(used),
        _rows(registration, reasons, told, skies_adu, noise_adu, black_shares), by_stars,
        tuple(bands), (noise_adu[used] / light[:, None]).T,
        tuple(told.psfs[k] for k in used) if told.psfs else None, told.field,
        told.stars, told.points, single, hot_pixels, saturation_adu,
    )  # fmt: skip


def _without_sky(planes: Sequence[Image]) -> list[float]:
    """Takes each band's level from the frames (bands, H, W), in place; gives each frame's mean level (ADU)."""
    levels_adu = [np.array([measure_sky(band).level_adu for band in image], np.float32) for image in planes]
    for image, level_adu in zip(planes, levels_adu):
        image -= level_adu[:, None, None]
    return [float(level_adu.mean()) for level_adu in levels_adu]


@dataclass(frozen=True, slots=True)
class _Told:
    """What the frames tell together once they lie on each other; `psfs` and `light` by the frame's place in the set."""

    stars: Stars
    points: Points
    psfs: dict[int, Psf] | None
    field: PsfField | None
    light: dict[int, float]  # relative to the reference


def _told(
    moved: dict[int, Image], registration: Registration, noise_adu: NDArray[np.float64], saturation_adu: float
) -> _Told:
    """Stars, their shapes and the transparency of frames (bands, H, W) with such noise of their luminance."""
    clearly, faintly = _shown(moved, noise_adu)
    mean, mean_noise_adu = _mean(moved, noise_adu)
    # of the mean: a sharp star in the middle of a pixel of the reference passes there for a defect
    stars = find_stars(mean, mean_noise_adu, saturation_adu)
    stars = stars.take(clearly[np.round(stars.y).astype(int), np.round(stars.x).astype(int)])
    points = _points(mean, mean_noise_adu, stars, faintly, saturation_adu)
    widths_px = {k: registration.figures[k].fwhm_px for k in moved}
    psfs = _psfs(moved, points, noise_adu, saturation_adu, widths_px)
    field = _field(mean, mean_noise_adu, points, len(stars), faintly, saturation_adu) if psfs else None
    return _Told(stars, points, psfs, field, _light(moved, registration.reference, stars, psfs))


def _dim(light: float) -> str:
    """Why a frame with this light is left out; "" for one that is not."""
    return f"only {light:.0%} of the reference's light came through" if light < LEAST_LIGHT else ""


def _rows(
    registration: Registration,
    reasons: Sequence[str],
    told: _Told,
    skies_adu: Sequence[float],
    noise_adu: NDArray[np.float64],
    black_shares: Sequence[float],
) -> tuple[AlignedFrame, ...]:
    """What each frame of the set came to: its star shape by the fit, else as it was first seen."""
    rows = []
    for k, figures in enumerate(registration.figures):
        shape = told.psfs[k] if told.psfs and k in told.psfs else figures
        rows.append(
            AlignedFrame(
                registration.transforms[k], reasons[k], figures.stars, shape.fwhm_px, shape.ellipticity,
                skies_adu[k], float(noise_adu[k].mean()), told.light.get(k, float("nan")), black_shares[k],
            )
        )  # fmt: skip
    return tuple(rows)


def _warp(planes: list[Image], registration: Registration, used: Sequence[int]) -> Image:
    """(bands, N, H, W): the used frames on the reference's grid. They go from `planes`: a large set is held
    once, not twice."""
    shape = planes[used[0]].shape
    bands = np.empty((shape[0], len(used), *shape[1:]), np.float32)
    for n, k in enumerate(used):
        bands[:, n] = apply_transform(planes[k], registration.transforms[k], shape[1:])[0]
        planes[k] = np.empty(0, np.float32)
    return bands


def _require_two(frames: Sequence[Frame], used: Sequence[int], reasons: Sequence[str]) -> None:
    """Raises SetError where but one frame of several is left: nothing would tell a star from a cosmic ray in it."""
    if len(used) < 2 <= len(frames):
        each = "; ".join(
            f"{frame.path.rsplit('/', 1)[-1]}: {reason}" for frame, reason in zip(frames, reasons) if reason
        )
        raise SetError(f"no two frames show the same sky: {each}", remedy="check that they are of one target")


def _loud(masters: Masters, noise_adu: float, photon_gain: float, bayer: str | None) -> NDArray[np.bool_] | bool:
    """Pixels that the master dark tells to be too noisy to use."""
    if masters.dark_adu is None:
        return False
    return find_loud_pixels(masters.dark_adu, noise_adu, photon_gain, bool(bayer))


def _clean_planes(raw: Sequence[Image], loud: NDArray[np.bool_] | bool, bayer: str | None) -> tuple[list[Image], int]:
    """Each frame as (bands, H, W) without the detector's hot pixels, and how many of those there were."""
    hot = find_hot_pixels(raw, bool(bayer)) | loud
    planes = []
    for pixels in raw:
        pixels = repair(pixels, hot, bool(bayer))
        planes.append(debayer(pixels, bayer) if bayer else pixels.reshape(-1, *pixels.shape[-2:]))
    return planes, int(hot.sum())


def _noise_by_band(pixels: Image, bayer: str | None) -> list[float]:
    """Noise (ADU) of a raw pixel of each band: of the mosaic's own pixels, since debayering hides part of it."""
    if bayer:
        found = [
            np.mean([pixel_noise(pixels[i // 2 :: 2, i % 2 :: 2]) for i in range(4) if bayer[i] == c]) for c in "RGB"
        ]
    else:
        found = [pixel_noise(band) for band in pixels.reshape(-1, *pixels.shape[-2:])]
    least = rounding_noise(pixels)  # in the file's own unit, which may be full scale as well as ADU
    return [max(float(n), least) for n in found]


def _all_in_place(registration: Registration, count: int) -> Registration:
    return Registration(
        registration.reference, (identity(),) * count, ("",) * count, registration.figures, registration.stars
    )


def _shown(moved: dict[int, Image], noise_adu) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(H, W) twice: where two frames more than one show light, or, of three and fewer, most; clearly, and faintly, as
    frames show what their mean shows well."""
    shape = next(iter(moved.values())).shape[1:]
    seen, clear, faint = (np.zeros(shape, np.uint8) for _ in range(3))
    for k, image in moved.items():
        plane = image.mean(0)
        seen += np.isfinite(plane)
        # a single NaN would spread over all that the running sums reach
        light = cv2.blur(np.nan_to_num(plane), (3, 3))
        clear += light > CLEAR_LIGHT * noise_adu[k]
        faint += light > FAINT_LIGHT * noise_adu[k]
    # clouds may hide a star from most frames, but chance hardly shows one in two more
    by_chance = np.minimum(np.float32(0.6) * seen, 2)
    return clear > by_chance, faint > by_chance


def _mean(moved: dict[int, Image], noise_adu) -> tuple[Image, float]:
    """(the frames' mean (H, W), NaN where none saw anything; its noise where most did)."""
    total, weights = np.float32(0), np.float32(0)
    for k, image in moved.items():
        plane = image.mean(0)
        weight = np.isfinite(plane) * np.float32(noise_adu[k] ** -2.0)
        total, weights = total + np.nan_to_num(plane) * weight, weights + weight
    mean = np.full(weights.shape, np.nan, np.float32)
    np.divide(total, weights, out=mean, where=weights > 0)
    return mean, float(weights.max() ** -0.5)


def _points(mean: Image, noise_adu: float, stars: Stars, shown: NDArray[np.bool_], saturation_adu: float) -> Points:
    """The true stars of the set, told from knots of nebula on the mean of its frames, where widths are surest, and from
    cosmic rays and noise, which are narrower still, by being `shown` in several frames."""
    usual_px = float(np.median(stars.fwhm_px[:BRIGHT])) if len(stars) else 0.0
    return find_points(mean, noise_adu, UNSATURATED_SHARE * saturation_adu, usual_px, shown)


def _field(
    mean: Image, noise_adu: float, points: Points, stars: int, shown: NDArray[np.bool_], saturation_adu: float
) -> PsfField | None:
    """How star shapes change over the mean of the frames, against the shape of its points, which tell each frame's."""
    below_adu = UNSATURATED_SHARE * saturation_adu
    usual = fit_psf(mean, points.x, points.y, points.flux, noise_adu, peak_below_adu=below_adu)
    return usual and measure_field(mean, noise_adu, below_adu, usual, shown, stars)


def _psfs(
    moved: dict[int, Image], points: Points, noise_adu, saturation_adu: float, widths_px: dict[int, float]
) -> dict[int, Psf] | None:
    """Each used frame's star shape on the reference's grid.

    Where a fit fails (clouds), its fellows' median shape, at the width that the frame's own few stars show if any.
    None where stars are too few in most frames: nobody knows the shape then.
    """
    below_adu = UNSATURATED_SHARE * saturation_adu
    found = {
        k: fit_psf(image.mean(0), points.x, points.y, points.flux, float(noise_adu[k]), peak_below_adu=below_adu)
        for k, image in moved.items()
    }
    good = {k: p for k, p in found.items() if p is not None}
    if 2 * len(good) < len(found) or not good:
        return None
    beta, usual_px = (float(np.median(v)) for v in zip(*((p.beta, p.fwhm_px) for p in good.values())))
    shown = {k: width for k, width in widths_px.items() if np.isfinite(width)}
    ratio = float(np.median([p.fwhm_px / shown[k] for k, p in good.items() if k in shown] or [1.0]))
    return {k: p or Psf(ratio * shown[k] if k in shown else usual_px, beta) for k, p in found.items()}


def _light(moved: dict[int, Image], reference: int, stars: Stars, psfs: dict[int, Psf] | None) -> dict[int, float]:
    """Each frame's light relative to the reference's: by its stars, else by whatever the picture shows."""
    guide = moved[reference].mean(0)
    x, y = stars.x[:BRIGHT], stars.y[:BRIGHT]
    fluxes = {k: star_fluxes(v.mean(0), psfs[k], x, y) for k, v in moved.items()} if psfs else {}
    light = {}
    for k, image in moved.items():
        by_stars = relative_light(fluxes[k], fluxes[reference]) if psfs else None
        light[k] = by_stars if by_stars is not None else light_ratio(image.mean(0), guide)
    return light


def _bring_to_one_level(bands: Image, reference: int) -> None:
    """Take from every frame of the bands (bands, N, H, W), in place, the tilt of its sky against the reference's, which
    is the one at that place among them."""
    for frames in bands:
        for n, frame in enumerate(frames):
            if n != reference:
                frame -= tilt_between(frame, frames[reference])
