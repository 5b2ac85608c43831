"""The masters of a set, from the files of its darks, flats and biases, and the story of how they came about.

calibration_plan.py says what fits; here it is read, judged by its pixels and combined, a few frames in memory at a
time. A calibration frame that cannot be used is left out with its reason: no set fails for it. The last masters are
kept: the sets of a night share theirs.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from loguru import logger

from stackd.disk.frame import FULL_SCALE_ADU, Frame, Image
from stackd.disk.reader import read_facts, read_frame
from stackd.errors import SetError
from stackd.imaging.masters import (
    NOTHING_KNOWN,
    Masters,
    Mean,
    Unlit,
    answer_to_light,
    evened,
    lacks_offset,
    mean_frame,
    offset_of,
    without_light,
)
from stackd.imaging.quality import measure_sky, pixel_noise, rounding_noise
from stackd.jobs.calibration_plan import Plan, Reasons, Seen, counted, kinds_without, plan_for, sentences
from stackd.records import FrameFacts

OVEREXPOSED = 0.9  # of the sensor's limit, by half of a flat's pixels
DARKER_SIGMA = 3.0  # of its noise, that the lights' sky may lie below the master dark
LOUDER = 2.0  # than a light, that a master dark may be: a single dark is about as loud
LEAST_NORMALISED_NOISE = 5e-3  # of full scale; numbers below 2 that are noisier are counts of a very dark dark
KEPT_FACTS = 4000  # of calibration frames that were looked at before
NO_OFFSET = "nobody knows how much of it is the camera's offset; add biases"

T = TypeVar("T")
Stamp = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """`story` is what result.json says of it; `letters` as of CALSTAT, "" where nothing was taken out."""

    masters: Masters = NOTHING_KNOWN
    letters: str = ""
    story: dict[str, Any] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Of what is read and of what fits: settings.LimitsSettings and settings.SetSettings tell them."""

    max_pixels: int
    max_bytes: int
    exposure_tolerance: float


@dataclass(frozen=True, slots=True)
class _Combined:
    """Masters, as the plan wants them; `used`: paths and their sha256; `bad`: paths that could not be used, and why."""

    masters: Masters
    used: Reasons
    bad: Reasons


def calibration_of(own: Sequence[str], shared: Sequence[str], light: Frame, limits: Limits) -> Calibration:
    """What the darks, flats and biases at these paths make of a set with this light.

    `own`: those in the set's folder, which are used before those of all sets (`shared`); their misfits are warned of.
    """
    if not own and not shared:
        return Calibration()
    found, unreadable = _seen(own, shared, limits)
    plan = plan_for(light.facts, found, exposure_tolerance=limits.exposure_tolerance)
    combined = _made(plan, light, limits)
    masters, used = combined.masters, combined.used
    misfits = (*plan.left_out, *unreadable, *combined.bad)
    if refusal := _why_no_good(masters, light):
        masters, used = NOTHING_KNOWN, ()
        warnings = [f"{refusal}: this set is not calibrated"]
    else:
        warnings = kinds_without(own, [path for path, _ in used], misfits)
    left_out = (*misfits, *plan.needless)
    for line in sentences(left_out):
        logger.info("not calibrated by {}", line)
    read = {path for path, _ in used}
    roles = {role: [path for path in paths if path in read] for role, paths in plan.roles.items()}
    letters = "" if masters.dark_adu is None else "D" if roles["darks"] else "B"
    letters += "F" if masters.flat is not None else ""
    history = _history(plan, roles) if letters else ()
    story = _story(letters, plan, used, left_out, set(own))
    return Calibration(masters, letters, story, history, tuple(warnings))


def _made(plan: Plan, light: Frame, limits: Limits) -> _Combined:
    """The plan carried out, or as it was for the set before. What could not be read then may be read next time."""
    recipe = replace(plan, left_out=(), needless=())
    stamps = tuple(_stamp(path) for paths in recipe.roles.values() for path in paths)
    combined = _combined(recipe, stamps, light.pixels.shape, bool(light.facts.bayer), limits)
    if combined.bad:
        _combined.cache_clear()
    return combined


def _seen(own: Sequence[str], shared: Sequence[str], limits: Limits) -> tuple[list[Seen], Reasons]:
    """(what each file's header says, files that cannot be read and why)."""
    found: list[Seen] = []
    bad: list[tuple[str, str]] = []
    for path, is_own in [*((path, True) for path in own), *((path, False) for path in shared)]:
        facts = _or_reason(lambda path=path: _facts(path, _stamp(path), limits.max_pixels, limits.max_bytes))
        if isinstance(facts, FrameFacts):
            found.append(Seen(path, facts, is_own))
        else:
            bad.append((path, facts))
    return found, tuple(bad)


@lru_cache(KEPT_FACTS)
def _facts(path: str, stamp: Stamp, max_pixels: int, max_bytes: int) -> FrameFacts:
    """A raw file is unpacked to be looked at: once is enough, as long as its `stamp` stays the same."""
    return read_facts(Path(path), max_pixels, max_bytes)


def _stamp(path: str) -> Stamp:
    """What changes when a file does; None where it cannot be told."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _or_reason(look: Callable[[], T]) -> T | str:
    """What `look` gives, or why a file cannot be used: whatever a disk or a parser has to say of it."""
    try:
        return look()
    except SetError as error:
        return error.reason
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - as a stranger's light costs no night, a stranger's dark costs no set
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


@lru_cache(1)
def _combined(
    recipe: Plan, stamps: tuple[Stamp, ...], shape: tuple[int, ...], bayer: bool, limits: Limits
) -> _Combined:
    """A plan carried out, for lights of this shape; `stamps` tell whether its files are still the same."""
    reader, with_offset = _Reader(shape, limits), recipe.with_offset
    bias, dark, flat_dark = _means(recipe, reader)
    unlit = without_light("lights" in with_offset, dark, bias, recipe.dark_scale)
    below, by = _below_flats(with_offset, dark, flat_dark, bias)
    flat = None
    if (unlit is not None or "lights" not in with_offset) and (below is not None or "flats" not in with_offset):
        flat = mean_frame(reader.read(recipe.flats, lambda frame: _light_alone(frame, below)))
    served = _served(unlit, "darks") | (set() if flat is None else by | {"flats"})
    idle = {path for role, paths in recipe.roles.items() if role not in served for path in paths}
    used = tuple((path, sha256) for path, sha256 in reader.used.items() if path not in idle)
    needed = idle - set(recipe.biases) - {path for path, _ in reader.bad}
    bad = (*reader.bad, *((path, NO_OFFSET) for path in sorted(needed)))
    answer = None if flat is None else answer_to_light(flat, bayer=bayer)
    return _Combined(Masters(None if unlit is None else unlit.pixels, answer), used, bad)


def _means(recipe: Plan, reader: "_Reader") -> tuple[Mean | None, Mean | None, Mean | None]:
    """Of biases, darks and the darks of the flats, each told from its numbers, too, whether it holds the offset."""
    bias, dark, flat_dark = (
        _mean(reader.read(recipe.roles[role]), role in recipe.with_offset) for role in ("biases", "darks", "flat_darks")
    )
    if bias is not None and bias.has_offset:
        dark, flat_dark = (
            replace(one, has_offset=False) if one and lacks_offset(one.pixels, bias.pixels) else one
            for one in (dark, flat_dark)
        )
    return bias, dark, flat_dark


def _below_flats(
    with_offset: frozenset[str], dark: Mean | None, flat_dark: Mean | None, bias: Mean | None
) -> tuple[Image | np.float32 | None, set[str]]:
    """What flats hold without light, None for nothing or where nobody knows, and the roles of the frames that tell."""
    unlit = without_light("flats" in with_offset, flat_dark, bias)
    if unlit is not None:
        return unlit.pixels, _served(unlit, "flat_darks")
    offset = offset_of(dark) if "flats" in with_offset else None
    return (None, set()) if offset is None else (offset, {"darks"})


def _served(unlit: Unlit | None, darks: str) -> set[str]:
    """The roles of the frames that had a part in it; `darks`: of those."""
    parts = {} if unlit is None else {darks: unlit.by_dark, "biases": unlit.by_bias}
    return {role for role, has_part in parts.items() if has_part}


def _mean(frames: Iterable[Image], has_offset: bool) -> Mean | None:
    pixels = mean_frame(frames)
    return None if pixels is None else Mean(pixels, has_offset)


class _Reader:
    """Reads calibration frames in the camera's counts, and notes what became of each."""

    def __init__(self, shape: tuple[int, ...], limits: Limits) -> None:
        self.used: dict[str, str] = {}  # path -> sha256
        self.bad: list[tuple[str, str]] = []  # path, reason
        self._shape, self._limits = shape, limits

    def read(
        self, paths: Iterable[str], seen: Callable[[Frame], Image] = lambda frame: frame.pixels
    ) -> Iterator[Image]:
        """What is `seen` in each frame, one after the other; what cannot be read or seen is left out."""
        for path in paths:
            found = _or_reason(lambda path=path: self._one(path, seen))
            if isinstance(found, str):
                self.bad.append((path, found))
            else:
                image, self.used[path] = found
                yield image

    def _one(self, path: str, seen: Callable[[Frame], Image]) -> tuple[Image, str]:
        """Masters of other programs may be brought to 0..1; lights that are calibrated here are counts."""
        frame = read_frame(Path(path), self._limits.max_pixels, self._limits.max_bytes)
        if frame.pixels.shape != self._shape:
            raise SetError("holds other planes than the lights")
        if frame.adu_per_unit != 1 and _noise_of(frame.pixels) < LEAST_NORMALISED_NOISE:
            frame = replace(frame, pixels=frame.pixels * np.float32(FULL_SCALE_ADU))
        return seen(frame), frame.sha256


def _light_alone(flat: Frame, unlit: Image | np.float32 | None) -> Image:
    if np.nanmedian(flat.pixels) > OVEREXPOSED * flat.saturation_adu:
        raise SetError("is overexposed")
    light = evened(flat.pixels, unlit)
    if not light.any():
        raise SetError("is no brighter than what the camera shows without light")
    return light


def _noise_of(pixels: Image) -> float:
    """Of pixels of one colour, which a mosaic has two apart."""
    plane = pixels.reshape(-1, *pixels.shape[-2:])[0][::2, ::2]
    return max(pixel_noise(plane), rounding_noise(plane))


def _why_no_good(masters: Masters, light: Frame) -> str:
    """Why the master dark would do harm; "" where it does none.

    With the wrong dark, or an offset taken out twice, half of all pixels come to lie below zero, and a flat would do
    harm, too. A dark louder than the lights (scaled, or in another unit than was thought) puts its noise into all.
    """
    if masters.dark_adu is None:
        return ""
    noise_adu = _noise_of(light.pixels)
    if _noise_of(masters.dark_adu) > LOUDER * noise_adu:
        return "the mean of the darks is noisier than a light"
    below_adu = -measure_sky(light.pixels - masters.dark_adu).level_adu
    if below_adu > DARKER_SIGMA * noise_adu:
        return f"the lights' sky lies {below_adu:.0f} ADU below the darks (of another temperature or offset?)"
    return ""


def _story(letters: str, plan: Plan, used: Reasons, left_out: Reasons, own: set[str]) -> dict[str, Any]:
    """`used` names files as they lie in the inbox: "M31/darks/d.fits", and "darks/d.fits" for those of all sets."""
    names = (("/".join(Path(path).parts[-3 if path in own else -2 :]), sha256) for path, sha256 in used)
    return {
        "taken_out": letters,
        "dark_scale": plan.dark_scale,
        "used": [{"file": name, "sha256": sha256} for name, sha256 in names],
        "left_out": sentences(left_out),
    }


def _history(plan: Plan, roles: dict[str, list[str]]) -> tuple[str, ...]:
    scaled = f", darks scaled by {plan.dark_scale:.3g}" if plan.dark_scale != 1 else ""
    return (f"calibrated: {counted(roles)}{scaled}",)
