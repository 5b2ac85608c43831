"""Which darks, flats and biases calibrate a set: pure, from what headers say of them and of the lights.

A frame is what its folder says (`darks/`, `flats/`, `biases/`). What does not fit the lights is left out with its
reason; what a header does not say fits anything. Touches no disk: calibration.py reads and combines what is planned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath
from statistics import median

from stackd.disk.inbox import CALIBRATION_FOLDERS
from stackd.jobs.validate import COMPARED
from stackd.records import FrameFacts

WARMER_C = 5.0  # a dark's sensor than the lights', and its current is half as much again
FLAT_DARK_TOLERANCE = 0.1  # of a flat dark's exposure: flats are short, so are their darks
MOST_SCALE = 1.5  # of what gathered in a dark; more would put its noise into all lights alike

IN_WORDS = {"darks": "darks", "biases": "biases", "flats": "flats", "flat_darks": "darks of the flats"}
PLURALS = {"dark": "darks", "flat": "flats", "bias": "biases"}

Reasons = tuple[tuple[str, str], ...]  # paths, each with its reason


@dataclass(frozen=True, slots=True)
class Seen:
    """A calibration frame and what its header says. `own`: it lies in the set's folder, else in that of all sets."""

    path: str
    facts: FrameFacts
    own: bool

    @property
    def kind(self) -> str:
        """dark, flat or bias."""
        return kind_of(self.path)

    @property
    def has_offset(self) -> bool:
        """Whether it still holds the camera's offset. Calibration programs say so, and write real numbers."""
        return not _lost_offset(self.facts) and not (self.kind == "flat" and self.facts.sample_type.startswith("float"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be combined, by paths. `left_out`: what does not fit the lights; `needless`: what would serve, if the
    lights were not calibrated before or the set had none of its own. `with_offset`: which of lights, darks, flats,
    flat_darks and biases still hold the camera's offset."""

    darks: tuple[str, ...] = ()
    dark_scale: float = 1.0  # of what gathers in a dark until it is as long as a light; not 1 only beside biases
    biases: tuple[str, ...] = ()
    flats: tuple[str, ...] = ()
    flat_darks: tuple[str, ...] = ()  # darks as long as the flats
    with_offset: frozenset[str] = frozenset()
    left_out: Reasons = ()
    needless: Reasons = ()

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Paths by what they serve as: keys of IN_WORDS."""
        return {role: getattr(self, role) for role in IN_WORDS}


def counted(roles: Mapping[str, Sequence[str]]) -> str:
    """How many frames serve as what, in words."""
    return ", ".join(f"{len(paths)} {IN_WORDS[role]}" for role, paths in roles.items() if paths)


def kind_of(path: str) -> str:
    """Of a calibration frame, by its folder: dark, flat or bias."""
    return CALIBRATION_FOLDERS[PurePath(path).parent.name.lower()]


def sentences(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """One for each reason why frames of a folder are not used."""
    keyed = sorted((PurePath(path).parent.name, reason, PurePath(path).name) for path, reason in reasons)
    lines = []
    for (folder, reason), group in groupby(keyed, key=lambda one: one[:2]):
        names = [name for *_, name in group]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{folder}/{names[0]}{more}: {reason}")
    return lines


def kinds_without(own: Iterable[str], used: Iterable[str], misfits: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each kind of the set's own frames of which none is used, with the reasons."""
    mine, served = set(own), {kind_of(path) for path in used}
    lines = []
    for kind, plural in PLURALS.items():
        reasons = [(path, reason) for path, reason in misfits if path in mine and kind_of(path) == kind]
        if reasons and kind not in served:
            lines.append(f"none of the set's {plural} is used: {'; '.join(sentences(reasons))}")
    return lines


def plan_for(light: FrameFacts, found: Sequence[Seen], *, exposure_tolerance: float) -> Plan:
    """What of the calibration frames found by a set of such lights calibrates them: the set's own before all sets'."""
    if reason := _why_none(light):
        return Plan(needless=tuple((one.path, reason) for one in found))
    reasons = {one.path: reason for one in found if (reason := _why_not(one, light))}
    biases, flats, darks = (
        [one for one in found if one.kind == kind and one.path not in reasons] for kind in ("bias", "flat", "dark")
    )
    chosen_biases = _own_first(biases)
    chosen_flats = [] if "F" in light.calibrated else _own_first(flats)
    flat_darks = _own_first([one for one in darks if _is_as_flats(one.facts, chosen_flats)])
    chosen_darks, scale = _darks(darks, flat_darks, light, bool(chosen_biases), exposure_tolerance)
    flat_darks = [one for one in flat_darks if one not in chosen_darks]
    has_offset = not _lost_offset(light)
    chosen_biases, chosen_flats, chosen_darks, flat_darks = (
        _in_one_state(frames, has_offset, reasons) for frames in (chosen_biases, chosen_flats, chosen_darks, flat_darks)
    )
    if chosen_flats and (reason := _why_no_flats(light, chosen_darks, chosen_biases, chosen_flats, flat_darks)):
        reasons |= {one.path: reason for one in flats}
        chosen_flats, flat_darks = [], []
    roles = {"darks": chosen_darks, "biases": chosen_biases, "flats": chosen_flats, "flat_darks": flat_darks}
    used = {one.path for frames in roles.values() for one in frames}
    needless = {}
    for one in found:
        if one.path in used or one.path in reasons:
            continue
        if reason := _why_needless(one, light, found, used):
            needless[one.path] = reason
        else:
            reasons[one.path] = _why_too_long_or_short(one.facts, light)
    with_offset = {role for role, frames in roles.items() if frames and frames[0].has_offset}
    if has_offset:
        with_offset.add("lights")
    return Plan(
        dark_scale=scale, with_offset=frozenset(with_offset), left_out=tuple(sorted(reasons.items())),
        needless=tuple(sorted(needless.items())), **{role: _paths(frames) for role, frames in roles.items()},
    )  # fmt: skip


def _why_none(light: FrameFacts) -> str:
    """Why nothing calibrates such lights, whatever it is; "" where something may."""
    if light.sample_type == "uint8":
        return "the lights are of 8 bits and not linear, so nothing can be taken out of them"
    if light.sample_type.startswith("float"):
        return "the lights are real numbers, which calibration programs write, so nothing is taken out of them again"
    return ""


# The mosaic alone instead of the colour: a grey picture of three planes becomes one as it is read.
_AGREE = {
    "size": COMPARED["size"],
    "mosaic": (lambda f: f.bayer, lambda f: str(f.bayer)),
    **{title: COMPARED[title] for title in ("row order", "gain", "binning", "camera")},
}
_FLATS_AGREE = _AGREE | {"filter": COMPARED["filter"]}


def _why_not(one: Seen, light: FrameFacts) -> str:
    """Why a frame cannot calibrate such lights; "" if it can, but for its exposure."""
    facts, kind = one.facts, one.kind
    if facts.image_type not in ("", kind):
        return f"is a {facts.image_type} frame by its header"
    if facts.sample_type == "uint8":
        return "is of 8 bits, the lights are not"
    for title, (value_of, words_of) in (_FLATS_AGREE if kind == "flat" else _AGREE).items():
        mine, theirs = value_of(facts), value_of(light)
        if mine is not None and theirs is not None and mine != theirs:
            return f"its {title} is {words_of(facts)}, the lights' {words_of(light)}"
    warmer_c = (facts.temperature_c or 0.0) - (light.temperature_c or 0.0)
    if kind == "dark" and None not in (facts.temperature_c, light.temperature_c) and abs(warmer_c) > WARMER_C:
        return f"was taken at {facts.temperature_c:g} C, the lights at {light.temperature_c:g} C"
    return ""


def _in_one_state(frames: list[Seen], has_offset: bool, reasons: dict[str, str]) -> list[Seen]:
    """Those that hold the camera's offset as the lights do, or, if there are none, the others: no mean is made of both,
    as of raw flats and the master that a program left beside them."""
    alike = [one for one in frames if one.has_offset == has_offset]
    if alike and len(alike) < len(frames):
        words = (
            "has lost the camera's offset, the others have not",
            "holds the camera's offset, the others have lost it",
        )
        reasons |= {one.path: words[one.has_offset] for one in frames if one not in alike}
    return alike or frames


def _own_first(frames: Sequence[Seen]) -> list[Seen]:
    return [one for one in frames if one.own] or list(frames)


def _darks(
    darks: Sequence[Seen], flat_darks: Sequence[Seen], light: FrameFacts, biases: bool, tolerance: float
) -> tuple[list[Seen], float]:
    """Those of the lights' exposure; else, beside biases, those of the nearest one that is long enough, and by how much
    they are scaled."""
    if "D" in light.calibrated:
        return [], 1.0
    if light.exposure_s is None:
        lengths_s = {one.facts.exposure_s for one in darks} - {None}
        return (_own_first(darks), 1.0) if len(lengths_s) < 2 else ([], 1.0)  # who knows which of them
    alike = [one for one in darks if _is_as_long(one.facts, light.exposure_s, tolerance)]
    if alike:
        return _own_first(alike), 1.0
    long = [one for one in darks if one not in flat_darks and light.exposure_s <= MOST_SCALE * one.facts.exposure_s]
    if not long or not biases:
        return [], 1.0
    lengths_s = [one.facts.exposure_s for one in long]
    nearest_s = min(lengths_s, key=lambda s: max(s / light.exposure_s, light.exposure_s / s))
    nearest = [one for one in long if _is_as_long(one.facts, nearest_s, tolerance)]
    return _own_first(nearest), light.exposure_s / nearest_s


def _is_as_flats(dark: FrameFacts, flats: Sequence[Seen]) -> bool:
    """Whether a dark says that it is as long as flats say they are."""
    said_s = [one.facts.exposure_s for one in flats if one.facts.exposure_s is not None]
    return bool(said_s) and dark.exposure_s is not None and _is_as_long(dark, median(said_s), FLAT_DARK_TOLERANCE)


def _is_as_long(facts: FrameFacts, exposure_s: float, tolerance: float) -> bool:
    """Also where nobody says."""
    return facts.exposure_s is None or abs(facts.exposure_s - exposure_s) <= tolerance * exposure_s


def _why_no_flats(light: FrameFacts, darks, biases, flats, flat_darks: Sequence[Seen]) -> str:
    """Dividing by a flat is right for light alone: the offset of both the lights and the flats has to be known."""
    told = any(one.has_offset for one in (*darks, *biases))
    lights = _lost_offset(light) or told
    of_flats = not any(one.has_offset for one in flats) or told or any(one.has_offset for one in flat_darks)
    return "" if lights and of_flats else "nothing tells its light from the camera's offset; add biases"


def _why_needless(one: Seen, light: FrameFacts, found: Sequence[Seen], used: set[str]) -> str:
    """Why a frame that fits, but perhaps for its exposure, is not used; "" where the exposure is why."""
    if one.kind in ("dark", "flat") and one.kind[0].upper() in light.calibrated:
        return f"the lights are calibrated already (CALSTAT = {light.calibrated!r})"
    others = any(other.own and other.kind == one.kind and other.path in used for other in found)
    return "the set has its own" if others and not one.own else ""


def _why_too_long_or_short(dark: FrameFacts, light: FrameFacts) -> str:
    """Of a dark that fits but for that."""
    if light.exposure_s is None or dark.exposure_s is None:
        return "the darks differ in exposure, and the lights do not say theirs"
    return f"is of {dark.exposure_s:g} s, the lights of {light.exposure_s:g} s"


def _lost_offset(facts: FrameFacts) -> bool:
    """Whether the camera's offset was taken out before, as it is of all frames of a camera's raw files."""
    return bool(set("BD") & set(facts.calibrated))


def _paths(frames: Iterable[Seen]) -> tuple[str, ...]:
    return tuple(one.path for one in frames)
