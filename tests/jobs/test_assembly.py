"""What assembly promises: no set too early, none twice, none lost, the same sets whatever the order of arrival."""

import time
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stackd.disk.inbox import Listing
from stackd.jobs.assembly import Assembler, Assembly
from stackd.jobs.chunks import Problem, Rules
from stackd.records import CaptureSet, FrameFacts, Sighting
from tests.jobs.past import ListedPast

RULES = Rules(frames=8, settle_s=5.0, partial="wait", partial_after_s=3600.0, min_frames=2, exposure_tolerance=0.02)
BROKEN = Problem("is not a FITS file", "replace it")
SHORT = Problem("is 10 bytes long where its header declares 20", finished=False)


def sight(path: str, version: int = 1) -> Sighting:
    return Sighting(path, 100, version, 7)


def light(**said: object) -> FrameFacts:
    return FrameFacts(64, 48, 1, "uint16", **said)  # type: ignore[arg-type]


class House:
    """An inbox without a disk and a clock without time. Files are read the moment that they have settled."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.assembler = Assembler(rules)
        self.files: dict[str, tuple[Sighting, FrameFacts | Problem]] = {}
        self.facts: dict[Sighting, FrameFacts | Problem] = {}
        self.past = ListedPast()
        self.now_s = 0.0

    def put(self, *paths: str, what: FrameFacts | Problem | None = None, version: int = 1) -> None:
        for path in paths:
            self.files[path] = (sight(path, version), what or light())

    def look(self, after_s: float = 0.0) -> Assembly:
        """One scan; what settled is read before the next one."""
        self.now_s += after_s
        listing = Listing(tuple(sorted((one for one, _ in self.files.values()), key=lambda one: one.path)))
        found = self.assembler.update(listing, self.facts, self.past, self.now_s)
        self.facts |= {one: self.files[one.path][1] for one in found.needs_facts}
        return found

    def settle(self) -> Assembly:
        """Enough scans for everything that lies there to be settled and read."""
        for after_s in (0.0, RULES.settle_s, 0.0):
            found = self.look(after_s)
        return found

    def claim(self, found: Assembly) -> None:
        self.past += found.complete


def names(prefix: str, numbers: Iterable[int], suffix: str = ".fits") -> list[str]:
    return [f"{prefix}{number}{suffix}" for number in numbers]


def members(capture_set: CaptureSet) -> list[str]:
    return [sighting.path for sighting in capture_set.frames]


# When a set is complete


def test_eight_settled_frames_in_a_folder_are_a_set() -> None:
    """Named after the folder, frames in natural order."""
    house = House()
    house.put(*names("M31/", range(4, 12)))

    found = house.settle()

    assert [one.name for one in found.complete] == ["M31"]
    assert members(found.complete[0]) == names("M31/", range(4, 12))
    assert found.waiting == found.spoiled == ()


def test_nothing_is_claimed_before_it_has_settled_over_two_scans() -> None:
    """Neither a long pause between scans nor many scans in a moment are enough."""
    house = House(replace(RULES, settle_s=5.0))
    house.put(*names("M31/", range(8)))

    assert house.look().needs_facts == ()
    assert house.look(4.9).needs_facts == ()
    assert len(house.look(0.1).needs_facts) == 8
    assert len(house.look().complete) == 1

    impatient = House(replace(RULES, settle_s=0.0))
    impatient.put(*names("M31/", range(8)))
    assert impatient.look().needs_facts == ()
    assert len(impatient.look().needs_facts) == 8


def test_a_file_that_changes_settles_anew() -> None:
    """Growth, even by one second's mtime, starts the wait again."""
    house = House()
    house.put(*names("M31/", range(8)))
    house.settle()
    house.put("M31/3.fits", version=2)

    found = house.look()

    assert found.complete == ()
    assert "M31/3.fits has still to settle" in found.waiting[0].reason
    assert len(house.settle().complete) == 1


def test_an_unfinished_file_holds_its_set_and_is_broken_when_it_stays_so() -> None:
    """The header's length decides, not a stalled copy's quiet; in the end somebody is told."""
    house = House()
    house.put(*names("M31/", range(7)))
    house.put("M31/7.fits", what=SHORT)

    found = house.settle()
    assert found.complete == found.spoiled == ()
    assert found.waiting[0].reason == "M31/7.fits is 10 bytes long where its header declares 20"

    spoiled = house.look(10 * RULES.settle_s).spoiled
    assert (spoiled[0].set_name, spoiled[0].file) == ("M31", "M31/7.fits")

    house.put("M31/7.fits", version=2)
    assert len(house.settle().complete) == 1


def test_later_frames_do_not_hold_an_earlier_set() -> None:
    """A night that goes on must not starve its first set; a frame that sorts into it must hold it."""
    house = House()
    house.put(*names("L_", range(1, 9)))
    house.settle()
    house.put("L_9.fits", "M_1.fits", "L_10.fits")
    assert len(house.look().complete) == 1

    house.put("L_0.fits")

    assert house.look().complete == ()
    assert members(house.settle().complete[0]) == names("L_", range(8))


def test_where_names_say_nothing_of_time_every_arrival_holds() -> None:
    """The file that is still settling may be the earliest of all."""
    house = House()
    for number in range(8):
        house.put(f"M31/{9 - number}.fits", what=light(taken_at=f"2024-01-01T00:0{number + 1}"))
    assert len(house.settle().complete) == 1
    house.put("M31/99.fits", what=light(taken_at="2024-01-01T00:00"))

    assert house.look().complete == ()
    assert members(house.settle().complete[0])[0] == "M31/99.fits"


# Names and order


def test_every_eight_frames_of_a_folder_are_the_next_set() -> None:
    """M31, M31-2, and a remainder that waits and says for what; a folder keeps its own name."""
    house = House()
    house.put(*names("M31/", range(17)), *names("M31-2/", range(8)))

    found = house.settle()

    assert {one.name: members(one)[0] for one in found.complete} == {
        "M31": "M31/0.fits",
        "M31-2": "M31-2/0.fits",
        "M31-3": "M31/8.fits",
    }
    assert found.waiting[0].set_name == "M31-4"
    assert found.waiting[0].reason.startswith("1 of 8 frames: add 7 more, set partial")


def test_claimed_frames_and_names_are_not_given_again() -> None:
    """The second eight are a set of their own."""
    house = House()
    house.put(*names("M31/", range(8)))
    house.claim(house.settle())
    assert house.look() == Assembly()
    house.put(*names("M31/", range(8, 16)))

    found = house.settle()

    assert [(one.name, members(one)) for one in found.complete] == [("M31-2", names("M31/", range(8, 16)))]


def test_a_replaced_frame_opens_its_set_again_under_its_name() -> None:
    """The result becomes a revision; the other sets keep what they have."""
    house = House()
    house.put(*names("M31/", range(16)))
    house.claim(house.settle())
    house.put("M31/3.fits", version=2)

    found = house.settle()

    assert [(one.name, members(one)) for one in found.complete] == [("M31", names("M31/", range(8)))]
    house.claim(found)
    assert house.look() == Assembly()


def test_files_that_vanish_free_nothing() -> None:
    """Cleaning up, or a mount that has gone, restores nothing twice."""
    house = House()
    house.put(*names("M31/", range(8)))
    house.claim(house.settle())
    kept = dict(house.files)
    house.files.clear()
    assert house.settle() == Assembly()

    house.files = kept

    assert house.settle() == Assembly()


def test_loose_frames_are_set_by_what_they_are() -> None:
    """Two filters interleaved are two sets, in order of time, named from their headers."""
    house = House()
    for number in range(16):
        seen = light(target="M31", filter="RB"[number % 2], exposure_s=60.0, taken_at=f"2024-01-01T00:{number:02d}:00")
        house.put(f"frame{number}.fits", what=seen)

    found = house.settle()

    assert [one.name for one in found.complete] == ["M31_B_60s_20240101-000100", "M31_R_60s_20240101-000000"]
    assert members(found.complete[1]) == names("frame", range(0, 16, 2))


def test_loose_darks_and_flats_are_left_out_and_said_so() -> None:
    """They look like frames but hold no sky."""
    house = House()
    house.put(*names("L_", range(8)))
    house.put("dark.fits", what=light(image_type="dark"))

    found = house.settle()

    assert len(found.complete) == 1
    assert [one.path for one in found.unused] == ["dark.fits"]


# What goes wrong


def test_a_bad_file_spoils_its_set_and_no_other() -> None:
    """The night goes on; replacing the file revives the set."""
    house = House()
    house.put(*names("M31/", range(16)), *names("M33/", range(8)))
    house.put("M31/3.fits", what=BROKEN)

    found = house.settle()

    assert [one.name for one in found.complete] == ["M31-2", "M33"]
    spoiled = found.spoiled[0]
    assert (spoiled.set_name, spoiled.file, spoiled.remedy) == ("M31", "M31/3.fits", "replace it")
    assert spoiled.reason == "M31/3.fits: is not a FITS file"
    assert len(spoiled.frames) == 8

    house.claim(found)
    house.put("M31/3.fits", version=2)
    found = house.settle()
    assert [(one.name, members(one)) for one in found.complete] == [("M31", names("M31/", range(8)))]
    assert found.spoiled == ()


def test_a_bad_loose_file_stands_alone() -> None:
    """It is reported under its own name and takes no part in anything."""
    house = House()
    house.put(*names("L_", range(8)))
    house.put("L_3x.fits", what=BROKEN)

    found = house.settle()

    assert len(found.complete) == 1
    assert [(one.set_name, one.file) for one in found.spoiled] == [("L_3x.fits", "L_3x.fits")]


def test_a_folder_of_frames_that_do_not_belong_together_is_spoiled_with_all_reasons() -> None:
    """One report, every problem."""
    house = House()
    house.put(*names("M31/", range(7)), what=light(filter="R", gain=1.0))
    house.put("M31/7.fits", what=light(filter="B", gain=2.0))

    found = house.settle()

    assert found.complete == ()
    assert [line.split(" differs")[0] for line in found.spoiled[0].reason.splitlines()] == ["filter", "gain"]


def test_an_incomplete_set_follows_the_policy_once_nothing_comes() -> None:
    """wait, restore (if enough) or quarantine, by our clock since the last new frame."""
    cases = [
        ("wait", 7, "waiting"),
        ("restore", 7, "complete"),
        ("restore", 1, "waiting"),
        ("quarantine", 7, "spoiled"),
    ]
    for partial, count, outcome in cases:
        house = House(replace(RULES, partial=partial, partial_after_s=100.0))
        house.put(*names("M31/", range(count)))
        assert len(house.settle().waiting) == 1
        assert len(house.look(94.0).waiting) == 1

        found = house.look(1.0)

        assert len(getattr(found, outcome)) == 1, (partial, count)


def test_an_eighth_frame_revives_an_incomplete_set() -> None:
    """Quarantined for being incomplete is not for ever."""
    house = House(replace(RULES, partial="quarantine", partial_after_s=10.0))
    house.put(*names("M31/", range(7)))
    house.settle()
    assert len(house.look(10.0).spoiled) == 1

    house.put("M31/7.fits")

    assert [one.name for one in house.settle().complete] == ["M31"]


# Always


@given(st.permutations(range(20)), st.integers(1, 20), st.booleans())
def test_the_order_of_arrival_changes_nothing(order: list[int], at_once: int, loose: bool) -> None:
    """Any order, in any portions, as long as nobody waits in between."""
    prefix = "L_" if loose else "M31/"
    together, dripped = House(), House()
    together.put(*names(prefix, range(20)))
    for start in range(0, 20, at_once):
        dripped.put(*names(prefix, order[start : start + at_once]))
        dripped.look(0.1)

    assert dripped.settle() == together.settle()


def test_ten_thousand_frames_take_a_fraction_of_a_second() -> None:
    """The supervisor judges the whole inbox every turn (about 0.2 s; five times that fails)."""
    house = House()
    house.put(*names("L_", range(5000)), what=light(target="M31", filter="R", exposure_s=60.0))
    house.put(*names("M31/", range(5000)))
    house.settle()

    started = time.process_time()
    found = house.look()

    assert time.process_time() - started < 1.0
    assert len(found.complete) == 1250
