"""One turn of the daemon: scan the inbox, have new files looked at, claim what is complete, settle ends.

The scan is the truth; whoever wakes the turn early only saves time. Takes the settings, the ledger
and a runner, and a monotonic clock's time as argument. Knows no signals, no systemd and no watchdog,
so `stackd once` and the tests turn it by hand.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from loguru import logger

from stackd.disk import outbox
from stackd.disk.inbox import Ignored, Listing, scan
from stackd.disk.ledger import DONE, DUPLICATE, QUARANTINED, Ledger
from stackd.errors import ModelError, OutputError
from stackd.jobs import archive
from stackd.jobs.assembly import CALIBRATION_SETTLES, Assembler, Assembly, Problem, Rules
from stackd.jobs.delivery import Claim, Delivery, Outcome
from stackd.jobs.grouping import calibration_by_home, calibration_for
from stackd.jobs.runner import Runner
from stackd.jobs.worker import Probed
from stackd.records import FrameFacts, Sighting
from stackd.settings import Settings

PAUSE_S = 30.0  # after a disk refused: look again after so long
QUICK_SCAN_S = 0.2  # at least so long between two scans while files settle
MOST_NAMED = 5  # of what is left out in the inbox, in one line of the log


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that keeps the house from working and passes when somebody (or time) helps."""

    what: str
    until_s: float  # monotonic


class Turn:
    """What lies between two sleeps. All times are monotonic, s.

    `on_step` is called ever and again by what may take long.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        delivery: Delivery,
        runner: Runner,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.runner = settings, runner
        self.assembly = Assembly()
        self.listing = Listing()
        self.claimed: Claim | None = None
        self.trouble: Trouble | None = None
        self.inbox_trouble = ""
        self.report_trouble = ""
        self.archive_trouble = ""
        self.claiming = True
        self.next_scan_s = float("-inf")
        self.last_scan_s = float("-inf")
        self._ledger, self._delivery, self._on_step = ledger, delivery, on_step
        self._assembler = Assembler(rules_of(settings))
        self._facts: dict[Sighting, FrameFacts | Problem] = {}
        self._asked: dict[str, Sighting] = {}
        self._changed_s = float("-inf")
        self._in_doubt = False
        self._inbox_folder = 0, 0  # device and inode
        self._paused_for = ""  # as the log was told
        self._left_to_archive = False
        self._next_archive_s = float("-inf")
        self._outcomes: list[Outcome] = []

    def adopt(self, settings: Settings) -> None:
        """New settings, between two turns; the folders stay those of the start."""
        self.settings = self._delivery.settings = settings
        self._assembler.rules = rules_of(settings)
        self._delivery.serving.forget_refusals()
        self._facts.clear()
        self.next_scan_s = float("-inf")

    def advance(self, now_s: float) -> list[Outcome]:
        """Do all that can be done now without waiting; gives what became of sets meanwhile."""
        self._outcomes = []
        self._guarded(self._collect, now_s)
        if now_s >= self.next_scan_s:
            self._guarded(self._look, now_s)
        self._guarded(self._dispatch, now_s)
        self._guarded(self._archive, now_s)  # last: the worker has something to do meanwhile
        return self._outcomes

    def idle(self) -> bool:
        """Nothing is at work, nothing can be started, and no file is about to settle.

        Judged by the last scan: however long a busy machine kept us from it, a file must be seen settled.
        """
        quiet = self.last_scan_s - self._changed_s > self._quick_until_s()
        at_work = self.claimed is not None or self.runner.looking or self._asked or self._left_to_archive
        at_work = at_work or self.assembly.awaits_calibration
        return quiet and not at_work and not self._claimable()

    @property
    def unread(self) -> bool:
        """Whether the disk refuses some file of the inbox for now."""
        return any(isinstance(found, Problem) and found.passing for found in self._facts.values())

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is not as it should be while the work goes on."""
        remarks = self.report_trouble, self.archive_trouble, self._delivery.serving.trouble
        return tuple(one for one in remarks if one)

    @property
    def served_instead(self) -> dict[str, str]:
        """Folder of the model asked for -> folder of the older one that serves; empty where all is well."""
        return self._delivery.serving.instead

    def hand_back(self, reason: str) -> None:
        """Stop the work at hand and free its set, its attempt not counted."""
        self.runner.close()
        if self.claimed is not None:
            self._outcomes.append(self._delivery.hand_back(self.claimed, reason))
            self.claimed = None

    def _guarded(self, step: Callable[[float], None], now_s: float) -> None:
        """A disk that refuses pauses the house; what was begun is judged by the ledger afterwards."""
        try:
            step(now_s)
        except (OSError, OutputError) as error:
            trouble = outbox.as_output_error(error) if isinstance(error, OSError) else error
            self._in_doubt = True
            self._pause(str(trouble), now_s)

    def _pause(self, what: str, now_s: float) -> None:
        """Start no set for a while; the log is told once, however often the same is found again."""
        if what != self._paused_for:
            logger.error("the work pauses: {}", what)
        self._paused_for = what
        self.trouble = Trouble(what, now_s + PAUSE_S)

    def _collect(self, now_s: float) -> None:
        news = [probed for probed in self.runner.probed() if self._is_news(probed)]
        if news and not self._asked:
            self.next_scan_s = min(self.next_scan_s, now_s)
        for report in self.runner.finished():
            claim, self.claimed = self.claimed, None
            if claim is None:
                raise RuntimeError(f"a report of {report.set_name} without a claim")
            outcome = self._delivery.deliver(claim, report)
            self._outcomes.append(outcome)
            self._let_go(claim, outcome, now_s)
            if self._delivery.space_needed:
                self._pause(outcome.reason, now_s)

    def _is_news(self, probed: Probed) -> bool:
        """Take in what was read of a file; what the disk refuses again and again is told once and hurries nobody."""
        sighting, found = self._asked.pop(probed.path, None), probed.found
        if sighting is None or self._facts.get(sighting) == found:
            return False
        self._facts[sighting] = found
        if isinstance(found, Problem) and found.passing:
            logger.warning("{}: {}; it is tried again at every scan: {}", probed.path, found.reason, found.remedy)
        return True

    def _let_go(self, claim: Claim, outcome: Outcome, now_s: float) -> None:
        """A set that ended is no longer complete; the inbox is scanned anew only where its end may come from there.

        A scan after each set would be most of a busy night's work: the next one that is due is soon enough.
        """
        left = tuple(one for one in self.assembly.complete if one != claim.capture_set)
        self.assembly = replace(self.assembly, complete=left)
        if outcome.verdict not in (DONE, DUPLICATE, QUARANTINED):
            self.next_scan_s = min(self.next_scan_s, now_s)

    def _look(self, now_s: float) -> None:
        """Scan and judge. An inbox that is gone changes nothing: what is known stays as it is."""
        self.last_scan_s = now_s
        self.next_scan_s = now_s + self.settings.set.scan_interval_s
        try:
            listing = self._inbox_now()
        except OSError as error:
            if not self.inbox_trouble:
                logger.error("the inbox cannot be read, and nothing is changed until it can: {}", error)
            self.inbox_trouble = str(error)
            return
        if self.inbox_trouble:
            logger.info("the inbox is back")
        self.inbox_trouble = ""
        if (listing.sightings, listing.calibration) != (self.listing.sightings, self.listing.calibration):
            self._changed_s = now_s
        _name_ignored([one for one in listing.ignored if one not in self.listing.ignored])
        self.listing = listing
        self._assemble(now_s)
        if self.settings.set.after == "archive":
            archive.tidy(self.settings, listing.empty_folders)
        if now_s - self._changed_s <= self._quick_until_s():
            quick_s = max(self.settings.set.settle_s / 2, QUICK_SCAN_S)
            self.next_scan_s = now_s + min(self.settings.set.scan_interval_s, quick_s)

    def _inbox_now(self) -> Listing:
        """A scan. Raises OSError also for an empty folder where another one held files: a disk was unmounted there."""
        inbox = self.settings.folders.inbox
        listing, found = scan(inbox), os.stat(inbox)
        folder = found.st_dev, found.st_ino
        empty = not (listing.sightings or listing.empty_folders)
        if empty and self.listing.sightings and folder != self._inbox_folder:
            raise OSError(f"{inbox} is another folder now, and empty; is its disk mounted?")
        self._inbox_folder = folder
        return listing

    def _quick_until_s(self) -> float:
        """So long after the last change in the inbox some file may be about to settle."""
        settles = CALIBRATION_SETTLES if self.listing.calibration else 1
        return 1.5 * settles * self.settings.set.settle_s + 2 * QUICK_SCAN_S

    def _assemble(self, now_s: float) -> None:
        there = set(self.listing.sightings)
        self._facts = {sighting: found for sighting, found in self._facts.items() if sighting in there}
        self.assembly = self._assembler.update(self.listing, self._facts, self._ledger, now_s)
        folder = self.settings.folders.inbox
        new = {str(folder / one.path): one for one in self.assembly.needs_facts}
        new = {path: one for path, one in new.items() if path not in self._asked}
        self._asked |= new
        self.runner.probe(new, self.settings.limits.model_dump())
        self._report_spoiled()

    def _report_spoiled(self) -> None:
        """A quarantine that cannot be written costs error.json alone: status tells the reasons, other sets go on."""
        read = [sighting for sighting, found in self._facts.items() if isinstance(found, FrameFacts)]
        try:
            self._outcomes += self._delivery.report_spoiled(self.assembly, self.listing.sightings, read)
            self.report_trouble = ""
        except OSError as error:
            self.report_trouble = _told_once(error, self.report_trouble)

    def _archive(self, now_s: float) -> None:
        """One finished set a turn, none while stackd stops; an archive that cannot be written keeps no set waiting."""
        self._left_to_archive = False
        if self.settings.set.after != "archive":
            self.archive_trouble = ""
            return
        if not self.claiming or self.trouble is not None or self.inbox_trouble or now_s < self._next_archive_s:
            return
        try:
            self._left_to_archive = archive.move_next(self.settings.folders, self._ledger, self._on_step)
            self.archive_trouble = ""
        except OSError as error:
            self.archive_trouble = _told_once(error, self.archive_trouble)
            self._next_archive_s = now_s + PAUSE_S

    def _dispatch(self, now_s: float) -> None:
        """Claim the next complete set if nothing is at work and the disks can take a result."""
        if self.claimed is not None or not self.claiming or not self._may_work(now_s):
            return
        if not self._claimable():
            return
        try:
            model = self._delivery.serving.choose(self.settings)
        except ModelError as error:
            self._pause(str(error), now_s)
            return
        homes = calibration_by_home(self.listing.calibration)
        for capture_set in self.assembly.complete:
            own, shared = calibration_for(capture_set.folder, homes)
            self.claimed = self._delivery.claim(capture_set, model, own, shared)
            if self.claimed is not None:
                self.runner.submit(self.claimed.job)
                if self._paused_for:
                    logger.info("the work goes on")
                    self._paused_for = ""
                return

    def _may_work(self, now_s: float) -> bool:
        """Whether earlier trouble has passed and there is room; what is in doubt is settled first."""
        if self.trouble is not None and now_s < self.trouble.until_s:
            return False
        if missing := missing_space(self.settings):
            self._delivery.space_needed = True
            self._pause(missing, now_s)
            return False
        if self._in_doubt:
            self._delivery.settle_running(counted=False)
            self._in_doubt = False
        self.trouble, self._delivery.space_needed = None, False
        return True

    def _claimable(self) -> bool:
        """Whether a complete set waits only for its turn (not for a later try or for a person)."""
        return self.claiming and self.trouble is None and any(map(self._delivery.is_due, self.assembly.complete))


def missing_space(settings: Settings) -> str:
    """Which folder has too little space left to start a set, "" if none. Raises OSError where one is gone."""
    needed_mb = settings.limits.min_free_mb
    for folder in (settings.folders.outbox, settings.folders.state):
        if outbox.free_mb(folder) < needed_mb:
            return f"{folder}: less than limits.min_free_mb = {needed_mb} MB are left; free some space there"
    return ""


def _told_once(error: OSError, known: str) -> str:
    """In words what costs no set; the log hears of it when it is not `known` yet."""
    trouble = str(outbox.as_output_error(error))
    if trouble != known:
        logger.error("{}; the work goes on", trouble)
    return trouble


def _name_ignored(fresh: list[Ignored]) -> None:
    """One line in the log, however much lies there."""
    if fresh:
        named = "; ".join(f"{one.path}: {one.reason}" for one in fresh[:MOST_NAMED])
        more = f" (and {len(fresh) - MOST_NAMED} more, see `stackd status`)" if len(fresh) > MOST_NAMED else ""
        logger.info("left out in the inbox: {}{}", named, more)


def rules_of(settings: Settings) -> Rules:
    """The assembler's slice of the settings."""
    values: dict[str, Any] = settings.set.model_dump(include=set(Rules.__dataclass_fields__))
    return Rules(**values)
