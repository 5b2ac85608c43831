"""One set by hand: frames or a folder of them straight into a result folder, no inbox and no ledger.

Finds the frames, puts them in order of time, says everything that is wrong with them, and has them
restored in this process. The result appears by one rename, as in the outbox.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from stackd.disk import models, outbox
from stackd.disk.inbox import scan
from stackd.errors import ConfigError, ModelError, OutputError, SetError
from stackd.jobs.delivery import what_to_restore
from stackd.jobs.grouping import FrameOf, in_order
from stackd.jobs.runner import OnProgress, SerialRunner
from stackd.jobs.validate import problems_of
from stackd.jobs.worker import Work
from stackd.records import FrameFacts, Job, Report, Sighting
from stackd.settings import Settings


@dataclass(frozen=True, slots=True)
class Found:
    """The frames of a set by hand. Sightings' paths are absolute; `problems` is everything that is wrong."""

    frames: tuple[FrameOf, ...]  # in order of time
    problems: tuple[SetError, ...]
    left_out: tuple[str, ...]  # calibration frames among the lights of a folder
    own_calibration: tuple[str, ...]  # absolute: darks, flats and biases in the named folders
    shared_calibration: tuple[str, ...]  # and in the inbox, where a folder lies there


def find_frames(paths: Sequence[Path], settings: Settings, runner: SerialRunner) -> Found:
    """Look at the headers of the named files, or of the captures in a named folder. Raises ConfigError."""
    files, folders = _files(paths), {path.absolute() for path in paths}
    runner.probe([str(path) for path in files], settings.limits.model_dump())
    frames: list[FrameOf] = []
    problems: list[SetError] = []
    left_out: list[str] = []
    for probed in runner.probed():
        path, found = Path(probed.path), probed.found
        if isinstance(found, FrameFacts) and not found.is_light and path.parent in folders:
            left_out.append(f"{path}: a {found.image_type} frame; sets are made of lights")
        elif isinstance(found, FrameFacts):
            frames.append((Sighting(probed.path, path.stat().st_size, path.stat().st_mtime_ns, 0), found))
        else:
            problems.append(SetError(found.reason, file=probed.path, remedy=found.remedy))
    ordered = in_order(frames)
    if ordered or not problems:
        named = [(Path(sighting.path).name, facts) for sighting, facts in ordered]
        wrong = problems_of(named, exposure_tolerance=settings.set.exposure_tolerance)
        problems += [SetError(words) for words in wrong]
    return Found(tuple(ordered), tuple(problems), tuple(left_out), *_calibration(paths, settings))


def restore(
    paths: Sequence[Path],
    out: Path,
    settings: Settings,
    on_progress: OnProgress,
    *,
    aligned: bool,
    work: Work | None = None,
) -> dict[str, Any]:
    """Restore the frames as one set of any number into `out`; gives result.json's content.

    Raises ConfigError for a place that is taken, SetError with all problems of the frames, or what
    the restoration itself raised.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already and not an empty folder; name another one with --out")
    runner = SerialRunner(work or Work(), lambda digest: None, on_progress)
    found = find_frames(paths, settings, runner)
    for words in found.left_out:
        logger.info("left out: {}", words)
    if found.problems:
        raise SetError("\n".join(str(problem) for problem in found.problems))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".stackd-", dir=out.parent) as unfinished:
            staging = Path(unfinished, "result")
            staging.mkdir()
            runner.submit(_job(found, out, staging, settings, aligned=aligned))
            report = runner.finished()[0]
            if not report.ok:
                raise _as_error(report)
            outbox.place(staging, out)
    except OSError as error:
        raise outbox.as_output_error(error) from error
    return report.result


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [path / one.path for one in scan(path).sightings if "/" not in one.path]
            if not found:
                raise ConfigError(f"{path}: no capture lies in this folder")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise ConfigError(f"{path}: no such file or folder")
    return list(dict.fromkeys(file.absolute() for file in files))


def _calibration(paths: Sequence[Path], settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What calibrates the frames of the named folders: what lies in them and, of those in the inbox, all sets' own."""
    inbox = settings.folders.inbox.resolve()
    folders = dict.fromkeys(path.resolve() for path in paths if path.is_dir())
    own = [str(home / one.path) for home in folders for one in scan(home).calibration if one.path.count("/") == 1]
    shares = any(home.parent == inbox for home in folders)
    shared = [str(inbox / one.path) for one in scan(inbox).calibration if one.path.count("/") == 1] if shares else []
    return tuple(own), tuple(shared)


def _job(found: Found, out: Path, staging: Path, settings: Settings, *, aligned: bool) -> Job:
    wanted = settings.restore
    model = str(models.resolve(settings.folders.models, wanted.model).path) if wanted.uses_network else ""
    return Job(
        set_name=out.name,
        paths=tuple(sighting.path for sighting, _ in found.frames),
        staging=str(staging),
        restore=what_to_restore(settings) | {"min_frames": 1},  # by hand, any number is a set
        limits=settings.limits.model_dump(),
        model=model,
        config_sha256=settings.digest(),
        aligned=aligned,
        own_calibration=found.own_calibration,
        shared_calibration=found.shared_calibration,
    )


def _as_error(report: Report) -> Exception:
    if report.cause == "model":
        return ModelError(report.reason)
    if report.cause in ("space", "transient"):
        return OutputError(report.reason)
    return SetError(report.reason, file=report.file, remedy=report.remedy)
