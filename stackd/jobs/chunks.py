"""One group of frames that belong together -> sets of eight: complete, waiting or spoiled. Pure.

A group's frames stand in order of time, bad files among them by name; every `frames` of them make
a set. Takes a Group and the Rules, adds to an Outcome. Knows no other group but by the names used.
"""

from bisect import bisect_left
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from stackd.jobs.grouping import FrameOf, NaturalKey, common_stem, in_order, loose_name, natural_key
from stackd.jobs.validate import problems_of
from stackd.records import CaptureSet, FrameFacts, Sighting


@dataclass(frozen=True, slots=True)
class Rules:
    """The slice of settings.SetSettings that decides when a set is complete. Same names and units."""

    frames: int
    settle_s: float
    partial: Literal["wait", "restore", "quarantine"]
    partial_after_s: float
    min_frames: int
    exposure_tolerance: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a settled file could not be read. From SetError (finished) or reader.Unfinished (not), or the disk's word."""

    reason: str
    remedy: str = ""
    finished: bool = True  # False: shorter than its header declares, so it may still be growing
    passing: bool = False  # the disk refused: says nothing of the file, so it is looked at again at every scan


@dataclass(frozen=True, slots=True)
class Waiting:
    """A set that is not complete yet: how many frames it has and what it waits for."""

    set_name: str
    frames: int
    reason: str


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A set (or a loose file) that cannot become complete until a person acts.

    To be reported in quarantine/<set_name>/error.json. Its frames stay free: do NOT pass it as a
    past set. Once it is no longer listed it has revived or is gone, and the report can go too.
    """

    set_name: str
    frames: tuple[Sighting, ...]
    reason: str  # every problem, one a line
    file: str | None = None  # path within the inbox of the first file at fault, where there is one
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Pending:
    """A file that may join once it has settled and been read."""

    path: str
    reason: str


@dataclass(slots=True)
class Group:
    """Files that make sets together. `name`: of the folder; None: named after the frames themselves."""

    name: str | None
    ready: list[FrameOf] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    bad: list[tuple[Sighting, Problem]] = field(default_factory=list)
    calibrating: list[Pending] = field(default_factory=list)  # darks, flats and biases that all its sets wait for
    newest_s: float = 0.0  # when (our clock) the youngest of them was last seen to change


@dataclass(slots=True)
class Outcome:
    """Collects what the groups gave, and gives out names."""

    is_past: Callable[[str], bool]  # whether a past set holds the name
    folder_names: AbstractSet[str]
    complete: list[CaptureSet] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    spoiled: list[Spoiled] = field(default_factory=list)
    _given: set[str] = field(default_factory=set)
    _numbers: dict[str, int] = field(default_factory=dict)  # where the search for a free name goes on

    def name_for(self, base: str, *, own_folder: bool) -> str:
        """base, base-2, base-3 ...: the first that no past set, no other folder and no set of this turn has."""
        number, name = self._numbers.get(base, 1), base
        while self._is_taken(name, whose_folder=base if own_folder else None):
            number += 1
            name = f"{base}-{number}"
        self._numbers[base] = number
        self._given.add(name)
        return name

    def _is_taken(self, name: str, whose_folder: str | None) -> bool:
        anothers_folder = name in self.folder_names and name != whose_folder
        return name in self._given or anothers_folder or self.is_past(name)


_Slot = tuple[Sighting, FrameFacts | Problem]


def judge(group: Group, rules: Rules, now_s: float, outcome: Outcome) -> None:
    """Cut the group into sets and say of each what it is."""
    ready = in_order(group.ready)
    slots = _with_bad_files(ready, group.bad)
    names_tell_order = _sorted([natural_key(sighting.path) for sighting, _ in ready])
    pending = sorted(group.pending, key=lambda one: natural_key(one.path))
    pending_keys = [natural_key(one.path) for one in pending]
    for start in range(0, len(slots), rules.frames):
        chunk = slots[start : start + rules.frames]
        if len(chunk) == rules.frames and names_tell_order:
            last = max(natural_key(sighting.path) for sighting, _ in chunk)
            holding = pending[: bisect_left(pending_keys, last)]
        else:
            holding = pending
        holding = [*holding, *group.calibrating]
        _judge_chunk(_name(group, chunk, outcome), chunk, holding, rules, now_s - group.newest_s, outcome)
    if not slots and pending:
        name = outcome.name_for(group.name or common_stem([pending[0].path]) or "set", own_folder=True)
        outcome.waiting.append(Waiting(name, 0, _still_arriving(pending)))


def _sorted(keys: list[NaturalKey]) -> bool:
    return all(one <= next_one for one, next_one in pairwise(keys))


def _with_bad_files(ready: list[FrameOf], bad: list[tuple[Sighting, Problem]]) -> list[_Slot]:
    """The frames with each bad file where its name would put it: it spoils that set and no other."""
    slots: list[_Slot] = []
    left = sorted(bad, key=lambda one: natural_key(one[0].path), reverse=True)
    for frame in ready:
        while left and natural_key(left[-1][0].path) < natural_key(frame[0].path):
            slots.append(left.pop())
        slots.append(frame)
    return slots + left[::-1]


def _name(group: Group, chunk: list[_Slot], outcome: Outcome) -> str:
    if group.name is not None:
        return outcome.name_for(group.name, own_folder=True)
    frames = [(sighting, facts) for sighting, facts in chunk if isinstance(facts, FrameFacts)]
    return outcome.name_for(loose_name(frames), own_folder=False)


def _judge_chunk(
    name: str, chunk: list[_Slot], holding: list[Pending], rules: Rules, quiet_s: float, outcome: Outcome
) -> None:
    sightings = tuple(sighting for sighting, _ in chunk)
    bad = [(sighting.path, problem) for sighting, problem in chunk if isinstance(problem, Problem)]
    facts = [(sighting.path, found) for sighting, found in chunk if isinstance(found, FrameFacts)]
    if holding:
        outcome.waiting.append(Waiting(name, len(facts), _still_arriving(holding)))
    elif bad:
        outcome.spoiled.append(_spoiled_by_files(name, sightings, bad))
    elif problems := problems_of(facts, exposure_tolerance=rules.exposure_tolerance):
        remedy = "take the frames that differ out of the folder, or put them into a folder of their own"
        outcome.spoiled.append(Spoiled(name, sightings, "\n".join(problems), remedy=remedy))
    elif len(chunk) == rules.frames:
        outcome.complete.append(CaptureSet(name, sightings))
    else:
        _judge_incomplete(name, sightings, rules, quiet_s, outcome)


def _judge_incomplete(
    name: str, sightings: tuple[Sighting, ...], rules: Rules, quiet_s: float, outcome: Outcome
) -> None:
    """A remainder that nothing is arriving for: set.partial decides once it has been quiet long enough."""
    count, missing = len(sightings), rules.frames - len(sightings)
    so_far = f"{count} of {rules.frames} frames"
    if rules.partial == "restore" and count >= rules.min_frames and quiet_s >= rules.partial_after_s:
        outcome.complete.append(CaptureSet(name, sightings))
    elif rules.partial == "quarantine" and quiet_s >= rules.partial_after_s:
        reason = f"{so_far}, and no new one for {rules.partial_after_s:g} s"
        outcome.spoiled.append(Spoiled(name, sightings, reason, remedy=f"add {missing} more"))
    else:
        outcome.waiting.append(Waiting(name, count, f"{so_far}: {_ways_on(missing, rules)}"))


def _ways_on(missing: int, rules: Rules) -> str:
    if rules.partial == "wait":
        return f'add {missing} more, set partial = "restore" in [set], or use `stackd restore`'
    if rules.partial == "restore" and rules.frames - missing < rules.min_frames:
        return f"add {missing} more; it takes at least {rules.min_frames} (set.min_frames)"
    fate = {"restore": "restored", "quarantine": "quarantined"}[rules.partial]
    return f"{missing} more to come, else {fate} as it is after {rules.partial_after_s:g} s without a new frame"


def _still_arriving(pending: list[Pending]) -> str:
    more = f" (and {len(pending) - 1} more)" if len(pending) > 1 else ""
    return f"{pending[0].path} {pending[0].reason}{more}"


def _spoiled_by_files(name: str, sightings: tuple[Sighting, ...], bad: list[tuple[str, Problem]]) -> Spoiled:
    remedies = dict.fromkeys(problem.remedy for _, problem in bad if problem.remedy)
    return Spoiled(
        name,
        sightings,
        "\n".join(problem.reason if path == name else f"{path}: {problem.reason}" for path, problem in bad),
        file=bad[0][0],
        remedy="; ".join(remedies) or "replace or remove the file",
    )
