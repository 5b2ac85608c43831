"""The golden set: a few simulated skies, always the same, that every new model has to pass.

They go the way of real captures (aligned, stacked, restored, held to the stack's fluxes), so what is judged is the
picture that a user would get. Independent of the user's pictures and of a run's seed. Knows no files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from stackd.disk.frame import Frame, Image
from stackd.imaging import camera, skies
from stackd.imaging.judge import (
    ENOUGH_TO_FIND,
    Truth,
    flux_error,
    invented_per_mpx,
    share_found,
    stars_worth_finding,
)
from stackd.imaging.stack import Stack, clipped_stack
from stackd.imaging.truth import matched, psnr_db, seen_from, star_width_px
from stackd.jobs.align import Aligned, align
from stackd.jobs.restore import restore
from stackd.network.restorer import Restorer
from stackd.records import FrameFacts
from stackd.settings import RestoreSettings

MARGIN_PX = 32  # sky beyond the camera's edge, for dithered frames
BORDER_PX = 12  # not judged: few frames see it
SOFT_FWHM_PX = 60.0
FIGURES = ("psnr", "found", "flux_error", "invented")  # dB; share; mag; stars per Mpx


@dataclass(frozen=True, slots=True)
class GoldenSky:
    """One sky and the night that it is seen in. Its seed is as fixed as all of it."""

    name: str
    seed: int
    size_px: int = 480
    peak: float = 600.0  # electrons, of the diffuse part; 0: none
    detail: bool = False  # the diffuse part is as sharp as it comes; else stars are all there is to find
    stars_per_mpx: float = 3000.0
    star_fluxes: tuple[float, float] = (250.0, 4e5)
    night: camera.Night = field(default_factory=camera.Night)


SKIES = (
    GoldenSky("stars", 101),
    GoldenSky("poor night", 102, night=camera.Night(fwhm_px=(3.0, 5.0), transparency=(0.5, 1.0), trail_chance=0.3)),
    GoldenSky("empty", 103, peak=0.0, stars_per_mpx=80.0, star_fluxes=(2e4, 2e5)),
    GoldenSky("nebula", 104, peak=1500.0, detail=True, stars_per_mpx=1200.0),
    GoldenSky("colour nebula", 105, peak=2500.0, detail=True, stars_per_mpx=1500.0, night=camera.Night(bayer="RGGB")),
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A golden sky ready to be restored, and what it ought to come to."""

    sky: GoldenSky
    aligned: Aligned
    stacks: list[Stack]
    truth: Truth


def prepare_all() -> list[Prepared]:
    """All SKIES, once for all models that are to be compared."""
    return [prepare(golden) for golden in SKIES]


def judge(prepared: Sequence[Prepared], restorer: Restorer) -> dict[str, float]:
    """FIGURES as means over the skies that can say them, and under `psnr <sky>` each sky's own.

    NaN where a picture is so wrong that one of these skies says nothing: a mean over the others would hide it.
    """
    rows = [figures(one, restorer) for one in prepared]
    told = {key: [row[key] for row in rows if key in row] for key in FIGURES}
    summary = {key: float(np.mean(values)) if values else np.nan for key, values in told.items()}
    return summary | {f"psnr {one.sky.name}": row["psnr"] for one, row in zip(prepared, rows)}


def prepare(golden: GoldenSky) -> Prepared:
    """Draw the sky, take its frames, align and stack them."""
    rng = np.random.default_rng(golden.seed)
    bands = 3 if golden.night.bayer else 1
    shape = (golden.size_px + 2 * MARGIN_PX,) * 2
    diffuse = skies.procedural(shape, bands, rng, golden.peak) if golden.peak else np.zeros((bands, *shape), np.float32)
    if golden.peak and not golden.detail:
        diffuse = skies.soften(diffuse, SOFT_FWHM_PX)
    sky = skies.Sky(diffuse, *skies.star_catalogue(shape, bands, rng, golden.stars_per_mpx, golden.star_fluxes))
    exposures = camera.expose(sky, golden.night, rng)
    aligned = align(list(_frames(golden, exposures)), aligned=False, progress=lambda step, share: None)
    kappa, gain = RestoreSettings().reject_kappa, golden.night.electrons_per_adu
    stacks = [clipped_stack(frames, noise, kappa, gain) for frames, noise in zip(aligned.bands, aligned.noise_adu)]
    return Prepared(golden, aligned, stacks, _truth(golden, sky, exposures, aligned.reference))


def figures(prepared: Prepared, restorer: Restorer) -> dict[str, float]:
    """FIGURES of one sky's picture, without those that a sky whose stars are not all there is cannot say."""
    settings = RestoreSettings().model_dump()
    picture = restore(prepared.aligned, prepared.stacks, restorer, settings, lambda share: None).restored
    truth, inside = prepared.truth, slice(BORDER_PX, -BORDER_PX)
    image = np.full(picture.shape, np.nan, np.float32)
    image[:, inside, inside] = matched(picture, truth.planes)[0][:, inside, inside]
    light = image.mean(0)
    change, scatter = flux_error(light, truth)
    width = star_width_px(light, truth.sky)
    said = {
        "psnr": psnr_db(image, truth.planes, truth.frame_noise),
        "flux_error": float(np.hypot(change, scatter)),
    }
    if not truth.has_detail:
        said["invented"] = invented_per_mpx(light, truth)
    if not truth.has_detail and stars_worth_finding(light, truth) >= ENOUGH_TO_FIND:
        said["found"] = share_found(light, truth, width)
    return said


def _frames(golden: GoldenSky, exposures: list[camera.Exposure]) -> Iterator[Frame]:
    night, inside = golden.night, slice(MARGIN_PX, -MARGIN_PX)
    facts = FrameFacts(
        width_px=golden.size_px, height_px=golden.size_px, bands=1, sample_type="uint16", target=golden.name,
        bayer=night.bayer or None, electrons_per_adu=night.electrons_per_adu,
    )  # fmt: skip
    for number, exposure in enumerate(exposures):
        pixels = np.ascontiguousarray(exposure.pixels[inside, inside], np.float32)
        yield Frame(f"{golden.name} {number}", "", facts, pixels, night.saturation_adu)


def _truth(golden: GoldenSky, sky: skies.Sky, exposures: list[camera.Exposure], reference: int) -> Truth:
    """The sky on the reference's grid as a perfect camera gives it."""
    seen, inside = seen_from(sky, exposures[reference].matrix), slice(MARGIN_PX, -MARGIN_PX)
    there = skies.Sky(seen.diffuse[:, inside, inside], seen.x - MARGIN_PX, seen.y - MARGIN_PX, seen.flux)
    noises = np.array([_noise(golden.night, e) for e in exposures])
    planes: Image = seen.truth(RestoreSettings().target_fwhm_px)[:, inside, inside]
    return Truth(planes, there, float(np.sum(noises**-2.0) ** -0.5), float(np.median(noises)), golden.detail)


def _noise(night: camera.Night, exposure: camera.Exposure) -> float:
    """Of one pixel, in electrons of full transparency."""
    return float(np.sqrt(exposure.sky_adu * night.electrons_per_adu + night.read_noise**2) / exposure.transparency)
