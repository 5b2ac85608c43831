"""What the check of a TIFF's directory promises: absurd numbers end here, short files wait, good ones pass."""

import io
import struct

import pytest

from stackd.disk.inbox import Unfinished
from stackd.disk.tiff_directory import MOST_ENTRIES, MOST_NUMBERS, check_directory
from stackd.errors import SetError

MAX_PIXELS = 10_000


def tiff(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """A directory of (tag, type, count, value) at byte 8."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return head + b"".join(struct.pack(order + "HHII", *entry) for entry in entries) + bytes(100)


def check(content: bytes) -> None:
    check_directory(io.BytesIO(content), len(content), MAX_PIXELS)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_plain_directory_passes(order: str) -> None:
    """Both byte orders; packed by Deflate, in tiles no larger than a frame may be."""
    check(tiff((256, 4, 1, 64), (259, 4, 1, 8), (322, 4, 1, 100), (323, 4, 1, 100), order=order))


def test_a_big_tiff_passes() -> None:
    """Offsets of 64 bits."""
    content = b"II+\0\x08\0\0\0" + struct.pack("<QQHHQQ", 16, 1, 256, 16, 1, 64) + bytes(100)

    check(content)


@pytest.mark.parametrize(
    "entries",
    [
        [(273, 4, MOST_NUMBERS + 1, 0)],
        [(273, 12, 2**32 - 1, 0)],
        [(259, 4, 1, 7)],
        [(259, 4, 1, 34712)],
        [(322, 4, 1, 2**31), (323, 4, 1, 2**31)],
        [(256, 4, 1, k) for k in range(MOST_ENTRIES + 1)],
        [],
    ],
)
def test_what_no_camera_writes_is_refused_for_good(entries: list[tuple[int, int, int, int]]) -> None:
    """Billions of strips, giant tiles, rare codecs, endless directories."""
    with pytest.raises(SetError) as caught:
        check(tiff(*entries))

    assert not isinstance(caught.value, Unfinished)
    assert caught.value.remedy


@pytest.mark.parametrize("size", [4, 9, 20, 40])
def test_a_directory_that_is_not_all_there_is_unfinished(size: int) -> None:
    """It may still be growing."""
    with pytest.raises(Unfinished):
        check(tiff(*[(256, 4, 1, 64)] * 20)[:size])
