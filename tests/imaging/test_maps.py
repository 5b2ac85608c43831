"""Maps in false colour, and the choice of what is shown up close."""

import numpy as np

from stackd.imaging.maps import find_detail, paint_change, paint_sigma


def test_change_is_blue_where_light_went_and_orange_where_it_came() -> None:
    """The two directions cannot be confused, no change is dark, unseen is dark."""
    change = np.zeros((60, 60), np.float32)
    change[10:20, 10:20], change[40:50, 40:50], change[0, 0] = 9, -9, np.nan

    picture, limit = paint_change(change)

    assert limit == 9
    assert picture[15, 15, 0] > 200 > picture[15, 15, 2]
    assert picture[45, 45, 2] > 200 > picture[45, 45, 0]
    assert picture[30, 30].max() < 40 and picture[0, 0].max() < 40


def test_uncertainty_grows_brighter_and_its_range_is_told() -> None:
    """What the legend says is what the colours mean."""
    sigma = np.tile(np.linspace(2, 8, 200, dtype=np.float32), (20, 1))
    sigma[0] = np.nan

    picture, low, high = paint_sigma(sigma)

    assert 1.9 < low < 2.2 and 7.8 < high < 8.1
    brightness = picture[5].astype(int).sum(axis=1)
    assert brightness[-1] > brightness[100] > brightness[0]
    assert (picture[0] == 0).all()
    assert paint_sigma(np.full((5, 5), np.nan, np.float32))[1:] == (0.0, 0.0)


def test_detail_is_found_where_the_picture_has_some() -> None:
    """A patch of texture wins over flat sky, and the window lies within the picture."""
    picture = np.full((300, 400), 30, np.uint8)
    picture[180:230, 250:320] = np.random.default_rng(1).integers(0, 255, (50, 70))

    top, left = find_detail(picture, 96, 128)

    assert top < 180 and top + 96 > 230 and left < 250 and left + 128 > 320


def test_window_as_large_as_the_picture_is_the_picture() -> None:
    """Small captures are shown whole."""
    assert find_detail(np.zeros((40, 50, 3), np.uint8), 40, 50) == (0, 0)
    assert find_detail(np.zeros((1, 1), np.uint8), 1, 1) == (0, 0)
