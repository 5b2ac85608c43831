"""What happened to a set, put together for its result: frames, figures, history, warnings.

Only gathers and measures; decides nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stackd.disk.frame import Frame, Image
from stackd.disk.writer import Product
from stackd.imaging.closure import FluxCheck
from stackd.imaging.psf_fit import fit_psf
from stackd.imaging.quality import pixel_noise
from stackd.imaging.stack import FEWEST_TO_REJECT, Stack
from stackd.jobs.align import UNSATURATED_SHARE, Aligned
from stackd.jobs.calibration import Calibration
from stackd.jobs.restore import AnyRestorer, Picture
from stackd.records import Job

PLAINLY_WIDER = 1.25  # a fit to the network's stars of 2.0 px finds 2.1 to 2.3


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A frame that shows nothing and was not worked with."""

    path: str  # absolute
    sha256: str
    reason: str


def account_for(
    job: Job,
    frames: Sequence[Frame],
    left_out: Sequence[LeftOut],
    calibration: Calibration,
    aligned: Aligned,
    stacks: list[Stack],
    picture: Picture,
    restorer: AnyRestorer | None,
    started_and_finished_at: tuple[str, str],
) -> Product:
    """The product that the writer makes a result of; the two times are ISO 8601, UTC."""
    reference = frames[aligned.reference]
    figures = _figures(aligned, stacks, picture) | {"frames": len(job.paths)}
    rows = {frame.path: _row(frame, aligned, stacks, k) for k, frame in enumerate(frames)}
    rows |= {one.path: {"sha256": one.sha256, "used": False, "reason": one.reason} for one in left_out}
    return Product(
        set_name=job.set_name,
        restored=_squeezed(picture.restored), stack=_squeezed(picture.stack), sigma=_squeezed(picture.sigma),
        single=_squeezed(aligned.single),
        reference_name=Path(reference.path).name, reference_cards=reference.cards,
        bottom_up=reference.facts.bottom_up, picture_input=not reference.cards,
        calibration=calibration.story, calibrated=_letters(reference.facts.calibrated, calibration),
        frames=[{"file": Path(path).name} | rows[str(Path(path).absolute())] for path in job.paths],
        figures=figures,
        model=_model(restorer), network_used=picture.orientations > 0,
        psf_fwhm_px=_star_width_px(figures, picture, restorer, job.restore["target_fwhm_px"]),
        history=[*calibration.history, *_history(len(job.paths), aligned, picture, restorer)],
        warnings=list(picture.warnings),
        config_sha256=job.config_sha256,
        started_at=started_and_finished_at[0], finished_at=started_and_finished_at[1],
    )  # fmt: skip


def _letters(before: str, calibration: Calibration) -> str:
    """CALSTAT of the result: what was taken out of the frames before, and here."""
    return "".join(letter for letter in "BDF" if letter in before + calibration.letters)


def _star_width_px(figures: dict[str, Any], picture: Picture, restorer: AnyRestorer | None, wanted_px: float) -> float:
    """FWHM of the result's stars: as asked for of the network, as measured where they did not become so narrow or the
    plain stack is mixed in, as the plain stack's; NaN where nobody knows."""
    if restorer is None or not restorer.knows_stars or picture.strength == 0:
        return figures["stack_fwhm_px"] or math.nan
    measured_px = figures["star_fwhm_px"]["restored"] or math.nan
    asked_px = max(restorer.target_fwhm_px, wanted_px)
    return measured_px if picture.strength < 1 or measured_px > PLAINLY_WIDER * asked_px else asked_px


def _row(frame: Frame, aligned: Aligned, stacks: list[Stack], k: int) -> dict[str, Any]:
    row, facts = aligned.frames[k], frame.facts
    used = k in aligned.used
    matrix = row.transform.matrix if row.transform else None
    return {
        "sha256": frame.sha256, "used": used, "reason": row.reason,
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
    views = {"single": aligned.single, "stack": picture.stack, "restored": picture.restored}
    widths = [p.fwhm_px for p in aligned.psfs] if aligned.psfs else []
    weights = aligned.noise_adu.mean(0) ** -2.0
    return {
        "frames_used": len(aligned.used), "stars": len(aligned.stars),
        "hot_pixels": aligned.hot_pixels,
        "star_fwhm_px": {name: _measured_width_px(view, aligned) for name, view in views.items()},
        "pixel_noise_adu": {name: _number(pixel_noise(view.mean(0))) for name, view in views.items()},
        "stack_noise_adu": _number(float(np.mean([np.nanmin(s.noise) for s in stacks]))),
        "stack_fwhm_px": _number(float(np.average(widths, weights=weights))) if widths else None,
        "best_fwhm_px": _number(min(widths)) if widths else None,
        "fwhm_over_field_px": _over_field(aligned),
        "strength": round(picture.strength, 4),
        "orientations": picture.orientations,
        "sharpened": picture.sharpened,
        **_flux_figures("network_flux", picture.network_fluxes),
        **_flux_figures("flux", picture.fluxes),
        "median_sigma_adu": _number(float(np.nanmedian(picture.sigma))),
    }  # fmt: skip


def _measured_width_px(view: Image, aligned: Aligned) -> float | None:
    """FWHM of the stars in a picture (bands, H, W) as a fit finds it; None where there are too few."""
    image, points = view.mean(0), aligned.points
    noise = max(pixel_noise(image), 1e-6)
    psf = fit_psf(
        image, points.x, points.y, points.flux, noise, peak_below_adu=UNSATURATED_SHARE * aligned.saturation_adu
    )
    return _number(psf.fwhm_px) if psf else None


def _flux_figures(name: str, check: FluxCheck | None) -> dict[str, Any]:
    if check is None:
        return {}
    return {
        f"{name}_change_mag": _number(check.change_mag),
        f"{name}_scatter_mag": _number(check.scatter_mag),
        f"{name}_stars": check.stars,
    }


def _over_field(aligned: Aligned) -> list[list[float]] | None:
    """The frames' mean star width at the picture's top, middle and bottom, each on the left, in the middle and on the
    right; None where star shapes do not change over it or are not known to."""
    field, psfs = aligned.field, aligned.psfs
    if field is None or psfs is None:
        return None
    rows, columns = (np.linspace(0, size - 1, 3) for size in field.shape)
    return [[round(float(np.mean([field.fwhm_px_at(p, x, y) for p in psfs])), 3) for x in columns] for y in rows]


def _model(restorer: AnyRestorer | None) -> dict[str, Any] | None:
    return {key: restorer.card[key] for key in ("name", "version", "sha256")} if restorer else None


def _how_they_lie(frames: int, aligned: Aligned) -> str:
    if len(aligned.used) > 1 and all(aligned.frames[k].transform.method == "identity" for k in aligned.used):
        return f"{len(aligned.used)} of {frames} frames left as they lie, on the grid of REFFRAME"
    return f"registered {len(aligned.used)} of {frames} frames onto REFFRAME"


def _history(frames: int, aligned: Aligned, picture: Picture, restorer: AnyRestorer | None) -> list[str]:
    rejected = "outliers rejected, " if len(aligned.used) >= FEWEST_TO_REJECT else ""
    lines = [
        f"hot pixels mended: {aligned.hot_pixels}",
        _how_they_lie(frames, aligned),
        f"{rejected}inverse-variance weighted mean: the plain stack",
    ]
    if aligned.field and picture.orientations:
        lines.append("star shapes followed over the field, in which they change")
    if picture.sharpened:
        lines.append("no star shape was measured: sharpened linearly (Wiener), network left out")
    elif restorer and not picture.orientations:
        lines.append("no star shape was measured: the plain stack, network left out")
    elif restorer:
        name = f"{restorer.card['name']} {restorer.card['version']}"
        share = f"strength {picture.strength:.2f}, orientations {picture.orientations}"
        lines.append(f"stacked, denoised and deblurred by network {name}, {share}")
    return lines


def _squeezed(planes: Image) -> Image:
    return planes[0] if len(planes) == 1 else planes


def _number(value: float) -> float | None:
    """To five decimals, or five figures where the unit is full scale and all numbers are small."""
    if not math.isfinite(value):
        return None
    return round(float(value), 5) if abs(value) >= 1 else float(f"{value:.5g}")
