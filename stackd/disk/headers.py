"""The header of a result: the reference frame's own cards, and what stackd did to the pixels.

Takes the cards as the reader kept them and plain facts, gives an astropy header that can always be
written: whatever a capture program left in its header, it never makes a result fail.
"""

import re
import statistics
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

# Cards that describe the file as it was, not the sky: wrong for float pixels above the sky.
DROPPED = re.compile(
    "SIMPLE|XTENSION|BITPIX|NAXIS[0-9]*|EXTEND|PCOUNT|GCOUNT|GROUPS|TFIELDS|EXTNAME|EXTVER|EXTLEVEL|INHERIT|END|"
    "BSCALE|BZERO|BLANK|BUNIT|DATAMIN|DATAMAX|CHECKSUM|DATASUM|ZHECKSUM|ZDATASUM|SATURATE|CBLACK|CWHITE|MIPS-(HI|LO)|"
    "BAYERPAT|XBAYROFF|YBAYROFF|BAYOFF[XY]|COLORTYP|PEDESTAL|"
    "STACKCNT|NCOMBINE|LIVETIME|TOTALEXP|EXPSTART|EXPEND|DATE-END|DATE-AVG|"
    # the reference's own times, beside which the set's would be in doubt
    "DATE-(BEG|LOC)|TIME-(OBS|END|BEG)|UT|UT-(START|END)|MJD-(BEG|AVG|END)|JD|JD-(OBS|AVG|BEG|END)"
)
THIRD_AXIS = re.compile(r"(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)3|(CD|PC)(0*3_\d+|\d+_0*3)")
UNFINISHED = re.compile(r"&'[^']*$")  # a string that a CONTINUE card goes on with
CARD_START = re.compile(r"[A-Za-z0-9_-]{1,8} *=|HIERARCH .*=|(COMMENT|HISTORY| {8})")
COMMENTARY = frozenset({"COMMENT", "HISTORY", ""})
UNIX_EPOCH_JD = 2440587.5
MJD_ZERO_JD = 2400000.5
DAY_S = 86_400


def kept_cards(cards: Iterable[str], colour: bool) -> fits.Header:
    """The reference's cards that still hold for a result. A card beyond repair becomes a COMMENT."""
    header = fits.Header()
    for image in _with_continuations(cards):
        keyword = image[:8].strip().upper()
        if DROPPED.fullmatch(keyword) or (not colour and THIRD_AXIS.fullmatch(keyword)):
            continue
        card = _card(image)
        if card is None:
            header.add_comment(image.strip() or " ")
        elif card.keyword in COMMENTARY or card.keyword not in header:
            header.append(card, end=True)
    return header


def result_header(
    cards: Iterable[str],
    colour: bool,
    frames: Sequence[dict[str, Any]],
    facts: dict[str, tuple[Any, str]],
    history: Iterable[str],
) -> fits.Header:
    """All but the structural cards. `facts` are stackd's own: keyword -> (value, comment)."""
    with quiet_fits():
        header = kept_cards(cards, colour)
        if colour and "CTYPE3" not in header and "CTYPE1" not in header:
            header["CTYPE3"] = ("RGB", "planes are red, green, blue")
        clock = "camera's time" if header.get("TIMESYS") == "LOCAL" else "UTC"
        own = times_of(frames, clock) | facts
        if "MJD-OBS" in header and "EXPSTART" in own:
            header["MJD-OBS"] = (round(own["EXPSTART"][0] - MJD_ZERO_JD, 8), f"{clock}, start of the first frame")
        for keyword, (value, comment) in own.items():
            header[keyword] = (plain_text(value) if isinstance(value, str) else value, comment)
        header["BUNIT"] = ("adu", "of the reference frame, above its sky")
        for line in history:
            header.add_history(plain_text(line))
    return header


@contextmanager
def quiet_fits() -> Iterator[None]:
    """Silence astropy on cards that it mends as it writes them: the frame's fault, and long known by then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        yield


def times_of(frames: Sequence[dict[str, Any]], clock: str = "UTC") -> dict[str, tuple[Any, str]]:
    """Exposure and time cards of the frames that were used, by this clock; what no frame tells is left out."""
    used = [frame for frame in frames if frame.get("used")]
    facts: dict[str, tuple[Any, str]] = {
        "STACKCNT": (len(used), "frames in this image"),
        "NCOMBINE": (len(used), "frames in this image"),
    }
    exposures = [float(frame["exposure_s"]) for frame in used if frame.get("exposure_s")]
    if exposures:
        facts["EXPTIME"] = (statistics.median(exposures), "[s] of one frame")
        facts["LIVETIME"] = (sum(exposures), "[s] of all frames together")
        facts["TOTALEXP"] = (sum(exposures), "[s] of all frames together")
    spans = [span for frame in used if (span := _span(frame))]
    if spans:
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        middles = [(start + (end - start) / 2).timestamp() for start, end in spans]
        facts["DATE-OBS"] = (iso(first), f"{clock}, start of the first frame")
        facts["DATE-END"] = (iso(last), f"{clock}, end of the last frame")
        middle = datetime.fromtimestamp(sum(middles) / len(middles), UTC)
        facts["DATE-AVG"] = (iso(middle), f"{clock}, mean of mid-times")
        facts["EXPSTART"] = (_julian_date(first), f"JD, {clock}, start of the first frame")
        facts["EXPEND"] = (_julian_date(last), f"JD, {clock}, end of the last frame")
    return facts


def plain_text(text: str) -> str:
    """The text in the characters that FITS allows: accents off, anything else '?'."""
    spelled = unicodedata.normalize("NFKD", text)
    ascii_text = "".join(c for c in spelled if not unicodedata.combining(c)).encode("ascii", "replace").decode()
    return re.sub(r"[^ -~]", " ", ascii_text)


def utc(text: str) -> datetime | None:
    """An ISO 8601 time, in UTC where it names no zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def iso(moment: datetime) -> str:
    """As FITS writes times: UTC without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")


def _with_continuations(cards: Iterable[str]) -> Iterator[str]:
    """80-character cards, a long string's CONTINUE cards joined to their first."""
    image = ""
    for card in cards:
        text = plain_text(card)[:80].ljust(80)
        if text.startswith("CONTINUE") and UNFINISHED.search(image):
            image += text
            continue
        if image:
            yield image
        image = text
    if image:
        yield image


def _card(image: str) -> fits.Card | None:
    """The card repaired as far as astropy can, or None. Only reading and writing it finds every fault."""
    if not CARD_START.match(image):
        return None
    try:
        card = fits.Card.fromstring(image)
        card.verify("silentfix+exception")
        fits.Card(card.keyword, card.value, card.comment)
        fits.Header([card]).tostring()
    except (fits.VerifyError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
    return card


def _span(frame: dict[str, Any]) -> tuple[datetime, datetime] | None:
    """Start and end of a frame's exposure; None where it does not say when."""
    start = utc(frame.get("taken_at") or "")
    if start is None:
        return None
    return start, start + timedelta(seconds=float(frame.get("exposure_s") or 0))


def _julian_date(moment: datetime) -> float:
    return round(moment.timestamp() / DAY_S + UNIX_EPOCH_JD, 8)
