"""A capture's path -> what it says (FrameFacts) and what it holds (Frame), raw types checked.

The content decides the format, never the name. FITS goes through fits_header, keywords and
fits_pixels; PNG, JPEG and TIFF through pictures. Every error names the file. Knows nothing of sets.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from stackd.disk import pictures
from stackd.disk.fits_header import FITS_START, number_of, read_header
from stackd.disk.fits_pixels import pixels_from
from stackd.disk.frame import Frame, Image
from stackd.disk.inbox import Unfinished, open_safely, read_once
from stackd.disk.keywords import facts_from
from stackd.disk.pictures import PictureFacts
from stackd.errors import SetError
from stackd.records import FrameFacts

_START_BYTES = 48
_FITS_BEGINS = b"SIMPLE  ="
_FOREIGN = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
# A plateau of at least so many pixels at a frame's maximum is the sensor's limit, not a star.
_PLATEAU_PIXELS = 5
_LOWEST_PLATEAU_ADU = 4095.0  # of a 12-bit camera; below it, equal maxima are chance
_MOST_SATURATED = 0.5  # share of the pixels; the Moon may fill much of a frame


class Useless(SetError):
    """A capture in good order that shows nothing; the set's other frames may do without it."""


@dataclass(frozen=True, slots=True)
class _PictureKind:
    facts: Callable[[BinaryIO, int, int], PictureFacts]
    pixels: Callable[[bytes, PictureFacts, int], NDArray[np.generic]]


_PNG = _PictureKind(pictures.png_facts, pictures.png_pixels)
_JPEG = _PictureKind(pictures.jpeg_facts, pictures.jpeg_pixels)
_TIFF = _PictureKind(pictures.tiff_facts, pictures.tiff_pixels)


def read_facts(path: Path, max_pixels: int, max_bytes: int) -> FrameFacts:
    """What the file's header says, without reading the pixels.

    Raises SetError for a file that is no frame, Unfinished for one that is shorter than its header
    declares (it may still be growing), OSError where the disk itself fails.
    """
    with open_safely(path, max_bytes) as file, _naming(path):
        return _facts(file, os.fstat(file.fileno()).st_size, max_pixels)


def read_frame(path: Path, max_pixels: int, max_bytes: int) -> Frame:
    """The frame in memory, from one read of the file.

    Pixels are float32 in the file's unit, NaN where it has no finite value; a picture of three equal planes is
    mono. Raises what `read_facts` does, and Useless for a frame that shows nothing: all pixels equal, none a number,
    or most of them saturated.
    """
    content, sha256 = read_once(path, max_bytes)
    with _naming(path), np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes NaN
        facts, pixels, cards, limit_adu = _decode(content, max_pixels)
        del content  # a giant's would live on in the traceback of a refusal
        _refuse_blank(pixels)
        saturation_adu = _saturation_adu(pixels, facts, limit_adu)
        _refuse_saturated(pixels, saturation_adu)
    return Frame(str(path.absolute()), sha256, facts, pixels, saturation_adu, cards)


def _facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> FrameFacts:
    kind = _kind_of(file.read(_START_BYTES))
    if kind is None:
        file.seek(0)
        return facts_from(read_header(file, file_bytes, max_pixels))
    return _as_frame_facts(kind.facts(file, file_bytes, max_pixels))


def _decode(content: bytes, max_pixels: int) -> tuple[FrameFacts, Image, tuple[str, ...], float | None]:
    """Facts, pixels, header cards and, where the header tells it, the saturation level in ADU."""
    file = BytesIO(content)
    kind = _kind_of(content[:_START_BYTES])
    if kind is None:
        header = read_header(file, len(content), max_pixels)
        pixels = _finite_or_nan(pixels_from(header, content))
        return facts_from(header), pixels, header.cards, number_of(header.values.get("SATURATE"))
    facts = kind.facts(file, len(content), max_pixels)
    raw = kind.pixels(content, facts, max_pixels)
    if raw.shape[-2:] != (facts.height_px, facts.width_px):
        raise SetError("holds another size than its header says", remedy="save it again from its source, or remove it")
    if raw.ndim == 3 and np.array_equal(raw[0], raw[1]) and np.array_equal(raw[1], raw[2]):
        raw = raw[0]
    pixels = _finite_or_nan(np.ascontiguousarray(raw, dtype=np.float32))
    return _as_frame_facts(replace(facts, bands=3 if raw.ndim == 3 else 1)), pixels, (), None


def _kind_of(start: bytes) -> _PictureKind | None:
    """The format by content; None is FITS. Raises for everything that is not a capture."""
    if FITS_START.match(start):
        return None
    if start.startswith(pictures.PNG_START):
        return _PNG
    if start.startswith(pictures.JPEG_START):
        return _JPEG
    if start.startswith(pictures.TIFF_STARTS):
        return _TIFF
    known = (_FITS_BEGINS, pictures.PNG_START, pictures.JPEG_START, *pictures.TIFF_STARTS)
    if not start.strip(b"\0") or (len(start) < _START_BYTES and any(begin.startswith(start[:9]) for begin in known)):
        raise Unfinished("is empty" if not start else "has no header yet", remedy="copy it again or remove it")
    for magic, name in _FOREIGN.items():
        if start.startswith(magic):
            raise SetError(f"is compressed ({name})", remedy="unpack it; stackd reads plain files only")
    raise SetError("is not a FITS, TIFF, PNG or JPEG file", remedy="replace it by the capture, or remove it")


def _as_frame_facts(picture: PictureFacts) -> FrameFacts:
    return FrameFacts(picture.width_px, picture.height_px, picture.bands, picture.sample_type)


def _finite_or_nan(pixels: Image) -> Image:
    if np.isfinite(pixels.min()) and np.isfinite(pixels.max()):  # as nearly always, and a giant needs no mask
        return pixels
    return np.where(np.isfinite(pixels), pixels, np.float32(np.nan))


def _refuse_blank(pixels: Image) -> None:
    low, high = np.fmin.reduce(pixels, axis=None), np.fmax.reduce(pixels, axis=None)
    if np.isnan(low):
        raise Useless("holds no number at all", remedy="remove it")
    if low == high:
        raise Useless(f"is blank: every pixel is {low:g}", remedy="remove it")


def _refuse_saturated(pixels: Image, saturation_adu: float) -> None:
    share = np.count_nonzero(pixels >= np.float32(saturation_adu)) / pixels.size
    if share > _MOST_SATURATED:
        raise Useless(f"is saturated: {share:.0%} of its pixels are at {saturation_adu:g} ADU", remedy="remove it")


def _saturation_adu(pixels: Image, facts: FrameFacts, said_adu: float | None) -> float:
    """The level above which the sensor no longer counts.

    What the header says (SATURATE) unless most of the frame lies above it, else the plateau on which the
    brightest pixels lie (12- and 14-bit cameras in 16-bit files), else the largest value that the samples can hold.
    """
    if said_adu is not None and np.count_nonzero(pixels >= said_adu) <= _MOST_SATURATED * pixels.size:
        return said_adu
    brightest_adu = float(np.fmax.reduce(pixels, axis=None))
    plateau_pixels = int(np.count_nonzero(pixels == np.float32(brightest_adu)))
    is_float = facts.sample_type.startswith("float")
    lowest_adu = 0.0 if is_float else _LOWEST_PLATEAU_ADU
    if plateau_pixels >= _PLATEAU_PIXELS and brightest_adu >= lowest_adu:
        return brightest_adu
    return float("inf") if is_float else float(np.iinfo(facts.sample_type).max)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors from below do not know the file's name; here it is put in."""
    try:
        yield
    except SetError as error:
        raise type(error)(error.reason, file=str(path), remedy=error.remedy) from error
