"""One turn of the daemon: scan the inbox, have new files looked at, claim what is complete, settle ends.

The scan is the truth; whoever wakes the turn early only saves time. Takes the settings, the ledger
and a runner, and a monotonic clock's time as argument. Knows no signals, no systemd and no watchdog,
so `stackd once` and the tests turn it by hand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loguru import logger

from stackd.disk import outbox
from stackd.disk.inbox import Ignored, Listing, scan
from stackd.disk.ledger import Ledger
from stackd.errors import ModelError, OutputError
from stackd.jobs.assembly import Assembler, Assembly, Problem, Rules
from stackd.jobs.delivery import Claim, Delivery, Outcome
from stackd.jobs.runner import Runner
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
    """What lies between two sleeps. All times are monotonic, s."""

    def __init__(self, settings: Settings, ledger: Ledger, delivery: Delivery, runner: Runner) -> None:
        self.settings, self.runner = settings, runner
        self.assembly = Assembly()
        self.listing = Listing()
        self.claimed: Claim | None = None
        self.trouble: Trouble | None = None
        self.inbox_trouble = ""
        self.claiming = True
        self.next_scan_s = float("-inf")
        self.last_scan_s = float("-inf")
        self._ledger, self._delivery = ledger, delivery
        self._assembler = Assembler(rules_of(settings))
        self._facts: dict[Sighting, FrameFacts | Problem] = {}
        self._asked: dict[str, Sighting] = {}
        self._changed_s = float("-inf")
        self._in_doubt = False
        self._outcomes: list[Outcome] = []

    def adopt(self, settings: Settings) -> None:
        """New settings, between two turns; the folders stay those of the start."""
        self.settings = self._delivery.settings = settings
        self._assembler.rules = rules_of(settings)
        self._delivery.forget_bad_models()
        self._facts.clear()
        self.next_scan_s = float("-inf")

    def advance(self, now_s: float) -> list[Outcome]:
        """Do all that can be done now without waiting; gives what became of sets meanwhile."""
        self._outcomes = []
        self._guarded(self._collect, now_s)
        if now_s >= self.next_scan_s:
            self._look(now_s)
        self._guarded(self._dispatch, now_s)
        return self._outcomes

    def idle(self, now_s: float) -> bool:
        """Nothing is at work, nothing can be started, and no file is about to settle."""
        quiet = now_s - self._changed_s > self._quick_until_s()
        return quiet and self.claimed is None and not self.runner.looking and not self._asked and not self._claimable()

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
            self.trouble = Trouble(str(trouble), now_s + PAUSE_S)
            self._in_doubt = True
            logger.error("the work pauses: {}", trouble)

    def _collect(self, now_s: float) -> None:
        for probed in self.runner.probed():
            sighting = self._asked.pop(probed.path, None)
            if sighting is not None and probed.found is not None:
                self._facts[sighting] = probed.found
            if not self._asked:
                self.next_scan_s = min(self.next_scan_s, now_s)
        for report in self.runner.finished():
            claim, self.claimed = self.claimed, None
            if claim is None:
                raise RuntimeError(f"a report of {report.set_name} without a claim")
            self.next_scan_s = min(self.next_scan_s, now_s)
            outcome = self._delivery.deliver(claim, report)
            self._outcomes.append(outcome)
            if self._delivery.space_needed:
                self.trouble = Trouble(outcome.reason, now_s + PAUSE_S)
        if self.settings.set.after == "archive" and self.trouble is None:
            self._delivery.archive_finished()

    def _look(self, now_s: float) -> None:
        """Scan and judge. An inbox that is gone changes nothing: what is known stays as it is."""
        self.last_scan_s = now_s
        self.next_scan_s = now_s + self.settings.set.scan_interval_s
        try:
            listing = scan(self.settings.folders.inbox)
        except OSError as error:
            if not self.inbox_trouble:
                logger.error("the inbox cannot be read; nothing is changed and stackd goes on trying: {}", error)
            self.inbox_trouble = str(error)
            return
        if self.inbox_trouble:
            logger.info("the inbox is back")
        self.inbox_trouble = ""
        if listing.sightings != self.listing.sightings:
            self._changed_s = now_s
        _name_ignored([one for one in listing.ignored if one not in self.listing.ignored])
        self.listing = listing
        self._assemble(now_s)
        if now_s - self._changed_s <= self._quick_until_s():
            quick_s = max(self.settings.set.settle_s / 2, QUICK_SCAN_S)
            self.next_scan_s = now_s + min(self.settings.set.scan_interval_s, quick_s)

    def _quick_until_s(self) -> float:
        """So long after the last change in the inbox some file may be about to settle."""
        return 1.5 * self.settings.set.settle_s + 2 * QUICK_SCAN_S

    def _assemble(self, now_s: float) -> None:
        there = set(self.listing.sightings)
        self._facts = {sighting: found for sighting, found in self._facts.items() if sighting in there}
        self.assembly = self._assembler.update(self.listing, self._facts, self._ledger.past(), now_s)
        folder = self.settings.folders.inbox
        new = {str(folder / one.path): one for one in self.assembly.needs_facts}
        new = {path: one for path, one in new.items() if path not in self._asked}
        self._asked |= new
        self.runner.probe(new, self.settings.limits.model_dump())
        self._guarded(self._report_spoiled, now_s)

    def _report_spoiled(self, now_s: float) -> None:
        self._outcomes += self._delivery.report_spoiled(self.assembly.spoiled, self.listing.sightings)

    def _dispatch(self, now_s: float) -> None:
        """Claim the next complete set if nothing is at work and the disks can take a result."""
        if self.claimed is not None or not self.claiming or not self._may_work(now_s):
            return
        if not self._claimable():
            return
        try:
            model = self._delivery.model()
        except ModelError as error:
            self.trouble = Trouble(str(error), now_s + PAUSE_S)
            logger.error("the work pauses: {}", error)
            return
        for capture_set in self.assembly.complete:
            self.claimed = self._delivery.claim(capture_set, model)
            if self.claimed is not None:
                self.runner.submit(self.claimed.job)
                return

    def _may_work(self, now_s: float) -> bool:
        """Whether earlier trouble has passed and there is room; what is in doubt is settled first."""
        if self.trouble is not None and now_s < self.trouble.until_s:
            return False
        missing = self._missing_space()
        if missing:
            if self.trouble is None or not self._delivery.space_needed:
                logger.error("the work pauses: {}", missing)
            self._delivery.space_needed = True
            self.trouble = Trouble(missing, now_s + PAUSE_S)
            return False
        if self._in_doubt:
            self._delivery.settle_running(counted=False)
            self._in_doubt = False
        if self.trouble is not None:
            logger.info("the work goes on")
        self.trouble, self._delivery.space_needed = None, False
        return True

    def _missing_space(self) -> str:
        needed_mb = self.settings.limits.min_free_mb
        for folder in (self.settings.folders.outbox, self.settings.folders.state):
            left_mb = outbox.free_mb(folder)
            if left_mb < needed_mb:
                return f"{folder}: {left_mb:.0f} MB left, limits.min_free_mb is {needed_mb}; free some space there"
        return ""

    def _claimable(self) -> bool:
        """Whether a complete set waits only for its turn (not for a later try or for a person)."""
        return self.claiming and self.trouble is None and any(map(self._delivery.is_due, self.assembly.complete))


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
