"""What is written as a capture is read as the same frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stackd.disk.captures import write_capture
from stackd.disk.reader import read_facts, read_frame
from stackd.errors import OutputError
from stackd.records import FrameFacts

FACTS = FrameFacts(
    width_px=30, height_px=20, bands=1, sample_type="uint16", target="M 31", filter="Ha", exposure_s=120.5, gain=100.0,
    binning="2x1", camera="a camera", taken_at="2019-03-08T21:40:00.250", bayer="GBRG", electrons_per_adu=0.8,
)  # fmt: skip
LIMITS = (10_000, 1 << 20)


@pytest.mark.parametrize(
    "facts",
    [FACTS, replace(FACTS, bayer=None, bottom_up=True, image_type="dark"), FrameFacts(30, 20, 1, "uint16")],
    ids=["all", "other", "silent"],
)
def test_facts_and_pixels_come_back(tmp_path: Path, rng: np.random.Generator, facts: FrameFacts) -> None:
    """The whole range of 16 bits, and everything that the header says or is silent on."""
    pixels = rng.integers(0, 65536, (20, 30)).astype(np.float32)
    pixels[0, :2] = 0, 65535

    write_capture(tmp_path / "set" / "a.fits", pixels, facts)

    assert read_facts(tmp_path / "set" / "a.fits", *LIMITS) == facts
    np.testing.assert_array_equal(read_frame(tmp_path / "set" / "a.fits", *LIMITS).pixels, pixels)


def test_counts_stay_within_the_camera(tmp_path: Path) -> None:
    """Values are rounded, and what is beyond 16 bits is cut, not wrapped."""
    write_capture(tmp_path / "a.fits", np.array([[-5, 1.6], [70_000, 3]], np.float32), FrameFacts(2, 2, 1, "uint16"))

    np.testing.assert_array_equal(read_frame(tmp_path / "a.fits", *LIMITS).pixels, [[0, 2], [65535, 3]])


def test_colour_planes(tmp_path: Path, rng: np.random.Generator) -> None:
    """Three bands at once stay three planes."""
    pixels = rng.integers(0, 4000, (3, 20, 30)).astype(np.float32)

    write_capture(tmp_path / "a.fits", pixels, replace(FACTS, bands=3, bayer=None))

    assert read_facts(tmp_path / "a.fits", *LIMITS).bands == 3
    np.testing.assert_array_equal(read_frame(tmp_path / "a.fits", *LIMITS).pixels, pixels)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A capture that is there stays as it is."""
    pixels = np.arange(600, dtype=np.float32).reshape(20, 30)
    write_capture(tmp_path / "a.fits", pixels, FACTS)

    with pytest.raises(OutputError):
        write_capture(tmp_path / "a.fits", pixels + 1, FACTS)
    np.testing.assert_array_equal(read_frame(tmp_path / "a.fits", *LIMITS).pixels, pixels)


def test_a_mosaic_begins_at_its_top(tmp_path: Path) -> None:
    """Upside down its pattern would be another; better no file than a wrong one."""
    with pytest.raises(ValueError, match="top row"):
        write_capture(tmp_path / "a.fits", np.ones((20, 30), np.float32), replace(FACTS, bottom_up=True))
    assert not list(tmp_path.iterdir())
