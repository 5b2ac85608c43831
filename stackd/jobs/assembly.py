"""Which sets are complete, which wait and for what, which cannot be: pure, from listings and a clock.

One Assembler serves one inbox. Each turn the daemon scans, calls `update`, has the files in
`needs_facts` read by its worker, and passes what was found in `facts` from then on. All answers are
levels, not events: a complete set is named again every turn until it is in the `Past`, a spoiled one
until somebody replaces or removes its bad file. Touches no disk and no clock, and of the ledger it
knows only the two questions that it asks.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from stackd.disk.inbox import Listing
from stackd.jobs.chunks import Group, Outcome, Pending, Problem, Rules, Spoiled, Waiting, judge
from stackd.jobs.grouping import (
    FrameOf,
    calibration_by_home,
    calibration_for,
    folder_name,
    forget_names,
    loose_groups,
    name_shape,
)
from stackd.records import CaptureSet, FrameFacts, Sighting

# A file shorter than its header declares has so many settle times to grow before it counts as broken.
PATIENCE_SETTLES = 10
UNSETTLED = "has still to settle"
FOLLOWED = "has just come, and more may follow"
# A calibration frame is not read before its set: it has so many settle times to be whole.
CALIBRATION_SETTLES = 3
LONGEST_GAP_S = 600.0  # between darks that are taken one after the other
LONGEST_WAIT_S = 7200.0  # of a set for its own


class Past(Protocol):
    """Every set that is running, done or quarantined after work. Asked, not listed: it may be years of nights."""

    def touching(self, paths: Iterable[str]) -> Iterable[CaptureSet]:
        """Those with a frame at one of `paths`, each with all the sightings that it was made of."""

    def named(self, name: str) -> int:
        """How many have this name."""


@dataclass(frozen=True, slots=True)
class Unused:
    """A readable file that belongs to no set of lights: a dark, flat or bias by its header."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Assembly:
    """What one update found. Tuples are sorted by set name or path, the frames of a set by time."""

    complete: tuple[CaptureSet, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    spoiled: tuple[Spoiled, ...] = ()
    unused: tuple[Unused, ...] = ()
    awaits_calibration: bool = False  # some set's darks, flats or biases may still be arriving
    needs_facts: tuple[Sighting, ...] = ()  # settled, in no past set, not yet in `facts` or to be looked at again


@dataclass(frozen=True, slots=True)
class _Track:
    """Since when (our clock) and for how many scans a file has been as it is."""

    sighting: Sighting
    since_s: float
    scans: int


class Assembler:
    """Remembers since when each file has been unchanged; everything else is an argument."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules  # may be replaced between updates (SIGHUP)
        self._tracks: dict[str, _Track] = {}
        self._calibration: dict[str, _Track] = {}

    def update(
        self,
        listing: Listing,
        facts: Mapping[Sighting, FrameFacts | Problem],
        past: Past,
        now_s: float,
    ) -> Assembly:
        """The state of every set after one more scan.

        `facts`: what was read of each settled file so far (extra entries do no harm).
        `past`: what is in it is not used again, neither its frames (path, size and mtime count, inode
        does not) nor its name - unless one of its files now lies there changed: then the set is open
        again under its own name (the outbox publishes it as a revision).
        `now_s`: a monotonic clock's, never the files' own times.
        """
        self._tracks = _follow(self._tracks, listing.sightings, now_s)
        self._calibration = _follow(self._calibration, listing.calibration, now_s)
        forget_names(beyond=2 * len(self._tracks))
        used_paths, reopened = _held_by(past, listing)
        unused: list[Unused] = []
        needs_facts: list[Sighting] = []
        piles = self._sort_out(used_paths, facts, now_s, unused, needs_facts)
        outcome = Outcome(lambda name: past.named(name) > reopened[name], _folders_in(listing))
        homes = calibration_by_home(listing.calibration)
        awaits_calibration = False
        for folder in sorted(piles):
            quiet_s = now_s - piles[folder].newest_s
            calibrating = self._unsettled(*calibration_for(folder, homes), quiet_s, now_s)
            awaits_calibration |= bool(calibrating)
            for group in self._groups_of(folder, piles[folder]):
                group.calibrating = calibrating
                judge(group, self.rules, now_s, outcome)
        return Assembly(
            tuple(sorted(outcome.complete, key=lambda one: one.name)),
            tuple(sorted(outcome.waiting, key=lambda one: one.set_name)),
            tuple(sorted(outcome.spoiled, key=lambda one: one.set_name)),
            tuple(sorted(unused, key=lambda one: one.path)),
            awaits_calibration,
            tuple(sorted(needs_facts, key=lambda one: one.path)),
        )

    def _sort_out(
        self,
        used_paths: set[str],
        facts: Mapping[Sighting, FrameFacts | Problem],
        now_s: float,
        unused: list[Unused],
        needs_facts: list[Sighting],
    ) -> dict[str, Group]:
        """Each free file into its folder's group ("" for loose files) as ready, pending or bad."""
        piles: dict[str, Group] = {}
        for path, track in self._tracks.items():
            if path in used_paths:
                continue
            sighting, quiet_s = track.sighting, now_s - track.since_s
            settled = self._is_quiet(track, self.rules.settle_s, now_s)
            found = facts.get(sighting) if settled else None
            if isinstance(found, FrameFacts) and not found.is_light:
                unused.append(Unused(path, f"a {found.image_type} frame by its header; sets are made of lights"))
                continue
            folder = path.rpartition("/")[0]
            if (pile := piles.get(folder)) is None:
                pile = piles[folder] = Group(folder_name(folder), newest_s=track.since_s)
            pile.newest_s = max(pile.newest_s, track.since_s)
            if isinstance(found, FrameFacts):
                pile.ready.append((sighting, found))
            elif isinstance(found, Problem) and self._is_final(found, quiet_s):
                pile.bad.append((sighting, found))
            else:
                awaited = "has still to be read" if settled else UNSETTLED
                pile.pending.append(Pending(path, found.reason if found else awaited))
                if settled and (found is None or found.passing):
                    needs_facts.append(sighting)
        return piles

    @staticmethod
    def _is_quiet(track: _Track, for_s: float, now_s: float) -> bool:
        return track.scans >= 2 and now_s - track.since_s >= for_s

    def _unsettled(
        self, own: Iterable[Sighting], shared: Iterable[Sighting], quiet_s: float, now_s: float
    ) -> list[Pending]:
        """Calibration frames that may still be arriving, and the set's newest while more may follow it: they are read
        with the set, not before, and what comes later would have to begin it again.

        `quiet_s`: since its lights are there. A set does not wait for ever for its darks, and for those of all sets no
        longer than for a light that does not grow.
        """
        settle_s = CALIBRATION_SETTLES * self.rules.settle_s
        awaited = list(own) if quiet_s < LONGEST_WAIT_S else []
        newest_own = max((self._calibration[one.path] for one in awaited), key=attrgetter("since_s"), default=None)
        if quiet_s < PATIENCE_SETTLES * self.rules.settle_s:
            awaited += shared
        tracks = [self._calibration[one.path] for one in awaited]
        pending = [Pending(one.sighting.path, UNSETTLED) for one in tracks if not self._is_quiet(one, settle_s, now_s)]
        if pending or newest_own is None or self._is_quiet(newest_own, 2 * self._last_gap_s(own), now_s):
            return pending
        return [Pending(newest_own.sighting.path, FOLLOWED)]

    def _last_gap_s(self, calibration: Iterable[Sighting]) -> float:
        """Between the arrivals of the two newest frames; 0 where they are too far apart for a series."""
        arrivals_s = sorted({self._calibration[one.path].since_s for one in calibration})
        gap_s = arrivals_s[-1] - arrivals_s[-2] if len(arrivals_s) > 1 else 0.0
        return gap_s if gap_s <= LONGEST_GAP_S else 0.0

    def _is_final(self, problem: Problem, quiet_s: float) -> bool:
        return not problem.passing and (problem.finished or quiet_s >= PATIENCE_SETTLES * self.rules.settle_s)

    def _groups_of(self, folder: str, pile: Group) -> list[Group]:
        """A folder is one group; loose frames are split by what they are, and each bad file stands alone."""
        if folder:
            return [pile]
        pending: defaultdict[str, list[Pending]] = defaultdict(list)
        for one in pile.pending:
            pending[name_shape(one.path)].append(one)
        groups = [Group(folder_name(sighting.path), bad=[(sighting, problem)]) for sighting, problem in pile.bad]
        joined: set[str] = set()
        for frames in loose_groups(pile.ready, self.rules.exposure_tolerance):
            shapes = {name_shape(sighting.path) for sighting, _ in frames}
            joined |= shapes
            may_join = [one for shape in sorted(shapes) for one in pending.get(shape, ())]
            newest_s = max(self._tracks[path].since_s for path in _paths(frames, may_join))
            groups.append(Group(None, frames, may_join, newest_s=newest_s))
        return groups + [Group(None, pending=pending[shape]) for shape in sorted(pending.keys() - joined)]


def _paths(frames: Iterable[FrameOf], pending: Iterable[Pending]) -> list[str]:
    return [sighting.path for sighting, _ in frames] + [one.path for one in pending]


def _follow(tracks: Mapping[str, _Track], sightings: Iterable[Sighting], now_s: float) -> dict[str, _Track]:
    """The tracks after one more scan: a file that changed, or came back, starts anew."""
    followed = {}
    for sighting in sightings:
        track = tracks.get(sighting.path)
        if track is not None and track.sighting == sighting:
            followed[sighting.path] = _Track(sighting, track.since_s, track.scans + 1)
        else:
            followed[sighting.path] = _Track(sighting, now_s, 1)
    return followed


def _held_by(past: Past, listing: Listing) -> tuple[set[str], Counter[str]]:
    """Paths that past sets hold, and how many sets of each name hold nothing, for a file of theirs has changed.

    A file that is gone changes nothing: people clean up, and mounts vanish.
    """
    there = {one.path: (one.size_bytes, one.mtime_ns) for one in listing.sightings}
    paths: set[str] = set()
    reopened: Counter[str] = Counter()
    for capture_set in past.touching(there):
        frames = capture_set.frames
        if all(there.get(one.path, same := (one.size_bytes, one.mtime_ns)) == same for one in frames):
            paths.update(one.path for one in frames)
        else:
            reopened[capture_set.name] += 1
    return paths, reopened


def _folders_in(listing: Listing) -> frozenset[str]:
    """Names that belong to the inbox's folders, so that no other set may take them."""
    named = {one.path.partition("/")[0] for one in listing.sightings if "/" in one.path}
    return frozenset(folder_name(folder) for folder in named.union(listing.empty_folders))
