"""Which frames belong together, in what order, under what name: pure rules on facts and file names.

Takes (Sighting, FrameFacts) pairs; gives them ordered, grouped and named. Knows no clock and no
set size; assembly.py counts and waits.
"""

import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import takewhile

from stackd.records import FrameFacts, Sighting

FrameOf = tuple[Sighting, FrameFacts]
NaturalKey = tuple[tuple[str | int, ...], str]

_NUMBER = re.compile(r"(\d+)")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_LEFT_OF_NAME = 100  # of a longer one; a checksum tells it from others that begin alike or hold no ASCII letter
_FEWEST_REMEMBERED = 100
_LONGEST_NAME_BYTES = 120  # leaves room for "-12", "__r2" and the staging folder's attempt


@cache
def natural_key(path: str) -> NaturalKey:
    """Sort key under which 2.png comes before 10.png."""
    parts = _NUMBER.split(path.lower())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), path


@cache
def name_shape(path: str) -> str:
    """The name with every number replaced by "#"; "" where it holds none. Files of one camera run share it."""
    stem = os.path.splitext(path)[0].lower()
    shape = _NUMBER.sub("#", stem)
    return "" if shape == stem else shape


def forget_names(*, beyond: int) -> None:
    """Let go of what is remembered of names if it is of more than `beyond`: most of those files are gone."""
    for remembered in (natural_key, name_shape):
        if remembered.cache_info().currsize > max(beyond, _FEWEST_REMEMBERED):
            remembered.cache_clear()


def in_order(frames: Iterable[FrameOf]) -> list[FrameOf]:
    """By start of exposure where every frame says it, else by name with numbers in natural order."""
    by_name = sorted(frames, key=lambda frame: natural_key(frame[0].path))
    if all(facts.taken_at for _, facts in by_name):
        return sorted(by_name, key=lambda frame: frame[1].taken_at or "")
    return by_name


def same_word(text: str | None) -> str | None:
    """A form in which "M 31", "m31" and "M_31" are equal."""
    return re.sub(r"[\s_-]+", "", text).casefold() if text else None


def calibration_by_home(calibration: Iterable[Sighting]) -> dict[str, tuple[Sighting, ...]]:
    """Calibration frames by the set's folder that theirs lies in, "" for those of all sets."""
    homes: defaultdict[str, list[Sighting]] = defaultdict(list)
    for sighting in calibration:
        homes[sighting.path.rpartition("/")[0].rpartition("/")[0]].append(sighting)
    return {home: tuple(frames) for home, frames in homes.items()}


def calibration_for(
    folder: str, homes: Mapping[str, tuple[Sighting, ...]]
) -> tuple[tuple[Sighting, ...], tuple[Sighting, ...]]:
    """(the own ones of a set in this folder, "" for loose frames; those of all sets)."""
    return homes.get(folder, ()) if folder else (), homes.get("", ())


def loose_groups(frames: Iterable[FrameOf], exposure_tolerance: float) -> list[list[FrameOf]]:
    """Frames split so that all of a group agree in everything that makes a set.

    Where no target is said, the shape of the file's name stands in for it, so that two bursts of
    pictures without headers stay apart.
    """
    alike: defaultdict[tuple[object, ...], list[FrameOf]] = defaultdict(list)
    for frame in frames:
        alike[_kind(frame)].append(frame)
    return [group for same in alike.values() for group in _split_by_exposure(same, exposure_tolerance)]


def _kind(frame: FrameOf) -> tuple[object, ...]:
    sighting, facts = frame
    return (
        same_word(facts.target),
        "" if facts.target else name_shape(sighting.path),
        same_word(facts.filter),
        facts.gain,
        facts.binning,
        (facts.width_px, facts.height_px, facts.bands),
        facts.sample_type,
        same_word(facts.camera),
        facts.bayer,
        facts.bottom_up,
        facts.calibrated,
    )


def _split_by_exposure(frames: list[FrameOf], tolerance: float) -> list[list[FrameOf]]:
    """Groups within which no exposure is longer than the shortest one by more than `tolerance`."""
    unsaid = [frame for frame in frames if frame[1].exposure_s is None]
    said = sorted((f for f in frames if f[1].exposure_s is not None), key=lambda f: f[1].exposure_s or 0.0)
    groups: list[list[FrameOf]] = [unsaid] if unsaid else []
    shortest_s = None
    for frame in said:
        exposure_s = frame[1].exposure_s or 0.0
        if shortest_s is None or exposure_s > shortest_s * (1 + tolerance):
            groups.append([])
            shortest_s = exposure_s
        groups[-1].append(frame)
    return groups


def loose_name(frames: Sequence[FrameOf]) -> str:
    """A set's name from its target (or its files' common stem), filter, exposure and first start.

    HAT-P-32_Clear_60s_20171220-023312; of header-less moon1.png .. moon8.png: moon.
    """
    sighting, facts = frames[0]
    parts = [facts.target or common_stem([frame[0].path for frame in frames]), facts.filter or ""]
    if facts.exposure_s is not None:
        parts.append(f"{facts.exposure_s:g}s")
    if facts.taken_at:
        parts.append(facts.taken_at[:19].replace("-", "").replace(":", "").replace("T", "-"))
    if not any(parts):
        parts = [f"frames_{facts.width_px}x{facts.height_px}"]
    return safe_name("_".join(safe for part in parts if (safe := safe_name(part)))) or safe_name(sighting.path)


def common_stem(paths: Sequence[str]) -> str:
    """What all the names begin with, numbers and separators left out; may be empty."""
    stems = [_NUMBER.sub("", os.path.splitext(path)[0]) for path in paths]
    shared = takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    return "".join(letters[0] for letters in shared).strip(" _-.")


def safe_name(text: str) -> str:
    """The text as it may stand in a folder's name: ASCII, no separators, no leading dot or dash."""
    return _UNSAFE.sub("-", text)[:_LONGEST_NAME_BYTES].strip("-._")


def folder_name(name: str) -> str:
    """A folder's (or a lone file's) name as the set's name: as it is, unless it is too long to be extended."""
    if len(name.encode()) <= _LONGEST_NAME_BYTES:
        return name
    return f"{safe_name(name)[:_LEFT_OF_NAME] or 'set'}-{zlib.crc32(name.encode()):08x}"
