"""Endless seeded training data: simulated nights, fused as real ones are.

Sky number i of a seed is always the same, whoever computes it. The frames pass through the same warp,
rejection and fusion as real captures, with transforms, star widths, sky levels and transparencies as
wrong as measured ones are. Knows no paths: pictures come as a sequence of arrays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stackd.imaging import camera, skies
from stackd.imaging.debayer import debayer
from stackd.imaging.fuse import fuse
from stackd.imaging.psf import DEFAULT_BETA, Psf
from stackd.imaging.stack import clipped_stack
from stackd.imaging.warp import Transform, apply_transform
from stackd.network.channels import network_input

Image = NDArray[np.float32]
CANVAS_PX = 320
SKY_PX = 256  # the canvas' middle; what lies outside is edge
TARGET_FWHM_PX = 2.0
KAPPA = 4.0  # restore.reject_kappa's default
# What the skies below cover; a set outside it meets a network that has never seen its like.
TRAINED_RANGE = {"frames": [1, 32], "fwhm_px": [1.2, 6.0], "ellipticity": [0.0, 0.25]}


@dataclass(frozen=True, slots=True)
class Sample:
    """One band of one simulated set, in units of the stack's noise: `bank` (SKY_PX, SKY_PX, CHANNELS), `conditions`,
    `truth` (SKY_PX, SKY_PX)."""

    bank: Image
    conditions: NDArray[np.float32]
    truth: Image


def simulate(seed: int, number: int, pictures: Sequence[Image]) -> list[Sample]:
    """Sky `number` of a seed as one sample a band. `pictures` are (h, w, 3) in 0..1; none: procedural skies alone."""
    rng = np.random.default_rng([seed, number])
    bands = 3 if rng.random() < 0.3 else 1
    sky = random_sky(rng, bands, pictures)
    night = random_night(rng, bands)
    return _samples(sky, night, camera.expose(sky, night, rng), rng)


def random_sky(rng: np.random.Generator, bands: int, pictures: Sequence[Image]) -> skies.Sky:
    """A sky of any kind that people point at: star fields, nebulae with and without detail, galaxies, nothing."""
    shape = (CANVAS_PX, CANVAS_PX)
    peak = float(np.exp(rng.uniform(np.log(30), np.log(6000))))
    if len(pictures) and rng.random() < 0.6:
        diffuse = skies.from_picture(pictures[rng.integers(len(pictures))], shape, bands, rng, peak)
    else:
        diffuse = skies.procedural(shape, bands, rng, peak)
    kind = rng.random()
    if kind < 0.4:
        diffuse = skies.soften(diffuse, rng.uniform(8, 60))
    elif kind < 0.47:
        diffuse = np.zeros_like(diffuse)
    if rng.random() < 0.3:  # town light that all frames share
        diffuse = diffuse + skies.glow(shape, rng, float(np.exp(rng.uniform(np.log(3), np.log(300)))))
    density = float(np.exp(rng.uniform(np.log(40), np.log(6000))))
    low = float(np.exp(rng.uniform(np.log(30), np.log(400))))
    stars = skies.star_catalogue(
        shape, bands, rng, density, (low, float(np.exp(rng.uniform(np.log(2e4), np.log(6e5)))))
    )
    return skies.Sky(diffuse, *stars)


def random_night(rng: np.random.Generator, bands: int) -> camera.Night:
    """Seeing, weather and camera of one set."""
    best = float(np.exp(rng.uniform(np.log(1.2), np.log(4.2))))
    level = float(np.exp(rng.uniform(np.log(40), np.log(3000))))
    return camera.Night(
        frames=_frame_count(rng),
        fwhm_px=(best, best * rng.uniform(1.05, 2.2)),
        beta=(2.4, 4.7),
        ellipticity=(0.0, 0.2),
        drift_px=rng.choice([0.0, 0.5, 1.5], p=[0.6, 0.3, 0.1]),
        defocus_chance=0.2 if rng.random() < 0.1 else 0.0,
        coma_chance=0.5 if rng.random() < 0.1 else 0.0,
        shift_px=15.0,
        rotation_deg=float(rng.choice([0.2, 2.0, 8.0])),
        transparency=(rng.uniform(0.5, 0.95), 1.0),
        sky=(level, level * rng.uniform(1, 3)),
        gradient=0.0,
        read_noise=float(np.exp(rng.uniform(np.log(1.5), np.log(15)))),
        saturation_adu=float(np.exp(rng.uniform(np.log(5e3), np.log(6e4)))) if rng.random() < 0.15 else 65535.0,
        hot_pixels=float(10 ** rng.uniform(-5.5, -3.3)),
        cosmic_rays_per_mpx=float(rng.choice([2.0, 20.0])),
        trail_chance=0.35 if rng.random() < 0.2 else 0.04,
        cloud_chance=0.3 if rng.random() < 0.2 else 0.02,
        bayer="RGGB" if bands == 3 and rng.random() < 0.75 else "",
    )


def _frame_count(rng: np.random.Generator) -> int:
    """Mostly the usual 8, at times a few more or fewer, rarely many."""
    kind = rng.random()
    if kind < 0.68:
        return 8
    return 32 if kind < 0.7 else int(rng.integers(1, 17))


def _samples(sky: skies.Sky, night: camera.Night, exposures: list[camera.Exposure], rng) -> list[Sample]:
    """Align, reject, stack and fuse each band, and set the truth beside it."""
    told = _told_psfs(exposures, rng)
    scales = np.array([e.transparency for e in exposures]) * rng.normal(1, 0.01, len(exposures))
    noise = np.array([np.sqrt(e.sky_adu + night.read_noise**2) for e in exposures]) / scales
    noise = noise * rng.normal(1, 0.03) * rng.normal(1, 0.01, len(noise))
    transforms = [_as_measured(e.matrix, rng) for e in exposures]
    banks = []
    for planes in _bands(night, exposures):
        level = [p / c - rng.normal(0, 0.05) * s for p, c, s in zip(planes, scales, noise)]
        frames = np.array([apply_transform(p.astype(np.float32), t, p.shape)[0] for p, t in zip(level, transforms)])
        stack = clipped_stack(frames, noise, KAPPA)
        banks.append(fuse(frames, noise, stack, told, TARGET_FWHM_PX))
    middle = slice((CANVAS_PX - SKY_PX) // 2, (CANVAS_PX + SKY_PX) // 2)
    truth = sky.truth(TARGET_FWHM_PX)
    inputs = network_input(banks)
    return [
        Sample(
            i[middle, middle].copy(),
            b.conditions,
            (truth[k][middle, middle] - np.float32(b.floor_adu)) / np.float32(b.unit_adu),
        )
        for k, (i, b) in enumerate(zip(inputs, banks))
    ]


def _bands(night: camera.Night, exposures: list[camera.Exposure]) -> Iterator[list[Image]]:
    """Each band's frames, the true sky level taken off."""
    ground = [e.pixels - night.offset_adu - e.sky_adu for e in exposures]
    if night.bayer:
        ground = [debayer(g, night.bayer) for g in ground]
    if ground[0].ndim == 2:
        yield ground
    else:
        yield from ([g[band] for g in ground] for band in range(3))


def _told_psfs(exposures: list[camera.Exposure], rng) -> tuple[Psf, ...] | None:
    """The PSFs as a fit gives them: a little wrong, all in one direction and each in its own; sometimes none.

    Sometimes they are plainly wrong, measured on a handful of stars among knots of nebula; their wings are then only
    assumed. Faint neighbours make wings look stronger: hence the beta.
    """
    if rng.random() < 0.06:
        return None
    few_stars = rng.random() < 0.15
    common_width = rng.normal(0.04, 0.08) if few_stars else rng.normal(-0.01, 0.025)
    common_beta = rng.normal(-0.3, 0.3)
    return tuple(
        replace(
            psf,
            fwhm_px=psf.fwhm_px * float(np.exp(common_width + rng.normal(0, 0.05 if few_stars else 0.02))),
            beta=DEFAULT_BETA if few_stars else _beta_as_measured(psf.beta + common_beta, rng),
            ellipticity=float(np.clip(psf.ellipticity + rng.normal(0, 0.02), 0, 0.5)),
        )
        for psf in (_on_grid(e.psf, rng) for e in exposures)
    )


def _on_grid(psf: Psf, rng) -> Psf:
    """A frame's stars as they are measured once it is laid onto the reference's grid: stars below two pixels come out
    wider, with weaker wings, and differ by where they stand on their pixels (fits to 48 frames of simulated nights)."""
    sharp = float(np.clip((2.1 - psf.fwhm_px) / 0.5, 0, 1))
    wider = 1 + sharp * rng.normal(0.06, 0.03)
    return replace(psf, fwhm_px=psf.fwhm_px * wider, beta=psf.beta + 0.7 * sharp)


def _beta_as_measured(beta: float, rng) -> float:
    return float(np.clip(beta + rng.normal(0, 0.3), 1.8, 8))


def _as_measured(matrix: NDArray[np.float64], rng) -> Transform:
    """The true transform with a registration's error on top."""
    wrong = matrix.copy()
    wrong[:, 2] += rng.normal(0, 0.2 if rng.random() < 0.03 else 0.05, 2)
    return Transform(wrong, "stars", 0, 0.0)
