"""Small simulated sets for the tests of alignment and of the whole pipeline: exposures as frames and as files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stackd.disk.captures import write_capture
from stackd.disk.frame import Frame
from stackd.imaging import skies
from stackd.imaging.camera import Exposure, Night, calibration_frame, expose
from stackd.imaging.skies import Sky
from stackd.records import FrameFacts

SHAPE = (200, 210)
NIGHT = Night(
    frames=6, fwhm_px=(2.4, 3.2), shift_px=8.0, rotation_deg=0.8, gradient=0.1, sky=(150.0, 300.0), trail_chance=0.0,
    transparency=(0.8, 1.0),
)  # fmt: skip


def star_field(seed: int, bands: int = 1, per_mpx: float = 2500, glow_peak: float = 120.0) -> Sky:
    """About a hundred stars over a wide faint nebula."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    glow = glow_peak * np.exp(-((x - 120) ** 2 + (y - 80) ** 2) / 4000)
    diffuse = np.repeat(glow[None].astype(np.float32), bands, 0)
    return Sky(diffuse, *skies.star_catalogue(SHAPE, bands, rng, per_mpx, (2000, 2e5)))


def night_of(sky: Sky, seed: int = 1, **changes: object) -> list[Exposure]:
    return expose(sky, replace(NIGHT, **changes), np.random.default_rng(seed))


def facts_of(pixels: np.ndarray, bayer: str = "", minute: int = 0) -> FrameFacts:
    height_px, width_px = pixels.shape[-2:]
    return FrameFacts(
        width_px, height_px, 3 if pixels.ndim == 3 else 1, "uint16", target="Field", filter="L", exposure_s=60.0,
        taken_at=f"2026-11-22T20:{minute:02}:00", bayer=bayer or None, electrons_per_adu=1.0,
    )  # fmt: skip


def frames_of(exposures: Sequence[Exposure], bayer: str = "") -> list[Frame]:
    """Frames in memory, as the reader gives them."""
    return [
        Frame(f"/night/light_{k}.fits", f"{k:064}", facts_of(e.pixels, bayer, k), e.pixels.copy(), 65535.0)
        for k, e in enumerate(exposures)
    ]


def write_calibration(folder: Path, night: Night, count: int = 8, **said: object) -> tuple[str, ...]:
    """Darks, flats and biases of a night's camera in folders of their own; their paths."""
    rng = np.random.default_rng(7)
    paths = []
    for kind, into, light, exposures in (("dark", "darks", 0, 1), ("flat", "flats", 3e4, 0), ("bias", "biases", 0, 0)):
        for k in range(count):
            pixels = calibration_frame(night, night.sensitivity.shape, rng, light=light, exposures=exposures)
            exposure_s = 60.0 if kind == "dark" else None
            facts = replace(facts_of(pixels), **{"image_type": kind, "exposure_s": exposure_s, "taken_at": None} | said)
            paths.append(str(folder / into / f"{kind}_{k}.fits"))
            write_capture(folder / into / f"{kind}_{k}.fits", pixels, facts)
    return tuple(paths)


def write_set(folder: Path, exposures: Sequence[Exposure], bayer: str = "") -> tuple[str, ...]:
    """The same as FITS files; their paths in order of time."""
    paths = []
    for k, exposure in enumerate(exposures):
        path = folder / f"light_{k}.fits"
        write_capture(path, exposure.pixels, facts_of(exposure.pixels, bayer, k))
        paths.append(str(path))
    return tuple(paths)
