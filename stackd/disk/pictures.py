"""PNG, JPEG and TIFF: what they hold and their pixels, from bytes that nobody vouches for.

Dimensions are checked before anything is unpacked, a file that ends early is Unfinished, alpha is
dropped, and every value keeps the file's own scale. Knows FITS not at all.
"""

import io
import struct
import warnings
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
from stackd.errors import SetError

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_JPEG_END = b"\xff\xd9"
_JPEG_TAIL_BYTES = 1 << 16
_TIFF_SAMPLES = frozenset({"uint8", "uint16", "int16", "uint32", "float16", "float32", "float64"})
_COPY_AGAIN = "copy it again"
_BROKEN = "save it again from its source, or remove it"


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
    position, kind = 8, b""
    while kind != b"IEND":
        file.seek(position)
        chunk = file.read(8)
        length = int.from_bytes(chunk[:4], "big")
        position += 12 + length
        if len(chunk) < 8 or position > file_bytes:
            raise Unfinished(f"ends within the picture, at {file_bytes} bytes", remedy=_COPY_AGAIN)
        kind = chunk[4:]
    return PictureFacts(width_px, height_px, 3 if colour & 2 else 1, "uint16" if depth == 16 else "uint8")


def jpeg_facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> PictureFacts:
    """Of a JPEG; Unfinished if it ends early, which without an end mark only unpacking can tell."""
    file.seek(0)
    with _blaming_the_file(), _opened(file, "JPEG", max_pixels) as picture:
        width_px, height_px = picture.size
        bands = _bands_of(picture)
        file.seek(max(0, file_bytes - _JPEG_TAIL_BYTES))
        if _JPEG_END not in file.read():
            picture.load()
    return PictureFacts(width_px, height_px, bands, "uint8")


def tiff_facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> PictureFacts:
    """Of a TIFF's only picture; Unfinished if the file ends before its directory or its data."""
    file.seek(0)
    _refuse_missing_directory(file.read(16), file_bytes)
    file.seek(0)
    with _blaming_the_file(), tifffile.TiffFile(file, name="frame.tif") as tiff:
        page = _only_page(tiff, max_pixels)
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > file_bytes:
            raise Unfinished(f"ends within the picture, at {file_bytes} bytes", remedy=_COPY_AGAIN)
        bands = 3 if page.samplesperpixel >= 3 else 1
        return PictureFacts(page.imagewidth, page.imagelength, bands, str(page.dtype))


def png_pixels(content: bytes, facts: PictureFacts, max_pixels: int) -> NDArray[np.generic]:
    """(H, W) or (3, H, W). Pillow would cut 16-bit colour down to 8 bit."""
    if facts.sample_type == "uint8":
        return _pillow_pixels(content, "PNG", max_pixels)
    with _blaming_the_file():
        return _planes(imagecodecs.png_decode(content))


def jpeg_pixels(content: bytes, facts: PictureFacts, max_pixels: int) -> NDArray[np.generic]:
    """(H, W) or (3, H, W), uint8."""
    return _pillow_pixels(content, "JPEG", max_pixels)


def tiff_pixels(content: bytes, facts: PictureFacts, max_pixels: int) -> NDArray[np.generic]:
    """(H, W) or (3, H, W), of the file's sample type."""
    with _blaming_the_file(), tifffile.TiffFile(io.BytesIO(content), name="frame.tif") as tiff:
        page = _only_page(tiff, max_pixels)
        values = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
    return _planes(values)


def _planes(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """(H, W), (H, W, 1 to 4) -> (H, W) or (3, H, W) without alpha."""
    if values.ndim == 2:
        return values
    if values.shape[-1] < 3:
        return values[..., 0]
    return np.moveaxis(values[..., :3], -1, 0)


def _pillow_pixels(content: bytes, kind: str, max_pixels: int) -> NDArray[np.generic]:
    with _blaming_the_file(), _opened(io.BytesIO(content), kind, max_pixels) as picture:
        return _planes(np.asarray(picture.convert("RGB" if _bands_of(picture) == 3 else "L")))


@contextmanager
def _opened(file: BinaryIO, kind: str, max_pixels: int) -> Iterator[Pillow.Image]:
    """A Pillow picture of one format and no more than so many pixels; nothing is unpacked yet."""
    Pillow.MAX_IMAGE_PIXELS = max_pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error", Pillow.DecompressionBombWarning)
        with Pillow.open(file, formats=[kind]) as picture:
            check_size(*picture.size, max_pixels)
            yield picture


def _bands_of(picture: Pillow.Image) -> int:
    bands = {"1": 1, "L": 1, "LA": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3}.get(picture.mode)
    if bands is None:
        raise SetError(f"is a picture of kind {picture.mode}", remedy="save it as grey or RGB")
    return bands


def _refuse_missing_directory(head: bytes, file_bytes: int) -> None:
    """Programs that stream a TIFF write its directory last and the pointer to it after that."""
    order = "little" if head[:1] == b"I" else "big"
    place = head[8:16] if b"+" in head[2:4] else head[4:8]
    directory = int.from_bytes(place, order)
    if len(head) < 16 or directory == 0 or directory >= file_bytes:
        raise Unfinished(f"has no directory yet, at {file_bytes} bytes", remedy=_COPY_AGAIN)


def _only_page(tiff: tifffile.TiffFile, max_pixels: int) -> tifffile.TiffPage:
    page = tiff.pages.first
    check_size(page.imagewidth, page.imagelength, max_pixels)
    if len(tiff.pages) > 1 and tiff.pages[1].shape == page.shape:
        raise SetError(f"holds {len(tiff.pages)} pictures", remedy="save each frame as its own file")
    grey_or_rgb = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
    sizes_agree = page.imagedepth == 1 and page.samplesperpixel in (1, 2, 3, 4)
    if not grey_or_rgb or not sizes_agree or str(page.dtype) not in _TIFF_SAMPLES:
        kind = getattr(page.photometric, "name", page.photometric)
        raise SetError(f"is a TIFF of kind {kind}, {page.dtype}", remedy="save it as grey or RGB, 8 or 16 bit or float")
    return page


@contextmanager
def _blaming_the_file() -> Iterator[None]:
    """What the decoders raise on broken data becomes a SetError; an early end becomes Unfinished."""
    try:
        yield
    except SetError:
        raise
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise SetError("has more pixels than limits.max_pixels", remedy="raise the limit or remove the file") from error
    except (
        *(ArithmeticError, AttributeError, EOFError, LookupError),
        *(OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error),
    ) as error:
        if "truncated" in str(error):
            raise Unfinished("ends within the picture", remedy=_COPY_AGAIN) from error
        raise SetError(f"cannot be unpacked: {error}", remedy=_BROKEN) from error
