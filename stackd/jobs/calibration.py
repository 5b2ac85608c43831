"""The masters of a set, from the files of its darks, flats and biases, and the story of how they came about.

calibration_plan.py says what fits; here it is read, judged by its pixels and combined, a few frames in memory at a
time. A calibration frame that cannot be used is left out with its reason: no set fails for it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from stackd.disk.frame import Frame, Image
from stackd.disk.reader import read_facts, read_frame
from stackd.errors import SetError
from stackd.imaging.masters import NOTHING_KNOWN, Masters, answer_to_light, evened, mean_frame
from stackd.imaging.quality import measure_sky, pixel_noise
from stackd.jobs.calibration_plan import NamedFacts, Plan, folder_of, plan_for

OVEREXPOSED = 0.9  # of the sensor's limit, by half of a flat's pixels
DARKER_SIGMA = 3.0  # of its noise, that the lights' sky may lie below the master dark
OFFSET_SIGMA = 10.0  # of a bias's noise, from which on a camera's offset is one


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


def calibration_of(
    paths: Sequence[str], light: Frame, limits: Limits, progress: Callable[[], None] = lambda: None
) -> Calibration:
    """What the darks, flats and biases at these paths make of a set with this light.

    `progress` is called ever and again. Raises OSError where a disk fails.
    """
    if not paths:
        return Calibration()
    reader = _Reader(limits, light, progress)
    plan = plan_for(light.facts, reader.facts_of(paths), exposure_tolerance=limits.exposure_tolerance)
    reader.left_out += [*plan.left_out, *plan.needless]
    bias, dark = mean_frame(reader.read(plan.biases)), mean_frame(reader.read(plan.darks))
    if dark is not None and bias is not None and _lacks_offset(dark, bias):
        dark += bias
    unlit = _unlit(dark, bias, plan)
    flat = _flat(plan, reader, dark if bias is None else bias, bool(light.facts.bayer))
    warnings = list(plan.remarks)
    if unlit is not None and (above_adu := _above_sky_adu(unlit, light.pixels)):
        unlit = flat = None
        warnings.append(
            f"the lights' sky lies {above_adu:.0f} ADU below their darks (of another temperature or offset?): "
            "this set is not calibrated"
        )
    letters = ("" if unlit is None else "B" if dark is None else "D") + ("" if flat is None else "F")
    for path, reason in reader.left_out:
        logger.info("{} does not calibrate this set: {}", _short(path), reason)
    history = _history(plan, reader) if letters else ()
    return Calibration(Masters(unlit, flat), letters, _story(letters, plan, reader), history, tuple(warnings))


def _unlit(dark: Image | None, bias: Image | None, plan: Plan) -> Image | None:
    """What a light's pixels hold without light."""
    if dark is None:
        return bias if plan.biases_for_lights else None
    return dark if bias is None else bias + np.float32(plan.dark_scale) * (dark - bias)


class _Reader:
    """Reads calibration frames in the unit of the lights, and notes what became of each."""

    def __init__(self, limits: Limits, light: Frame, progress: Callable[[], None]) -> None:
        self.left_out: list[tuple[str, str]] = []  # paths and reasons
        self.used: dict[str, str] = {}  # path -> sha256
        self._limits, self._light, self._progress = limits, light, progress

    def facts_of(self, paths: Iterable[str]) -> list[NamedFacts]:
        """What headers say; what is no frame is left out."""
        found = []
        for path in paths:
            self._progress()
            try:
                found.append((path, read_facts(Path(path), self._limits.max_pixels, self._limits.max_bytes)))
            except SetError as error:
                self.left_out.append((path, error.reason))
        return found

    def read(
        self, paths: Iterable[str], seen: Callable[[Frame], Image] = lambda frame: frame.pixels
    ) -> Iterator[Image]:
        """What is `seen` in each frame, one after the other; SetErrors, also from there, leave it out."""
        for path in paths:
            self._progress()
            try:
                frame = self._in_unit_of_lights(path)
                image = seen(frame)
            except SetError as error:
                self.left_out.append((path, error.reason))
                continue
            self.used[path] = frame.sha256
            yield image

    def _in_unit_of_lights(self, path: str) -> Frame:
        """Masters of other programs may be brought to 0..1; lights that are calibrated here are the camera's counts."""
        frame = read_frame(Path(path), self._limits.max_pixels, self._limits.max_bytes)
        if frame.pixels.shape != self._light.pixels.shape:
            raise SetError("holds planes of another number than the lights")
        factor = frame.adu_per_unit
        if factor == 1:
            return frame
        return replace(frame, pixels=frame.pixels * np.float32(factor), saturation_adu=frame.saturation_adu * factor)


def _flat(plan: Plan, reader: _Reader, usual_unlit: Image | None, bayer: bool) -> Image | None:
    """The lights' master flat. Flats are so bright that a bias, or a dark of any length, tells their offset."""
    if not plan.flats:
        return None
    unlit = mean_frame(reader.read(plan.flat_darks))
    if unlit is None:
        unlit = usual_unlit

    def light_alone(frame: Frame) -> Image:
        if np.nanmedian(frame.pixels) > OVEREXPOSED * frame.saturation_adu:
            raise SetError("is overexposed")
        # a calibration program's own master, in real numbers, has lost its offset already
        light = evened(frame.pixels, None if frame.facts.sample_type.startswith("float") else unlit)
        if not light.any():
            raise SetError("is no brighter than what the camera shows without light")
        return light

    flat = mean_frame(reader.read(plan.flats, light_alone))
    return None if flat is None else answer_to_light(flat, bayer=bayer)


def _lacks_offset(dark: Image, bias: Image) -> bool:
    """Whether a dark, as some programs keep their masters, holds what gathers in it alone."""
    offset = float(np.nanmedian(bias))
    plane = bias.reshape(-1, *bias.shape[-2:])[0]
    return offset > OFFSET_SIGMA * pixel_noise(plane) and float(np.nanmedian(dark)) < offset / 2


def _above_sky_adu(unlit: Image, light: Image) -> float:
    """By how much a light's sky is darker than it can be; 0 where it is not. With the wrong dark, or an offset taken
    out twice, half of all pixels are below zero, and a flat would do harm."""
    sky = measure_sky(light - unlit)
    return -sky.level_adu if sky.level_adu < -DARKER_SIGMA * sky.noise_adu else 0.0


def _story(letters: str, plan: Plan, reader: _Reader) -> dict[str, Any]:
    return {
        "taken_out": letters,
        "dark_scale": plan.dark_scale,
        "used": [{"file": _short(path), "sha256": sha256} for path, sha256 in reader.used.items()],
        "left_out": [{"file": _short(path), "reason": reason} for path, reason in reader.left_out],
    }


def _history(plan: Plan, reader: _Reader) -> tuple[str, ...]:
    parts = {
        "darks": plan.darks, "biases": plan.biases, "flats": plan.flats, "darks of the flats": plan.flat_darks,
    }  # fmt: skip
    counts = {words: sum(path in reader.used for path in paths) for words, paths in parts.items()}
    scaled = f", darks scaled by {plan.dark_scale:.3g}" if plan.dark_scale != 1 else ""
    return (f"calibrated: {', '.join(f'{n} {words}' for words, n in counts.items() if n)}{scaled}",)


def _short(path: str) -> str:
    return f"{folder_of(path)}/{Path(path).name}"
