"""PNG, JPEG and TIFF: what they hold and their pixels, from bytes that nobody vouches for.

Dimensions are checked before anything is unpacked, a file that ends early is Unfinished, alpha is
dropped, and every value keeps the file's own scale. Knows FITS not at all.
"""

import errno
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from stackd.disk.fits_header import check_size
from stackd.disk.inbox import Unfinished
from stackd.disk.jpeg_markers import check_markers, check_scans
from stackd.disk.tiff_directory import check_directory
from stackd.errors import SetError
from stackd.logs import without_stderr

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_JPEG_END = b"\xff\xd9"
_JPEG_TAIL_BYTES = 1 << 16
_TIFF_SAMPLES = frozenset({"uint8", "uint16", "int16", "uint32", "float16", "float32", "float64"})
# Microscopes' dialects have loops and readers of their own.
_NO_VENDOR = {f"is_{vendor}": False for vendor in ("lsm", "scanimage", "ndpi", "stk", "ome", "mmstack", "imagej")}
_COPY_AGAIN = "copy it again"
_BROKEN = "save it again from its source, or remove it"
_TOO_LARGE = "raise limits.memory_mb if the file is in order, or remove it"
_MOST_CHUNKS = 16_384  # of a PNG, and one more for each _CHUNK_BYTES of it
_CHUNK_BYTES = 512
# Sky and sensor noise keep real frames far from here; what unpacks to more, and to four times that as float32, is made
# to fill the memory.
_BOMB_BYTES = 64 << 20
_BOMB_RATIO = 100
_LONGEST_WORDS = 160  # of a decoder's own message
# What the disk says, not the file.
_DISK_ERRORS = frozenset({errno.EIO, errno.ESTALE, errno.EBUSY, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV})

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it repeats what strangers wrote into their files


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Size in px, bands (1 or 3, alpha not counted) and the type of a sample."""

    width_px: int
    height_px: int
    bands: int
    sample_type: str


def png_facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> PictureFacts:
    """Of a PNG, from its chunks' headers; Unfinished if the last one is missing."""
    file.seek(0)
    head = file.read(33)
    if len(head) < 33:
        raise Unfinished(f"ends within its header, at {file_bytes} bytes", remedy=_COPY_AGAIN)
    width_px, height_px, depth, colour = struct.unpack(">IIBB", head[16:26])
    if head[12:16] != b"IHDR" or width_px == 0 or height_px == 0 or depth not in (1, 2, 4, 8, 16):
        raise SetError("its PNG header makes no sense", remedy=_BROKEN)
    check_size(width_px, height_px, max_pixels)
    bands, sample_type = 3 if colour & 2 else 1, "uint16" if depth == 16 else "uint8"
    position, kind, chunks = 8, b"", 0
    while kind != b"IEND":
        chunks += 1
        if chunks > _MOST_CHUNKS + position // _CHUNK_BYTES:
            raise SetError(f"is cut into more than {chunks - 1} pieces", remedy=_BROKEN)
        file.seek(position)
        chunk = file.read(8)
        length = int.from_bytes(chunk[:4], "big")
        position += 12 + length
        if len(chunk) < 8 or position > file_bytes:
            raise Unfinished(f"ends within the picture, at {file_bytes} bytes", remedy=_COPY_AGAIN)
        kind = chunk[4:]
    _refuse_bomb(width_px * height_px * bands * (2 if depth == 16 else 1), file_bytes)
    return PictureFacts(width_px, height_px, bands, sample_type)


def jpeg_facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> PictureFacts:
    """Of a JPEG; Unfinished if it ends early, which without an end mark only unpacking can tell."""
    check_markers(file, file_bytes)
    file.seek(0)
    with _blaming_the_file(), _opened(file, "JPEG", max_pixels) as picture:
        width_px, height_px = picture.size
        bands = _bands_of(picture)
        file.seek(max(0, file_bytes - _JPEG_TAIL_BYTES))
        if _JPEG_END in file.read():
            _refuse_bomb(width_px * height_px * bands, file_bytes)
        elif _is_bomb(width_px * height_px * bands, file_bytes):
            raise Unfinished(f"ends within the picture, at {file_bytes} bytes", remedy=_COPY_AGAIN)
        else:
            file.seek(0)
            check_scans(file.read())
            picture.load()
    return PictureFacts(width_px, height_px, bands, "uint8")


def tiff_facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> PictureFacts:
    """Of a TIFF's only picture; Unfinished if the file ends before its directory or its data."""
    check_directory(file, file_bytes, max_pixels)
    file.seek(0)
    with _blaming_the_file(), tifffile.TiffFile(file, name="frame.tif", **_NO_VENDOR) as tiff:
        page = _only_page(tiff, max_pixels)
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > file_bytes:
            raise Unfinished(f"ends within the picture, at {file_bytes} bytes", remedy=_COPY_AGAIN)
        _refuse_bomb(page.nbytes, file_bytes)
        bands = 3 if page.samplesperpixel >= 3 else 1
        return PictureFacts(page.imagewidth, page.imagelength, bands, str(page.dtype))


def png_pixels(content: bytes, facts: PictureFacts, max_pixels: int) -> NDArray[np.generic]:
    """(H, W) or (3, H, W). Pillow would cut 16-bit colour down to 8 bit, and trusts damaged rows."""
    _check_sums(content)
    if facts.sample_type == "uint8":
        return _pillow_pixels(content, "PNG", max_pixels)
    with _blaming_the_file(), without_stderr():  # libpng speaks there whatever one asks
        return _planes(imagecodecs.png_decode(content))


def jpeg_pixels(content: bytes, facts: PictureFacts, max_pixels: int) -> NDArray[np.generic]:
    """(H, W) or (3, H, W), uint8."""
    check_scans(content)
    return _pillow_pixels(content, "JPEG", max_pixels)


def tiff_pixels(content: bytes, facts: PictureFacts, max_pixels: int) -> NDArray[np.generic]:
    """(H, W) or (3, H, W), of the file's sample type."""
    with _blaming_the_file(), tifffile.TiffFile(io.BytesIO(content), name="frame.tif", **_NO_VENDOR) as tiff:
        page = _only_page(tiff, max_pixels)
        values = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
    return _planes(values)


def _check_sums(content: bytes) -> None:
    """Raises SetError where the rows of a PNG are not those that were written."""
    position, view = 8, memoryview(content)
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        kind = view[position + 4 : position + 8]
        checked = kind in (b"IHDR", b"IDAT")
        if checked and zlib.crc32(view[position + 4 : end]).to_bytes(4, "big") != view[end : end + 4]:
            raise SetError("is damaged: its checksum does not hold", remedy=_COPY_AGAIN)
        position = end + 4


def _planes(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """(H, W), (H, W, 1 to 4) -> (H, W) or (3, H, W) without alpha."""
    if values.ndim == 2:
        return values
    if values.shape[-1] < 3:
        return values[..., 0]
    return np.moveaxis(values[..., :3], -1, 0)


def _pillow_pixels(content: bytes, kind: str, max_pixels: int) -> NDArray[np.generic]:
    with _blaming_the_file(), _opened(io.BytesIO(content), kind, max_pixels) as picture:
        wanted = "RGB" if _bands_of(picture) == 3 else "L"
        return _planes(np.asarray(picture if picture.mode == wanted else picture.convert(wanted)))


@contextmanager
def _opened(file: BinaryIO, kind: str, max_pixels: int) -> Iterator[Pillow.Image]:
    """A Pillow picture of one format and no more than so many pixels; nothing is unpacked yet."""
    Pillow.MAX_IMAGE_PIXELS = max_pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Pillow.DecompressionBombWarning)
        with Pillow.open(file, formats=[kind]) as picture:
            check_size(*picture.size, max_pixels)
            yield picture


def _bands_of(picture: Pillow.Image) -> int:
    bands = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3}.get(picture.mode)
    if bands is None:
        raise SetError(f"is a picture of kind {picture.mode}", remedy="save it as grey or RGB")
    return bands


def _refuse_bomb(unpacked_bytes: int, file_bytes: int) -> None:
    """Raises SetError for a small file that would unpack to a giant."""
    if _is_bomb(unpacked_bytes, file_bytes):
        times = unpacked_bytes // max(file_bytes, 1)
        raise SetError(f"would unpack to {times} times its size, as no frame of a camera does", remedy="remove it")


def _is_bomb(unpacked_bytes: int, file_bytes: int) -> bool:
    return unpacked_bytes > _BOMB_BYTES and unpacked_bytes > _BOMB_RATIO * file_bytes


def _only_page(tiff: tifffile.TiffFile, max_pixels: int) -> tifffile.TiffPage:
    page = tiff.pages.first
    check_size(page.imagewidth, page.imagelength, max_pixels)
    if _second_shape(tiff) == page.shape:
        raise SetError("holds several pictures", remedy="save each frame as its own file")
    grey_or_rgb = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
    sizes_agree = page.imagedepth == 1 and page.samplesperpixel in (1, 2, 3, 4)
    if not grey_or_rgb or not sizes_agree or str(page.dtype) not in _TIFF_SAMPLES:
        kind = getattr(page.photometric, "name", page.photometric)
        raise SetError(f"is a TIFF of kind {kind}, {page.dtype}", remedy="save it as grey or RGB, 8 or 16 bit or float")
    return page


def _second_shape(tiff: tifffile.TiffFile) -> tuple[int, ...] | None:
    """Of the next page alone: a chain of pages may have no end."""
    try:
        return tiff.pages[1].shape
    except IndexError:
        return None


@contextmanager
def _blaming_the_file() -> Iterator[None]:
    """What the decoders raise on broken data becomes a SetError; an early end becomes Unfinished.

    Anything may come out of them. Only what the disk says reaches the caller as it is: it may pass.
    """
    try:
        yield
    except SetError:
        raise
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise SetError("has more pixels than limits.max_pixels", remedy="raise the limit or remove the file") from error
    except MemoryError as error:  # a damaged file asks for any amount; a whole one may be too large for the limit
        raise SetError("does not fit into the memory", remedy=_TOO_LARGE) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        if "truncated" in str(error):
            raise Unfinished("ends within the picture", remedy=_COPY_AGAIN) from error
        words = f"{error}"[:_LONGEST_WORDS] or type(error).__name__
        raise SetError(f"cannot be unpacked: {words}", remedy=_BROKEN) from error
