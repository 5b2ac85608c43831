"""One set from its files to its result, on one page.

read -> check -> calibrate -> align -> stack -> restore -> account -> write. Each line of `process` is a verb; how it is
done lies in calibration.py, align.py, restore.py and account.py. Takes a Job, fills its staging folder, gives the
content of result.json. Knows no ledger, no inbox and no other set.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from stackd.disk.frame import Frame
from stackd.disk.inbox import read_once
from stackd.disk.reader import Useless, read_frame
from stackd.disk.writer import write_result
from stackd.errors import SetError
from stackd.imaging.stack import FEWEST_TO_REJECT, Stack, clipped_stack
from stackd.jobs.account import LeftOut, account_for
from stackd.jobs.align import Aligned, align
from stackd.jobs.calibration import Limits, calibration_of
from stackd.jobs.restore import AnyRestorer, restore
from stackd.jobs.validate import problems_of
from stackd.records import Job

CLIPPED_SHARE = 0.05  # of a frame's pixels
ProgressCall = Callable[[str, float], None]


def process(job: Job, restorer: AnyRestorer | None, progress: ProgressCall) -> dict[str, Any]:
    """Restore one set into job.staging. Raises SetError where it cannot be, OutputError where the disk refuses."""
    started_at = _now()
    frames, left_out = _read(job, progress)
    _check(frames, job, restorer)
    progress("calibrate", 0.0)
    calibration = calibration_of(job.own_calibration, job.shared_calibration, frames[0], _limits(job))
    aligned = align(frames, aligned=job.aligned, progress=progress, masters=calibration.masters)
    _log_left_out(frames, aligned)
    progress("stack", 0.5)
    stacks = _stack(aligned, frames[0], job.restore["reject_kappa"])
    progress("restore", 0.6)
    picture = restore(aligned, stacks, restorer, job.restore, lambda share: progress("restore", 0.6 + 0.3 * share))
    warnings = (*calibration.warnings, *_clipped(aligned), *_too_few_to_reject(aligned))
    picture = replace(picture, warnings=(*warnings, *picture.warnings))
    for warning in picture.warnings:
        logger.warning(warning)
    progress("write", 0.9)
    product = account_for(job, frames, left_out, calibration, aligned, stacks, picture, restorer, (started_at, _now()))
    return write_result(Path(job.staging), product)


def _read(job: Job, progress: ProgressCall) -> tuple[list[Frame], list[LeftOut]]:
    """The frames, and those that show nothing. Raises SetError if so many do not that too few remain."""
    max_pixels, max_bytes = job.limits["max_pixels"], job.limits["max_file_mb"] << 20
    frames, left_out = [], []
    for k, path in enumerate(job.paths):
        progress("read", 0.0)
        try:
            frames.append(read_frame(Path(path), max_pixels, max_bytes))
            logger.debug("read {} ({}/{})", Path(path).name, k + 1, len(job.paths))
            continue
        except Useless as error:
            reason = error.reason
        # Out of the except block: a giant's pixels, held by the error, are free by now.
        left_out.append(LeftOut(str(Path(path).absolute()), read_once(Path(path), max_bytes)[1], reason))
        logger.warning("{} is left out: {}", Path(path).name, reason)
    if left_out and len(frames) < job.restore["min_frames"]:
        each = "; ".join(f"{Path(one.path).name} {one.reason}" for one in left_out)
        if not frames:
            raise SetError(f"no frame shows anything: {each}", file=left_out[0].path, remedy="take other frames")
        raise SetError(
            f"only {len(frames)} of {len(job.paths)} frames show anything, "
            f"set.min_frames is {job.restore['min_frames']}: {each}",
            file=left_out[0].path,
            remedy="replace these frames, or lower set.min_frames",
        )
    return frames, left_out


def _check(frames: Sequence[Frame], job: Job, restorer: AnyRestorer | None) -> None:
    """Before the long work. Raises SetError."""
    if restorer is not None and not restorer.knows_stars:
        restorer.refuse_other_than_eight(len(frames))
    named = [(Path(f.path).name, f.facts) for f in frames]
    problems = problems_of(named, exposure_tolerance=job.restore["exposure_tolerance"])
    if problems:
        raise SetError("; ".join(problems), remedy="put frames that differ into folders of their own")


def _limits(job: Job) -> Limits:
    return Limits(job.limits["max_pixels"], job.limits["max_file_mb"] << 20, job.restore["exposure_tolerance"])


def _clipped(aligned: Aligned) -> list[str]:
    """What is wrong with frames whose sky was cut off at black."""
    clipped = [frame.black_share for frame in aligned.frames if frame.black_share > CLIPPED_SHARE]
    if not clipped:
        return []
    return [
        f"{len(clipped)} of {len(aligned.frames)} frames are clipped at black, up to {max(clipped):.0%} of their "
        "pixels: the sky's noise cannot be measured there, and sigma.fits is too small"
    ]


def _too_few_to_reject(aligned: Aligned) -> list[str]:
    """Where nothing could tell what does not belong."""
    if not 1 < len(aligned.used) < FEWEST_TO_REJECT:
        return []
    return ["of two frames none can be told to be wrong: trails and cosmic rays stay in the picture"]


def _log_left_out(frames: Sequence[Frame], aligned: Aligned) -> None:
    for frame, row in zip(frames, aligned.frames):
        if row.reason:
            logger.warning("{} is left out: {}", Path(frame.path).name, row.reason)
    logger.info(
        "{} of {} frames on the grid of {}", len(aligned.used), len(frames), Path(frames[aligned.reference].path).name
    )


def _stack(aligned: Aligned, frame: Frame, kappa: float) -> list[Stack]:
    """The plain stack of each band; `frame` is any of the set."""
    gain = frame.electrons_per_unit
    return [clipped_stack(frames, noise, kappa, gain) for frames, noise in zip(aligned.bands, aligned.noise_adu)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
