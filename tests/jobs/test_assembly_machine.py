"""Set assembly under everything that an inbox can do: whatever happens in whatever order, the promises hold.

Hypothesis plays the user, the copying programs, the mount, the worker and the daemon; after each scan the machine
judges what assembly said, and at the end of each story that nothing was lost. `make test` plays a few stories,
`python -m tests.campaigns.assembly` some thousand steps.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stackd.disk.inbox import Listing
from stackd.jobs.assembly import PATIENCE_SETTLES, Assembler, Assembly
from stackd.jobs.chunks import Problem, Rules
from stackd.records import CaptureSet, FrameFacts, Sighting
from tests.jobs.past import ListedPast

RULES = Rules(frames=8, settle_s=5.0, partial="wait", partial_after_s=600.0, min_frames=3, exposure_tolerance=0.02)
DAY_S = 86400.0
YEAR_NS = 365 * 86400 * 10**9

FOLDERS = ("", "M31/", "M31-2/", "Ha/")
NUMBERS = st.integers(0, 24)
FOLDER = st.sampled_from(FOLDERS)
SETTLE_S = st.sampled_from([RULES.settle_s, RULES.settle_s, 0.0])
PARTIAL = st.sampled_from(["wait", "wait", "restore", "quarantine"])


def light(**said: Any) -> FrameFacts:
    return FrameFacts(64, 48, 1, "uint16", **said)


def timed(number: int) -> FrameFacts:
    """Taken in the reverse order of its name."""
    return light(target="M 31", exposure_s=60.0, taken_at=f"2026-01-01T00:{59 - number:02d}:00")


BROKEN = Problem("is not a FITS file", "replace it")
SHORT = Problem("is shorter than its header declares", finished=False)
WHAT = st.sampled_from([light(), light(image_type="dark"), BROKEN, SHORT, "timed"])


class Inbox(RuleBasedStateMachine):
    """Files (what a scan would see, and what reading them would give), a clock, a ledger and a daemon's memory."""

    steps = scans = sets = 0  # taken, made and claimed in all stories together, for the campaign's table

    @initialize(partial=PARTIAL, settle_s=SETTLE_S, folder=FOLDER, first=st.integers(0, 4), frames=st.integers(8, 20))
    def begin(self, partial: Any, settle_s: float, folder: str, first: int, frames: int) -> None:
        """With some frames there."""
        self.rules = replace(RULES, partial=partial, settle_s=settle_s)
        self.files: dict[str, tuple[Sighting, FrameFacts | Problem]] = {}
        self.away: dict[str, tuple[Sighting, FrameFacts | Problem]] = {}  # while the mount is gone
        self.past = ListedPast()
        self.running: CaptureSet | None = None
        self.now_s = 1000.0
        self.changes = 0
        self.restart()
        self.arrive_in_a_burst(folder, list(range(first, first + frames)), by_time=False)

    # What the user and other programs do

    @rule(number=NUMBERS)
    def arrive_of_another_kind(self, number: int) -> None:
        """Loose, it goes its own way; in the folder Ha it can spoil a set."""
        self._write(f"L_{number}.fits", light(filter="B"))
        self._write(f"Ha/L_{number}.fits", light(filter="Ha" if number % 3 else "B"))

    @rule(folder=FOLDER, number=NUMBERS, what=WHAT)
    def arrive(self, folder: str, number: int, what: Any) -> None:
        """New, or over what was there."""
        self._write(f"{folder}L_{number}.fits", timed(number) if what == "timed" else what)

    @rule(folder=FOLDER, numbers=st.lists(NUMBERS, min_size=6, max_size=18, unique=True), by_time=st.booleans())
    def arrive_in_a_burst(self, folder: str, numbers: list[int], by_time: bool) -> None:
        for number in numbers:
            self._write(f"{folder}L_{number}.fits", timed(number) if by_time else light())

    @precondition(lambda self: self.files)
    @rule(data=st.data(), growth=st.integers(1, 100))
    def grow(self, data: st.DataObject, growth: int) -> None:
        """A copy goes on; perhaps it is whole now."""
        path, (sighting, _) = self._any_file(data)
        self._write(path, data.draw(st.sampled_from([SHORT, light()])), size_bytes=sighting.size_bytes + growth)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), years=st.sampled_from([-56, 0, 74]))
    def rewrite(self, data: st.DataObject, years: int) -> None:
        """As long as before; the other program's clock may be decades off."""
        path, (sighting, what) = self._any_file(data)
        self._write(path, what, size_bytes=sighting.size_bytes, years=years)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), folder=FOLDER, number=NUMBERS, copied=st.booleans())
    def rename_or_copy(self, data: st.DataObject, folder: str, number: int, copied: bool) -> None:
        """To a free or a taken name, with its old times, as `mv` and `cp -p` do."""
        old, (sighting, what) = self._any_file(data)
        new = f"{folder}L_{number}.fits"
        if new == old:
            return
        inode = self._change() if copied else sighting.inode
        self.files[new] = replace(sighting, path=new, inode=inode), what
        if not copied:
            del self.files[old]

    @rule(old=st.sampled_from(FOLDERS[1:]), new=st.sampled_from(FOLDERS[1:]))
    def rename_folder(self, old: str, new: str) -> None:
        """Onto a name that is free."""
        if any(path.startswith(new) for path in self.files):
            return
        for path in [path for path in self.files if path.startswith(old)]:
            sighting, what = self.files.pop(path)
            renamed = new + path.removeprefix(old)
            self.files[renamed] = replace(sighting, path=renamed), what

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        del self.files[self._any_file(data)[0]]

    @rule(back=st.booleans())
    def unmount_or_mount(self, back: bool) -> None:
        """The folder is there and empty; what comes back is what went."""
        if back:
            self.files, self.away = self.away | self.files, {}
        else:
            self.files, self.away = {}, self.away | self.files

    # What the daemon does

    @rule(after_s=st.sampled_from([0.0, 0.5, 3.0, 5.0, 60.0, DAY_S]), times=st.integers(1, 3), reading=st.booleans())
    def look(self, after_s: float, times: int, reading: bool) -> None:
        """Scans; DAY_S is a machine that slept."""
        for _ in range(times):
            self._look(after_s)
            if reading:
                self._read_all()

    @rule(data=st.data())
    def read_some(self, data: st.DataObject) -> None:
        """The worker is slow: some of what was asked for is read, as it lies there now."""
        for sighting in self.asked:
            if data.draw(st.booleans()):
                self._read(sighting)

    @rule()
    def quiet(self) -> None:
        """Nobody does anything for a while, and the worker keeps up."""
        for after_s in (0.0, RULES.settle_s, 0.0):
            self._look(after_s)
            self._read_all()

    @rule(data=st.data(), at_leisure=st.booleans())
    def claim(self, data: st.DataObject, at_leisure: bool) -> None:
        """Any of the sets of the last scan; the files may be others by now."""
        if at_leisure:
            self.quiet()
        if self.running is None and self.found.complete:
            self.running = data.draw(st.sampled_from(self.found.complete))
            self.past.append(self.running)
            left = tuple(one for one in self.found.complete if one != self.running)
            self.found = replace(self.found, complete=left)
            Inbox.sets += 1

    @precondition(lambda self: self.running is not None)
    @rule(well=st.booleans())
    def end(self, well: bool) -> None:
        """Done or put away; else, or where a frame changed under the work, it is free again."""
        assert self.running is not None
        if not well or not self._is_closed(self.running):
            self.past.remove(self.running)
        self.running = None

    @rule()
    def restart(self) -> None:
        """All is forgotten but for the ledger; a set at work is free again."""
        if self.running is not None:
            self.past.remove(self.running)
        self.running = None
        self.assembler = Assembler(self.rules)
        self.facts: dict[Sighting, FrameFacts | Problem] = {}
        self.asked: tuple[Sighting, ...] = ()
        self.seen: dict[str, tuple[Sighting, float, int]] = {}
        self.found = Assembly()

    def teardown(self) -> None:
        """In the end everything readable comes out, once, and everything else is somewhere with a reason."""
        if not hasattr(self, "files"):
            return
        self.unmount_or_mount(back=True)
        if self.running is not None:
            self.end(True)
        for after_s in (0.0, RULES.settle_s, 0.0, PATIENCE_SETTLES * RULES.settle_s, RULES.partial_after_s):
            self._look(after_s)
            self._read_all()
        self._everything_is_somewhere()
        self._full_groups_came_out()
        self._a_newcomer_says_the_same()
        self._each_comes_out_once()

    # What must hold

    @invariant()
    def count(self) -> None:
        Inbox.steps += 1

    def _look(self, after_s: float) -> None:
        Inbox.scans += 1
        self.now_s += after_s
        listing = self._listing()
        for sighting in listing.sightings:
            last, since_s, scans = self.seen.get(sighting.path, (None, self.now_s, 0))
            same = last == sighting
            self.seen[sighting.path] = (sighting, since_s, scans + 1) if same else (sighting, self.now_s, 1)
        self.seen = {path: seen for path, seen in self.seen.items() if path in self.files}
        self.found = self.assembler.update(listing, self.facts, self.past, self.now_s)
        self.asked = self.found.needs_facts
        self._only_settled_frames()
        self._none_that_could_be_earlier_is_left_out()
        self._none_twice()
        self._sets_are_whole()
        self._names_are_free()

    def _only_settled_frames(self) -> None:
        for frame in [frame for one in self.found.complete for frame in one.frames]:
            assert self.files[frame.path][0] == frame
            _, since_s, scans = self.seen[frame.path]
            assert scans >= 2
            assert self.now_s - since_s >= self.rules.settle_s
            assert isinstance(self.facts[frame], FrameFacts)

    def _none_that_could_be_earlier_is_left_out(self) -> None:
        """A full set waits for each file beside it that is still arriving and might belong before its last frame."""
        held = self._held()
        for one in self.found.complete:
            numbers = [_number(frame.path) for frame in one.frames]
            folder, by_name = _folder(one.frames[0].path), numbers == sorted(numbers)
            beside = [path for path in self.files if _folder(path) == folder and path not in held]
            arriving = [_number(path) for path in beside if self._is_arriving(self.files[path][0])]
            assert not [number for number in arriving if not by_name or number < numbers[-1]]

    def _none_twice(self) -> None:
        frames = [frame.path for one in (*self.found.complete, *self.found.spoiled) for frame in one.frames]
        frames += [one.path for one in self.found.unused]
        assert max(Counter(frames).values(), default=1) == 1
        assert not self._held() & set(frames)

    def _sets_are_whole(self) -> None:
        """Eight lights that agree, in order, of one folder; fewer only where the rules say so, after the wait."""
        for one in self.found.complete:
            facts = [self.facts[frame] for frame in one.frames]
            quiet_s = self.now_s - max(self.seen[frame.path][1] for frame in one.frames)
            few_is_enough = self.rules.partial == "restore" and quiet_s >= RULES.partial_after_s
            assert len(facts) == RULES.frames or (few_is_enough and RULES.min_frames <= len(facts) < RULES.frames)
            assert len({frame.path.rpartition("/")[0] for frame in one.frames}) == 1
            assert all(isinstance(said, FrameFacts) and said.is_light for said in facts)
            for said in ("filter", "exposure_s", "target"):
                assert len({getattr(fact, said) for fact in facts} - {None}) <= 1  # what is not said does not differ

    def _names_are_free(self) -> None:
        names = [one.name for one in self.found.complete]
        names += [one.set_name for one in (*self.found.waiting, *self.found.spoiled)]
        assert max(Counter(names).values(), default=1) == 1
        assert not {one.name for one in self.past if self._is_closed(one)} & set(names)

    def _everything_is_somewhere(self) -> None:
        placed = [frame.path for one in (*self.found.complete, *self.found.spoiled) for frame in one.frames]
        placed += [one.path for one in self.found.unused]
        waiting = sum(one.frames for one in self.found.waiting)
        assert len(placed) + waiting + len(self._held() & self.files.keys()) == len(self.files)
        assert all(one.reason for one in (*self.found.waiting, *self.found.spoiled, *self.found.unused))

    def _full_groups_came_out(self) -> None:
        """Frames that nothing is wrong with wait only as a remainder of fewer than eight."""
        held = self._held()
        for folder in FOLDERS:
            free = [what for path, (_, what) in self.files.items() if _folder(path) == folder and path not in held]
            lights = [one for one in free if isinstance(one, FrameFacts) and one.is_light]
            kinds = Counter("" if folder else (one.filter, one.target) for one in lights)
            mixed = len({one.filter for one in lights} - {None}) > 1
            if folder and (mixed or any(isinstance(one, Problem) for one in free)):
                continue  # a person must act
            here = [one for one in self.found.complete if _folder(one.frames[0].path) == folder]
            full = [one for one in here if len(one.frames) == RULES.frames]
            assert len(full) == sum(number // RULES.frames for number in kinds.values())

    def _a_newcomer_says_the_same(self) -> None:
        """Who sees everything at once, in another order, finds the same sets: the story does not count."""
        newcomer = Assembler(self.rules)
        facts = dict(reversed(self.facts.items()))
        for after_s in (0.0, PATIENCE_SETTLES * RULES.settle_s, RULES.partial_after_s):
            found = newcomer.update(self._listing(), facts, ListedPast(self.past[::-1]), self.now_s + after_s)
        assert found == self.found

    def _each_comes_out_once(self) -> None:
        """Claimed and done, nothing is offered again."""
        self.past += self.found.complete
        self._look(0.0)
        assert self.found.complete == ()

    # How

    def _write(self, path: str, what: FrameFacts | Problem, *, size_bytes: int = 100, years: int = 0) -> None:
        inode = self.files[path][0].inode if path in self.files else self._change()
        mtime_ns = 56 * YEAR_NS + years * YEAR_NS + self._change()
        self.files[path] = Sighting(path, size_bytes, mtime_ns, inode), what

    def _change(self) -> int:
        self.changes += 1
        return self.changes

    def _read(self, sighting: Sighting) -> None:
        """What lies there now under the name that was asked for; nothing if it is gone."""
        if sighting.path in self.files:
            self.facts[sighting] = self.files[sighting.path][1]

    def _read_all(self) -> None:
        for sighting in self.asked:
            self._read(sighting)

    def _any_file(self, data: st.DataObject) -> tuple[str, tuple[Sighting, FrameFacts | Problem]]:
        return data.draw(st.sampled_from(sorted(self.files.items())))

    def _listing(self) -> Listing:
        return Listing(tuple(sorted((one for one, _ in self.files.values()), key=lambda one: one.path)))

    def _held(self) -> set[str]:
        """Paths in sets that were claimed and of which no file has changed since."""
        return {frame.path for one in self.past if self._is_closed(one) for frame in one.frames}

    def _is_arriving(self, sighting: Sighting) -> bool:
        """Not yet settled, not yet read, or shorter than it should be and with time left to grow."""
        _, since_s, scans = self.seen[sighting.path]
        quiet_s, found = self.now_s - since_s, self.facts.get(sighting)
        if scans < 2 or quiet_s < self.rules.settle_s or found is None:
            return True
        return found is SHORT and quiet_s < PATIENCE_SETTLES * self.rules.settle_s

    def _is_closed(self, capture_set: CaptureSet) -> bool:
        there = [(self.files[one.path][0], one) for one in capture_set.frames if one.path in self.files]
        return all((now.size_bytes, now.mtime_ns) == (then.size_bytes, then.mtime_ns) for now, then in there)


def _number(path: str) -> int:
    return int(path.rpartition("_")[2].removesuffix(".fits"))


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]


TestInbox = Inbox.TestCase
TestInbox.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestInbox.pytestmark = [pytest.mark.timeout(600)]  # shrinking a failure on a busy machine
