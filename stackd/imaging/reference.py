"""Which frame of a set its grid is taken from.

Takes each frame's stars, noise and place, gives figures that speak for it and the choice that follows.
Must not know how frames are laid on each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stackd.imaging.stars import Stars
from stackd.imaging.warp import Transform, compose, invert

BRIGHTEST = 20  # stars whose light tells a frame's transparency


@dataclass(frozen=True, slots=True)
class FrameFigures:
    """What speaks for a frame as the reference of its set."""

    stars: int
    fwhm_px: float  # median over stars, NaN without any
    ellipticity: float  # median over stars, NaN without any
    noise_adu: float
    transparency: float  # light of the brightest stars relative to the set's clearest frame; 1 without stars
    overlap: float = 1.0  # mean share of its pixels that the other frames see too


def choose_reference(figures: Sequence[FrameFigures]) -> int:
    """The frame that shows most: deep and sharp, round stars, and much of the sky that the others see."""
    return by_merit(figures)[0]


def by_merit(figures: Sequence[FrameFigures]) -> list[int]:
    return sorted(range(len(figures)), key=lambda k: (-_merit(figures[k]), k))


def _merit(figures: FrameFigures) -> float:
    """Signal-to-noise ratio of a point source, up to a constant, times a price for trails and for drift."""
    if figures.stars == 0 or figures.noise_adu <= 0:
        return figures.overlap * 1e-6
    roundness = 1 - min(figures.ellipticity, 0.9) if figures.ellipticity > 0.3 else 1.0
    return figures.transparency / (figures.noise_adu * max(figures.fwhm_px, 1.0)) * roundness * figures.overlap**2


def frame_figures(stars: Sequence[Stars], noises: Sequence[float]) -> list[FrameFigures]:
    least = min((len(s) for s in stars if len(s)), default=0)
    rank = slice(min(BRIGHTEST, max(least, 1)))
    light = [float(np.median(s.flux[rank])) if len(s) else 0.0 for s in stars]
    clearest = max(light)
    return [
        FrameFigures(
            len(s),
            float(np.median(s.fwhm_px)) if len(s) else float("nan"),
            float(np.median(s.ellipticity)) if len(s) else float("nan"),
            noise,
            flux / clearest if clearest > 0 else 1.0,
        )
        for s, noise, flux in zip(stars, noises, light, strict=True)
    ]


def with_overlap(
    figures: Sequence[FrameFigures], transforms: Sequence[Transform | None], shape: tuple[int, ...]
) -> list[FrameFigures]:
    """Each frame's mean share of common sky with the others that were placed."""
    matrices = [None if t is None else t.matrix for t in transforms]
    known = [m for m in matrices if m is not None]
    return [
        f if m is None else replace(f, overlap=float(np.mean([_common_share(m, other, shape) for other in known])))
        for f, m in zip(figures, matrices, strict=True)
    ]


def _common_share(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Share of one frame's pixels that the other sees, counted on a coarse grid of them."""
    height, width = shape
    x, y = np.meshgrid(np.linspace(0, width - 1, 12), np.linspace(0, height - 1, 12))
    seen = compose(invert(other), one) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    inside = (seen[0] >= -0.5) & (seen[0] <= width - 0.5) & (seen[1] >= -0.5) & (seen[1] <= height - 0.5)
    return float(inside.mean())
