"""A picture cut into cells, whose medians tell a sky's level without its stars. Knows planes (H, W) only."""

import numpy as np
from numpy.typing import NDArray


def cells_of(image: NDArray[np.floating], size_px: tuple[int, int]) -> NDArray[np.floating]:
    """(down, across, pixels): the whole cells of this height and width that fit into an image (H, W) from its first
    pixel on."""
    down, across = (whole // part for whole, part in zip(image.shape, size_px))
    rows, columns = size_px
    cut = image[: down * rows, : across * columns].reshape(down, rows, across, columns)
    return cut.transpose(0, 2, 1, 3).reshape(down, across, rows * columns)
