"""From a complete set to a claimed job, and from a worker's Report to the set's end.

Exactly one output for each set: the attempt is counted before the work, the outbox's manifest is
the proof that it is done, and the ledger follows. Takes the settings and the ledger; reads no pixel.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loguru import logger

from stackd.disk import outbox
from stackd.disk.inbox import is_calibration, own_calibration
from stackd.disk.ledger import DONE, QUARANTINED, RETRY, RUNNING, Entry, Ledger, digest_of, identity_of
from stackd.errors import OutputError
from stackd.jobs.assembly import Assembly
from stackd.jobs.notes import error_json, in_words, job_block, outdated, sightings_in
from stackd.jobs.serving import ServingModel
from stackd.records import CaptureSet, Job, Report, Sighting
from stackd.settings import Settings

FIRST_DELAY_S = 10.0  # before a second try; doubled with each further one
LONGEST_DELAY_S = 3600.0
MOST_BEGINNINGS = 2  # of one set, again, for darks, flats and biases that came or changed meanwhile
DIED = "stackd stopped unexpectedly while it restored this set"


@dataclass(frozen=True, slots=True)
class Claim:
    """A set that is at work, its attempt counted."""

    capture_set: CaptureSet
    identity: str
    job: Job
    own_calibration: tuple[Sighting, ...] = ()  # what lay in the set's folder
    shared_calibration: tuple[Sighting, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a set in one turn, for the log, `once --json`, notifications and metrics."""

    set_name: str
    verdict: str  # a ledger state, "spoiled" or "handed back"
    folder: str = ""  # of the result, absolute
    reason: str = ""
    file: str | None = None
    remedy: str = ""


class Delivery:
    """Claims sets and settles their ends. One writer: only the holder of the lock makes one.

    `now` is Unix time, s. `space_needed` is set after a failure for want of space, until there is some.
    """

    def __init__(self, settings: Settings, ledger: Ledger, now: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.space_needed = False
        self.serving = ServingModel()
        self._ledger, self._now = ledger, now
        self._spoiled: dict[str, tuple[Sighting, ...]] | None = None
        self._begun_again: Counter[str] = Counter()  # identities, for what calibrates them

    def recover(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """After a start: sweep unfinished attempts, let manifests prove what is done, judge the rest.

        Once `stopping` says so the rest is left to the next start.
        """
        folders = self.settings.folders
        for name in outbox.sweep(folders.outbox):
            logger.warning("{}: an unfinished attempt was removed", name)
        known = {entry.folder for entry in self._ledger.entries(DONE)}
        for folder in outbox.published_folders(folders.outbox):
            if stopping():
                return
            manifest = outbox.read_manifest(folder) if folder.name not in known else None
            if manifest is not None:
                self._believe(folder, manifest)
        for report in outbox.reports(folders.quarantine):
            if report.get("identity") and self._ledger.entry(report["identity"]) is None:
                entry = Entry(report["identity"], report["set"], QUARANTINED, report["attempts"])
                self._ledger.restore_entry(
                    replace(entry, reason=report["reason"], file=report["file"], remedy=report["remedy"]),
                    sightings_in(report),
                )
        self.settle_running(counted=True)

    def settle_running(self, *, counted: bool) -> None:
        """Judge sets that the ledger thinks at work while nothing is: done, tried again or put away.

        `counted`: their attempts stay counted, as whoever was at it died.
        """
        for entry in self._ledger.entries(RUNNING):
            frames = self._ledger.frames(entry.identity)
            published = outbox.find_published(self.settings.folders.outbox, entry.name, entry.identity)
            if published is not None:
                self._believe(*published)
            elif counted and entry.attempts >= self.settings.limits.attempts:
                report = Report(entry.name, False, reason=DIED, cause="death")
                self._quarantine(CaptureSet(entry.name, frames), entry.identity, report)
            else:
                reason = DIED if counted else "its end could not be written"
                logger.warning("{}: {}; it is tried again", entry.name, reason)
                self._ledger.give_back(entry.identity, reason, self._now(), self._now(), counted=counted)

    def is_due(self, capture_set: CaptureSet) -> bool:
        """Whether a set may be worked on now: never was, or its time for another try has come.

        A time further away than any wait can be was set while the clock was wrong.
        """
        entry = self._ledger.entry(identity_of(capture_set.frames))
        if entry is None:
            return True
        return entry.state == RETRY and not 0 < entry.next_try_s - self._now() <= LONGEST_DELAY_S

    def claim(
        self,
        capture_set: CaptureSet,
        model: str,
        own: tuple[Sighting, ...] = (),
        shared: tuple[Sighting, ...] = (),
    ) -> Claim | None:
        """Count an attempt and make its staging folder; None if the set's turn has not come.

        `model`: folder of the model version; `own`, `shared`: darks, flats and biases of the set and of all sets.
        Raises OSError or OutputError where a disk refuses.
        """
        identity = identity_of(capture_set.frames)
        if not self.is_due(capture_set):
            return None
        entry = self._ledger.entry(identity)
        published = outbox.find_published(self.settings.folders.outbox, capture_set.name, identity)
        if published is not None:
            self._believe(*published)
            return None
        tries = 1 + (entry.attempts + entry.delays if entry else 0)
        for name in {capture_set.name, *(old.name for old in self._ledger.superseded_by(capture_set))}:
            outbox.clear_report(self.settings.folders.quarantine, name)
        staging = outbox.make_staging(self.settings.folders.outbox, capture_set.name, tries)
        try:
            attempt = self._ledger.start(capture_set, self._now())
        except OutputError:
            outbox.drop_staging(staging)
            raise
        job = Job(
            set_name=capture_set.name,
            paths=tuple(str(self.settings.folders.inbox / frame.path) for frame in capture_set.frames),
            staging=str(staging),
            restore=what_to_restore(self.settings),
            limits=self.settings.limits.model_dump(),
            model=model,
            config_sha256=self.settings.digest(),
            attempt=attempt,
            own_calibration=tuple(str(self.settings.folders.inbox / frame.path) for frame in own),
            shared_calibration=tuple(str(self.settings.folders.inbox / frame.path) for frame in shared),
        )
        return Claim(capture_set, identity, job, own, shared)

    def deliver(self, claim: Claim, report: Report) -> Outcome:
        """Settle a job's end. Raises OSError or OutputError if that fails; `settle_running` comes after."""
        try:
            return self._deliver_result(claim, report) if report.ok else self._deliver_failure(claim, report)
        finally:
            outbox.drop_staging(Path(claim.job.staging))

    def hand_back(self, claim: Claim, reason: str) -> Outcome:
        """The set was not finished and it is nobody's fault: it is free again, its attempt not counted."""
        outbox.drop_staging(Path(claim.job.staging))
        self._ledger.give_back(claim.identity, reason, self._now(), self._now(), counted=False)
        return Outcome(claim.capture_set.name, "handed back", reason=reason)

    def report_spoiled(self, assembly: Assembly, there: Iterable[Sighting], read: Iterable[Sighting]) -> list[Outcome]:
        """Keep quarantine/<set>/error.json in step with the sets and files that wait for a person.

        `there`: all that the last scan saw; `read`: what is in order by its header. Gives the newly spoiled ones.
        Raises OSError or OutputError.
        """
        quarantine, now_spoiled = self.settings.folders.quarantine, {one.set_name: one for one in assembly.spoiled}
        known = self._spoiled_before()
        is_open = {one.set_name for one in (*assembly.spoiled, *assembly.waiting)}
        if in_doubt := [frame.path for name in known.keys() - is_open for frame in known[name]]:
            past = self._ledger.touching(in_doubt)  # what a finished set holds is not read again
            read = [*read, *(frame for one in past for frame in one.frames)]
        for name in outdated(known, assembly, there, read):
            outbox.clear_report(quarantine, name)
            del known[name]
            logger.info("{}: is no longer spoiled", name)
        fresh = [one for one in now_spoiled.values() if not _same(known.get(one.set_name), one.frames)]
        for one in fresh:
            report = Report(one.set_name, False, reason=one.reason, file=one.file, remedy=one.remedy)
            outbox.write_report(quarantine, one.set_name, error_json(report, one.frames, "", 0, self._time()))
            known[one.set_name] = one.frames
            reasons = one.reason.replace("\n", "; ")
            logger.error("{}: {}{}", one.set_name, reasons, f" ({one.remedy})" if one.remedy else "")
        return [Outcome(one.set_name, "spoiled", "", one.reason, one.file, one.remedy) for one in fresh]

    def _deliver_result(self, claim: Claim, report: Report) -> Outcome:
        changed = self._changed(claim)
        if changed and not self._is_enough(claim, changed):
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            return self.hand_back(claim, f"{changed[0]}{more} changed while the set was at work")
        name, staging = claim.capture_set.name, Path(claim.job.staging)
        digest = digest_of(report.contents)
        frames = tuple(zip(claim.capture_set.frames, report.sha256s, strict=True))
        attempt = claim.job.attempt
        calibration = _used(report.result, (*claim.own_calibration, *claim.shared_calibration))
        proof = job_block(name, claim.identity, attempt, frames, calibration, digest, self._time())
        try:
            outbox.write_manifest(staging, report.result | {"job": proof})
            folder = outbox.publish(staging, self.settings.folders.outbox, name)
        except OSError as error:
            if outbox.find_published(self.settings.folders.outbox, name, claim.identity) is not None:
                raise  # it is visible, only not yet known to be on the disk: `settle_running` believes it later
            cause = "space" if error.errno in outbox.NO_SPACE else "transient"
            reason = str(outbox.as_output_error(error))
            return self._deliver_failure(claim, replace(report, ok=False, reason=reason, retry=True, cause=cause))
        self._ledger.finish(claim.identity, digest, folder.name, self._now())
        self.serving.served(claim.job.model)
        logger.success("{}: done, in {}", name, folder)
        return Outcome(name, DONE, folder=str(folder))

    def _is_enough(self, claim: Claim, changed: list[str]) -> bool:
        """Whether a set was begun again so often for what calibrates it that it comes out as it is."""
        if not all(is_calibration(path) for path in changed):
            return False
        self._begun_again[claim.identity] += 1
        if self._begun_again[claim.identity] <= MOST_BEGINNINGS:
            return False
        logger.warning("{}: {} changed again, and the set is not begun anew for it", claim.capture_set.name, changed[0])
        return True

    def _changed(self, claim: Claim) -> list[str]:
        """What lies there otherwise than when the work began: frames, and what calibrates them in the set's own folder,
        which may have arrived after them."""
        inbox, folder = self.settings.folders.inbox, claim.capture_set.folder
        changed = outbox.changed_frames(inbox, claim.capture_set.frames)
        known = {(one.path, one.size_bytes, one.mtime_ns) for one in claim.own_calibration}
        now = own_calibration(inbox, folder) if folder else ()
        return changed + [one.path for one in now if (one.path, one.size_bytes, one.mtime_ns) not in known]

    def _deliver_failure(self, claim: Claim, report: Report) -> Outcome:
        """What a failure means for the set: see `Report.cause`."""
        name = claim.capture_set.name
        if report.cause == "duplicate":
            self._ledger.repeat(claim.identity, digest_of(report.contents), report.reason, self._now())
            logger.warning("{}: same frames as {}, which is done; it is not restored again", name, report.reason)
            return Outcome(name, "duplicate", reason=f"same frames as {report.reason}")
        frames, inbox = claim.capture_set.frames, self.settings.folders.inbox
        if outbox.changed_frames(inbox, frames) or outbox.missing_frames(inbox, frames):
            return self.hand_back(claim, "frames changed or vanished while the set was at work")
        if report.cause == "set" or (report.cause == "death" and claim.job.attempt >= self.settings.limits.attempts):
            return self._quarantine(claim.capture_set, claim.identity, report)
        if report.cause == "model":
            self.serving.refused(claim.job.model, report.reason)
        self.space_needed = self.space_needed or report.cause == "space"
        return self._put_off(claim, report)

    def _put_off(self, claim: Claim, report: Report) -> Outcome:
        entry = self._ledger.entry(claim.identity)
        tries = entry.attempts + entry.delays if entry else 1
        delay_s = min(FIRST_DELAY_S * 2 ** min(tries - 1, 20), LONGEST_DELAY_S)
        if report.cause == "space" or (report.cause == "model" and self.serving.older(self.settings)):
            delay_s = 0.0  # the whole house waits for space; the old model is at hand
        next_try_s, name = self._now() + delay_s, claim.capture_set.name
        counted = report.cause == "death"
        self._ledger.give_back(claim.identity, report.reason, next_try_s, self._now(), counted=counted)
        logger.warning("{}: {}; it is tried again in {:.0f} s", name, in_words(report), delay_s)
        return Outcome(name, RETRY, "", report.reason, report.file, report.remedy)

    def _quarantine(self, capture_set: CaptureSet, identity: str, report: Report) -> Outcome:
        """error.json first, the ledger second: a crash between the two only repeats the first."""
        entry = self._ledger.entry(identity)
        content = error_json(report, capture_set.frames, identity, entry.attempts if entry else 0, self._time())
        path = outbox.write_report(self.settings.folders.quarantine, capture_set.name, content)
        self._ledger.quarantine(identity, report.reason, report.file, report.remedy, self._now())
        logger.error("{}: put into quarantine: {} (see {})", capture_set.name, in_words(report), path)
        return Outcome(capture_set.name, QUARANTINED, "", report.reason, report.file, report.remedy)

    def _believe(self, folder: Path, manifest: dict[str, Any]) -> None:
        """The outbox holds this set, whatever the ledger says."""
        job = manifest["job"]
        entry = Entry(job["identity"], job["set"], DONE, job["attempt"], digest=job["digest"], folder=folder.name)
        self._ledger.restore_entry(replace(entry, changed_s=self._now()), sightings_in(job))
        logger.info("{}: lies finished in {}; noted in the ledger", job["set"], folder)

    def _spoiled_before(self) -> dict[str, tuple[Sighting, ...]]:
        """Reports of an earlier run are remembered, so that they too go when their set revives."""
        if self._spoiled is None:
            found = outbox.reports(self.settings.folders.quarantine)
            self._spoiled = {one["set"]: sightings_in(one) for one in found if not one.get("identity")}
        return self._spoiled

    def _time(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="seconds")


def _used(result: dict[str, Any], calibration: Iterable[Sighting]) -> list[tuple[Sighting, str]]:
    """The calibration frames that a result was made with, and their sha256."""
    sha256s = {one["file"]: one["sha256"] for one in result.get("calibration", {}).get("used", ())}
    return [(one, sha256s[one.path]) for one in calibration if one.path in sha256s]


def what_to_restore(settings: Settings) -> dict[str, Any]:
    """`Job.restore`: the settings' section, and of section set what the frames are judged by once they are read."""
    return settings.restore.model_dump() | settings.set.model_dump(include={"exposure_tolerance", "min_frames"})


def try_again(settings: Settings, ledger: Ledger, names: Iterable[str], now_s: float) -> list[str]:
    """Put quarantined sets back to work; gives the names that are not in quarantine. Raises OutputError, OSError."""
    unknown = []
    for name in names:
        entries = ledger.entries(QUARANTINED, name)
        if not entries:
            unknown.append(name)
            continue
        for entry in entries:
            ledger.back_to_work(entry.identity, now_s)
        outbox.clear_report(settings.folders.quarantine, name)
    return unknown


def _same(known: Iterable[Sighting] | None, frames: Iterable[Sighting]) -> bool:
    return known is not None and identity_of(known) == identity_of(frames)
