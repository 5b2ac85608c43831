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


def medians_of(cells: NDArray[np.floating], least_seen: float = 0.5) -> NDArray[np.floating]:
    """The median of each cell (..., pixels) -> (...); NaN where no more than this share of it was seen."""
    medians = np.median(cells, axis=-1)
    partly = np.isnan(medians)
    partly[partly] = np.isfinite(cells[partly]).mean(axis=-1) > least_seen
    if partly.any():
        medians[partly] = np.nanmedian(cells[partly], axis=-1)
    return medians
