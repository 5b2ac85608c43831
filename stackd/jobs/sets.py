"""Finished sets as something to learn from: their frames found again, aligned as for a restoration, cut into halves.

A set whose frames are gone, changed or too few, or whose star shapes are unknown, is left out and named. Memory stays
flat: of each set a few windows are kept, and while it is read one frame and its masters in full.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from loguru import logger

from stackd.disk.frame import Frame
from stackd.disk.outbox import published_folders, read_manifest
from stackd.disk.reader import read_frame
from stackd.errors import ConfigError, SetError
from stackd.imaging.masters import NOTHING_KNOWN, Masters
from stackd.jobs.align import Aligned, align
from stackd.jobs.calibration import Limits, calibration_of
from stackd.jobs.pictures import rank
from stackd.jobs.training_request import SetFolders
from stackd.network.halves import LEAST_FRAMES, WINDOW_PX, HalfSample, halves
from stackd.settings import RestoreSettings, SetSettings

HELD_OUT_SHARE = 0.2
MOST_SETS = 24  # the newest: the camera and the sky of today
WINDOWS = 4  # of a set
MIDDLE_PX = 1600  # side of what is looked at of a frame; eight of them in colour take 0.7 GB to align
SEEN_SHARE = 0.98  # of a window, in every frame


@dataclass(frozen=True, slots=True)
class RecordedSet:
    """A finished set and where its frames lie, and the darks, flats and biases that it was restored with; with their
    sha256 as they were then."""

    name: str
    paths: tuple[Path, ...]
    sha256s: tuple[str, ...]
    calibration: tuple[tuple[Path, str], ...] = ()
    calibrated: tuple[str, float] = ("", 1.0)  # what was taken out, and by how much darks were scaled


def learnt_and_held_out(folders: SetFolders, seed: int) -> tuple[list[HalfSample], list[HalfSample]]:
    """Samples of the sets to learn from and of those to be judged on, apart by whole sets.

    By the name's hash, so that a set stays on its side as soon as there are a handful; at least one is held out. Raises
    ConfigError for fewer than two.
    """
    found = [(one, samples) for one in recorded_sets(folders) if (samples := _samples_of(one, seed))]
    if len(found) < 2:
        remedy = "restore more sets of eight frames first, and leave their frames where they are"
        raise ConfigError(f"{folders.outbox}: {len(found)} sets to learn from, at least 2 are needed; {remedy}")
    found.sort(key=lambda pair: rank(pair[0].name))
    count = max(1, sum(rank(one.name) < HELD_OUT_SHARE for one, _ in found))
    count = min(count, len(found) - 1)
    logger.info("{} sets to learn from, {} held out", len(found) - count, count)
    held_out, learnt = found[:count], found[count:]
    return [s for _, samples in learnt for s in samples], [s for _, samples in held_out for s in samples]


def recorded_sets(folders: SetFolders) -> list[RecordedSet]:
    """The newest finished sets, or those that are named, whose used frames are all still there, by name."""
    sets = []
    newest = sorted(published_folders(folders.outbox), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in newest:
        if folders.names and folder.name not in folders.names:
            continue
        manifest = read_manifest(folder)
        if manifest is None:
            continue
        used = {row["sha256"] for row in manifest["inputs"] if row["used"]}
        frames = [frame for frame in manifest["job"]["frames"] if frame["sha256"] in used]
        paths = [_where(folders, folder.name, frame["path"]) for frame in frames]
        calibration = [(_in_place(folders, c["path"]), c["sha256"]) for c in manifest["job"].get("calibration", ())]
        if len(frames) < LEAST_FRAMES:
            logger.debug("{}: {} frames, too few for two halves", folder.name, len(frames))
        elif None in (*paths, *(path for path, _ in calibration)):
            logger.warning("{} is left out: its frames are no longer where they were", folder.name)
        else:
            sha256s = tuple(frame["sha256"] for frame in frames)
            story = manifest.get("calibration") or {}
            calibrated = story.get("taken_out", ""), story.get("dark_scale", 1.0)
            sets.append(RecordedSet(folder.name, tuple(paths), sha256s, tuple(calibration), calibrated))
        if len(sets) == MOST_SETS:
            break
    return sorted(sets, key=lambda one: one.name)


def _in_place(folders: SetFolders, path: str) -> Path | None:
    """A calibration frame's file, which no archive takes away."""
    return next((root / path for root in folders.frames if (root / path).is_file()), None)


def _where(folders: SetFolders, set_name: str, path: str) -> Path | None:
    """A frame's file: where it was dropped, or where a finished set's frames are moved to."""
    places = [place for root in folders.frames for place in (root / path, root / set_name / Path(path).name)]
    return next((place for place in places if place.is_file()), None)


def _samples_of(one: RecordedSet, seed: int) -> list[HalfSample]:
    """The samples of one set; none, with a warning, where it cannot be used."""
    try:
        masters = _masters_of(one)
        frames = [_middle_of(_read(path, sha256)) for path, sha256 in zip(one.paths, one.sha256s)]
        aligned = align(frames, aligned=False, progress=lambda step, share: None, masters=masters)
    except (SetError, OSError) as error:
        logger.warning("{} is left out: {}", one.name, error)
        return []
    if aligned.psfs is None or len(aligned.used) < LEAST_FRAMES:
        logger.warning("{} is left out: too few stars to measure their shape, or too few frames", one.name)
        return []
    rng = np.random.default_rng([seed, *one.name.encode()])
    gain = frames[0].electrons_per_unit
    samples = []
    for band, window in _windows(aligned, rng):
        part = aligned.bands[band][:, *window]
        samples += halves(part, aligned.noise_adu[band], aligned.psfs, RestoreSettings().reject_kappa, gain)
    return samples


def _masters_of(one: RecordedSet) -> Masters:
    """What calibrates the middle of its frames, as it was calibrated when it was restored. Raises SetError where that
    cannot be had again."""
    if not one.calibration:
        return NOTHING_KNOWN
    light = _read(one.paths[0], one.sha256s[0])
    limits = Limits(sys.maxsize, sys.maxsize, SetSettings().exposure_tolerance)
    made = calibration_of([str(path) for path, _ in one.calibration], (), light, limits)
    same_files = {used["sha256"] for used in made.story["used"]} == {sha256 for _, sha256 in one.calibration}
    if not same_files or (made.letters, made.story["dark_scale"]) != one.calibrated:
        raise SetError("is no longer calibrated as it was", remedy="leave it out")
    return made.masters.cut(*(_middle(size) for size in light.pixels.shape[-2:]))


def _read(path: Path, sha256: str) -> Frame:
    frame = read_frame(path, sys.maxsize, sys.maxsize)  # it was restored, so it is within the house's limits
    if frame.sha256 != sha256:
        raise SetError("changed since its set was restored", file=str(path), remedy="leave it out")
    return frame


def _middle_of(frame: Frame) -> Frame:
    """What is enough to align a frame and to cut windows from, so that memory does not grow with the camera."""
    rows, columns = (_middle(size) for size in frame.pixels.shape[-2:])
    pixels = frame.pixels[..., rows, columns].copy()  # a view would hold all of the frame
    facts = replace(frame.facts, width_px=pixels.shape[-1], height_px=pixels.shape[-2])
    return replace(frame, pixels=pixels, facts=facts)


def _middle(size_px: int) -> slice:
    """An even place to start from: a mosaic's colours stay where they are."""
    start = max(0, (size_px - MIDDLE_PX) // 4 * 2)
    return slice(start, start + MIDDLE_PX)


def _windows(aligned: Aligned, rng: np.random.Generator) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """(band, rows and columns) of a few windows that every frame saw."""
    height, width = aligned.bands[0].shape[1:]
    if min(height, width) < WINDOW_PX:
        return
    given = 0
    for _ in range(8 * WINDOWS):
        top, left = (int(rng.integers(0, size - WINDOW_PX + 1)) for size in (height, width))
        band = int(rng.integers(len(aligned.bands)))
        window = slice(top, top + WINDOW_PX), slice(left, left + WINDOW_PX)
        if np.isfinite(aligned.bands[band][:, *window]).mean() > SEEN_SHARE:
            yield band, window
            given += 1
        if given == WINDOWS:
            return
