"""Hostile files, each made by a function that says what it is; nothing large is kept.

`FILES`, `SETS` and `PLACES` are what the tests and the campaign drop into an inbox: files that no reader may trust,
whole sets of strange frames, and things that are no files or have names that no log should see. Everything is small
on the disk (the giants are sparse or packed) and the same in every run.
"""

import bz2
import gzip
import io
import lzma
import os
import socket
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image

from tests.disk.raw_files import dng

BLOCK = 2880
MIB = 1 << 20
SIDE_PX = 64
CONTROL_CARDS = (
    "OBJECT  = '\x1b[2J\x1b[31mM\x0731\r\n\x00'",
    "FILTER  = '\xe9\x9b\x85'",
    "HISTORY \x00\x01\x02\x7f\x80\x9b31m",
    "\x1b[1m   = 'x'",
)
FRAMES = 8

MakeFile = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class HostileFile:
    """One file. `verdict`: "refused", "unfinished" (it may be growing) or "read" (a frame after all).

    With " late" only reading its pixels tells, so that a look at its header takes it for a frame.
    """

    name: str  # with its suffix
    make: Callable[[Path], None]
    verdict: str


@dataclass(frozen=True, slots=True)
class HostileSet:
    """A folder of eight frames. `verdict`: "done", "quarantined", or "named": quarantined, or done without one frame.

    `file` is the frame that must be named.
    """

    name: str
    make: Callable[[Path], None]
    verdict: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class HostilePlace:
    """Something that is no capture at all: the scan must pass it by, and say so if `named`."""

    name: str
    make: Callable[[Path], bytes]  # in a folder; gives the entry's name
    named: bool = True


GIANTS = frozenset({"a_gigabyte_of_zeros.fits"})  # eight of them are 8 GB to read, twice
# For the campaign alone; sets that are restored take seconds each.
HEAVY = GIANTS | frozenset(
    {"one_frame_mostly_nan", "headers_of_2000_histories", "frames_of_ten_to_the_38"}
    | {"light.fits", "[red]", "y" * 255, "result.json", "stackd-2031-01-01.log", "a__r2"}
)

FILES: list[HostileFile] = []
SETS: list[HostileSet] = []
PLACES: list[HostilePlace] = []


def hostile_file(suffix: str, verdict: str = "refused") -> Callable[[MakeFile], MakeFile]:
    """Register a function that gives a file's bytes."""

    def register(make: MakeFile) -> MakeFile:
        def write(path: Path) -> None:
            path.write_bytes(make())

        FILES.append(HostileFile(make.__name__ + suffix, write, verdict))
        return make

    return register


def hostile_sparse(suffix: str, verdict: str = "refused") -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register a function that writes the file itself, as it is too large to be held."""

    def register(write: Callable[[Path], None]) -> Callable[[Path], None]:
        FILES.append(HostileFile(write.__name__ + suffix, write, verdict))
        return write

    return register


def hostile_set(verdict: str, file: str | None = None) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register a function that fills a set's folder."""

    def register(fill: Callable[[Path], None]) -> Callable[[Path], None]:
        SETS.append(HostileSet(fill.__name__, fill, verdict, file))
        return fill

    return register


def hostile_place(named: bool = True) -> Callable[[Callable[[Path], bytes]], Callable[[Path], bytes]]:
    """Register a function that puts something into a folder and gives its name."""

    def register(make: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
        PLACES.append(HostilePlace(make.__name__, make, named))
        return make

    return register


# What good frames are made of


def sky(number: int, night: int = 0, side_px: int = SIDE_PX) -> NDArray[np.uint16]:
    """A field of 25 stars, shifted a little from frame to frame; each night has its own photon noise."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:side_px, :side_px].astype(np.float64)
    light = np.full((side_px, side_px), 500.0)
    for _ in range(25):
        x0, y0, flux = rng.uniform(5, side_px - 6), rng.uniform(5, side_px - 6), rng.uniform(3e3, 5e4)
        light += flux / 20 * np.exp(-((x - x0 - 0.3 * number) ** 2 + (y - y0 - 0.2 * number) ** 2) / 6.4)
    return np.random.default_rng([night, number]).poisson(light).clip(0, 65535).astype(np.uint16)


def write_good_set(folder: Path, night: int = 0) -> None:
    """A set that must be restored whatever lies beside it; another night has other pixels."""
    folder.mkdir(parents=True)
    for k in range(FRAMES):
        _write_frame(folder / f"light_{k}.fits", sky(k, night), k)


def _write_frame(path: Path, pixels: NDArray[Any], number: int, **cards: Any) -> None:
    hdu = fits.PrimaryHDU(pixels)
    hdu.header.update({"OBJECT": "M 27", "EXPTIME": 10.0, "DATE-OBS": f"2026-01-01T00:{number:02d}:00", **cards})
    hdu.writeto(path)


def header(*cards: str) -> bytes:
    """A FITS header of the cards as they are, END added, padded to its block."""
    text = b"".join(card.encode("latin-1")[:80].ljust(80) for card in (*cards, "END"))
    return text.ljust(-(-len(text) // BLOCK) * BLOCK)


def image_cards(bits: object = 16, axes: tuple[object, ...] = (SIDE_PX, SIDE_PX)) -> list[str]:
    """The cards that make an image, with values as they are given."""
    sizes = [f"NAXIS{k}  = {size}" for k, size in enumerate(axes, 1)]
    return ["SIMPLE  =                    T", f"BITPIX  = {bits}", f"NAXIS   = {len(axes)}", *sizes]


def frame_bytes(*cards: str, number: int = 0) -> bytes:
    """A whole 16-bit frame of good pixels with these cards after its own."""
    data = (sky(number).astype(np.int32) // 2).astype(">i2").tobytes()
    return header(*image_cards(), *cards) + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


# Packed files that call themselves FITS


@hostile_file(".fits")
def gzip_bomb() -> bytes:
    """1 GB of zeros in 1 MB, as members: general readers unpack by magic, whatever the name."""
    return gzip.compress(bytes(16 * MIB)) * 64


@hostile_file(".fits")
def gzip_of_a_frame() -> bytes:
    """Not even hostile: somebody renamed a .fits.gz."""
    return gzip.compress(frame_bytes())


@hostile_file(".fits")
def bzip2_bomb() -> bytes:
    return bz2.compress(bytes(16 * MIB)) * 64


@hostile_file(".fit")
def xz_bomb() -> bytes:
    return lzma.compress(bytes(16 * MIB)) * 64


@hostile_file(".fts")
def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("light.fits", bytes(64 * MIB))
    return buffer.getvalue()


@hostile_file(".fits")
def zstandard_bomb() -> bytes:
    return b"\x28\xb5\x2f\xfd" + b"\0" * 5000


@hostile_file(".fits")
def tile_compressed_bomb() -> bytes:
    """An honest RICE-compressed extension of 36 million equal pixels in a few kB."""
    buffer = io.BytesIO()
    packed = fits.CompImageHDU(np.zeros((6000, 6000), np.uint8), tile_shape=(1000, 6000))
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(buffer)
    return buffer.getvalue()


# FITS headers


@hostile_sparse(".fits")
def endless_header(path: Path) -> None:
    """240 MB of cards (NULs, as a sparse file has them) and no END."""
    with open(path, "wb") as file:
        file.write(header(*image_cards())[:400])
        file.truncate(240 * MIB)


@hostile_file(".fits")
def endless_header_of_text() -> bytes:
    return header(*image_cards())[:400] + b"COMMENT it goes on and on".ljust(80) * 300_000


@hostile_file(".fits")
def ten_thousand_history_cards() -> bytes:
    return header(*image_cards(), *(f"HISTORY step {k}" for k in range(10_000))) + bytes(2 * SIDE_PX * SIDE_PX)


@hostile_file(".fits")
def axes_of_200000() -> bytes:
    return header(*image_cards(axes=(200_000, 200_000))) + bytes(BLOCK)


@hostile_file(".fits")
def axes_beyond_64_bits() -> bytes:
    return header(*image_cards(axes=(2**63, 2**63))) + bytes(BLOCK)


@hostile_file(".fits")
def axes_of_60_digits() -> bytes:
    return header(*image_cards(axes=("9" * 60, 1))) + bytes(BLOCK)


@hostile_file(".fits")
def axes_that_wrap_to_a_small_product() -> bytes:
    """2**32 + 1 squared is 8589934593 in 64 bits: small, if one multiplies carelessly."""
    return header(*image_cards(axes=(2**32 + 1, 2**32 + 1))) + bytes(BLOCK)


@hostile_file(".fits")
def negative_axes() -> bytes:
    return header(*image_cards(axes=(-96, -96))) + bytes(20_000)


@hostile_file(".fits")
def axes_of_nothing() -> bytes:
    return header(*image_cards(axes=(0, 96))) + bytes(BLOCK)


@hostile_file(".fits")
def axes_999() -> bytes:
    return header("SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 999") + bytes(BLOCK)


@hostile_file(".fits")
def axes_not_said() -> bytes:
    return header("SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 96") + bytes(10_000)


@hostile_file(".fits")
def axes_that_are_words() -> bytes:
    return header(*image_cards(axes=("'96'", "T"))) + bytes(20_000)


@hostile_file(".fits")
def a_cube_of_frames() -> bytes:
    return header(*image_cards(axes=(96, 96, 50))) + bytes(2 * 96 * 96 * 50)


@hostile_file(".fits", "unfinished")
def axes_said_twice() -> bytes:
    """The first one counts, as everywhere, and the file is too short for it."""
    return header(*image_cards(axes=(960, 960)), "NAXIS1  = 96", "NAXIS2  = 96") + bytes(20_000)


@hostile_file(".fits")
def bits_of_12() -> bytes:
    return header(*image_cards(bits=12)) + bytes(20_000)


@hostile_file(".fits")
def bits_of_minus_16() -> bytes:
    return header(*image_cards(bits=-16)) + bytes(20_000)


@hostile_file(".fits")
def bits_of_a_word() -> bytes:
    return header(*image_cards(bits="'<script>alert(1)</script>'")) + bytes(20_000)


@hostile_file(".fits")
def not_simple() -> bytes:
    return frame_bytes().replace(b"SIMPLE  =                    T", b"SIMPLE  =                    F")


@hostile_file(".fits")
def an_extension_without_a_primary() -> bytes:
    return frame_bytes().replace(b"SIMPLE  =                    T", b"XTENSION= 'IMAGE   '          ")


@hostile_file(".fits")
def a_thousand_empty_extensions() -> bytes:
    primary = header("SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 0", "EXTEND  =  T")
    return primary + header("XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 0", "PCOUNT  = 0", "GCOUNT  = 1") * 1000


@hostile_file(".fits")
def an_extension_with_a_giant_heap() -> bytes:
    primary = header("SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 0")
    table = ["XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 1", "NAXIS2  = 1"]
    return primary + header(*table, f"PCOUNT  = {2**62}", f"GCOUNT  = {2**62}") + bytes(BLOCK)


@hostile_file(".fits")
def random_groups() -> bytes:
    return header(*image_cards(axes=(0, 96, 96)), "GROUPS  = T", "PCOUNT  = 5", "GCOUNT  = 1000000") + bytes(20_000)


@hostile_file(".fits", "unfinished")
def half_a_frame() -> bytes:
    return frame_bytes()[:10_000]


@hostile_file(".fits", "unfinished")
def a_header_alone() -> bytes:
    return header(*image_cards())


@hostile_file(".fits", "unfinished")
def half_a_header() -> bytes:
    return header(*image_cards())[:1234]


@hostile_file(".fits", "unfinished")
def nothing() -> bytes:
    return b""


@hostile_file(".fits", "unfinished")
def one_byte() -> bytes:
    return b"S"


@hostile_file(".fits", "unfinished")
def a_block_of_nul() -> bytes:
    return bytes(BLOCK)


@hostile_file(".fits")
def a_block_of_ff() -> bytes:
    return b"\xff" * BLOCK


@hostile_sparse(".fits")
def a_terabyte(path: Path) -> None:
    """A good header, and a length that no disk here has."""
    with open(path, "wb") as file:
        file.write(header(*image_cards(axes=(10_000, 10_000))))
        file.truncate(1 << 40)


# A giant within the limits: its header is good, only its pixels are nothing


@hostile_sparse(".fits", "refused late")
def a_gigabyte_of_zeros(path: Path) -> None:
    """As large as limits.max_file_mb allows: 11,500 x 11,500 doubles that are not on the disk."""
    with open(path, "wb") as file:
        file.write(header(*image_cards(-64, (11_500, 11_500))))
        file.truncate(BLOCK + 11_500 * 11_500 * 8)


# Frames with strange cards: readable, and their words must do no harm


@hostile_file(".fits", "read")
def control_characters_in_cards() -> bytes:
    return frame_bytes(*CONTROL_CARDS)


@hostile_file(".fits", "read")
def html_in_cards() -> bytes:
    return frame_bytes(
        "OBJECT  = '<script>alert(1)</script>'",
        "FILTER  = '\"><img src=x onerror=alert(1)>'",
        "INSTRUME= '</title><b>'",
    )


@hostile_file(".fits", "read")
def dates_out_of_the_calendar() -> bytes:
    """Turning this into UTC leaves the calendar."""
    return frame_bytes("DATE-OBS= '0001-01-01T00:00:00+23:59'", "MJD-OBS = 1E300", "EXPTIME = 1E300")


@hostile_file(".fits", "read")
def the_last_second_of_time() -> bytes:
    return frame_bytes("DATE-OBS= '9999-12-31T23:59:59.999'", "EXPTIME = 86400")


@hostile_file(".fits", "read")
def numbers_that_are_none() -> bytes:
    return frame_bytes(
        *("EXPTIME = NaN", "GAIN    = -1E400", "EGAIN   = 1E-300"),
        *("XBINNING= 1E300", "SATURATE= 1E-300", "XBAYROFF= 1E300"),
    )


@hostile_file(".fits", "read")
def a_negative_exposure() -> bytes:
    return frame_bytes("EXPTIME = -10", "EGAIN   = -1", "XBINNING= -1", "SATURATE= -65535")


@hostile_file(".fits", "read")
def two_thousand_continuations() -> bytes:
    return frame_bytes("LONGSTR = 'a&'", *["CONTINUE  '&'"] * 2000)


@hostile_file(".fits", "read")
def the_same_card_two_thousand_times() -> bytes:
    return frame_bytes(*(f"OBJECT  = 'M {k}'" for k in range(2000)))


@hostile_file(".fits", "read")
def a_blank_of_50_digits() -> bytes:
    return frame_bytes(f"BLANK   = {'7' * 50}")


@hostile_file(".fits")
def an_unknown_mosaic() -> bytes:
    return frame_bytes("BAYERPAT= '<b>%s{0}\\'")


# Pictures


def _png(width_px: int, height_px: int, rows: bytes, depth: int = 8, colour: int = 0, interlaced: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width_px, height_px, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _zeros(count: int) -> bytes:
    """So many zeros, deflated: one packed piece again and again, as it refers to nothing before it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = last.compress(bytes(count % MIB)) + last.flush()
    return b"\x78\xda" + piece * (count // MIB) + rest + struct.pack(">I", (count % 65521) << 16 | 1)


def good_png() -> bytes:
    """An 8-bit PNG of good pixels."""
    buffer = io.BytesIO()
    Image.fromarray((sky(1) // 20).clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def good_jpeg(**options: Any) -> bytes:
    """A JPEG of good pixels."""
    return _jpeg((sky(1) // 20).clip(0, 255).astype(np.uint8), **options)


def good_tiff(**options: Any) -> bytes:
    """A 16-bit TIFF of good pixels."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, sky(1), photometric="minisblack", metadata=None, **options)
    return buffer.getvalue()


def _tiff(*entries: tuple[int, int, int, int], after: int = 0, data: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory: (tag, type, count, value or place). Data begin at byte 2000."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", after)).ljust(2000, b"\0") + data


def _grey_tiff(width_px: int, height_px: int, *, data: bytes, packing: int = 1, rows: int = 0, after: int = 0) -> bytes:
    return _tiff(
        *((256, 4, 1, width_px), (257, 4, 1, height_px), (258, 3, 1, 8), (259, 3, 1, packing), (262, 3, 1, 1)),
        *((273, 4, 1, 2000), (277, 3, 1, 1), (278, 4, 1, rows or height_px), (279, 4, 1, len(data))),
        after=after,
        data=data,
    )


@hostile_file(".png")
def png_of_100000_squared() -> bytes:
    return _png(100_000, 100_000, _zeros(MIB))


@hostile_file(".png")
def png_bomb_within_the_limits() -> bytes:
    """144 million 16-bit colour pixels, 860 MB, in 850 kB."""
    return _png(12_000, 12_000, _zeros(12_000 * (1 + 12_000 * 6)), depth=16, colour=2)


@hostile_file(".png", "refused late")
def png_that_unpacks_to_more_than_it_says() -> bytes:
    return _png(64, 64, _zeros(64 * MIB), depth=8)


@hostile_file(".png", "unfinished late")
def png_that_unpacks_to_less() -> bytes:
    return _png(200, 200, _zeros(1000))


@hostile_file(".png", "unfinished")
def png_cut_off() -> bytes:
    content = good_png()
    return content[: len(content) // 2]


@hostile_file(".png", "refused late")
def png_with_wrong_checksums() -> bytes:
    content = bytearray(good_png())
    content[-30:-20] = b"\xaa" * 10
    return bytes(content)


@hostile_file(".png")
def png_of_a_million_chunks() -> bytes:
    content = good_png()
    return content[:33] + _chunk(b"teXt", b"") * 1_000_000 + content[33:]


@hostile_file(".png", "refused late")
def png_with_a_text_bomb() -> bytes:
    content = good_png()
    return content[:33] + _chunk(b"zTXt", b"Comment\0\0" + _zeros(512 * MIB)) + content[33:]


@hostile_file(".png", "unfinished")
def png_with_a_chunk_of_4_gigabytes() -> bytes:
    content = good_png()
    return content[:33] + b"\xff\xff\xff\xffIDAT" + content[41:]


@hostile_file(".png")
def png_of_3_bits() -> bytes:
    return _png(64, 64, _zeros(64 * 65), depth=3)


@hostile_file(".png", "refused late")
def png_palette_without_a_palette() -> bytes:
    return _png(64, 64, zlib.compress(bytes(range(65)) * 64), colour=3)


@hostile_file(".png", "read")
def png_interlaced() -> bytes:
    """Adam7 is rare but right."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    pixels = (sky(1) // 20).clip(0, 255).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx])
    return _png(SIDE_PX, SIDE_PX, zlib.compress(rows), interlaced=1)


@hostile_file(".jpg")
def jpeg_of_65500_squared() -> bytes:
    content = bytearray(good_jpeg())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(content)


@hostile_file(".jpg", "unfinished")
def jpeg_cut_off() -> bytes:
    content = good_jpeg()
    return content[: len(content) // 2]


@hostile_file(".jpg", "unfinished")
def jpeg_larger_than_its_data() -> bytes:
    """The header says 8000 x 8000, the data end after 96 lines, and an end mark follows."""
    content = bytearray(good_jpeg())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 8_000, 8_000)
    return bytes(content[:-2])


@hostile_file(".jpg")
def jpeg_of_endless_padding() -> bytes:
    return b"\xff\xd8" + b"\xff" * (64 * MIB)


@hostile_file(".jpg")
def jpeg_of_a_million_segments() -> bytes:
    return b"\xff\xd8" + b"\xff\xe0\0\2" * 4_000_000 + good_jpeg()[2:]


@hostile_file(".jpg", "refused late")
def jpeg_of_5000_scans() -> bytes:
    """Each scan passes over all of the picture again, and says nothing in a few bytes."""
    content = good_jpeg(progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * 5000 + b"\xff\xd9"


@hostile_file(".jpg")
def jpeg_of_four_inks() -> bytes:
    buffer = io.BytesIO()
    Image.new("CMYK", (64, 64), (9, 8, 7, 6)).save(buffer, "JPEG")
    return buffer.getvalue()


@hostile_file(".tif")
def tiff_of_4_billion_squared() -> bytes:
    return _grey_tiff(2**32 - 1, 2**32 - 1, data=bytes(100))


@hostile_file(".tif")
def tiff_whose_directory_is_its_own_next() -> bytes:
    """The second page is the first: a reader that counts the pages never ends."""
    data = np.random.default_rng(1).integers(0, 255, 64 * 64, np.uint8).tobytes()
    return _grey_tiff(64, 64, data=data, after=8)


@hostile_file(".tif")
def tiff_of_100000_pages() -> bytes:
    data = np.random.default_rng(1).integers(0, 255, 64 * 64, np.uint8).tobytes()
    first = bytearray(_grey_tiff(64, 64, data=data, after=0))
    directory = bytes(first[8 : 8 + 2 + 9 * 12])
    place = len(first)
    first[8 + len(directory) : 12 + len(directory)] = struct.pack("<I", place)
    size = len(directory) + 4
    pages = b"".join(directory + struct.pack("<I", place + (k + 1) * size) for k in range(100_000))
    return bytes(first) + pages


@hostile_file(".tif")
def tiff_of_a_billion_strips() -> bytes:
    entries = ((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))
    return _tiff(*entries, (273, 4, 1_000_000_000, 2000), (279, 4, 1_000_000_000, 2000), data=bytes(5000))


@hostile_sparse(".tif")
def tiff_of_10_million_strips(path: Path) -> None:
    """They are all there: 80 MB of nothing on the disk, gigabytes as Python's numbers."""
    entries = ((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))
    with open(path, "wb") as file:
        file.write(_tiff(*entries, (273, 4, 10_000_000, 2000), (278, 4, 1, 1), (279, 4, 10_000_000, 40_002_000)))
        file.truncate(81 * MIB)


@hostile_file(".tif")
def tiff_of_giant_tiles() -> bytes:
    return _tiff(
        *((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)),
        *((322, 4, 1, 2**31 - 16), (323, 4, 1, 2**31 - 16), (324, 4, 1, 2000), (325, 4, 1, 1000)),
        data=_zeros(MIB).ljust(1000, b"\0"),
    )


@hostile_file(".tif")
def tiff_bomb_within_the_limits() -> bytes:
    """144 million colour pixels, 430 MB, in 420 kB."""
    data = _zeros(12_000 * 12_000 * 3)
    content = _tiff(
        *((256, 4, 1, 12_000), (257, 4, 1, 12_000), (258, 3, 3, 1900), (259, 3, 1, 8), (262, 3, 1, 2)),
        *((273, 4, 1, 2000), (277, 3, 1, 3), (278, 4, 1, 12_000), (279, 4, 1, len(data))),
        data=data,
    )
    return content[:1900] + struct.pack("<HHH", 8, 8, 8) + content[1906:]


@hostile_file(".tif")
def tiff_with_a_jpeg_of_another_size() -> bytes:
    """64 x 64 by its directory, 65500 x 65500 by the JPEG inside."""
    return _grey_tiff(64, 64, packing=7, data=jpeg_of_65500_squared())


@hostile_file(".tif")
def tiff_packed_by_a_rare_method() -> bytes:
    return _grey_tiff(64, 64, packing=34712, data=bytes(500))


@hostile_file(".tif", "refused late")
def tiff_strip_that_is_no_deflate() -> bytes:
    return _grey_tiff(64, 64, packing=8, data=b"\x78\x9c" + b"\xaa" * 500)


@hostile_file(".tif", "unfinished")
def tiff_cut_off() -> bytes:
    content = good_tiff()
    return content[: len(content) // 2]


@hostile_file(".tif")
def tiff_of_65535_entries() -> bytes:
    return (b"II*\0" + struct.pack("<IH", 8, 65_535)).ljust(900_000, b"\x01")


@hostile_file(".tif", "read")
def tiff_with_hostile_text() -> bytes:
    """Three bits a sample, and a description that would paint a terminal."""
    text = b"\x1b[2J<script>alert(1)</script>\nERROR forged line\0"
    entries = ((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 3), (259, 3, 1, 1), (262, 3, 1, 1))
    more = ((270, 2, len(text), 7000), (273, 4, 1, 2000), (277, 3, 1, 1), (278, 4, 1, 64), (279, 4, 1, 4096))
    return _tiff(*entries, *more, data=np.random.default_rng(2).bytes(5000) + text)


@hostile_file(".tif")
def tiff_of_complex_numbers() -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.ones((64, 64), np.complex64), photometric="minisblack")
    return buffer.getvalue()


@hostile_file(".cr2", "unfinished")
def raw_cut_off() -> bytes:
    content = dng(sky(1).astype(np.uint16))
    return content[: len(content) // 2]


@hostile_file(".nef")
def raw_of_4_billion_squared() -> bytes:
    mosaic = (262, 3, 1, 32803)
    return _tiff((254, 4, 1, 0), (256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), (258, 3, 1, 16), mosaic,
                 data=bytes(5000))  # fmt: skip


@hostile_file(".dng")
def raw_that_a_camera_mixed() -> bytes:
    return dng(np.stack([sky(1).astype(np.uint16)] * 3, -1))


@hostile_file(".raf")
def raw_of_its_first_words() -> bytes:
    return b"FUJIFILMCCD-RAW 0201FF383501X-T2".ljust(100_000, b"\xff")


@hostile_file(".cr3")
def raw_of_boxes_without_end() -> bytes:
    return (
        struct.pack(">I", 24) + b"ftypcrx " + struct.pack(">I4s", 1, b"isom") + struct.pack(">I4s", 0, b"moov") * 9000
    )


@hostile_file(".png")
def a_web_page() -> bytes:
    return b"<!doctype html><script>alert(1)</script>" * 100


@hostile_file(".jpg")
def a_program() -> bytes:
    return b"\x7fELF" + bytes(5000)


@hostile_file(".tiff")
def a_gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "GIF")
    return buffer.getvalue()


# Sets of eight


def _fill(folder: Path, content: Callable[[int], bytes]) -> None:
    folder.mkdir()
    for k in range(FRAMES):
        (folder / f"light_{k}.fits").write_bytes(content(k))


def _fill_with(folder: Path, pixels: Callable[[int], NDArray[Any]], **cards: Any) -> None:
    folder.mkdir()
    for k in range(FRAMES):
        _write_frame(folder / f"light_{k}.fits", pixels(k), k, **cards)


def _good_but_one(folder: Path, write: Callable[[Path], None]) -> None:
    write_good_set(folder)
    bad = folder / "light_3.fits"
    bad.unlink()
    write(bad)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@hostile_set("named", "light_3.fits")
def one_frame_of_nan(folder: Path) -> None:
    pixels = np.full((SIDE_PX, SIDE_PX), np.nan, np.float32)
    folder.mkdir()
    for k in range(FRAMES):
        _write_frame(folder / f"light_{k}.fits", pixels if k == 3 else sky(k).astype(np.float32), k)


@hostile_set("quarantined", "light_0.fits")
def frames_of_infinity(folder: Path) -> None:
    _fill_with(folder, lambda k: np.full((SIDE_PX, SIDE_PX), np.inf if k % 2 else -np.inf, np.float32))


@hostile_set("named", "light_3.fits")
def one_constant_frame(folder: Path) -> None:
    _good_but_one(folder, lambda path: _write_frame(path, np.full((SIDE_PX, SIDE_PX), 1000, np.uint16), 3))


@hostile_set("quarantined", "light_3.fits")
def one_frame_is_a_gzip_bomb(folder: Path) -> None:
    _good_but_one(folder, lambda path: _write(path, gzip_bomb()))


@hostile_set("done")
def one_frame_mostly_nan(folder: Path) -> None:
    """Left out or used where it has light: the set goes on."""

    def pixels(k: int) -> NDArray[Any]:
        one = sky(k).astype(np.float32)
        if k == 3:
            one[:-6] = np.nan
        return one

    _fill_with(folder, pixels)


@hostile_set("done")
def headers_full_of_html(folder: Path) -> None:
    html = "'<script>alert(1)</script>'"
    _fill(folder, lambda k: frame_bytes(f"OBJECT  = {html}", f"FILTER  = {html}", f"INSTRUME= {html}",
                                        f"HISTORY {html}", f"COMMENT {html}", number=k))  # fmt: skip


@hostile_set("done")
def headers_full_of_control_characters(folder: Path) -> None:
    _fill(folder, lambda k: frame_bytes(*CONTROL_CARDS, number=k))


@hostile_set("done")
def headers_of_nonsense(folder: Path) -> None:
    """Times out of the calendar, endless exposures, gains of nothing, a saturation below the sky."""
    _fill(
        folder,
        lambda k: frame_bytes(
            "DATE-OBS= '0001-01-01T00:00:00+23:59'", "EXPTIME = 1E300", "EGAIN   = 1E-300", "GAIN    = NaN",
            "SATURATE= 1E-300", "MJD-OBS = 1E300", "XBINNING= 1E300", "CRPIX1  = NaN", "CTYPE1  = 'RA---TAN'",
            "CD1_1   = 1E400", number=k,
        ),
    )  # fmt: skip


@hostile_set("done")
def headers_of_2000_histories(folder: Path) -> None:
    _fill(folder, lambda k: frame_bytes(*(f"HISTORY {'x' * 70}{j}" for j in range(2000)), number=k))


@hostile_set("quarantined", "light_0.fits")
def frames_of_one_pixel(folder: Path) -> None:
    _fill_with(folder, lambda k: np.array([[k]], np.uint16))


@hostile_set("quarantined")
def frames_of_one_line(folder: Path) -> None:
    _fill_with(folder, lambda k: sky(k)[:1])


@hostile_set("quarantined")
def frames_of_two_by_two(folder: Path) -> None:
    _fill_with(folder, lambda k: sky(k)[:2, :2])


@hostile_set("done")
def frames_of_ten_to_the_38(folder: Path) -> None:
    """The sum of two pixels is more than float32 holds."""
    _fill_with(folder, lambda k: sky(k).astype(np.float32) * np.float32(5e33))


@hostile_set("quarantined", "light_0.fits")
def frames_scaled_beyond_measure(folder: Path) -> None:
    _fill(folder, lambda k: frame_bytes("BSCALE  = 1E300", "BZERO   = -1E300", number=k))


@hostile_set("quarantined")
def frames_of_tiny_numbers(folder: Path) -> None:
    _fill_with(folder, lambda k: sky(k).astype(np.float32) * np.float32(1e-42))


@hostile_set("quarantined")
def frames_of_noise(folder: Path) -> None:
    _fill_with(folder, lambda k: np.random.default_rng(k).integers(0, 65535, (SIDE_PX, SIDE_PX), np.uint16))


@hostile_set("quarantined")
def frames_of_nothing_but_one_pixel(folder: Path) -> None:
    def pixels(k: int) -> NDArray[Any]:
        one = np.zeros((SIDE_PX, SIDE_PX), np.uint16)
        one[k, k] = 65535
        return one

    _fill_with(folder, pixels)


@hostile_set("quarantined")
def frames_fully_saturated_but_one_line(folder: Path) -> None:
    def pixels(k: int) -> NDArray[Any]:
        one = np.full((SIDE_PX, SIDE_PX), 65535, np.uint16)
        one[k] = 0
        return one

    _fill_with(folder, pixels)


@hostile_set("quarantined")
def frames_of_stripes(folder: Path) -> None:
    _fill_with(folder, lambda k: np.tile(np.arange(SIDE_PX, dtype=np.uint16) % 2 * 60_000, (SIDE_PX, 1)))


@hostile_set("quarantined")
def frames_of_different_skies(folder: Path) -> None:
    def pixels(k: int) -> NDArray[Any]:
        return np.random.default_rng(k).permutation(sky(k).ravel()).reshape(SIDE_PX, SIDE_PX)

    _fill_with(folder, pixels)


@hostile_set("quarantined")
def mosaics_of_three_by_three(folder: Path) -> None:
    _fill_with(folder, lambda k: sky(k)[:3, :3], BAYERPAT="RGGB")


# Things that are no captures, and names that no log should see


@hostile_place()
def a_pipe(folder: Path) -> bytes:
    os.mkfifo(folder / "pipe.fits")
    return b"pipe.fits"


@hostile_place()
def a_socket(folder: Path) -> bytes:
    here = os.open(folder, os.O_RDONLY)
    try:  # a socket's path may be no longer than 107 bytes
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/socket.fits")
    finally:
        os.close(here)
    return b"socket.fits"


@hostile_place()
def a_device(folder: Path) -> bytes:
    """/dev/zero by another name; where a container forbids it, a pipe."""
    path = folder / "device.fits"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        os.mkfifo(path)
    return b"device.fits"


@hostile_place()
def a_link_to_endless_zeros(folder: Path) -> bytes:
    (folder / "zero.fits").symlink_to("/dev/zero")
    return b"zero.fits"


@hostile_place()
def a_link_to_itself(folder: Path) -> bytes:
    (folder / "loop.fits").symlink_to("loop.fits")
    return b"loop.fits"


@hostile_place()
def a_link_out_of_the_inbox(folder: Path) -> bytes:
    (folder / "passwd.fits").symlink_to("/etc/passwd")
    return b"passwd.fits"


@hostile_place()
def a_link_to_a_folder(folder: Path) -> bytes:
    (folder / "linked").symlink_to("/etc")
    return b"linked"


@hostile_place()
def a_link_to_nowhere(folder: Path) -> bytes:
    (folder / "gone.fits").symlink_to("../nowhere/gone.fits")
    return b"gone.fits"


@hostile_place()
def a_folder_with_a_frame_s_name(folder: Path) -> bytes:
    (folder / "folder.fits").mkdir()
    return b"folder.fits"


def _named(name: bytes, *, shown: bool) -> None:
    def make(folder: Path) -> bytes:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(b"no capture")
        return name

    PLACES.append(HostilePlace(f"a_name_of_{name[:24]!r}", make, shown))


for _name in (
    b"new\nline.fits",
    b"2026-01-01 00:00:00.000 ERROR forged\n.fits",
    b"esc\x1b[2J\x1b[31m.fits",
    b"bell\x07.fits",
    b"latin1-\xe9\xff.fits",
    b"right-to-left-\xe2\x80\xaestif.fits",
    b"line-separator-\xe2\x80\xa8.fits",
    b"zero-width-\xe2\x80\x8b.fits",
    b"tab\t.fits",
):
    _named(_name, shown=True)
for _name in (b".hidden.fits", b"...fits", b"._resource.fits"):
    _named(_name, shown=False)


# Names that are strange but may stand: text files of these names are refused one by one, each in a folder of its own


STRANGE_NAMES = (
    "-rf.fits",
    "--help.fits",
    "$(reboot).fits",
    "`reboot`.fits",
    "a;reboot;.fits",
    "<img src=x onerror=alert(1)>.fits",
    "'; drop table sets; --.fits",
    '"quotes".fits',
    "{0}{message}%s%d{{}}.fits",
    "<red>[bold]markup.fits",
    "back\\slash.fits",
    "C:\\con.fits",
    "error.json.fits",
    "stackd-2031-01-01.log.fits",
    "x" * 250 + ".fits",
    "\u00e9" * 125 + ".fits",
    "\u661f" * 83 + ".fits",
    "  spaces  .fits",
    "\U0001f4a5.fits",
)

# Folders of good frames under these names must come out, each under a name that stays in the outbox.
STRANGE_FOLDERS = (
    "-rf",
    "light.fits",
    "<script>alert(1)<",
    "{0}{message}%s",
    "[red]",
    "\u661f" * 60,  # 180 bytes, none of them ASCII
    "y" * 255,
    "result.json",
    "stackd-2031-01-01.log",
    "a__r2",
)


def strange_named_files() -> Iterator[tuple[str, bytes]]:
    """(name, content): no captures, so each must be refused by name."""
    for name in STRANGE_NAMES:
        yield name, b"no capture, whatever it is called " * 5
