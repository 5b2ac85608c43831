"""A JPEG's markers, walked by hand up to its first scan before a decoder believes them.

Takes an open file; gives nothing but its consent. Endless padding, millions of empty segments and
thousands of scans keep a decoder busy for minutes; such a file ends here.
"""

from typing import BinaryIO

from stackd.disk.inbox import Unfinished
from stackd.errors import SetError

MOST_SEGMENTS = 4096  # before the first scan; colour profiles and previews take some hundreds
MOST_FILL_BYTES = 4096
MOST_SCANS = 200  # a progressive picture has about ten, one preview inside it as many again

_BROKEN = "save it again from its source, or remove it"
_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})


def check_markers(file: BinaryIO, file_bytes: int) -> None:
    """Walk the segments up to the first scan. Raises SetError for too many, Unfinished at an early end."""
    file.seek(2)
    fill_bytes = 0
    for _ in range(MOST_SEGMENTS):
        mark = file.read(2)
        while mark == b"\xff\xff" and fill_bytes < MOST_FILL_BYTES:
            mark = b"\xff" + file.read(1)
            fill_bytes += 1
        if len(mark) < 2:
            raise Unfinished(f"ends within its header, at {file_bytes} bytes", remedy="copy it again")
        if mark[0] != 0xFF or mark[1] in (0x00, 0xFF):
            raise SetError("its JPEG header makes no sense", remedy=_BROKEN)
        if mark[1] == _SCAN:
            return
        if mark[1] not in _WITHOUT_LENGTH:
            file.seek(max(int.from_bytes(file.read(2), "big") - 2, 0), 1)
    raise SetError(f"has more than {MOST_SEGMENTS} segments before its picture", remedy=_BROKEN)


def check_scans(content: bytes) -> None:
    """Raises SetError for a picture in more scans than any program writes."""
    scans = content.count(bytes([0xFF, _SCAN]))
    if scans > MOST_SCANS:
        raise SetError(f"is a JPEG of {scans} scans, more than any program writes", remedy=_BROKEN)
