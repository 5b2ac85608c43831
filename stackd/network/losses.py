"""What the restorer is asked for: a true picture on the scale people look at, true fluxes, honest errors.

All in units of the stack's noise. Knows tensors only.
"""

import numpy as np
from keras import ops

SOFTENING = 3.0  # noise units: below it the scale is linear, above logarithmic
BOXES_PX = (5, 11)  # sums over these boxes are fluxes
SSIM_WINDOW_PX = 7
SSIM_RANGE = 4.0  # of the stretched scale: from the sky to a fairly bright star
FINE_CONTRAST = 0.03  # of that scale, a tenth of the noise: less counts as flat
FLUX_ACCURACY = 0.01  # relative; closer than this a flux counts as right


def restoration_loss(truth, restored, log_sigma):
    """Scalar loss of (B, H, W) predictions: fidelity + fluxes + likelihood of the claimed error."""
    return fidelity(truth, restored) + 0.1 * flux_error(truth, restored) + 0.02 * nll(truth, restored, log_sigma)


def stretched(image):
    """asinh scale with SOFTENING."""
    return ops.arcsinh(image / SOFTENING)


def fidelity(truth, restored):
    """Each sample's log mean square, and the structure that the picture lacks, with gradients of like size.

    Both on the scale that people look at, black where the sky is: there a wrong level shows most. PSNR is a logarithm
    too, so easy skies count like hard ones. The square is what keeps faint stars: an absolute error is least where
    everything more doubtful than not is left out (the median), a square where each is drawn as bright as it is likely
    (the mean).
    """
    black = _sky_level(truth)
    want, have = stretched(truth - black), stretched(restored - black)
    mean_square = ops.mean((have - want) ** 2, axis=(1, 2))
    similar, fine = similarity(want, have)
    return 0.1 * ops.mean(ops.log(mean_square + 1e-5)) + 0.5 * (1 - ops.mean(similar)) + 0.1 * (1 - ops.mean(fine))


def similarity(a, b):
    """(structural similarity (Wang et al. 2004), structure at FINE_CONTRAST) of two stretched pictures (B, H, W),
    window by window.

    The usual constants forgive ripples of a tenth of the noise on an empty sky, where a star finder, which measures by
    the ripples around, takes them for stars. The second figure does not.
    """
    mean_a, mean_b = _box_mean(a), _box_mean(b)
    spread_a, spread_b = _box_mean(a * a) - mean_a**2, _box_mean(b * b) - mean_b**2
    shared = _box_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * SSIM_RANGE) ** 2, (0.03 * SSIM_RANGE) ** 2
    level = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure, fine = ((2 * shared + c) / (spread_a + spread_b + c) for c in (c2, FINE_CONTRAST**2))
    return level * structure, fine


def flux_error(truth, restored):
    """Error of box sums over what noise and FLUX_ACCURACY allow, without outliers deciding.

    A sky's boxes count alike, and once more by how surely their light can be told. Alike only, 999 boxes of empty sky
    decide, and stars may be 2 % wrong; by their light only, nothing keeps the empty sky smooth.
    """
    black = _sky_level(truth)
    terms = []
    for size in BOXES_PX:
        want = _box_sum(truth - black, size)
        allowed = ops.sqrt(float(size) ** 2 + (FLUX_ACCURACY * want) ** 2)
        chi = (_box_sum(restored - black, size) - want) / allowed
        excess, surety = ops.sqrt(1 + chi**2) - 1, ops.abs(want) / allowed
        by_light = ops.mean(surety * excess, axis=(1, 2)) / (1 + ops.mean(surety, axis=(1, 2)))
        terms.append(ops.mean(excess) + ops.mean(by_light))
    return sum(terms) / len(terms)


def nll(truth, restored, log_sigma):
    """Laplace likelihood of the claimed error, which few wild pixels cannot dominate; it does not move the picture."""
    error = ops.stop_gradient(ops.abs(restored - truth))
    return ops.mean(log_sigma + error * ops.exp(-log_sigma))


def psnr(truth, restored):
    """dB on the stretched scale against each sample's range; mean over the batch."""
    t, r = stretched(truth), stretched(restored)
    span = ops.max(t, axis=(1, 2)) - ops.min(t, axis=(1, 2))
    mean_square = ops.mean((r - t) ** 2, axis=(1, 2))
    return ops.mean(10 * ops.log(span**2 / (mean_square + 1e-9)) / ops.log(10.0))


def _sky_level(truth):
    """Median of each picture (B, H, W) as (B, 1, 1), which one pixel in 16 tells well enough."""
    return ops.median(truth[:, ::4, ::4], axis=(1, 2), keepdims=True)


def _box_sum(image, size: int):
    return _box_mean(image, size) * size**2


def _box_mean(image, size: int = SSIM_WINDOW_PX):
    """(B, H, W) -> mean of each box that lies within, as two products with a band of ones (pooling takes ten times as
    long). In double precision: a variance is a small difference of large means."""
    height, width = image.shape[1:]
    means = ops.matmul(ops.matmul(_band(height, size).T, ops.cast(image, "float64")), _band(width, size))
    return ops.cast(means, image.dtype)


def _band(length: int, size: int):
    """(length, length - size + 1): each column takes the mean of `size` neighbours."""
    distance = np.arange(length)[:, None] - np.arange(length - size + 1)
    return np.where((distance >= 0) & (distance < size), 1 / size, 0.0)
