"""What the network's input channels are, and how banks become them. Loads no TensorFlow, so simulators stay light."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stackd.imaging.fuse import REGULARISATIONS, Bank

MIXED = 1 + len(REGULARISATIONS)  # the plain stack and the Wiener maps lead the channels
OWN = MIXED + 3  # score, spread, depth
GUIDE = 3  # all bands' plain stack, middle Wiener map and score
CHANNELS = OWN + GUIDE


def network_input(banks: Sequence[Bank]) -> list[NDArray[np.float32]]:
    """The channels (H, W, CHANNELS) of each band: its own maps, then those of all bands together.

    The guide is the bands' sum in units of its own noise; with one band it is that band.
    """
    depth = np.sqrt(len(banks))
    guide = [sum(maps) / depth for maps in zip(*((b.plain, b.wiener[1], b.score) for b in banks))]
    return [np.stack([b.plain, *b.wiener, b.score, b.spread, b.depth, *guide], -1).astype(np.float32) for b in banks]
