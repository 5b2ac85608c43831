"""What can teach and what cannot: photographs pass, drawings and copies are told apart from them."""

import cv2
import numpy as np
import pytest

from stackd.imaging.screening import copy_among, print_of, why_unfit


def photograph(rng: np.random.Generator, height: int = 200, width: int = 260) -> np.ndarray:
    """Clouds and stars with a camera's noise."""
    clouds = cv2.resize(rng.random((6, 8, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    stars = (rng.random((height, width, 1)) > 0.997).astype(np.float32)
    noise = rng.normal(0, 0.02, (height, width, 3))
    return np.clip(np.round((0.5 * clouds + stars + noise) * 255) / 255, 0, 1).astype(np.float32)


def test_photographs_pass(rng: np.random.Generator) -> None:
    """In colour, in grey, with a sky clipped to black."""
    picture = photograph(rng)
    grey = np.repeat(picture[..., :1], 3, 2)
    clipped = np.where(picture.mean(2, keepdims=True) < 0.3, 0, picture).astype(np.float32)

    assert [why_unfit(one) for one in (picture, grey, clipped)] == ["", "", ""]


def test_drawings_do_not(rng: np.random.Generator) -> None:
    """A chart on white and flat coloured shapes say why; so does a picture of one brightness."""
    chart = np.ones((200, 260, 3), np.float32)
    chart[::20], chart[:, ::20] = 0.4, 0.4
    shapes = np.repeat(np.repeat(rng.random((5, 5, 3)), 40, 0), 40, 1).astype(np.float32)

    assert "drawn" in why_unfit(chart)
    assert "drawn" in why_unfit(shapes)
    assert "nothing" in why_unfit(np.zeros((100, 100, 3), np.float32))


@pytest.mark.parametrize("change", ["smaller", "jpeg", "brighter", "noisier"])
def test_copies_are_known_again(change: str, rng: np.random.Generator) -> None:
    """However it was saved or stretched, it is the same picture; another one is not."""
    picture, other = photograph(rng), photograph(rng)
    if change == "smaller":
        copy = cv2.resize(picture, (130, 100), interpolation=cv2.INTER_AREA)
    elif change == "jpeg":
        _, coded = cv2.imencode(".jpg", (picture * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 40])
        copy = cv2.imdecode(coded, cv2.IMREAD_COLOR).astype(np.float32) / 255
    elif change == "brighter":
        copy = np.clip(1.2 * picture, 0, 1)
    else:
        copy = np.clip(picture + rng.normal(0, 0.03, picture.shape), 0, 1).astype(np.float32)
    known = np.stack([print_of(other), print_of(picture)])

    assert copy_among(print_of(copy), known) == 1
    assert copy_among(print_of(photograph(rng)), known) is None
    assert copy_among(print_of(copy), known[:0]) is None
