"""A TIFF's first directory, read by hand and checked before a decoder believes it.

Takes an open file; says whether a camera wrote it as a raw file, or gives its consent. A directory of
twenty bytes can ask a decoder for billions of strips, tiles of any size or a codec that nobody uses;
such a file ends here.
"""

import struct
from typing import BinaryIO

from stackd.disk.inbox import Unfinished
from stackd.errors import SetError

MOST_ENTRIES = 512
MOST_NUMBERS = 1 << 18  # in one entry: offsets of a giant's strips are some ten thousand

_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate"}
_COMPRESSION, _TILE_WIDTH, _TILE_LENGTH = 259, 322, 323
_IS_THUMBNAIL, _PHOTOMETRIC, _MAKE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 262, 271, 330, 50706
_MOSAIC, _LINEAR_RAW = 32803, 34892  # of photometric
_BYTE_TYPES = frozenset({1, 2, 6, 7})
_SHORT, _LONG, _LONG8 = 3, 4, 16
_BROKEN = "save it again from its source, or remove it"


def is_camera_raw(file: BinaryIO, file_bytes: int) -> bool:
    """Whether the file is a camera's raw file in TIFF's clothes: DNG, or a thumbnail with the sensor's pixels behind.

    Raises as `check_directory` does.
    """
    numbers = _first_directory(file, file_bytes)
    if _DNG_VERSION in numbers or numbers.get(_PHOTOMETRIC) in (_MOSAIC, _LINEAR_RAW):
        return True
    return numbers.get(_IS_THUMBNAIL) == 1 and _MAKE in numbers and _SUB_DIRECTORIES in numbers


def check_directory(file: BinaryIO, file_bytes: int, max_pixels: int) -> None:
    """Read the first directory's entries. Raises SetError for one that no camera program writes.

    Unfinished where the directory or the place that points to it lies beyond the file's end:
    programs that stream a TIFF write its directory last and the pointer to it after that.
    """
    numbers = _first_directory(file, file_bytes)
    if (numbers.get(_COMPRESSION) or 1) not in _COMPRESSIONS:
        raise SetError(
            f"is a TIFF packed by method {numbers[_COMPRESSION]}, which stackd does not unpack",
            remedy="save it unpacked, or with LZW or Deflate",
        )
    if (numbers.get(_TILE_WIDTH) or 0) * (numbers.get(_TILE_LENGTH) or 0) > max_pixels:
        raise SetError("has tiles of more than limits.max_pixels", remedy=_BROKEN)


def _first_directory(file: BinaryIO, file_bytes: int) -> dict[int, int | None]:
    """Its tags, and the values of those that are single numbers."""
    file.seek(0)
    head = file.read(16)
    order, big = ("<" if head[:1] == b"I" else ">"), b"+" in head[2:4]
    place = head[8:16] if big else head[4:8]
    directory = int.from_bytes(place, "little" if order == "<" else "big")
    if len(head) < 16 or directory == 0 or directory >= file_bytes:
        raise Unfinished(f"has no directory yet, at {file_bytes} bytes", remedy="copy it again")
    file.seek(directory)
    count_form, entry_form = (f"{order}Q", f"{order}HHQ8s") if big else (f"{order}H", f"{order}HHI4s")
    (entries,) = struct.unpack(count_form, _exactly(file, struct.calcsize(count_form), file_bytes))
    if not 0 < entries <= MOST_ENTRIES:
        raise SetError(f"its TIFF directory has {entries} entries", remedy=_BROKEN)
    numbers: dict[int, int | None] = {}
    for entry in struct.iter_unpack(entry_form, _exactly(file, entries * struct.calcsize(entry_form), file_bytes)):
        tag, *value = entry
        numbers.setdefault(tag, _single_number(*value, order))
    return numbers


def _single_number(kind: int, count: int, value: bytes, order: str) -> int | None:
    """Of an entry; None where it holds anything else. Raises SetError for one of absurd length."""
    if kind not in _BYTE_TYPES and count > MOST_NUMBERS:
        raise SetError(f"its TIFF directory has an entry of {count} numbers", remedy=_BROKEN)
    form = order + {_SHORT: "H", _LONG: "I", _LONG8: "Q"}.get(kind, "")
    if count != 1 or form == order or struct.calcsize(form) > len(value):
        return None
    return struct.unpack_from(form, value)[0]


def _exactly(file: BinaryIO, wanted_bytes: int, file_bytes: int) -> bytes:
    content = file.read(wanted_bytes)
    if len(content) < wanted_bytes:
        raise Unfinished(f"ends within its directory, at {file_bytes} bytes", remedy="copy it again")
    return content
