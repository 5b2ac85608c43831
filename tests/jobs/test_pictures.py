"""A training's pictures: the good ones of a folder, the others named, and each always on the same side."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from loguru import logger

from stackd.errors import ConfigError
from stackd.jobs.pictures import Pictures, usable_pictures


def save(path: Path, rng: np.random.Generator, side: int = 120) -> None:
    cv2.imwrite(str(path), rng.integers(0, 255, (side, side, 3), dtype=np.uint8))


def test_what_is_left_out_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    """Each file that cannot teach is a line in the log, with its reason; the others are there, in order."""
    for name in ("b.png", "a.png"):
        save(tmp_path / name, rng)
    save(tmp_path / "tiny.png", rng, 40)
    (tmp_path / "text.jpg").write_text("no picture")
    told: list[str] = []
    sink = logger.add(lambda message: told.append(str(message)), level="WARNING")
    try:
        pictures = usable_pictures(tmp_path)
    finally:
        logger.remove(sink)

    assert [path.name for path in pictures.paths] == ["a.png", "b.png"]
    assert len(told) == 2
    assert "tiny.png" in "".join(told)
    assert "text.jpg" in "".join(told)


def test_too_few_pictures_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """None at all, or fewer than a preset needs; the folder is named."""
    save(tmp_path / "tiny.png", rng, 40)
    with pytest.raises(ConfigError, match="no usable picture"):
        usable_pictures(tmp_path)
    save(tmp_path / "good.png", rng)
    with pytest.raises(ConfigError, match="at least 2"):
        usable_pictures(tmp_path, least=2)


def test_pictures_keep_their_side(tmp_path: Path) -> None:
    """About the asked share is held out, by name alone: no picture changes sides when others come or go."""
    paths = [tmp_path / f"picture-{k}.png" for k in range(400)]

    learnt, held_out = Pictures(paths).split(0.1)
    fewer_learnt, fewer_held_out = Pictures(paths[100:]).split(0.1)

    assert set(learnt.paths) | set(held_out.paths) == set(paths)
    assert not set(learnt.paths) & set(held_out.paths)
    assert 20 < len(held_out) < 65
    assert set(fewer_learnt.paths) <= set(learnt.paths)
    assert set(fewer_held_out.paths) <= set(held_out.paths)


@pytest.mark.parametrize(("count", "sides"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (10, (9, 1))])
def test_neither_side_is_empty(tmp_path: Path, count: int, sides: tuple[int, int]) -> None:
    """Of M1 to M10 no name's hash falls below a tenth; something to judge on is held out all the same."""
    learnt, held_out = Pictures([tmp_path / f"M{k + 1}.jpg" for k in range(count)]).split(0.1)

    assert (len(learnt), len(held_out)) == sides


def test_pictures_are_decoded_when_asked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    """(h, w, 3) in 0..1; a missing file is noticed only when its turn comes."""
    cv2.imwrite(str(tmp_path / "a.png"), rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))

    pictures = Pictures([tmp_path / "a.png", tmp_path / "gone.png"])

    assert len(pictures) == 2
    assert pictures[0].shape == (40, 50, 3)
    assert 0 <= pictures[0].min() < pictures[0].max() <= 1
