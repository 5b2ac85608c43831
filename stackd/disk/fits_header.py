"""A FITS file's header, read by hand and checked before anything is believed.

Takes an open file; gives its cards, their values and where the pixels lie. General FITS readers
unpack compressed files by their magic, search a header without END to the file's last byte and
accept truncated data; a file from the inbox gets no such trust. Knows no keyword of astronomy.
"""

import math
import re
from dataclasses import dataclass
from typing import BinaryIO

from stackd.disk.inbox import Unfinished
from stackd.errors import SetError

BLOCK_BYTES = 2880
CARD_BYTES = 80
MOST_BLOCKS = 64

FITS_START = re.compile(rb"SIMPLE {0,4}= {1,30}T[ /]")
_UNPRINTABLE = re.compile(r"[^ -~]")
_SAMPLE_BITS = frozenset({8, 16, 32, 64, -32, -64})
_STRUCTURE = re.compile(r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([ED][+-]?\d+)?", re.IGNORECASE)

Value = str | bool | int | float


@dataclass(frozen=True, slots=True)
class FitsHeader:
    """What a checked header says. The file holds all the bytes that it declares."""

    cards: tuple[str, ...]  # 80 characters each, in order, without END
    values: dict[str, Value]  # first card of each keyword; strings without quotes and outer blanks
    bands: int  # 1 or 3
    height_px: int
    width_px: int
    bits: int  # BITPIX
    data_offset: int  # bytes from the file's start


def read_header(file: BinaryIO, file_bytes: int, max_pixels: int) -> FitsHeader:
    """The header of the image in the primary unit, or else in the first extension.

    Raises SetError for anything that is no FITS image of one or three planes, Unfinished when the
    file is shorter than the header declares. Padding that is missing at the end is accepted: real
    capture programs have left it out.
    """
    cards, offset = _read_cards(file, file_bytes)
    values = _values_of(cards)
    if values.get("NAXIS") == 0:
        primary = [card for card in cards if not _STRUCTURE.fullmatch(card[:8].rstrip())]
        cards, offset = _read_cards(file, file_bytes)
        extension = _values_of(cards)
        if extension.get("XTENSION") != "IMAGE":
            raise SetError("holds no plain image", remedy="save it as an uncompressed FITS image")
        values, cards = values | extension, cards + primary
    bands, height_px, width_px = _shape(values, max_pixels)
    bits = values.get("BITPIX")
    if not isinstance(bits, int) or bits not in _SAMPLE_BITS:
        raise SetError(f"BITPIX is {bits!r}, which FITS does not know", remedy="replace or remove the file")
    end = offset + bands * height_px * width_px * abs(bits) // 8
    if file_bytes < end:
        raise Unfinished(f"is {file_bytes} bytes long where its header declares {end}", remedy="copy it again")
    return FitsHeader(tuple(cards), values, bands, height_px, width_px, bits, offset)


def _read_cards(file: BinaryIO, file_bytes: int) -> tuple[list[str], int]:
    """The cards from the file's present position up to END, and where the next block begins."""
    cards: list[str] = []
    for _ in range(MOST_BLOCKS):
        block = file.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            raise Unfinished(f"ends within its header, at {file_bytes} bytes", remedy="copy it again")
        text = _UNPRINTABLE.sub("?", block.decode("latin-1").replace("\0", " "))
        for start in range(0, BLOCK_BYTES, CARD_BYTES):
            card = text[start : start + CARD_BYTES]
            if card.rstrip() == "END":
                return cards, file.tell()
            cards.append(card)
    raise SetError(f"has no END within the first {MOST_BLOCKS} blocks of its header", remedy="replace or remove it")


def _values_of(cards: list[str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for card in cards:
        keyword, mark, rest = card[:8].rstrip(), card[8], card[9:].strip()
        if mark == "=" and keyword:
            values.setdefault(keyword, _value_of(rest))
    return values


def _value_of(text: str) -> Value:
    """The value in a card's text behind the equals sign; fixed and free format, comment left out."""
    if text.startswith("'"):
        inner = re.match(r"'((?:[^']|'')*)", text)
        return inner.group(1).replace("''", "'").strip() if inner else ""
    word = text.partition("/")[0].strip()
    if word in ("T", "F"):
        return word == "T"
    if not _NUMBER.fullmatch(word):
        return word
    return int(word) if word.lstrip("+-").isdigit() else float(word.upper().replace("D", "E"))


def _shape(values: dict[str, Value], max_pixels: int) -> tuple[int, int, int]:
    """(bands, height, width) in px, checked."""
    axes = values.get("NAXIS")
    if axes not in (2, 3) or isinstance(axes, bool):
        raise SetError(f"NAXIS is {axes!r}; a frame has 2 axes, or 3 with colour planes", remedy="remove the file")
    sizes = [values.get(f"NAXIS{i}") for i in range(1, int(axes) + 1)]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise SetError(f"its axes are {sizes}, which is no size of an image", remedy="remove the file")
    width_px, height_px, bands = [int(size) for size in sizes] + [1] * (3 - len(sizes))
    if bands not in (1, 3):
        raise SetError(f"has {bands} planes; 1 or 3 make a frame", remedy="save each frame as its own file")
    check_size(width_px, height_px, max_pixels)
    return bands, height_px, width_px


def check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    """Raises SetError for a frame without pixels or with more than `max_pixels`."""
    if width_px < 1 or height_px < 1:
        raise SetError(f"is {width_px}x{height_px} px large, which is no picture", remedy="remove the file")
    if width_px * height_px > max_pixels:
        raise SetError(
            f"is {width_px}x{height_px} px large, more than the {max_pixels} px allowed",
            remedy="raise limits.max_pixels or remove the file",
        )


def number_of(value: Value | None) -> float | None:
    """The value as a finite number, also where a program wrote it as text; else None."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
