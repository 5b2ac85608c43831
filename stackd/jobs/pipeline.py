"""One set from its files to its result, on one page: read -> check -> align -> stack -> restore -> guard -> write.

Each line of `process` is a verb; how it is done lies downstairs. Takes a Job, fills its staging folder, gives the
content of result.json. Knows no ledger, no inbox and no other set.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from stackd.disk import models
from stackd.disk.reader import read_frame
from stackd.disk.writer import Product, write_result
from stackd.errors import SetError
from stackd.imaging.closure import (
    CHECKING_SNR,
    CLOSING_SNR,
    FluxCheck,
    check_fluxes,
    close_fluxes,
    mean_psf,
    reblurred,
    stars_in_stack,
)
from stackd.imaging.fuse import Bank, fuse
from stackd.imaging.stack import Stack, combine, find_outliers
from stackd.jobs.align import Aligned, align
from stackd.jobs.validate import problems_of
from stackd.network.classic import ClassicRestorer
from stackd.network.restorer import Restorer
from stackd.records import Frame, FrameFacts, Image, Job

ProgressCall = Callable[[str, float], None]
AnyRestorer = Restorer | ClassicRestorer
CLASSIC_WARNING = (
    "the network of 2019 knows neither star shapes nor fluxes and claims no error: sigma is the plain stack's"
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A restored set: (bands, H, W) planes in the reference's ADU above its sky."""

    restored: Image
    sigma: Image
    stack: Image
    strength: float  # of the network in it
    network_fluxes: FluxCheck | None  # what the network did to star fluxes
    fluxes: FluxCheck | None  # what is left of that in the picture
    warnings: tuple[str, ...] = ()


def process(job: Job, restorer: AnyRestorer | None, progress: ProgressCall) -> dict[str, Any]:
    """Restore one set into job.staging. Raises SetError where it cannot be, OutputError where the disk refuses."""
    started_at = _now()
    frames = _read(job, progress)
    _check(frames, job)
    aligned = align(frames, aligned=job.aligned, progress=progress)
    _log_left_out(frames, aligned)
    progress("stack", 0.5)
    stacks = _stack(aligned, frames[0].facts, job.restore["reject_kappa"])
    banks = _fuse(aligned, stacks, restorer)
    progress("restore", 0.6)
    picture = _restore(aligned, stacks, banks, restorer, job, progress)
    progress("write", 0.9)
    product = _product(job, frames, aligned, stacks, picture, restorer, started_at)
    return write_result(Path(job.staging), product)


def load_restorer(model_folder: str) -> AnyRestorer:
    """The network of a model version's folder, verified. Raises ModelError."""
    card, weights = models.load_weights(models.at_path(Path(model_folder)))
    return (ClassicRestorer if card["preset"] == "classic" else Restorer)(card, weights)


def _read(job: Job, progress: ProgressCall) -> list[Frame]:
    limits = job.limits
    frames = []
    for k, path in enumerate(job.paths):
        progress("read", 0.0)
        frames.append(read_frame(Path(path), limits["max_pixels"], limits["max_file_mb"] << 20))
        logger.debug("read {} ({}/{})", Path(path).name, k + 1, len(job.paths))
    return frames


def _check(frames: Sequence[Frame], job: Job) -> None:
    named = [(Path(f.path).name, f.facts) for f in frames]
    problems = problems_of(named, exposure_tolerance=job.restore.get("exposure_tolerance", 0.02))
    if problems:
        raise SetError("; ".join(problems), remedy="put frames that differ into folders of their own")


def _log_left_out(frames: Sequence[Frame], aligned: Aligned) -> None:
    for frame, row in zip(frames, aligned.frames):
        if row.reason:
            logger.warning("{} is left out: {}", Path(frame.path).name, row.reason)
    logger.info(
        "{} of {} frames on the grid of {}", len(aligned.used), len(frames), Path(frames[aligned.reference].path).name
    )


def _stack(aligned: Aligned, facts: FrameFacts, kappa: float) -> list[Stack]:
    """The plain stack of each band."""
    gain = facts.electrons_per_adu or 1.0
    return [
        combine(frames, noise, find_outliers(frames, noise, kappa, gain))
        for frames, noise in zip(aligned.bands, aligned.noise_adu)
    ]


def _fuse(aligned: Aligned, stacks: list[Stack], restorer: AnyRestorer | None) -> list[Bank]:
    if not isinstance(restorer, Restorer):
        return []
    return [
        fuse(frames, noise, stack, aligned.psfs, restorer.target_fwhm_px)
        for frames, noise, stack in zip(aligned.bands, aligned.noise_adu, stacks)
    ]


def _restore(
    aligned: Aligned,
    stacks: list[Stack],
    banks: list[Bank],
    restorer: AnyRestorer | None,
    job: Job,
    progress: ProgressCall,
) -> Picture:
    """The network's picture at the strength that the settings and the guard over star fluxes allow."""
    plain = np.stack([s.mean for s in stacks])
    plain_sigma = np.stack([s.noise * np.maximum(s.spread, 1) for s in stacks])
    if restorer is None:
        return Picture(plain, plain_sigma, plain, 0.0, None, None)
    if isinstance(restorer, ClassicRestorer):
        clean = np.stack([restorer.restore_frames(frames) for frames in aligned.bands])
        return Picture(np.where(np.isnan(plain), np.nan, clean), plain_sigma, plain, 1.0, None, None, (CLASSIC_WARNING,))
    bands = restorer.restore(banks, lambda share: progress("restore", 0.6 + 0.3 * share))
    clean, changed, fluxes = _close(aligned, stacks, np.stack([b.image for b in bands]), restorer.target_fwhm_px)
    strength, warnings = _allowed_strength(job.restore, fluxes)
    warnings += _outside_training(aligned, restorer)
    sigma = np.stack([b.sigma for b in bands])
    unseen = np.isnan(plain)
    return Picture(
        np.where(unseen, np.nan, strength * clean + (1 - strength) * plain).astype(np.float32),
        np.where(unseen, np.nan, strength * sigma + (1 - strength) * plain_sigma).astype(np.float32),
        plain, strength, changed, fluxes, tuple(warnings),
    )  # fmt: skip


def _close(
    aligned: Aligned, stacks: list[Stack], clean: Image, target_fwhm_px: float
) -> tuple[Image, FluxCheck | None, FluxCheck | None]:
    """The network's picture with bright stars' fluxes held to the plain stack's, and the check before and after.

    Both are the band that is worst off; None without measured star shapes.
    """
    if aligned.psfs is None:
        return clean, None, None
    weights = np.mean(aligned.noise_adu**-2.0, axis=0)
    psf = mean_psf(aligned.psfs, weights)
    unsaturated = aligned.stars.peak < 0.8 * aligned.saturation_adu
    x, y = aligned.stars.x[unsaturated], aligned.stars.y[unsaturated]
    closed, before, after = [], [], []
    for image, stack in zip(clean, stacks):
        flux, snr = stars_in_stack(stack.mean, float(np.nanmin(stack.noise)), psf, x, y)
        bright, brightest = snr > CLOSING_SNR, snr > CHECKING_SNR
        again = reblurred(image, aligned.psfs, weights, target_fwhm_px)
        closed.append(close_fluxes(image, stack.mean, again, psf, x[bright], y[bright], target_fwhm_px))
        before.append(check_fluxes(stack.mean, again, x[brightest], y[brightest], flux[brightest]))
        again = reblurred(closed[-1], aligned.psfs, weights, target_fwhm_px)
        after.append(check_fluxes(stack.mean, again, x[brightest], y[brightest], flux[brightest]))
    return np.stack(closed), _worst(before), _worst(after)


def _worst(checks: list[FluxCheck | None]) -> FluxCheck | None:
    known = [c for c in checks if c is not None]
    return max(known, key=lambda c: max(abs(c.change_mag), c.scatter_mag), default=None)


def _allowed_strength(restore: dict[str, Any], fluxes: FluxCheck | None) -> tuple[float, list[str]]:
    """The wanted strength, less where the network changed star fluxes by more than the settings tolerate."""
    wanted, tolerance = restore["strength"], restore["flux_tolerance"]
    if fluxes is None:
        return wanted, []
    off = max(abs(fluxes.change_mag), fluxes.scatter_mag)
    if off <= tolerance:
        return wanted, []
    strength = wanted * tolerance / off
    return strength, [
        f"the picture's star fluxes are off the plain stack's by {off:.3f} mag, more than flux_tolerance = {tolerance}: "
        f"its share was brought down to {strength:.2f}, the rest is the plain stack"
    ]


def _outside_training(aligned: Aligned, restorer: Restorer) -> list[str]:
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
        if worst and (aligned.psfs is not None or name == "frames"):
            out.append(f"{name} {worst[0]:.2g} lies outside what the model was trained on ({low} to {high})")
    if aligned.psfs is None:
        out.append("too few stars to measure their shape: sharpened as far as the picture alone allows")
    return out


def _product(
    job, frames, aligned: Aligned, stacks, picture: Picture, restorer: AnyRestorer | None, started_at: str
) -> Product:
    reference = frames[aligned.reference]
    figures = _figures(aligned, stacks, picture)
    for line in picture.warnings:
        logger.warning(line)
    return Product(
        set_name=job.set_name,
        restored=_squeezed(picture.restored), stack=_squeezed(picture.stack), sigma=_squeezed(picture.sigma),
        single=_squeezed(aligned.single),
        reference_name=Path(reference.path).name, reference_cards=reference.cards,
        bottom_up=reference.facts.bottom_up, picture_input=not reference.cards,
        frames=[_row(f, aligned, stacks, k) for k, f in enumerate(frames)],
        figures=figures,
        model=_model(job, restorer),
        psf_fwhm_px=_star_width_px(aligned, figures, restorer),
        history=_history(aligned, picture, restorer),
        warnings=list(picture.warnings),
        config_sha256=job.config_sha256, started_at=started_at, finished_at=_now(),
    )  # fmt: skip


def _star_width_px(aligned: Aligned, figures: dict[str, Any], restorer: AnyRestorer | None) -> float:
    """FWHM of the result's stars: as asked for, or as the plain stack's; NaN where nobody knows."""
    if isinstance(restorer, Restorer) and aligned.psfs:
        return restorer.target_fwhm_px
    return figures["stack_fwhm_px"] or math.nan


def _row(frame: Frame, aligned: Aligned, stacks: list[Stack], k: int) -> dict[str, Any]:
    row, facts = aligned.frames[k], frame.facts
    used = k in aligned.used
    matrix = row.transform.matrix if row.transform else None
    return {
        "file": Path(frame.path).name, "sha256": frame.sha256, "used": used, "reason": row.reason,
        "taken_at": facts.taken_at, "exposure_s": facts.exposure_s,
        "stars": row.stars, "fwhm_px": _number(row.fwhm_px), "ellipticity": _number(row.ellipticity),
        "sky_adu": _number(row.sky_adu), "noise_adu": _number(row.noise_adu), "transparency": _number(row.light),
        "transform": matrix.tolist() if matrix is not None else None,
        "registered_by": row.transform.method if row.transform else None,
        "registration_rms_px": _number(row.transform.rms_px) if row.transform else None,
        "shift_px": [round(float(v), 3) for v in matrix[:, 2]] if matrix is not None else None,
        "rotation_deg": round(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])), 4) if matrix is not None else None,
        "rejected_share": _rejected(aligned, stacks, aligned.used.index(k)) if used else None,
    }  # fmt: skip


def _rejected(aligned: Aligned, stacks: list[Stack], n: int) -> float:
    """Share of a used frame's seen samples that the stack left out."""
    seen = sum(np.isfinite(band[n]).sum() for band in aligned.bands)
    out = sum((np.isfinite(band[n]) & ~stack.good[n]).sum() for band, stack in zip(aligned.bands, stacks))
    return round(float(out / max(seen, 1)), 6)


def _figures(aligned: Aligned, stacks: list[Stack], picture: Picture) -> dict[str, Any]:
    widths = [p.fwhm_px for p in aligned.psfs] if aligned.psfs else []
    weights = aligned.noise_adu.mean(0) ** -2.0
    return {
        "frames": len(aligned.frames), "frames_used": len(aligned.used), "stars": len(aligned.stars),
        "hot_pixels": aligned.hot_pixels,
        "stack_noise_adu": _number(float(np.mean([np.nanmin(s.noise) for s in stacks]))),
        "stack_fwhm_px": _number(float(np.average(widths, weights=weights))) if widths else None,
        "best_fwhm_px": _number(min(widths)) if widths else None,
        "strength": round(picture.strength, 4),
        **_flux_figures("network_flux", picture.network_fluxes),
        **_flux_figures("flux", picture.fluxes),
        "median_sigma_adu": _number(float(np.nanmedian(picture.sigma))),
    }  # fmt: skip


def _flux_figures(name: str, check: FluxCheck | None) -> dict[str, Any]:
    if check is None:
        return {}
    return {
        f"{name}_change_mag": _number(check.change_mag),
        f"{name}_scatter_mag": _number(check.scatter_mag),
        f"{name}_stars": check.stars,
    }


def _model(job: Job, restorer: AnyRestorer | None) -> dict[str, Any] | None:
    return {key: restorer.card[key] for key in ("name", "version", "sha256")} if restorer else None


def _history(aligned: Aligned, picture: Picture, restorer: AnyRestorer | None) -> list[str]:
    lines = [
        f"hot pixels mended: {aligned.hot_pixels}",
        f"registered {len(aligned.used)} of {len(aligned.frames)} frames onto REFFRAME",
        "outliers rejected, inverse-variance weighted mean: the plain stack",
    ]
    if restorer:
        name = f"{restorer.card['name']} {restorer.card['version']}"
        lines.append(f"stacked, denoised and deblurred by network {name}, strength {picture.strength:.2f}")
    return lines


def _squeezed(planes: Image) -> Image:
    return planes[0] if len(planes) == 1 else planes


def _number(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
