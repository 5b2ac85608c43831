"""Cells: each holds its own pixels and no other's; what fills no whole cell is left out."""

import numpy as np

from stackd.imaging.cells import cells_of


def test_each_cell_holds_its_own_pixels() -> None:
    image = np.arange(7 * 10).reshape(7, 10)

    cells = cells_of(image, (3, 4))

    assert cells.shape == (2, 2, 12)
    for row in range(2):
        for column in range(2):
            own = image[3 * row : 3 * row + 3, 4 * column : 4 * column + 4]
            np.testing.assert_array_equal(cells[row, column], own.ravel())


def test_a_picture_smaller_than_a_cell_has_none() -> None:
    assert cells_of(np.zeros((2, 10)), (3, 4)).shape == (0, 2, 12)
