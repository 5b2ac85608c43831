"""Cameras' raw files: the sensor's own counts, what the camera noted, and a clear word for what cannot be read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from stackd.disk.frame import Frame
from stackd.disk.inbox import Unfinished
from stackd.disk.reader import Useless, read_facts, read_frame
from stackd.errors import SetError
from tests.disk.raw_files import BLACK_ADU, CAMERA, CLOCK, EDITED, EXPOSURE_S, ISO, WHITE_ADU, dng, nikon

MAX_PIXELS, MAX_BYTES = 10**6, 10**7
SHAPE = (40, 52)
ACTIVE_AREA = 50829

Saved = Callable[[bytes], Path]


@pytest.fixture
def counts(rng: np.random.Generator) -> NDArray[np.uint16]:
    """A noisy sky whose four places of the mosaic differ."""
    sky = rng.normal(500, 20, SHAPE)
    sky[::2, ::2] += 300
    sky[1::2, 1::2] += 600
    return sky.astype(np.uint16)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """The content as a file of the inbox; its name says nothing."""

    def save(content: bytes) -> Path:
        path = tmp_path / "IMG_0001.tif"
        path.write_bytes(content)
        return path

    return save


def frame_of(path: Path) -> Frame:
    return read_frame(path, MAX_PIXELS, MAX_BYTES)


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_counts_are_the_sensors_own(saved: Saved, counts: NDArray[np.uint16], pattern: str) -> None:
    """Every pixel as it was counted, above black; nothing balanced, mixed or turned."""
    path = saved(dng(counts, pattern))

    frame = frame_of(path)

    assert frame.facts.bayer == pattern
    assert frame.facts == read_facts(path, MAX_PIXELS, MAX_BYTES)
    np.testing.assert_array_equal(frame.pixels, counts.astype(np.float32) - BLACK_ADU)
    assert frame.saturation_adu == WHITE_ADU - BLACK_ADU


def test_each_colour_has_its_own_black(saved: Saved, counts: NDArray[np.uint16]) -> None:
    """As cameras note it: else a mosaic of four levels stays on the sky."""
    pixels = frame_of(saved(dng(counts, "GBRG", black_adu=(60, 61, 62, 63)))).pixels

    for place, black_adu in enumerate((60, 61, 62, 63)):
        site = np.s_[place // 2 :: 2, place % 2 :: 2]
        np.testing.assert_array_equal(pixels[site], counts[site].astype(np.float32) - black_adu)


def test_the_mosaic_begins_where_light_falls(saved: Saved, counts: NDArray[np.uint16]) -> None:
    """Masked rows and columns around the sensor are cut off; the pattern is that of what remains."""
    frame = frame_of(saved(dng(counts, "GRBG", more=((ACTIVE_AREA, "I", 4, (4, 6, 36, 48)),))))

    assert frame.facts.bayer == "GRBG"
    np.testing.assert_array_equal(frame.pixels, counts[4:36, 6:48].astype(np.float32) - BLACK_ADU)


def test_a_sensor_without_colours_is_mono(saved: Saved, counts: NDArray[np.uint16]) -> None:
    frame = frame_of(saved(dng(counts, pattern="")))

    assert (frame.facts.bands, frame.facts.bayer) == (1, None)
    np.testing.assert_array_equal(frame.pixels, counts.astype(np.float32) - BLACK_ADU)


def test_what_the_camera_noted(saved: Saved, counts: NDArray[np.uint16]) -> None:
    """When the shutter opened, not when the file was edited; in the camera's time where it names no zone."""
    facts = frame_of(saved(dng(counts))).facts

    assert (facts.exposure_s, facts.gain, facts.camera) == (EXPOSURE_S, ISO, CAMERA)
    assert facts.taken_at == "2024-08-12T23:14:05.250"
    assert frame_of(saved(dng(counts, zone="+02:00"))).facts.taken_at == "2024-08-12T21:14:05.250"


@pytest.mark.parametrize("clock", ["9999:99:99 99:99:99", "0000:00:00 00:00:00", "-999:01:01 00:00:00", "yesterday"])
def test_a_clock_that_was_never_set(saved: Saved, counts: NDArray[np.uint16], clock: str) -> None:
    """No time, and all the rest."""
    content = dng(counts)
    for date in (CLOCK, EDITED):
        content = content.replace(date.encode(), clock.encode().ljust(len(date), b"\0"))

    facts = frame_of(saved(content)).facts

    assert facts.taken_at is None
    assert (facts.exposure_s, facts.camera) == (EXPOSURE_S, CAMERA)


def test_the_notes_reach_the_header(saved: Saved, counts: NDArray[np.uint16]) -> None:
    cards = frame_of(saved(dng(counts))).cards

    assert [card.split("=")[0].strip() for card in cards] == ["INSTRUME", "ISOSPEED", "ROWORDER", "TIMESYS"]
    assert all(len(card) == 80 for card in cards)
    assert "'LOCAL" in cards[-1]
    assert "'UTC" in frame_of(saved(dng(counts, zone="+02:00"))).cards[-1]


def test_a_thumbnail_is_not_the_picture(saved: Saved, counts: NDArray[np.uint16]) -> None:
    """NEF and ARW show a small picture to whoever takes them for a TIFF."""
    frame = frame_of(saved(nikon(counts)))

    assert frame.pixels.shape == SHAPE
    assert (frame.facts.camera, frame.facts.bayer) == ("NIKON D750", "RGGB")


def test_a_developed_tiff_of_a_camera_is_a_picture(tmp_path: Path, counts: NDArray[np.uint16]) -> None:
    """What a raw converter saves still names the camera, and may hold a thumbnail below."""
    path = tmp_path / "IMG_0001.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(counts, photometric="minisblack", subifds=1, metadata=None, extratags=[(271, "s", 0, "Canon", True)])
        tiff.write(counts[::8, ::8], photometric="minisblack", subfiletype=1, metadata=None)

    frame = frame_of(path)

    assert frame.facts.bayer is None
    np.testing.assert_array_equal(frame.pixels, counts.astype(np.float32))


def test_what_the_camera_mixed_is_refused(saved: Saved, counts: NDArray[np.uint16]) -> None:
    """Three values a pixel were debayered by somebody, who knows how; the way out is named."""
    with pytest.raises(SetError, match="mixed already") as caught:
        frame_of(saved(dng(np.stack([counts] * 3, -1))))
    assert "TIFF" in caught.value.remedy


def test_a_blank_raw_file_shows_nothing(saved: Saved) -> None:
    with pytest.raises(Useless, match="blank"):
        frame_of(saved(dng(np.full(SHAPE, 500, np.uint16))))


def test_a_raw_file_that_is_still_growing(saved: Saved, counts: NDArray[np.uint16]) -> None:
    """Cut anywhere but in its last pixels it is unfinished, or damaged: never a frame."""
    content = dng(counts)
    for length in range(0, len(content) - 600, 97):
        with pytest.raises((Unfinished, SetError)):
            frame_of(saved(content[:length]))


def test_too_many_pixels_are_refused_before_they_are_unpacked(saved: Saved, counts: NDArray[np.uint16]) -> None:
    with pytest.raises(SetError, match="more than the 1000 px allowed"):
        read_facts(saved(dng(counts)), 1000, MAX_BYTES)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_raw_files_harm_nobody(saved: Saved, counts: NDArray[np.uint16], seed: int) -> None:
    """Bytes turned over, most of them in the directories: a frame or a SetError, nothing else and not late."""
    rng = np.random.default_rng(seed)
    whole = [dng(counts), dng(counts, "GBRG", black_adu=(60, 61, 62, 63)), dng(counts, ""), nikon(counts)]
    ends = {"frame": 0, "refused": 0}
    for _ in range(150):
        content = bytearray(whole[rng.integers(len(whole))])
        reach = 700 if rng.random() < 0.8 else len(content)
        content[rng.integers(reach)] = rng.integers(256)
        content[rng.integers(reach)] = rng.integers(256)
        try:
            assert frame_of(saved(bytes(content))).pixels.dtype == np.float32
            ends["frame"] += 1
        except SetError as error:
            assert error.file.endswith("IMG_0001.tif")
            ends["refused"] += 1
    assert min(ends.values()) > 10
