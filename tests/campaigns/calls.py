"""SIGKILL at every call that changes a disk, of a run of two good sets and a bad one: nothing lost, doubled, half.

    python -m tests.campaigns.calls [--trap python] [--place house] [--every N] [--after archive] [--mutant NAME]

Each case is a fresh folder, a run that is killed at the n-th call of one kind, and a plain run after it. For
every n until a run comes through whole; `--every 7` takes each 7th. Places: "house" is both processes at once (a
power cut; the work is done in the supervisor), "supervisor" and "worker" are one of the two. Traps: strace's
inject sees every system call; "python" sees what Python and SQLite's transactions do, and needs no strace.
Prints a table of kills and failures; exits 1 if the promise broke, as it must with each of the mutants.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaigns.forked import PLACES, Ended, Forked, StraceIsMissing
from tests.campaigns.house import House
from tests.campaigns.mutants import MUTANTS

# Every call that can change what lies on a disk; which of them a run uses is counted first.
CHANGING = (
    "open", "openat", "creat", "mkdir", "mkdirat", "mknod", "mknodat", "rmdir", "unlink", "unlinkat",
    "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
    "write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile", "copy_file_range", "splice",
    "truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync",
    "chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "utime", "utimensat", "futimesat",
    "setxattr", "fsetxattr",
)  # fmt: skip
ATTEMPTS = 4  # so that no innocent set of a killed run comes into quarantine
MOST_CALLS = 3000  # of one kind in one run: a guard against a loop without end


@dataclass
class Tally:
    """What one kind of call in one place gave."""

    kills: int = 0
    failures: list[str] = field(default_factory=list)


class Campaign:
    """Runs cases in folders below `folder`, each removed unless it failed."""

    def __init__(self, folder: Path, trap: str, after: str, mutant: str) -> None:
        self._folder, self._trap, self._after, self._mutant = folder, trap, after, mutant
        self._number = 0

    def count(self, place: str) -> dict[str, int]:
        """How often a run without a kill makes each call that changes a disk; kinds without any are left out."""
        with self._house() as house:
            ended = Forked(house.folder, place, self._mutant).run(self._trap, CHANGING, 0)
            complain = "" if ended.code == 0 else f"exit code {ended.code}"
            if complain:
                raise RuntimeError(f"a run without a kill fails: {complain}\n{house.last_words()}")
        return ended.calls

    def case(self, place: str, call: str, at: int) -> tuple[bool, str]:
        """Kill one run at its `at`-th `call`, then run plainly. (whether it was killed, what broke or "")."""
        with self._house() as house:
            forked = Forked(house.folder, place, self._mutant)
            ended = forked.run(self._trap, (call,), at)
            broken = self._judge(house, forked, ended)
            if broken:
                (house.folder / "broken").write_text(f"{place} {call} {at}: {broken}\n")
            else:
                shutil.rmtree(house.folder)
        return ended.fired, broken

    def poison(self) -> str:
        """A set that takes the whole house with it each time is put away after `attempts`; what broke or ""."""
        with self._house(A={"do": "die"}) as house:
            forked = Forked(house.folder, "house", self._mutant)
            for _ in range(ATTEMPTS + 3):
                if forked.run("", (), 0).code == 0:
                    break
            else:
                return f"a set that kills the house is tried for ever\n{house.last_words(5)}"
            audit = house.audit(away=frozenset({"A", "bad"}))
            return "" if audit.kept else str(audit)

    def _judge(self, house: House, forked: Forked, ended: Ended) -> str:
        at_once = house.audit(settled=False)
        if not at_once.kept:
            return f"right after the kill: {at_once}"
        if not ended.fired and ended.code:
            return f"not killed and ended with {ended.code}: {house.last_words(5)}"
        if code := forked.run("", (), 0).code:
            return f"the next run ended with {code}: {house.last_words(5)}"
        after = house.audit(away=frozenset({"bad"}))
        return "" if after.kept else f"after the next run: {after}"

    def _house(self, **orders: dict[str, str]) -> House:
        """Two good sets and one that is refused."""
        self._number += 1
        quick = {"set__settle_s": 0.02, "set__scan_interval_s": 0.05, "set__after": self._after}
        quick["limits__attempts"] = ATTEMPTS
        house = House(self._folder / str(self._number), **quick)
        for name, asked in {"A": {}, "B": {}, "bad": {"do": "refuse"}, **orders}.items():
            house.drop(name, **asked)
        return house


def cases(counts: dict[str, int], every: int, rng: random.Random) -> Iterator[tuple[str, int]]:
    """(call, n) for every n, and beyond the count as runs differ a little; or a sample of it."""
    for call, count in counts.items():
        first = rng.randrange(every) if every > 1 else 0
        last = count if every > 1 else MOST_CALLS
        yield from ((call, at) for at in range(1 + min(first, count - 1), last + 1, every))


def run(asked: argparse.Namespace, folder: Path) -> int:
    """The campaign; gives the number of failures."""
    campaign = Campaign(folder, asked.trap, asked.after, asked.mutant)
    total, tallies = Tally(), dict[tuple[str, str], Tally]()
    if broken := campaign.poison():
        total.failures.append(f"poison: {broken}")
    for place in [] if asked.stop_at_first and total.failures else asked.place or PLACES:
        counts = campaign.count(place)
        whole: set[str] = set()  # kinds of which a run has none left: beyond its end
        for call, at in cases(counts, asked.every, random.Random(asked.seed)):
            if call in whole:
                continue
            fired, broken = campaign.case(place, call, at)
            if not fired and at > counts[call]:
                whole.add(call)
            tally = tallies.setdefault((place, call), Tally())
            tally.kills += fired
            if broken:
                tally.failures.append(broken)
                total.failures.append(f"{place} {call} {at}: {broken}")
                if asked.stop_at_first:
                    break
        if asked.stop_at_first and total.failures:
            break
    for (place, call), tally in tallies.items():
        print(f"{place:12}{call:14}{tally.kills:5} kills {len(tally.failures):5} failures")
        total.kills += tally.kills
    print(f"{total.kills} kills, {len(total.failures)} failures ({asked.trap}, mutant: {asked.mutant or 'none'})")
    for one in total.failures[:5]:
        print(one)
    return len(total.failures)


def main() -> int:
    """Exit code: 0 the promise was kept, 1 it broke, 77 there is no strace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trap", choices=["strace", "python"], default="strace")
    parser.add_argument("--place", action="append", choices=PLACES)
    parser.add_argument("--after", choices=["keep", "archive"], default="keep", help="what becomes of finished frames")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutant", choices=["", *MUTANTS], default="")
    parser.add_argument("--stop-at-first", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the houses stand; a failed one is kept there")
    asked = parser.parse_args()
    began_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="calls-", dir=asked.folder))
    try:
        failures = run(asked, folder)
    except StraceIsMissing as error:
        print(error)
        return 77
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)
    print(f"{time.monotonic() - began_s:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
