"""How honest a network is about its errors: claimed against real ones on whole nights, restored as real captures are.

The nights are like the golden set's, with other seeds. So the curve that mends the claims knows also what a network
cannot: star shapes that were measured a little wrong, levels, fluxes held to the stack. Knows no files.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackd.disk.weights import Weights
from stackd.imaging.truth import matched
from stackd.jobs import golden
from stackd.jobs.golden import BORDER_PX, SKIES, GoldenSky, Prepared
from stackd.jobs.restore import restore
from stackd.network.calibrate import AS_CLAIMED, sigma_curve
from stackd.network.restorer import Restorer
from stackd.settings import RestoreSettings

NIGHTS = (
    *(replace(sky, seed=sky.seed + 100) for sky in SKIES),
    GoldenSky("faint nebula", 206, peak=60.0, detail=True, stars_per_mpx=1200.0),
)


def measured_curve(card: dict[str, Any], weights: Weights) -> list[list[float]]:
    """The card's `sigma_curve`: [[log claimed], [log real]] 1-sigma errors in units of the stack's noise."""
    restorer = Restorer(card | {"sigma_curve": AS_CLAIMED}, weights)
    parts = [claims(golden.prepare(night), restorer) for night in NIGHTS]
    return sigma_curve(*(np.concatenate(column) for column in zip(*parts)))


def claims(prepared: Prepared, restorer: Restorer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(log claimed, absolute real) error of every pixel of one night's picture, in units of the stack's noise."""
    # at full strength, whatever the guards would say: the plain stack's share has errors of its own
    settings = RestoreSettings().model_dump() | {"strength": 1.0, "flux_tolerance": math.inf}
    picture = restore(prepared.aligned, prepared.stacks, restorer, settings, lambda share: None)
    fitted, scale = matched(picture.restored, prepared.truth.planes)
    unit = np.array([float(np.nanmin(stack.noise)) for stack in prepared.stacks])[:, None, None]
    claimed = np.log(picture.sigma / unit)
    error = np.abs(fitted - prepared.truth.planes) / (np.abs(scale)[:, None, None] * unit)
    known = np.isfinite(claimed) & np.isfinite(error)
    known[:, :BORDER_PX], known[:, -BORDER_PX:] = False, False
    known[:, :, :BORDER_PX], known[:, :, -BORDER_PX:] = False, False
    return claimed[known].astype(np.float32), error[known].astype(np.float32)
