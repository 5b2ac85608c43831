"""The kinds of night that pictures are judged on, made with stackd's own camera: files, and the truth.

A kind and a seed give the same files each time. Skies are drawn on a canvas larger than the camera's, so that
dithered frames see sky beyond the first one's edge.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stackd.disk.captures import write_capture
from stackd.disk.gallery import read_picture
from stackd.imaging import camera, skies
from stackd.imaging.camera import Night
from stackd.imaging.judge import Truth
from stackd.imaging.truth import seen_from
from stackd.records import FrameFacts

MARGIN_PX = 32
SOFT_FWHM_PX = 60.0
EXPOSURE_S = 60.0
CALIBRATION_FRAMES = 16  # of each type
CALIBRATION = (("dark", "darks", 0.0, 1.0), ("flat", "flats", 3e4, 0.02), ("bias", "biases", 0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of sky in one kind of night."""

    name: str
    says: str
    detail: bool = False  # the diffuse part is as sharp as it comes; else soft, and stars are all there is to find
    peak: float = 600.0  # electrons, of the diffuse part; 0: none
    stars_per_mpx: float = 3000.0
    star_fluxes: tuple[float, float] = (250.0, 4e5)  # electrons
    night: Night = field(default_factory=Night)
    uneven: bool = False  # the camera needs calibrating; darks, flats and biases lie beside the frames

    @property
    def bands(self) -> int:
        return 3 if self.night.bayer else 1


KINDS = (
    Kind("stars", "a star field on a faint soft ground"),
    Kind("nebula", "a nebula with all of its detail", detail=True, peak=1500, stars_per_mpx=1200),
    Kind("faint", "a nebula fainter than the sky's noise", detail=True, peak=60, stars_per_mpx=1200,
         night=Night(sky=(500, 900))),
    Kind("crowded", "a cluster", stars_per_mpx=12000),
    Kind("poor seeing", "3.4 to 5.6 px", night=Night(fwhm_px=(3.4, 5.6))),
    Kind("sharp", "1.2 to 2 px, as short lenses give", night=Night(fwhm_px=(1.2, 2.0))),
    Kind("mixed seeing", "2 to 5 px, half the light at times", night=Night(fwhm_px=(2.0, 5.0), transparency=(0.5, 1))),
    Kind("tracking", "drift and coma", night=Night(drift_px=1.5, coma_chance=0.5)),
    Kind("corners", "a third wider and longer in the corners, as lenses draw them", stars_per_mpx=4000,
         night=Night(corner_growth=0.35)),
    Kind("dirty", "trails, cosmic rays, hot pixels",
         night=Night(trail_chance=0.35, cosmic_rays_per_mpx=25, hot_pixels=1e-3)),
    Kind("cloudy", "clouds, gradients", night=Night(cloud_chance=0.35, gradient=0.4)),
    Kind("rotated", "turned by up to 8 degrees, dithered widely", night=Night(rotation_deg=8, shift_px=24)),
    Kind("empty", "nothing but a few bright stars to align on", peak=0, stars_per_mpx=70, star_fluxes=(2e4, 2e5)),
    Kind("uneven", "corners of half the light, dust, dark current; with darks, flats and biases, which one frame "
         "and the mean do without", uneven=True),
    Kind("uneven colour", "the same, Bayer", peak=900, night=Night(bayer="RGGB"), uneven=True),
    Kind("colour stars", "a star field, Bayer", peak=900, night=Night(bayer="RGGB")),
    Kind("sharp colour", "1.2 to 2 px, Bayer", peak=900, night=Night(fwhm_px=(1.2, 2.0), bayer="RGGB")),
    Kind("colour nebula", "a nebula, Bayer", detail=True, peak=2500, stars_per_mpx=1500, night=Night(bayer="GBRG")),
)  # fmt: skip
QUICK = ("stars", "nebula", "dirty", "empty", "colour nebula")


@dataclass(frozen=True, slots=True)
class CaptureSet:
    """The files of one kind, in order of time, and the sky behind them."""

    kind: Kind
    folder: Path
    names: tuple[str, ...]
    sky: skies.Sky
    exposures: tuple[camera.Exposure, ...]

    def matrices(self, reference: int) -> list[np.ndarray]:
        """The true (2, 3) transforms of the frames' pixels to the reference's."""
        onto = [_square(e.matrix) for e in self.exposures]
        edge = _square(np.array([[1.0, 0, MARGIN_PX], [0, 1, MARGIN_PX]]))
        back = np.linalg.inv(onto[reference] @ edge)
        return [(back @ matrix @ edge)[:2] for matrix in onto]

    def truth(self, reference: int, fwhm_px: float) -> Truth:
        """The sky on the reference's grid, in electrons of a frame of full transparency."""
        sky = seen_from(self.sky, self.exposures[reference].matrix)
        inside = slice(MARGIN_PX, -MARGIN_PX)
        there = skies.Sky(sky.diffuse[:, inside, inside], sky.x - MARGIN_PX, sky.y - MARGIN_PX, sky.flux)
        ground = np.array([e.sky_adu for e in self.exposures]) * self.kind.night.electrons_per_adu
        noises = np.sqrt(ground + self.kind.night.read_noise**2) / [e.transparency for e in self.exposures]
        ideal, one = float(np.sum(noises**-2.0) ** -0.5), float(np.median(noises))
        planes = sky.truth(fwhm_px)[:, inside, inside]
        return Truth(planes, there, ideal, one, self.kind.detail)


def make(kind: Kind, folder: Path, size_px: int, seed: int, pictures: Sequence[Path]) -> CaptureSet:
    """Draw the sky, take the frames and write them into `folder`. Without pictures, skies are procedural."""
    rng = np.random.default_rng([seed, *kind.name.encode()])
    shape = (size_px + 2 * MARGIN_PX,) * 2
    diffuse = _diffuse(kind, shape, pictures, rng)
    stars = skies.star_catalogue(shape, kind.bands, rng, kind.stars_per_mpx, kind.star_fluxes)
    sky = skies.Sky(diffuse, *stars)
    night = camera.uneven(kind.night, shape, rng) if kind.uneven else kind.night
    exposures = tuple(camera.expose(sky, night, rng))
    names = tuple(f"light_{number + 1:04d}.fits" for number in range(len(exposures)))
    for number, (name, exposure) in enumerate(zip(names, exposures)):
        pixels = exposure.pixels[..., MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        write_capture(folder / name, pixels, _facts(kind, pixels.shape, number))
    if kind.uneven:
        _calibrate(kind, night, folder, shape, rng)
    return CaptureSet(kind, folder, names, sky, exposures)


def _calibrate(kind: Kind, night: Night, folder: Path, shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Darks, flats and biases into folders of their own."""
    for image_type, name, light, exposures in CALIBRATION:
        for number in range(CALIBRATION_FRAMES):
            pixels = camera.calibration_frame(night, shape, rng, light=light, exposures=exposures)
            pixels = pixels[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
            facts = replace(
                _facts(kind, pixels.shape, number), image_type=image_type, target=None, taken_at=None,
                exposure_s=exposures * EXPOSURE_S or None,
            )  # fmt: skip
            write_capture(folder / name / f"{image_type}_{number + 1:04d}.fits", pixels, facts)


def _diffuse(kind: Kind, shape: tuple[int, int], pictures: Sequence[Path], rng: np.random.Generator) -> skies.Image:
    if kind.peak == 0:
        return np.zeros((kind.bands, *shape), np.float32)
    if len(pictures) and kind.detail:
        picture = read_picture(pictures[rng.integers(len(pictures))])
        return skies.from_picture(picture, shape, kind.bands, rng, kind.peak)
    diffuse = skies.procedural(shape, kind.bands, rng, kind.peak)
    return diffuse if kind.detail else skies.soften(diffuse, SOFT_FWHM_PX)


def _facts(kind: Kind, shape: tuple[int, ...], number: int) -> FrameFacts:
    minutes, seconds = divmod(number * int(EXPOSURE_S + 5), 60)
    return FrameFacts(
        width_px=shape[-1], height_px=shape[-2], bands=1, sample_type="uint16", target=kind.name, filter="L",
        exposure_s=EXPOSURE_S, gain=100.0, binning="1x1", camera="stackd simulator", bayer=kind.night.bayer or None,
        taken_at=f"2019-03-08T22:{minutes:02d}:{math.floor(seconds):02d}.000",
        electrons_per_adu=kind.night.electrons_per_adu, image_type="light",
    )  # fmt: skip


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, [0, 0, 1]])
