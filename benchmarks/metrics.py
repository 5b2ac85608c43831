"""What a picture of a known sky is worth, in figures that a photographer and an astronomer ask for.

Takes planes (bands, H, W) in the truth's unit (electrons; see stackd.imaging.truth.matched), NaN where nothing was
seen. Star figures are those of stackd.imaging.judge, taken on the mean of the bands.
"""

from itertools import pairwise

import numpy as np
import sep
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from stackd.imaging import judge
from stackd.imaging.judge import Truth, flux_error
from stackd.imaging.truth import psnr_db, shown_asinh, star_width_px

Image = NDArray[np.float32]
SIGMA_BINS = (0.0, 1.3, 3.0, 10.0, np.inf)  # sigma over its median in the picture: sky, nebula, stars, bright stars


def figures(image: Image, truth: Truth, seen: NDArray[np.bool_]) -> dict[str, float]:
    """All figures of one picture; NaN for what cannot be said. `seen` (H, W): where it is judged."""
    light = np.where(seen, image.mean(0), np.nan)
    error, scatter = flux_error(light, truth)
    width = star_width_px(light, truth.sky)
    return {
        "psnr": psnr_db(np.where(seen, image, np.nan), truth.planes, truth.frame_noise),
        "ssim": ssim(image, truth, seen),
        "found": np.nan if truth.has_detail else share_found(light, truth, width),
        "flux_error": error,
        "flux_scatter": scatter,
        "fwhm": width or np.nan,
    }


def ssim(image: Image, truth: Truth, seen: NDArray[np.bool_]) -> float:
    """Structural similarity (Wang et al. 2004) on the asinh scale, mean of the bands."""
    shown = shown_asinh(np.where(seen, image, truth.planes), truth.frame_noise)
    wanted = shown_asinh(truth.planes, truth.frame_noise)
    data_range = float(np.quantile(wanted, 0.9995) - wanted.min())
    maps = [structural_similarity(s, w, data_range=data_range, full=True)[1] for s, w in zip(shown, wanted)]
    return float(np.mean([m[seen].mean() for m in maps]))


def share_found(light: Image, truth: Truth, width_px: float | None) -> float:
    """Share of the stars worth finding that are found, with the ground as SExtractor draws it."""
    return judge.share_found(light, truth, width_px, _ground)


def invented_per_mpx(light: Image, truth: Truth) -> float:
    """Peaks on empty sky that claim to be stars, with the ground as SExtractor draws it."""
    return judge.invented_per_mpx(light, truth, _ground)


def _ground(light: Image) -> Image:
    unseen = ~np.isfinite(light)
    plane = np.where(unseen, 0, light).astype(np.float32)
    return sep.Background(plane, mask=unseen, bw=judge.GROUND_PX, bh=judge.GROUND_PX).back()


def deviations(image: Image, sigma: Image, truth: Truth, seen: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """|error| / sigma in each of SIGMA_BINS. `sigma` (bands, H, W) in the truth's unit."""
    relative = sigma / np.nanmedian(sigma, axis=(1, 2), keepdims=True)
    deviation = np.abs(image - truth.planes) / sigma
    usable = seen & np.isfinite(deviation)
    return [deviation[usable & (relative >= low) & (relative < high)] for low, high in pairwise(SIGMA_BINS)]
