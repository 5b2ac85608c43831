"""FITS header values -> FrameFacts: the aliases and habits of the capture programs.

Takes a checked FitsHeader; gives what it says in field terms, None where it is silent. Decodes no
pixel.
"""

from datetime import UTC, datetime, timedelta

from stackd.disk.fits_header import FitsHeader, Value, number_of
from stackd.errors import SetError
from stackd.records import FrameFacts

_SILENT = frozenset({"", "none", "unknown", "n/a", "undefined", "null"})
_QUOTES = "'\" "
BAYER = frozenset({"RGGB", "BGGR", "GRBG", "GBRG"})
_YEARS = range(1800, 2500)  # of photographs; a date outside them is a clock that was never set, or a joke
LONGEST_S = 1e6  # of one exposure: eleven days
_LARGEST_BINNING = 100.0
_ELECTRONS_RANGE = (1e-4, 1e4)  # per ADU
_TEMPERATURE_RANGE = (-200.0, 100.0)  # C
_MJD_ZERO = datetime(1858, 11, 17)
_LAST_MJD = 234_000  # in 2499

# Names as Siril accepts them, then those of SGP and INDI.
_EXPOSURE = ("EXPTIME", "EXPOSURE")
_FILTER = ("FILTER", "FILT-1")
_IMAGE_TYPE = ("IMAGETYP", "FRAMETYP", "FRAME")
_GAIN = ("GAIN", "ISOSPEED")
_ELECTRONS = ("CVF", "EGAIN")
_TEMPERATURE = ("CCD-TEMP", "CCD_TEMP", "CCDTEMP", "TEMPERAT", "CAMTCCD")
_BINNING_X = ("XBINNING", "BINX", "CCDXBIN")
_BINNING_Y = ("YBINNING", "BINY", "CCDYBIN")
_START = ("DATE-OBS", "DATE-BEG")
_START_TIME = ("TIME-OBS", "UT-START", "UT")


def facts_from(header: FitsHeader) -> FrameFacts:
    """What the header says. Raises SetError for a colour pattern that is not one of Bayer's four."""
    values = header.values
    bottom_up = (_text(values, ("ROWORDER",)) or "").upper() == "BOTTOM-UP"
    return FrameFacts(
        width_px=header.width_px,
        height_px=header.height_px,
        bands=header.bands,
        sample_type=sample_type(header),
        target=_text(values, ("OBJECT",)),
        filter=_text(values, _FILTER),
        exposure_s=within(_number(values, _EXPOSURE), 0.0, LONGEST_S),
        gain=_number(values, _GAIN),
        binning=_binning(values),
        camera=_text(values, ("INSTRUME",)),
        taken_at=_taken_at(values),
        bayer=_bayer(values, header.height_px, bottom_up) if header.bands == 1 else None,
        bottom_up=bottom_up,
        image_type=_image_type(_text(values, _IMAGE_TYPE)),
        electrons_per_adu=within(_number(values, _ELECTRONS), *_ELECTRONS_RANGE),
        temperature_c=within(_number(values, _TEMPERATURE), *_TEMPERATURE_RANGE),
        calibrated=(_text(values, ("CALSTAT",)) or "").upper(),
    )


def sample_type(header: FitsHeader) -> str:
    """The type of the values that the file stands for: BZERO makes signed integers unsigned."""
    zero, scale = number_of(header.values.get("BZERO", 0)), number_of(header.values.get("BSCALE", 1))
    if header.bits < 0:
        return f"float{-header.bits}"
    if (zero, scale) == (0, 1):
        return "uint8" if header.bits == 8 else f"int{header.bits}"
    if header.bits > 8 and (zero, scale) == (2.0 ** (header.bits - 1), 1):
        return f"uint{header.bits}"
    return "float32"


def _first(values: dict[str, Value], names: tuple[str, ...]) -> Value | None:
    return next(
        (values[name] for name in names if str(values.get(name, "")).strip("'\" ").lower() not in _SILENT), None
    )


def _text(values: dict[str, Value], names: tuple[str, ...]) -> str | None:
    """The same as text, without the quotes and blanks that programs add."""
    value = _first(values, names)
    return None if value is None else str(value).strip(_QUOTES)


def _number(values: dict[str, Value], names: tuple[str, ...]) -> float | None:
    return number_of(_first(values, names))


def within(number: float | None, above: float, most: float) -> float | None:
    """The number if it can be true, else None: such a card says nothing."""
    return number if number is not None and above < number <= most else None


def _binning(values: dict[str, Value]) -> str | None:
    x, y = (within(_number(values, names), 0.0, _LARGEST_BINNING) for names in (_BINNING_X, _BINNING_Y))
    if x is None and y is None:
        return None
    return f"{x or y:g}x{y or x:g}"


def _image_type(text: str | None) -> str:
    """light, dark, flat or bias, by substring: `Light Frame`, `DARK`, `Master Flat`. Flat darks are darks.

    "" where the header is silent."""
    if text is None:
        return ""
    said = text.lower()
    for kind, words in (("dark", ("dark",)), ("bias", ("bias", "offset", "zero")), ("flat", ("flat",))):
        if any(word in said for word in words):
            return kind
    return "light"


def _taken_at(values: dict[str, Value]) -> str | None:
    """Start of the exposure as 2017-12-20T02:33:12.638, UTC."""
    date, time = _text(values, _START), _text(values, _START_TIME)
    if date and "T" not in date and time and ":" in time:
        date = f"{date}T{time}"
    start = moment(date) if date else None
    if start is None and (days := _number(values, ("MJD-OBS",))) is not None and 0 < days < _LAST_MJD:
        start = _MJD_ZERO + timedelta(days=days)
    return start.isoformat(timespec="milliseconds") if start else None


def moment(text: str) -> datetime | None:
    """A date with or without time and zone, in UTC (the standard's zone where none is named)."""
    try:
        when = datetime.fromisoformat(text)
        when = when.astimezone(UTC).replace(tzinfo=None) if when.tzinfo else when
    except (ValueError, OverflowError):  # no date, or one that its zone carries out of the calendar
        return None
    return when if when.year in _YEARS else None


def _bayer(values: dict[str, Value], height_px: int, bottom_up: bool) -> str | None:
    """The pattern of the array's rows 0 and 1.

    The card describes the picture from its top; an array that begins at the bottom with an even
    number of rows begins with the pattern's second row.
    """
    pattern = (_text(values, ("BAYERPAT", "COLORTYP")) or "").upper()
    if pattern in ("", "MONO", "RGB"):
        return None
    if pattern not in BAYER:
        raise SetError(
            f"BAYERPAT is {pattern!r}; stackd knows RGGB, BGGR, GRBG and GBRG", remedy="correct the card in the header"
        )
    right = int(_number(values, ("XBAYROFF", "BAYOFFX")) or 0) % 2
    down = (int(_number(values, ("YBAYROFF", "BAYOFFY")) or 0) + (bottom_up and height_px % 2 == 0)) % 2
    rows = [pattern[:2], pattern[2:]]
    return "".join(rows[(row + down) % 2][(column + right) % 2] for row in range(2) for column in range(2))
