"""How far claimed errors are from real ones, as a curve to mend them by. Knows numbers only."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

AS_CLAIMED = [[-5.0, 12.0], [-5.0, 12.0]]  # the curve that mends nothing, over all that a network can claim
BINS = 12
TOP_SHARES = (0.97, 0.99, 0.997)  # bright stars are few and have the largest errors: bins of their own
FEWEST = 100  # pixels in a bin
WILD = 5.0  # times the usual error; beyond it a pixel counts as that


def sigma_curve(claimed: NDArray[np.float32], error: NDArray[np.float32]) -> list[list[float]]:
    """[[log claimed], [log real]] 1-sigma errors, binned by the claimed one.

    Takes the natural logarithm of the claimed and the absolute real error of each pixel, in one unit. The real error of
    a bin is its root mean square, so that inverse squares of what is claimed are right weights; pixels that are off by
    more than WILD times the 68.3rd percentile are brought back to that.
    """
    edges = np.unique(np.quantile(claimed, [*np.linspace(0, 1, BINS + 1)[:-1], *TOP_SHARES, 1]))
    edges = np.append(edges, edges[0]) if len(edges) == 1 else edges
    edges[-1] += 1e-6
    means, real, count = [], [], []
    for low, high in pairwise(edges):
        inside = (claimed >= low) & (claimed < high)
        if inside.sum() > FEWEST:
            wild = WILD * np.quantile(error[inside], 0.683)
            square = np.mean(np.minimum(error[inside], wild) ** 2, dtype=float)
            means.append(float(claimed[inside].mean()))
            real.append(float(0.5 * np.log(square + 1e-12)))
            count.append(int(inside.sum()))
    # a larger claim never means a smaller error
    rising = isotonic_regression(real, weights=count).x
    return [np.round(means, 4).tolist(), np.round(rising, 4).tolist()]
