"""Cameras' raw files (CR2, CR3, NEF, ARW, DNG and their like): the sensor's own counts and what the camera noted.

LibRaw unpacks them. Nothing is developed: no white balance, no curve, no colours made up between pixels, no turning.
What the camera noted is Exif, which Pillow reads where the file is a TIFF inside, and LibRaw elsewhere. Takes bytes
that nobody vouches for; knows no other format.
"""

import io
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import rawpy
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.ExifTags import IFD, Base

from stackd.disk.fits_header import check_size
from stackd.disk.frame import Image
from stackd.disk.headers import plain_text
from stackd.disk.inbox import Unfinished
from stackd.disk.keywords import BAYER, LONGEST_S, moment, within
from stackd.errors import SetError
from stackd.logs import without_stderr
from stackd.records import FrameFacts

_OWN_STARTS = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"\0MRM")
_CR3_MARK, _CR2_MARK = (slice(4, 12), b"ftypcrx "), (slice(8, 10), b"CR")
_EXIF_INSIDE = {b"II": b"II*\0", b"MM": b"MM\0*"}  # Olympus and Panasonic begin a TIFF with letters of their own
_CONVERT = "save it as a linear 16-bit TIFF with a raw converter"
_BROKEN = "copy it again from the camera's card, or remove it"
_NOT_BAYER = "has a mosaic of colours that is not Bayer's"
_LONGEST_WORDS = 160  # of LibRaw's own message
_LARGEST_ISO = 1e8
_LONGEST_NOTE = 60


def begins_as_raw(start: bytes) -> bool:
    """Whether these first bytes tell; a TIFF's directory tells of the other raw files."""
    marked = any(start[place] == mark for place, mark in (_CR3_MARK, _CR2_MARK))
    return marked or start.startswith(_OWN_STARTS)


def raw_facts(file: BinaryIO, max_pixels: int) -> FrameFacts:
    """What a raw file says. It is unpacked for that, since LibRaw knows colours and size only then."""
    file.seek(0)
    return raw_frame(file.read(), max_pixels)[0]


def raw_frame(content: bytes, max_pixels: int) -> tuple[FrameFacts, Image, tuple[str, ...], float]:
    """(facts, counts (H, W) above black in ADU, header cards, where a pixel is full in ADU above black).

    Rows are the sensor's, whichever way up the camera was held: a set's frames are laid on each other anyway.
    Raises SetError for a file that is damaged or whose pixels are no single counts, Unfinished for one that ends early.
    """
    with _unpacked(content, max_pixels) as raw:
        bayer, black_adu = _bayer(raw), _black_adu(raw)
        counts = raw.raw_image_visible.astype(np.float32) - black_adu
        full_adu = float(raw.white_level - black_adu.max())
        said = _said_by_libraw(raw)
    notes = _exif(content)
    height_px, width_px = counts.shape
    facts = FrameFacts(width_px, height_px, 1, "uint16", bayer=bayer, calibrated="B", **said | _said_by_exif(notes))
    return facts, counts, _cards(facts, in_utc=bool(_text(notes, Base.OffsetTimeOriginal))), full_adu


@contextmanager
def _unpacked(content: bytes, max_pixels: int) -> Iterator[rawpy.RawPy]:
    """The file, its size checked before its pixels are unpacked. What LibRaw raises becomes a SetError.

    Also where it says that memory is short: damaged files ask for any amount of it.
    """
    with without_stderr(), rawpy.RawPy() as raw:
        try:
            raw.open_buffer(io.BytesIO(content))
            check_size(raw.sizes.raw_width, raw.sizes.raw_height, max_pixels)
            raw.unpack()
            yield raw
        except rawpy.LibRawIOError as error:
            raise Unfinished(f"ends within the picture, at {len(content)} bytes", remedy="copy it again") from error
        except (rawpy.LibRawFileUnsupportedError, rawpy.NotSupportedError) as error:
            raise SetError("is a raw file of a kind that LibRaw does not know", remedy=_CONVERT) from error
        except rawpy.LibRawError as error:
            words = f"{error}"[:_LONGEST_WORDS]
            raise SetError(f"cannot be unpacked: {words}", remedy=_BROKEN) from error


def _bayer(raw: rawpy.RawPy) -> str | None:
    """The pattern of the visible sensor from its first row and column on; None for a sensor without colours."""
    if raw.raw_type != rawpy.RawType.Flat:
        raise SetError("holds colours that the camera has mixed already, no counts of single pixels", remedy=_CONVERT)
    if raw.num_colors == 1:
        return None
    try:
        pattern = raw.raw_pattern
    except NotImplementedError as error:
        raise SetError(_NOT_BAYER, remedy=_CONVERT) from error
    letters = "".join(chr(raw.color_desc[colour]) for colour in pattern.ravel())
    if letters not in BAYER:
        raise SetError(_NOT_BAYER + (", but X-Trans" if pattern.shape == (6, 6) else ""), remedy=_CONVERT)
    return letters


def _black_adu(raw: rawpy.RawPy) -> NDArray[np.float32]:
    """(H, W): the count of no light, which differs from colour to colour."""
    levels = np.asarray(raw.black_level_per_channel, np.float32)
    if raw.num_colors == 1:
        return np.full(raw.raw_image_visible.shape, levels[0])
    return levels[raw.raw_colors_visible]


def _said_by_libraw(raw: rawpy.RawPy) -> dict[str, Any]:
    """Exposure, gain and time, which is as the camera's clock showed it; LibRaw has zeros for what it was not told."""
    try:
        other = raw.other
    except (ValueError, OverflowError, OSError):  # a clock beyond the calendar
        return {}
    return {
        "exposure_s": within(float(other.shutter_speed), 0.0, LONGEST_S),
        "gain": within(float(other.iso_speed), 0.0, _LARGEST_ISO),
        "taken_at": _instant(other.timestamp.isoformat()) if other.timestamp.timestamp() > 0 else None,
    }


def _exif(content: bytes) -> dict[int, Any]:
    """Notes of a TIFF by their tags; none of other files, and none that are damaged: the pixels are what counts."""
    begin = _EXIF_INSIDE.get(content[:2])
    if begin is None:
        return {}
    exif = Pillow.Exif()
    try:
        with warnings.catch_warnings(action="ignore"):  # of notes that are cut short
            exif.load(b"Exif\0\0" + begin + content[4:])
            return {**exif, **exif.get_ifd(IFD.Exif)}
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error):
        return {}


def _said_by_exif(notes: Mapping[int, Any]) -> dict[str, Any]:
    """The same and the camera, as far as it was noted."""
    said = {
        "exposure_s": within(_number(notes, Base.ExposureTime), 0.0, LONGEST_S),
        "gain": within(_number(notes, Base.ISOSpeedRatings), 0.0, _LARGEST_ISO),
        "taken_at": _taken_at(notes),
        "camera": _camera(_text(notes, Base.Make), _text(notes, Base.Model)),
    }
    return {name: value for name, value in said.items() if value is not None}


def _number(notes: Mapping[int, Any], tag: Base) -> float | None:
    """Of several (ISO may come twice) the first; None for what is no number."""
    value = notes.get(tag)
    try:
        return float(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None


def _text(notes: Mapping[int, Any], tag: Base) -> str:
    return "".join(c for c in str(notes.get(tag, "")) if c.isprintable()).strip()[:_LONGEST_NOTE]


def _camera(make: str, model: str) -> str | None:
    """`NIKON CORPORATION` and `NIKON D750` are one camera of one name."""
    maker = make.split()[:1]
    return (model if not maker or model.upper().startswith(maker[0].upper()) else f"{maker[0]} {model}") or None


def _taken_at(notes: Mapping[int, Any]) -> str | None:
    """Start of the exposure: in UTC where the camera noted its zone, else as its clock showed it."""
    clock = _text(notes, Base.DateTimeOriginal) or _text(notes, Base.DateTime)
    fraction = _text(notes, Base.SubsecTimeOriginal)
    fraction = f".{fraction}" if fraction.isdecimal() else ""
    day, _, time = clock.partition(" ")
    return _instant(f"{day.replace(':', '-')}T{time}{fraction}{_text(notes, Base.OffsetTimeOriginal)}")


def _instant(text: str) -> str | None:
    when = moment(text)
    return when.isoformat(timespec="milliseconds") if when else None


def _cards(facts: FrameFacts, in_utc: bool) -> tuple[str, ...]:
    """What a FITS header of such a frame would say beside its times. A clock of unknown zone runs free: the standard's
    LOCAL (Rots et al. 2015)."""
    camera = facts.camera and plain_text(facts.camera)
    clock = "UTC" if in_utc else "LOCAL"
    values = {"INSTRUME": camera, "ISOSPEED": facts.gain, "ROWORDER": "TOP-DOWN", "TIMESYS": clock}
    return tuple(str(fits.Card(name, value)) for name, value in values.items() if value is not None)
