"""How far the network's claimed errors are from its real ones on held-out skies, as a curve to mend them by."""

from itertools import pairwise

import keras
import numpy as np

from stackd.network.fit import Batch

BINS = 12


def sigma_curve(network: keras.Model, batches: list[Batch]) -> list[list[float]]:
    """[[log claimed], [log real]] 1-sigma errors in units of the stack's noise, binned by the claimed one.

    The real error of a bin is the 68.3rd percentile of its absolute errors, which a few wild pixels do not decide.
    """
    claimed, error = [], []
    for bank, conditions, truth in batches:
        restored, log_sigma = network([bank, conditions])
        claimed.append(np.asarray(log_sigma)[:, ::2, ::2].ravel())
        error.append(np.abs(np.asarray(restored) - truth)[:, ::2, ::2].ravel())
    claimed, error = np.concatenate(claimed), np.concatenate(error)
    edges = np.quantile(claimed, np.linspace(0, 1, BINS + 1))
    edges[-1] += 1e-6
    curve = []
    for low, high in pairwise(edges):
        inside = (claimed >= low) & (claimed < high)
        if inside.sum() > 100:
            curve.append([float(claimed[inside].mean()), float(np.log(np.quantile(error[inside], 0.683) + 1e-6))])
    # a larger claim never means a smaller error
    logs = np.array(curve).T
    return [logs[0].round(4).tolist(), np.maximum.accumulate(logs[1]).round(4).tolist()]
