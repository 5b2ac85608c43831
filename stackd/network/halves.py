"""Learning from captures without a truth: one half of a set's frames says whether the other was restored well.

The network restores half A; seen through half B's own blur the picture must agree with B's plain stack but for B's
noise, which the network cannot know (Noise2Noise, Lehtinen et al. 2018). Takes aligned frames of one band, gives
samples, batches and a loss. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stackd.imaging.closure import reblurred, stack_blur
from stackd.imaging.fuse import Bank, fuse
from stackd.imaging.psf import Psf
from stackd.imaging.stack import Stack, clipped_stack
from stackd.network.channels import network_input
from stackd.network.feed import TARGET_FWHM_PX
from stackd.network.pool import batched, half_precision, turn_at_random, window_at_random

Image = NDArray[np.float32]
HalfBatch = tuple[Image, Image, Image, Image, Image]
LEAST_FRAMES = 6  # of a set: a half of two frames cannot tell which one has the satellite
WINDOW_PX = 320  # of a picture that samples are made of; the simulator has the same canvas
CROP_PX = 128
MARGIN_PX = 20  # of a crop: there the other half's blur reaches over the edge
KERNEL_PX = 2 * MARGIN_PX + 1
EDGE_PX = 32  # of a window, cut off again
UNSEEN = 1e6  # noise of pixels that no frame of a half saw, in units of the stack's
RELATIVE_ERROR = 0.03  # of the light: star shapes and photon noise allow no closer agreement
OUTLIER_SIGMA = 3.0  # beyond it a deviation counts in proportion, not squared


@dataclass(frozen=True, slots=True)
class HalfSample:
    """Half A of a set as the network sees it, and what half B saw of the same sky.

    Planes (h, w) in units of A's stack noise above A's floor: `other`, B's plain stack, and `noise`, its 1 sigma;
    `kernel` (KERNEL_PX, KERNEL_PX) blurs a restored picture as B's stack is blurred.
    """

    bank: NDArray[np.float16]
    conditions: NDArray[np.float32]
    other: Image
    noise: Image
    kernel: Image


def halves(
    frames: Image, noise_adu: NDArray[np.float64], psfs: tuple[Psf, ...], kappa: float, gain: float
) -> list[HalfSample]:
    """Both ways to use one window of a band: (N, h, w) aligned frames, their sky noise (N,) and star shapes.

    Even frames against odd ones, so that slow changes of the night are in both. Edges of EDGE_PX are lost.
    """
    parts = [slice(0, None, 2), slice(1, None, 2)]
    stacks = [clipped_stack(frames[p], noise_adu[p], kappa, gain) for p in parts]
    banks = [fuse(frames[p], noise_adu[p], stack, psfs[p], TARGET_FWHM_PX) for p, stack in zip(parts, stacks)]
    kernels = [_kernel(psfs[p], noise_adu[p]) for p in parts]
    return [_sample(banks[0], stacks[1], kernels[1]), _sample(banks[1], stacks[0], kernels[0])]


def draw_batch(samples: Sequence[HalfSample], size: int, rng: np.random.Generator) -> HalfBatch:
    """(bank, conditions, other, noise, kernel) of `size` random crops, each flipped and turned at random."""
    return batched(_crop(samples[rng.integers(len(samples))], rng) for _ in range(size))


def half_loss(other, noise, kernel, restored, log_sigma):
    """Mean squared deviation (in sigma) of the re-blurred picture from the other half's stack, outliers tempered.

    The allowed error is measured on the picture, not on the noisy stack, which would favour too little light. The
    claimed error is not judged: nobody knows the truth here.
    """
    seen = _blurred(restored, kernel)[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
    other = other[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
    noise = noise[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
    light = tf.nn.relu(tf.stop_gradient(seen))
    chi = (seen - other) / tf.sqrt(noise**2 + (RELATIVE_ERROR * light) ** 2)
    tempered = OUTLIER_SIGMA**2 * (tf.sqrt(1 + (chi / OUTLIER_SIGMA) ** 2) - 1)
    return tf.reduce_mean(tempered) + 0.0 * tf.reduce_mean(log_sigma)


def agreement(network: keras.Model, samples: Sequence[HalfSample]) -> float:
    """Mean `half_loss` over the middles of held-out samples: the lower, the better the halves agree."""
    values = []
    for sample in samples:
        bank, conditions, *wanted = batched([_parts(sample)])
        side = min(sample.other.shape) // 8 * 8
        cut = (slice(None), slice(0, side), slice(0, side))
        restored, log_sigma = network([bank[cut], conditions])
        values.append(float(half_loss(wanted[0][cut], wanted[1][cut], wanted[2], restored, log_sigma)))
    return float(np.mean(values))


def _sample(bank: Bank, other: Stack, kernel: Image) -> HalfSample:
    inside = slice(EDGE_PX, -EDGE_PX)
    unit, floor = np.float32(bank.unit_adu), np.float32(bank.floor_adu)
    seen = np.isfinite(other.mean)
    light = np.where(seen, (np.nan_to_num(other.mean) - floor) / unit, 0)
    noise = np.where(seen, np.nan_to_num(other.noise) / unit, UNSEEN)
    return HalfSample(
        half_precision(network_input([bank])[0][inside, inside]), bank.conditions,
        light[inside, inside].astype(np.float32), noise[inside, inside].astype(np.float32), kernel,
    )  # fmt: skip


def _kernel(psfs: tuple[Psf, ...], noise_adu: NDArray[np.float64]) -> Image:
    """What a point of the restored picture looks like in the plain stack of these frames, its sum 1."""
    point = np.zeros((2 * KERNEL_PX + 1, 2 * KERNEL_PX + 1), np.float32)
    point[KERNEL_PX, KERNEL_PX] = 1
    spread = reblurred(point, stack_blur(point.shape, psfs, noise_adu**-2.0, TARGET_FWHM_PX))
    middle = slice(KERNEL_PX - MARGIN_PX, KERNEL_PX + MARGIN_PX + 1)
    return spread[middle, middle] / spread[middle, middle].sum()


def _parts(sample: HalfSample) -> tuple[NDArray, ...]:
    return sample.bank, sample.conditions, sample.other, sample.noise, sample.kernel


def _crop(sample: HalfSample, rng: np.random.Generator) -> tuple[NDArray, ...]:
    window = window_at_random(sample.other.shape, CROP_PX, rng)
    turned = turn_at_random(rng)
    bank, conditions, other, noise, kernel = _parts(sample)
    return turned(bank[window]), conditions, turned(other[window]), turned(noise[window]), turned(kernel)


def _blurred(pictures, kernels):
    """(B, H, W) pictures, each through its kernel (B, K, K); MARGIN_PX at the edges wrap around."""
    height, width = tf.shape(pictures)[1], tf.shape(pictures)[2]
    padding = [[0, 0], [0, height - KERNEL_PX], [0, width - KERNEL_PX]]
    # the kernel's middle belongs on the picture's corner
    placed = tf.roll(tf.pad(kernels, padding), [-MARGIN_PX, -MARGIN_PX], [1, 2])
    return tf.signal.irfft2d(tf.signal.rfft2d(pictures) * tf.signal.rfft2d(placed), [height, width])
