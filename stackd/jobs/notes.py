"""What is written down of a set, for people and for recovery: result.json's `job` block and error.json.

Plain values from plain values; knows neither disk nor clock.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from stackd.jobs.assembly import Assembly
from stackd.records import Report, Sighting


def job_block(
    set_name: str,
    identity: str,
    attempt: int,
    frames: Iterable[tuple[Sighting, str]],
    calibration: Iterable[tuple[Sighting, str]],
    digest: str,
    published_at: str,
) -> dict[str, Any]:
    """The proof in result.json that a set is done. `frames` and `calibration`, those that were used, come with their
    sha256; `published_at` is ISO 8601."""
    return {
        "set": set_name,
        "identity": identity,
        "digest": digest,
        "attempt": attempt,
        "published_at": published_at,
        "frames": [_frame(frame) | {"sha256": sha256} for frame, sha256 in frames],
        "calibration": [_frame(frame) | {"sha256": sha256} for frame, sha256 in calibration],
    }


def error_json(report: Report, frames: Iterable[Sighting], identity: str, attempts: int, at: str) -> dict[str, Any]:
    """Why a set waits for a person. `identity` is empty where no work was done: such a set revives by itself."""
    listed = [_frame(frame) for frame in frames]
    for frame, sha256 in zip(listed, report.sha256s, strict=False):
        frame["sha256"] = sha256
    return {
        "set": report.set_name,
        "reason": report.reason,
        "file": report.file,
        "remedy": report.remedy,
        "next": f"{'`stackd retry` or ' if identity else ''}a changed file starts it again",
        "attempts": attempts,
        "at": at,
        "identity": identity,
        "frames": listed,
    }


def sightings_in(content: dict[str, Any]) -> tuple[Sighting, ...]:
    """The frames that a `job` block or an error.json names, inode 0."""
    return tuple(Sighting(one["path"], one["size_bytes"], one["mtime_ns"], 0) for one in content["frames"])


def outdated(
    known: Mapping[str, Iterable[Sighting]], assembly: Assembly, there: Iterable[Sighting], in_order: Iterable[Sighting]
) -> list[str]:
    """Which of the `known` reports, set's name -> frames, say nothing any more.

    Those with a frame that is no longer `there` as it was, and those whose frames are all `in_order`, as of a loose
    file that has joined a set of another name. A set that waits is not judged yet: its report stays.
    """
    if not known:
        return []
    seen, good = _as_found(there), _as_found(in_order)
    spoiled, waiting = ({one.set_name for one in ones} for ones in (assembly.spoiled, assembly.waiting))
    frames_of = {name: _as_found(frames) for name, frames in known.items() if name not in spoiled}
    return [
        name for name, frames in frames_of.items() if not frames <= seen or (frames <= good and name not in waiting)
    ]


def in_words(report: Report) -> str:
    """What is wrong, with the file at fault where the reason does not name it."""
    return f"{report.file}: {report.reason}" if report.file and report.file not in report.reason else report.reason


def _as_found(frames: Iterable[Sighting]) -> set[tuple[str, int, int]]:
    """Without inodes, which a report does not name."""
    return {(one.path, one.size_bytes, one.mtime_ns) for one in frames}


def _frame(frame: Sighting) -> dict[str, Any]:
    return {"path": frame.path, "size_bytes": frame.size_bytes, "mtime_ns": frame.mtime_ns}
