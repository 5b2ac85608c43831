"""How long until READY=1, with years of finished sets behind: the ledger's rows known, or to be rebuilt.

`python -m tests.campaigns.ready [--sets 10000] [--keep FOLDER]`: makes a ledger and an outbox of N finished sets and
starts a daemon with stand-in work twice: as after a reboot, and after the ledger was lost, when every manifest in the
outbox is read and written down again. Prints the seconds from the start of the process to READY=1, and what of them
the supervisor computed; exit 1 if the first took more than 5 s or the second more than 60 s.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil

from stackd.disk import outbox
from stackd.disk.ledger import DONE, Entry, Ledger, identity_of
from stackd.records import Sighting
from tests.campaigns.house import House

SETS, FRAMES = 10_000, 8
LONGEST_START_S, LONGEST_REBUILD_S = 5.0, 60.0


def make_history(house: House, sets: int) -> None:
    """So many finished sets in the outbox and in the ledger; their frames were taken away since."""
    house.outbox.mkdir()
    house.state.mkdir()
    ledger = Ledger(house.state)
    try:
        ledger._db.execute("PRAGMA synchronous = OFF")
        for number in range(sets):
            _one_set(house, ledger, f"S{number:05d}")
    finally:
        ledger.close()


def _one_set(house: House, ledger: Ledger, name: str) -> None:
    frames = [Sighting(f"{name}/{n}.fits", 8640, 10**18 + n, 0) for n in range(FRAMES)]
    job = {
        "set": name,
        "identity": identity_of(frames),
        "digest": name,
        "attempt": 1,
        "frames": [{"path": one.path, "size_bytes": one.size_bytes, "mtime_ns": one.mtime_ns} for one in frames],
    }
    folder = house.outbox / name
    folder.mkdir()
    (folder / outbox.MANIFEST).write_text(json.dumps({"set": name, "job": job}))
    ledger.restore_entry(Entry(job["identity"], name, DONE, 1, digest=name, folder=name), frames)


def start(house: House, deadline_s: float = 600.0) -> tuple[float, float]:
    """Seconds to READY=1, on the clock and computed; the daemon is stopped again."""
    supervisor = psutil.Process(house.start().pid)
    seconds = house.ready(deadline_s)
    times = supervisor.cpu_times()
    house.stop()
    return seconds, times.user + times.system


def lose_ledger(house: House) -> None:
    """As if the state folder lay on a disk that broke."""
    for file in house.state.glob("ledger.db*"):
        file.unlink()


def main() -> int:
    """Exit code: 0 only if both starts were in time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=SETS)
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it there")
    asked = parser.parse_args()
    with ExitStack() as at_end:
        folder = asked.keep or Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="stackd-ready-")))
        house = House(folder)
        at_end.callback(house.close)
        make_history(house, asked.sets)
        known_s, computed_s = start(house)
        print(f"{asked.sets} sets known: READY after {known_s:.1f} s ({computed_s:.1f} s computed)", flush=True)
        lose_ledger(house)
        rebuilt_s, computed_s = start(house)
        print(f"{asked.sets} sets rebuilt: READY after {rebuilt_s:.1f} s ({computed_s:.1f} s computed)")
    kept = known_s <= LONGEST_START_S and rebuilt_s <= LONGEST_REBUILD_S
    print("kept" if kept else "BROKEN")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
