"""A capture's path -> what it says (FrameFacts) and what it holds (Frame), raw types checked.

The content decides the format, never the name. FITS goes through fits_header, keywords and fits_pixels, cameras' raw
files through raws; PNG, JPEG and TIFF through pictures. Every error names the file. Knows nothing of sets.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stackd.disk import pictures, raws
from stackd.disk.fits_header import FITS_START, number_of, read_header
from stackd.disk.fits_pixels import pixels_from
from stackd.disk.frame import Frame, Image
from stackd.disk.inbox import Unfinished, open_safely, read_once
from stackd.disk.keywords import facts_from
from stackd.disk.pictures import PictureFacts
from stackd.disk.tiff_directory import is_camera_raw
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


class _Decoded(NamedTuple):
    facts: FrameFacts
    pixels: Image
    cards: tuple[str, ...]
    limit_adu: float | None  # the saturation level, where the file tells it


@dataclass(frozen=True, slots=True)
class _Format:
    facts: Callable[[BinaryIO, int, int], FrameFacts]  # of an open file, its bytes and max_pixels
    decode: Callable[[bytes, int], _Decoded]  # the content and max_pixels


def read_facts(path: Path, max_pixels: int, max_bytes: int) -> FrameFacts:
    """What the file's header says; pixels are read only where a raw file hides it behind them.

    Raises SetError for a file that is no frame, Unfinished for one that is shorter than its header
    declares (it may still be growing), OSError where the disk itself fails.
    """
    with open_safely(path, max_bytes) as file, _naming(path):
        file_bytes = os.fstat(file.fileno()).st_size
        return _format_of(file, file_bytes).facts(file, file_bytes, max_pixels)


def read_frame(path: Path, max_pixels: int, max_bytes: int) -> Frame:
    """The frame in memory, from one read of the file.

    Pixels are float32 in the file's unit, NaN where it has no finite value; a picture of three equal planes is
    mono. Raises what `read_facts` does, and Useless for a frame that shows nothing: all pixels equal, none a number,
    or most of them saturated.
    """
    content, sha256 = read_once(path, max_bytes)
    with _naming(path), np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes NaN
        facts, pixels, cards, limit_adu = _format_of(BytesIO(content), len(content)).decode(content, max_pixels)
        del content  # a giant's would live on in the traceback of a refusal
        _refuse_blank(pixels)
        saturation_adu = _saturation_adu(pixels, facts, limit_adu)
        _refuse_saturated(pixels, saturation_adu)
    return Frame(str(path.absolute()), sha256, facts, pixels, saturation_adu, cards)


def _format_of(file: BinaryIO, file_bytes: int) -> _Format:
    """By content. Raises SetError for everything that is not a capture."""
    start = file.read(_START_BYTES)
    if FITS_START.match(start):
        return _FITS
    if start.startswith(pictures.PNG_START):
        return _PNG
    if start.startswith(pictures.JPEG_START):
        return _JPEG
    if raws.begins_as_raw(start):
        return _RAW
    if start.startswith(pictures.TIFF_STARTS):
        return _RAW if is_camera_raw(file, file_bytes) else _TIFF
    known = (_FITS_BEGINS, pictures.PNG_START, pictures.JPEG_START, *pictures.TIFF_STARTS)
    if not start.strip(b"\0") or (len(start) < _START_BYTES and any(begin.startswith(start[:9]) for begin in known)):
        raise Unfinished("is empty" if not start else "has no header yet", remedy="copy it again or remove it")
    for magic, name in _FOREIGN.items():
        if start.startswith(magic):
            raise SetError(f"is compressed ({name})", remedy="unpack it; stackd reads plain files only")
    raise SetError("is not a FITS, TIFF, PNG, JPEG or raw file", remedy="replace it by the capture, or remove it")


def _fits_facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> FrameFacts:
    file.seek(0)
    return facts_from(read_header(file, file_bytes, max_pixels))


def _fits_frame(content: bytes, max_pixels: int) -> _Decoded:
    header = read_header(BytesIO(content), len(content), max_pixels)
    pixels = _finite_or_nan(pixels_from(header, content))
    return _Decoded(facts_from(header), pixels, header.cards, number_of(header.values.get("SATURATE")))


def _raw_facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> FrameFacts:
    return raws.raw_facts(file, max_pixels)


def _raw_frame(content: bytes, max_pixels: int) -> _Decoded:
    return _Decoded(*raws.raw_frame(content, max_pixels))


def _picture_format(
    facts_of: Callable[[BinaryIO, int, int], PictureFacts],
    pixels_of: Callable[[bytes, PictureFacts, int], NDArray[np.generic]],
) -> _Format:
    """PNG, JPEG and TIFF say nothing but their pixels."""

    def facts(file: BinaryIO, file_bytes: int, max_pixels: int) -> FrameFacts:
        return _as_frame_facts(facts_of(file, file_bytes, max_pixels))

    def decode(content: bytes, max_pixels: int) -> _Decoded:
        facts = facts_of(BytesIO(content), len(content), max_pixels)
        values = pixels_of(content, facts, max_pixels)
        if values.shape[-2:] != (facts.height_px, facts.width_px):
            reason = "holds another size than its header says"
            raise SetError(reason, remedy="save it again from its source, or remove it")
        if values.ndim == 3 and np.array_equal(values[0], values[1]) and np.array_equal(values[1], values[2]):
            values = values[0]
        pixels = _finite_or_nan(np.ascontiguousarray(values, dtype=np.float32))
        return _Decoded(_as_frame_facts(replace(facts, bands=3 if values.ndim == 3 else 1)), pixels, (), None)

    return _Format(facts, decode)


_FITS = _Format(_fits_facts, _fits_frame)
_RAW = _Format(_raw_facts, _raw_frame)
_PNG = _picture_format(pictures.png_facts, pictures.png_pixels)
_JPEG = _picture_format(pictures.jpeg_facts, pictures.jpeg_pixels)
_TIFF = _picture_format(pictures.tiff_facts, pictures.tiff_pixels)


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
    if pixels.ndim == 3 and np.isnan(np.fmin.reduce(pixels, axis=(1, 2))).any():
        raise Useless("holds no number in one of its colours", remedy="save it without that plane, or remove it")
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
