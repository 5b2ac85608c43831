"""Pictures in a row for people."""

import numpy as np

from stackd.imaging.panels import CAPTION_PX, GAP_PX, liveliest, side_by_side
from stackd.imaging.preview import apply_stretch, find_stretch


def test_every_picture_stands_under_its_name(rng: np.random.Generator) -> None:
    """Mono and colour become panels of one size; pixels are as the preview shows them."""
    image = rng.normal(0, 1, (40, 60)).astype(np.float32)
    stretch = find_stretch(image)

    row = side_by_side({"a": image, "b": image, "c": image + 1}, stretch)

    assert row.shape == (40 + CAPTION_PX, 3 * 60 + 2 * GAP_PX, 3)
    assert row[:CAPTION_PX, :60].any()
    shown = apply_stretch(image, stretch)
    np.testing.assert_array_equal(row[CAPTION_PX:, :60, 0], shown)
    np.testing.assert_array_equal(row[CAPTION_PX:, 60 + GAP_PX : 120 + GAP_PX, 2], shown)


def test_the_window_goes_where_the_light_is() -> None:
    """The liveliest part holds the bright patch, lies inside and is no larger than the image."""
    image = np.zeros((3, 100, 120), np.float32)
    image[:, 70:95, 90:118] = 50

    rows, columns = liveliest(image, 30, 40)

    assert (rows.stop - rows.start, columns.stop - columns.start) == (30, 40)
    assert image[0, rows, columns].sum() == image[0].sum()
    assert liveliest(image, 500, 500) == (slice(0, 100), slice(0, 120))
