"""What the network's input channels are, and how banks become them. Loads no TensorFlow, so simulators stay light."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stackd.imaging.fuse import ESTIMATES, Bank

MIXED = ESTIMATES  # the estimates of the sky's light lead the channels
OWN = MIXED + 3  # score, spread, depth
GUIDE = 3  # all bands' plain stack, middle Wiener map and score
CHANNELS = OWN + GUIDE


def channel_maps(banks: Sequence[Bank]) -> list[list[NDArray[np.float32]]]:
    """Each band's CHANNELS maps (H, W): its own, which are not copied, then those of all bands together.

    The guide is the bands' sum in units of its own noise; with one band it is that band.
    """
    depth = np.float32(np.sqrt(len(banks)))
    guide = [sum(maps) / depth for maps in zip(*((b.plain, b.wiener[1], b.score) for b in banks))]
    return [[b.plain, *b.wiener, *b.background, b.score, b.spread, b.depth, *guide] for b in banks]


def network_input(banks: Sequence[Bank]) -> list[NDArray[np.float32]]:
    """The channels (H, W, CHANNELS) of each band, as the network takes them."""
    return [np.stack(maps, -1) for maps in channel_maps(banks)]
