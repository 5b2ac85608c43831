"""The numbers of result.json in words that people read: labels, units, rounding.

Takes plain JSON values, gives text. A key's last part is its unit (`noise_adu`), so that a new
figure shows up well without a line here.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

UNITS = {
    "adu": "ADU",
    "px": "px",
    "mag": "mag",
    "db": "dB",
    "s": "s",
    "deg": "°",
    "arcsec": "″",
    "percent": "%",
}
IMAGES = ("single", "stack", "restored")  # a figure with one value for each of them is a comparison
ACRONYMS = {"fwhm": "FWHM", "snr": "SNR", "psf": "PSF", "psnr": "PSNR", "rms": "RMS", "chi2": "χ²"}
MISSING = "–"


def number(value: Any, digits: int = 3) -> str:
    """A value for a table: `digits` significant digits, a thin space between thousands, a dash for nothing."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(number(item, digits) for item in value) or MISSING
    if not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return MISSING
    value = value or 0  # no minus zero
    places = 0 if isinstance(value, int) or value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 6)}f}".replace(",", "\u202f").replace("-", "\u2212")


def label(key: str) -> tuple[str, str]:
    """(words, unit) of a key: "star_fwhm_px" -> ("Star FWHM", "px")."""
    words = key.split("_")
    unit = UNITS.get(words[-1], "") if len(words) > 1 else ""
    words = [ACRONYMS.get(word, word) for word in (words[:-1] if unit else words)]
    text = " ".join(words)
    return text[:1].upper() + text[1:], unit


def comparisons_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures with a value for several of single, stack and restored: one table row each."""
    rows = []
    for key, value in figures.items():
        if _is_comparison(value):
            words, unit = label(key)
            rows.append({"label": words, "unit": unit, "values": [number(value.get(image)) for image in IMAGES]})
    return rows


def measures_of(figures: dict[str, Any]) -> list[dict[str, str]]:
    """All other figures, nested ones with their group's name in front."""
    return list(_measures(figures, ""))


def headline_of(content: dict[str, Any]) -> list[str]:
    """A line under the title: how many frames of what, how long, when."""
    used = [frame for frame in content["inputs"] if frame.get("used")]
    parts = [f"{len(used)} of {len(content['inputs'])} frames"]
    exposures = [frame["exposure_s"] for frame in used if frame.get("exposure_s")]
    if exposures:
        same = max(exposures) - min(exposures) < 0.01 * max(exposures)
        parts.append(f"{number(exposures[0])} s each, {duration(sum(exposures))}" if same else duration(sum(exposures)))
    starts = sorted(frame["taken_at"] for frame in used if frame.get("taken_at"))
    if starts:
        parts.append(moment(starts[0]))
    size = content["size"]
    parts.append(f"{size['width_px']} × {size['height_px']} px{', colour' if size['bands'] == 3 else ''}")
    return parts


def duration(seconds: float) -> str:
    """Exposure or time taken: "48 s", "8 min", "2 h 40 min"."""
    if seconds < 100:
        return f"{number(float(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(text: str | None, zone: str = " UTC") -> str:
    """An ISO time as "2017-12-20 02:33:12 UTC"; anything else as it is."""
    if not text:
        return MISSING
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S") + zone
    except ValueError:
        return text


def span(start: str, end: str) -> str:
    """How long something took."""
    try:
        return duration((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
    except (ValueError, TypeError):
        return MISSING


def _is_comparison(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 1 and set(value) <= set(IMAGES)


def _measures(figures: dict[str, Any], group: str) -> Iterator[dict[str, str]]:
    for key, value in figures.items():
        if _is_comparison(value):
            continue
        words, unit = label(key)
        name = f"{group}: {words[:1].lower() + words[1:]}" if group else words
        if isinstance(value, dict):
            yield from _measures(value, name)
        else:
            yield {"label": name, "value": number(value), "unit": unit}
