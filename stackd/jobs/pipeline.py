"""One set from its files to its result, on one page: read -> check -> align -> stack -> restore -> account -> write.

Each line of `process` is a verb; how it is done lies in align.py, restore.py and account.py. Takes a Job, fills its
staging folder, gives the content of result.json. Knows no ledger, no inbox and no other set.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from stackd.disk import models
from stackd.disk.reader import read_frame
from stackd.disk.writer import write_result
from stackd.errors import SetError
from stackd.imaging.stack import Stack, combine, find_outliers
from stackd.jobs.account import account_for
from stackd.jobs.align import Aligned, align
from stackd.jobs.restore import AnyRestorer, restore
from stackd.jobs.validate import problems_of
from stackd.network.classic import ClassicRestorer
from stackd.network.restorer import Restorer
from stackd.records import Frame, FrameFacts, Job

ProgressCall = Callable[[str, float], None]


def process(job: Job, restorer: AnyRestorer | None, progress: ProgressCall) -> dict[str, Any]:
    """Restore one set into job.staging. Raises SetError where it cannot be, OutputError where the disk refuses."""
    started_at = _now()
    frames = _read(job, progress)
    _check(frames, job)
    aligned = align(frames, aligned=job.aligned, progress=progress)
    _log_left_out(frames, aligned)
    progress("stack", 0.5)
    stacks = _stack(aligned, frames[0].facts, job.restore["reject_kappa"])
    progress("restore", 0.6)
    picture = restore(aligned, stacks, restorer, job.restore, lambda share: progress("restore", 0.6 + 0.3 * share))
    for warning in picture.warnings:
        logger.warning(warning)
    progress("write", 0.9)
    product = account_for(job, frames, aligned, stacks, picture, restorer, (started_at, _now()))
    return write_result(Path(job.staging), product)


def load_restorer(model_folder: str) -> AnyRestorer:
    """The network of a model version's folder, verified. Raises ModelError."""
    card, weights = models.load_weights(models.at_path(Path(model_folder)))
    kind = card["architecture"].get("kind", "unet")
    return (ClassicRestorer if kind == "classic" else Restorer)(card, weights)


def _read(job: Job, progress: ProgressCall) -> list[Frame]:
    limits = job.limits
    frames = []
    for k, path in enumerate(job.paths):
        progress("read", 0.0)
        frames.append(read_frame(Path(path), limits["max_pixels"], limits["max_file_mb"] << 20))
        logger.debug("read {} ({}/{})", Path(path).name, k + 1, len(job.paths))
    return frames


def _check(frames: Sequence[Frame], job: Job) -> None:
    named = [(Path(f.path).name, f.facts) for f in frames]
    problems = problems_of(named, exposure_tolerance=job.restore.get("exposure_tolerance", 0.02))
    if problems:
        raise SetError("; ".join(problems), remedy="put frames that differ into folders of their own")


def _log_left_out(frames: Sequence[Frame], aligned: Aligned) -> None:
    for frame, row in zip(frames, aligned.frames):
        if row.reason:
            logger.warning("{} is left out: {}", Path(frame.path).name, row.reason)
    logger.info(
        "{} of {} frames on the grid of {}", len(aligned.used), len(frames), Path(frames[aligned.reference].path).name
    )


def _stack(aligned: Aligned, facts: FrameFacts, kappa: float) -> list[Stack]:
    """The plain stack of each band."""
    gain = facts.electrons_per_adu or 1.0
    return [
        combine(frames, noise, find_outliers(frames, noise, kappa, gain))
        for frames, noise in zip(aligned.bands, aligned.noise_adu)
    ]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
