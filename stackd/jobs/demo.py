"""A night without a telescope: simulate a set, drop it into an inbox, have it restored, compare with the truth.

The sky, the weather and the camera are seeded, so the demo's pictures and figures are the same everywhere. The
restoration is the house's own turn, handed in by the command line; nothing here knows how it is done.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np

from stackd.disk.captures import write_capture
from stackd.disk.embed import encode
from stackd.disk.frame import Image
from stackd.disk.outbox import read_manifest
from stackd.disk.reader import read_frame
from stackd.errors import ConfigError, SetError
from stackd.imaging import camera, skies
from stackd.imaging.debayer import debayer
from stackd.imaging.panels import liveliest, side_by_side
from stackd.imaging.preview import find_stretch
from stackd.imaging.truth import matched, psnr_db, seen_from, star_width_px
from stackd.records import FrameFacts
from stackd.settings import FolderSettings, MetricsSettings, NotifySettings, RestoreSettings, SetSettings, Settings

SET_NAME = "demo-nebula"
SKY_SEED, NIGHT_SEED = 11, 35  # a sky worth looking at; a night with one trail and one cloud
CANVAS_PX = (768, 960)
MARGIN_PX = 32  # of the canvas beyond the camera's edge, so that dithered frames see sky there too
STARS_PER_MPX = 2000.0
STAR_FLUXES = (300.0, 8e5)  # electrons a frame
GLOWS = ((1100.0, (1.0, 0.22, 0.35)), (700.0, (0.12, 0.75, 0.9)))  # peak and R G B of hydrogen's light, of oxygen's
NIGHT = camera.Night(
    fwhm_px=(2.8, 4.4), shift_px=14.0, rotation_deg=0.8, transparency=(0.8, 1.0), sky=(300.0, 600.0),
    cosmic_rays_per_mpx=6.0, trail_chance=0.12, cloud_chance=0.12, bayer="RGGB",
)  # fmt: skip
EXPOSURE_S = 120.0
STARTED_AT = datetime(2019, 3, 8, 21, 40, tzinfo=UTC)
FACTS = FrameFacts(
    width_px=CANVAS_PX[1] - 2 * MARGIN_PX, height_px=CANVAS_PX[0] - 2 * MARGIN_PX, bands=1, sample_type="uint16",
    target="Demo Nebula", filter="RGB", exposure_s=EXPOSURE_S, gain=100.0, binning="1x1", camera="stackd simulator",
    bayer=NIGHT.bayer, image_type="light", electrons_per_adu=NIGHT.electrons_per_adu,
)  # fmt: skip
LOOK_PX = (420, 400)  # height and width of a panel of the picture for people
PICTURE = "demo.jpg"
JPEG_QUALITY = 92

Turn = Callable[[Settings], None]


@dataclass(frozen=True, slots=True)
class Night:
    """The sky, what the camera saw of it, and the noise of an average frame in electrons."""

    sky: skies.Sky
    exposures: list[camera.Exposure]
    noise: float

    def truth(self, frame: int, fwhm_px: float) -> tuple[Image, skies.Sky]:
        """What a perfect camera gives on a frame's own grid: (bands, H, W), and the sky there."""
        sky = seen_from(self.sky, self.exposures[frame].matrix)
        middle = tuple(slice(MARGIN_PX, size - MARGIN_PX) for size in CANVAS_PX)
        there = skies.Sky(sky.diffuse[:, *middle], sky.x - MARGIN_PX, sky.y - MARGIN_PX, sky.flux)
        return sky.truth(fwhm_px)[:, *middle], there


@dataclass(frozen=True, slots=True)
class Verdict:
    """One way to make the picture, against the truth."""

    psnr_db: float
    fwhm_px: float | None


def run(out: Path, settings: Settings, turn: Turn) -> Iterator[str]:
    """Make the night in `out`, have `turn` restore it, and say line by line where the pictures are and how good.

    `turn` does what `stackd once` does, for the settings that it is given. Raises ConfigError for a folder that is
    taken, SetError where nothing came out.
    """
    out = out.absolute()
    _refuse_taken(out)
    house = settings_for(out, settings)
    night = simulate()
    frames = write_frames(night, house.folders.inbox / SET_NAME)
    turn(house)
    result = house.folders.outbox / SET_NAME
    manifest = read_manifest(result)
    if manifest is None:
        raise SetError("the simulated set was not restored", file=str(result), remedy=_why(house))
    images, truth, sky = _pictures(night, result, manifest["reference"], frames, house.restore.target_fwhm_px)
    fitted = {name: matched(image, truth)[0] for name, image in images.items()}
    (out / PICTURE).write_bytes(_picture(fitted, truth))
    yield from _report(judge(fitted, truth, sky, night.noise), manifest)
    yield f"pictures: {out / PICTURE}"
    yield f"report:   {result / 'report.html'}"


def settings_for(out: Path, settings: Settings) -> Settings:
    """The same settings with every folder in `out`, and so the shipped model at its full strength; nobody is notified
    of a demo."""
    names = {name: out / name for name in ("inbox", "outbox", "quarantine", "archive", "models")}
    shown = {"model": RestoreSettings().model, "network": True, "strength": 1.0}
    own = {
        "folders": FolderSettings(**names, state=out / ".stackd"),
        "set": SetSettings(settle_s=0.2, scan_interval_s=1.0),
        "restore": settings.restore.model_copy(update=shown),
        "notify": NotifySettings(),
        "metrics": MetricsSettings(),
    }
    return settings.model_copy(update=own)


def simulate() -> Night:
    """Eight frames of one nebula in a crowd of stars: dithered, in changing seeing, with a trail and a cloud."""
    rng = np.random.default_rng(SKY_SEED)
    glows = [skies.procedural(CANVAS_PX, 1, rng, peak) * np.array(tint)[:, None, None] for peak, tint in GLOWS]
    stars = skies.star_catalogue(CANVAS_PX, 3, rng, STARS_PER_MPX, STAR_FLUXES)
    sky = skies.Sky(sum(glows).astype(np.float32), *stars)
    exposures = camera.expose(sky, NIGHT, np.random.default_rng(NIGHT_SEED))
    ground = np.mean([e.sky_adu for e in exposures]) * NIGHT.electrons_per_adu
    return Night(sky, exposures, math.hypot(math.sqrt(ground), NIGHT.read_noise))


def write_frames(night: Night, folder: Path) -> list[str]:
    """The frames as FITS files, as a capture program would leave them; gives their names. Raises OutputError."""
    names = []
    inside = slice(MARGIN_PX, -MARGIN_PX)
    for number, exposure in enumerate(night.exposures):
        taken_at = STARTED_AT + number * timedelta(seconds=EXPOSURE_S + 4)
        facts = replace(FACTS, taken_at=taken_at.replace(tzinfo=None).isoformat(timespec="milliseconds"))
        names.append(f"Light_{SET_NAME}_{EXPOSURE_S:.0f}s_{number + 1:04d}.fits")
        write_capture(folder / names[-1], exposure.pixels[inside, inside], facts)
    return names


def judge(images: dict[str, Image], truth: Image, sky: skies.Sky, noise: float) -> dict[str, Verdict]:
    """Each image (bands, H, W), in the truth's unit and on its grid, against it where all of them saw the sky."""
    seen = np.isfinite(sum(images.values()))
    return {
        name: Verdict(psnr_db(np.where(seen, image, np.nan), truth, noise), star_width_px(image.mean(0), sky))
        for name, image in images.items()
    }


def _refuse_taken(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        look = f"; the last demo's picture is {out / PICTURE}" if (out / PICTURE).exists() else ""
        raise ConfigError(f"{out}: is there already and not empty; remove it or name another with --out{look}")


def _why(house: Settings) -> str:
    """The daemon's own words on what went wrong, else where they stand."""
    report = house.folders.quarantine / SET_NAME / "error.json"
    return json.loads(report.read_text("utf-8"))["reason"] if report.exists() else "the lines above say why"


def _pictures(
    night: Night, result: Path, reference: str, frames: list[str], fwhm_px: float
) -> tuple[dict[str, Image], Image, skies.Sky]:
    """One frame, the plain stack and the restored picture on the reference's grid, the truth there, and its sky."""
    truth, sky = night.truth(frames.index(reference), fwhm_px)
    frame = result.parents[1] / "inbox" / SET_NAME / reference
    images = {
        "one frame": debayer(_read(frame), NIGHT.bayer),
        "plain stack": _read(result / "stack.fits"),
        "stackd": _read(result / "restored.fits"),
    }
    return images, truth, sky


def _read(path: Path) -> Image:
    return read_frame(path, math.prod(CANVAS_PX), 1 << 30).pixels


def _picture(images: dict[str, Image], truth: Image) -> bytes:
    """A JPEG of the liveliest part of all images and the truth, side by side under one stretch."""
    window = (slice(None), *liveliest(truth, *LOOK_PX))
    parts = {name: image[window] for name, image in (images | {"truth": truth}).items()}
    panels = side_by_side(parts, find_stretch(images["plain stack"]))
    return encode(".jpg", panels, cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)


def _report(verdicts: dict[str, Verdict], manifest: dict) -> Iterator[str]:
    yield f"{manifest['frames_used']} of {len(manifest['inputs'])} frames used, on the grid of {manifest['reference']}"
    for name, verdict in verdicts.items():
        width = f"stars {verdict.fwhm_px:.2f} px wide" if verdict.fwhm_px else "star width not measured"
        yield f"{name + ':':<12} {verdict.psnr_db:5.1f} dB from the truth, {width}"
    gain = verdicts["stackd"].psnr_db - verdicts["plain stack"].psnr_db
    yield f"gain of stackd over the plain stack: {gain:+.1f} dB (PSNR on an asinh scale)"
