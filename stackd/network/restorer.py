"""A trained network at work: banks of fused maps in, restored planes with their uncertainty out, tile by tile.

The network's memory does not grow with the picture, and a tile's middle is what the whole picture would give. A
picture may be shown turned and mirrored, too: the sky has no up, so the mean of the answers errs less than one (as
Timofte et al. 2016 enhance predictions). Takes and returns arrays in the frames' unit; knows no paths, frames or
settings.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stackd.imaging.fuse import Bank
from stackd.network import architecture
from stackd.network.channels import channel_maps
from stackd.network.orientation import held
from stackd.network.weights import set_weights

Image = NDArray[np.float32]
# px, for all pictures alike: TensorFlow keeps memory for every new shape. The first is for pictures that fit into it
# whole, and takes a quarter of the other's time.
SMALL_TILE_PX, TILE_PX = 384, 768
# (quarter turns, then mirrored top to bottom): straight, upside down, across each diagonal. The other four of a square
# add 0.01 dB to what these gain (docs/restoration.md).
ORIENTATIONS = ((0, False), (2, False), (1, True), (3, True))


@dataclass(frozen=True, slots=True)
class Restored:
    """One band: the picture and its 1-sigma error, (H, W), in the frames' unit."""

    image: Image
    sigma: Image


class Restorer:
    """A network with its weights, ready to be used. `card` is the model's own description."""

    knows_stars = True

    def __init__(self, card: dict[str, Any], weights: dict[str, NDArray[np.float32]]) -> None:
        """Raises ModelError where weights and architecture do not belong together."""
        self.card = card
        self._network = architecture.build(card["architecture"])
        set_weights(self._network, weights)
        self._claimed, self._real = np.array(card["sigma_curve"])
        self._call = tf.function(lambda bank, told: self._network([bank, told]))

    @property
    def target_fwhm_px(self) -> float:
        """The star width that this network was trained to give."""
        return float(self.card["target_fwhm_px"])

    def restore(
        self,
        banks: Sequence[Bank],
        tile_done: Callable[[float], None] = lambda share: None,
        *,
        orientations: int = 1,
    ) -> list[Restored]:
        """Restore every band, as the mean over the first `orientations` (1 to 4) ways to hold the picture.

        `tile_done` hears the share of the work that is done.
        """
        views = len(banks) * orientations
        out = []
        for k, (bank, maps) in enumerate(zip(banks, channel_maps(banks))):
            picture, sigma = np.zeros((2, *bank.plain.shape), np.float32)
            for n, (quarters, mirrored) in enumerate(ORIENTATIONS[:orientations]):

                def view_done(share: float, before: int = k * orientations + n) -> None:
                    tile_done((before + share) / views)

                *seen, picture_so, sigma_so = (held(image, quarters, mirrored) for image in (*maps, picture, sigma))
                self._add(seen, bank.conditions, picture_so, sigma_so, view_done)
            picture /= orientations
            sigma /= orientations
            unit = np.float32(bank.unit_adu)
            out.append(Restored(picture * unit + np.float32(bank.floor_adu), sigma * unit))
        return out

    def _add(self, maps: Sequence[Image], conditions, picture: Image, sigma: Image, tile_done) -> None:
        """Add what the network says of these CHANNELS maps (H, W) to a picture and its error (H, W)."""
        height, width = picture.shape
        tile_px = _tile_px(height, width)
        inner = slice(architecture.HALO_PX, tile_px - architecture.HALO_PX)
        tiles = list(_tiles(height, width, _step_px(tile_px)))
        for n, (rows, columns) in enumerate(tiles):
            tile = _cut(maps, rows.start, columns.start, tile_px)
            restored, log_sigma = self._call(tile[None], conditions[None])
            size = rows.stop - rows.start, columns.stop - columns.start
            picture[rows, columns] += restored.numpy()[0, inner, inner][: size[0], : size[1]]
            sigma[rows, columns] += self._honest(log_sigma.numpy()[0, inner, inner][: size[0], : size[1]])
            tile_done((n + 1) / len(tiles))

    def _honest(self, log_sigma: Image) -> Image:
        """The claimed error put right by what simulated nights showed: never less than the least that was real there;
        above the curve by its end's correction."""
        excess = np.maximum(log_sigma - self._claimed[-1], 0)
        return np.exp(np.interp(log_sigma, self._claimed, self._real) + excess).astype(np.float32)


def _tile_px(height: int, width: int) -> int:
    """Edge of the tiles for a picture."""
    return SMALL_TILE_PX if max(height, width) <= _step_px(SMALL_TILE_PX) else TILE_PX


def _step_px(tile_px: int) -> int:
    """Edge of a tile's middle, which knows nothing of the tile's edge."""
    return tile_px - 2 * architecture.HALO_PX


def _tiles(height: int, width: int, step_px: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles' middles; all start on the network's stride, or a tile would not give what the
    whole gives."""
    for top in range(0, height, step_px):
        for left in range(0, width, step_px):
            yield slice(top, min(top + step_px, height)), slice(left, min(left + step_px, width))


def _cut(maps: Sequence[Image], top: int, left: int, tile_px: int) -> Image:
    """The tile (tile_px, tile_px, CHANNELS) around the middle that starts here, mirrored where it reaches over the
    picture's edge."""
    start = np.array([top, left]) - architecture.HALO_PX
    rows, columns = (_mirrored(s + np.arange(tile_px), size) for s, size in zip(start, maps[0].shape))
    return np.stack([image[np.ix_(rows, columns)] for image in maps], -1)


def _mirrored(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices folded back into 0 .. size - 1, as often as needed."""
    period = index % (2 * size)
    return np.minimum(period, 2 * size - 1 - period)
