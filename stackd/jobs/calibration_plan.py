"""Which darks, flats and biases calibrate a set: pure, from what headers say of them and of the lights.

A frame is what its folder says (`darks/`, `flats/`, `biases/`). What does not fit the lights is left out with its
reason; what a header does not say fits anything. Touches no disk: calibration.py reads and combines what is planned.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import median

from stackd.jobs.grouping import same_word
from stackd.records import FrameFacts

KINDS = {"darks": "dark", "flats": "flat", "biases": "bias"}  # folder's name -> type of the frames in it
WARMER_C = 5.0  # a dark's sensor than the lights', and its current is half as much again
FLAT_DARK_TOLERANCE = 0.1  # of a flat dark's exposure: flats are short, so are their darks

NamedFacts = tuple[str, FrameFacts]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be combined, by paths. `left_out` and `needless` are pairs of path and reason: what does not fit the
    lights, and what would, had they not been calibrated before. `remarks` tell of folders of which nothing fits."""

    darks: tuple[str, ...] = ()
    dark_scale: float = 1.0  # of what gathers in a dark until it is as long as a light; not 1 only beside biases
    biases: tuple[str, ...] = ()  # where they are needed: for lights or flats without darks, and for a scaled dark
    biases_for_lights: bool = True  # False: for the flats alone, as the lights have lost their offset
    flats: tuple[str, ...] = ()
    flat_darks: tuple[str, ...] = ()  # darks as long as the flats
    left_out: tuple[tuple[str, str], ...] = ()
    needless: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


def in_words(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each reason why frames of a folder calibrate nothing."""
    counts = Counter((folder_of(path), reason) for path, reason in pairs)
    return [f"{folder}/: {n} of its frames cannot be used: {reason}" for (folder, reason), n in counts.items()]


def folder_of(path: str) -> str:
    """Of a calibration frame, which tells what it is: a key of KINDS."""
    return PurePath(path).parent.name.lower()


def plan_for(light: FrameFacts, found: Sequence[NamedFacts], *, exposure_tolerance: float) -> Plan:
    """What of the calibration frames found by a set of such lights calibrates them."""
    if reason := _why_none(light):
        return Plan(needless=tuple((path, reason) for path, _ in found))
    reasons: dict[str, str] = {}
    needless: dict[str, str] = {}
    fitting: dict[str, list[NamedFacts]] = {folder: [] for folder in KINDS}
    for path, facts in found:
        folder = folder_of(path)
        if folder == "flats" and "F" in light.calibrated:
            needless[path] = _calibrated(light)
        elif reason := _why_not(KINDS[folder], facts, light):
            reasons[path] = reason
        else:
            fitting[folder].append((path, facts))
    biases, flats = fitting["biases"], fitting["flats"]
    for_lights = all(("B" in facts.calibrated) == _has_no_offset(light) for _, facts in biases)
    darks, scale = _darks(fitting["darks"], light, bool(biases), exposure_tolerance)
    others = [one for one in fitting["darks"] if one not in darks]
    flat_darks = _as_long_as(others, [facts for _, facts in flats])
    for path, facts in others:
        if (path, facts) not in flat_darks and "D" in light.calibrated:
            needless[path] = _calibrated(light)
        elif (path, facts) not in flat_darks:
            reasons[path] = f"is of {facts.exposure_s:g} s, the lights of {light.exposure_s:g} s"
    if flats and (reason := _why_no_flats(light, flats, bool(darks or biases), bool(flat_darks))):
        reasons |= {path: reason for path, _ in flats}
        flats, flat_darks = [], []
    if not ((for_lights and not darks) or scale != 1 or (flats and not flat_darks)):
        needless |= {path: _calibrated(light) for path, _ in biases if not for_lights}
        biases = []
    return Plan(
        _paths(darks), scale, _paths(biases), for_lights, _paths(flats), _paths(flat_darks),
        tuple(sorted(reasons.items())), tuple(sorted(needless.items())), _remarks([path for path, _ in found], reasons),
    )  # fmt: skip


_AGREE: tuple[tuple[str, Callable[[FrameFacts], Hashable], Callable[[FrameFacts], str]], ...] = (
    ("size", lambda f: (f.width_px, f.height_px), lambda f: f"{f.width_px}x{f.height_px} px"),
    ("number of colours", lambda f: f.bands, lambda f: str(f.bands)),
    ("mosaic", lambda f: f.bayer, lambda f: str(f.bayer)),
    ("gain", lambda f: f.gain, lambda f: f"{f.gain:g}"),
    ("binning", lambda f: f.binning, lambda f: str(f.binning)),
    ("camera", lambda f: same_word(f.camera), lambda f: str(f.camera)),
)
_FILTER = ("filter", lambda f: same_word(f.filter), lambda f: str(f.filter))


def _why_none(light: FrameFacts) -> str:
    """Why nothing calibrates such lights, whatever it is; "" where something may."""
    if light.sample_type == "uint8":
        return "the lights are of 8 bits and not linear, so nothing can be taken out of them"
    if light.sample_type.startswith("float"):
        return "the lights are real numbers, which calibration programs write, so nothing is taken out of them again"
    return ""


def _why_not(kind: str, facts: FrameFacts, light: FrameFacts) -> str:
    """Why a frame cannot calibrate such lights; "" if it can."""
    if facts.image_type not in ("light", kind):  # a header that says nothing counts as a light's
        return f"is a {facts.image_type} frame by its header"
    for title, value_of, words_of in (*_AGREE, _FILTER) if kind == "flat" else _AGREE:
        mine, theirs = value_of(facts), value_of(light)
        if mine is not None and theirs is not None and mine != theirs:
            return f"its {title} is {words_of(facts)}, the lights' {words_of(light)}"
    warmer_c = (facts.temperature_c or 0.0) - (light.temperature_c or 0.0)
    if kind == "dark" and None not in (facts.temperature_c, light.temperature_c) and abs(warmer_c) > WARMER_C:
        return f"was taken at {facts.temperature_c:g} C, the lights at {light.temperature_c:g} C"
    return ""


def _calibrated(light: FrameFacts) -> str:
    return f"the lights are calibrated already (CALSTAT = {light.calibrated!r})"


def _darks(
    darks: Sequence[NamedFacts], light: FrameFacts, biases: bool, tolerance: float
) -> tuple[list[NamedFacts], float]:
    """Those of the lights' exposure; else, beside biases, those of the nearest one, and by how much they are scaled."""
    if "D" in light.calibrated:
        return [], 1.0
    alike = [one for one in darks if _is_as_long(one[1], light.exposure_s, tolerance)]
    if alike or not darks or not biases:
        return alike, 1.0
    lengths_s = [facts.exposure_s for _, facts in darks]
    nearest_s = min(lengths_s, key=lambda s: max(s / light.exposure_s, light.exposure_s / s))
    return [one for one in darks if _is_as_long(one[1], nearest_s, tolerance)], light.exposure_s / nearest_s


def _as_long_as(darks: Sequence[NamedFacts], flats: Sequence[FrameFacts]) -> list[NamedFacts]:
    exposures_s = [facts.exposure_s for facts in flats if facts.exposure_s is not None]
    return [one for one in darks if exposures_s and _is_as_long(one[1], median(exposures_s), FLAT_DARK_TOLERANCE)]


def _is_as_long(facts: FrameFacts, exposure_s: float | None, tolerance: float) -> bool:
    """Also where nobody says."""
    if facts.exposure_s is None or exposure_s is None:
        return True
    return abs(facts.exposure_s - exposure_s) <= tolerance * exposure_s


def _why_no_flats(light: FrameFacts, flats: Sequence[NamedFacts], darks: bool, flat_darks: bool) -> str:
    """Dividing by a flat is right for light alone: both the lights' offset and the flats' have to be known."""
    of_lights = darks or _has_no_offset(light)
    of_flats = darks or flat_darks or all(_knows_offset(facts) for _, facts in flats)
    return "" if of_lights and of_flats else "without darks or biases nobody can tell light from the camera's offset"


def _knows_offset(facts: FrameFacts) -> bool:
    """Also where nobody says so: calibration programs write real numbers."""
    return _has_no_offset(facts) or facts.sample_type.startswith("float")


def _has_no_offset(facts: FrameFacts) -> bool:
    """Whether it was taken out before, as of all frames of a camera's raw files."""
    return bool(set("BD") & set(facts.calibrated))


def _paths(frames: Iterable[NamedFacts]) -> tuple[str, ...]:
    return tuple(path for path, _ in frames)


def _remarks(paths: Sequence[str], reasons: dict[str, str]) -> tuple[str, ...]:
    """A sentence for each folder of which nothing is left, with the commonest reason."""
    remarks = []
    for folder in KINDS:
        mine = [path for path in paths if folder_of(path) == folder]
        if mine and all(path in reasons for path in mine):
            reason = Counter(reasons[path] for path in mine).most_common(1)[0][0]
            remarks.append(f"none of the {len(mine)} frames in {folder}/ is used: {reason}")
    return tuple(remarks)
