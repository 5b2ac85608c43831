"""What the walk over a JPEG's markers promises: it is short whatever the file says."""

import io

import pytest

from stackd.disk.inbox import Unfinished
from stackd.disk.jpeg_markers import MOST_SCANS, MOST_SEGMENTS, check_markers, check_scans
from stackd.errors import SetError

SCAN = b"\xff\xda\0\2"


def check(content: bytes) -> None:
    check_markers(io.BytesIO(content), len(content))


def test_segments_padding_and_restarts_before_the_scan_pass() -> None:
    """All that the standard allows there."""
    check(b"\xff\xd8" + b"\xff\xe0\0\4ab" + b"\xff\xff\xff\xdb\0\3x" + b"\xff\x01" + SCAN)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8" + b"\xff" * 100_000,
        b"\xff\xd8" + b"\xff\xe0\0\2" * (MOST_SEGMENTS + 1) + SCAN,
        b"\xff\xd8no marker at all",
        b"\xff\xd8\xff\x00\xff\xda",
    ],
)
def test_endless_or_senseless_headers_are_refused_for_good(content: bytes) -> None:
    """A decoder would go through them byte by byte."""
    with pytest.raises(SetError) as caught:
        check(content)

    assert not isinstance(caught.value, Unfinished)


@pytest.mark.parametrize("content", [b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\xff\xffabc"])
def test_a_header_that_is_not_all_there_is_unfinished(content: bytes) -> None:
    """It may still be growing."""
    with pytest.raises(Unfinished):
        check(content)


def test_a_picture_in_thousands_of_scans_is_refused() -> None:
    """Each scan passes over the whole picture again."""
    check_scans(SCAN * MOST_SCANS)
    with pytest.raises(SetError, match="201 scans"):
        check_scans(SCAN * (MOST_SCANS + 1))
