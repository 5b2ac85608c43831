"""How stackd stops: idle, in the middle of a set, asked twice, during recovery; and a second instance.

    python -m tests.campaigns.signals

Each function takes a fresh folder, checks that nothing was lost or left half, and gives the seconds from the
signal to the exit. Prints them; exits 1 if one breaks its bound or its promise.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stackd.disk.outbox import MANIFEST, STAGING
from tests.campaigns.house import House

IDLE_S = 2.0  # issue's bound
STOP_TIMEOUT_S = 3.0  # limits.stop_timeout_s of the houses here
LEAVE_S = 5.0  # on top of the stop time, for a machine that is busy with other things
RECOVERED_SETS = 1500
LEFT_ATTEMPTS = 40
SECOND_INSTANCE = 75


def idle(folder: Path) -> float:
    """SIGTERM while nothing is to be done."""
    with House(folder, standin=False) as house:
        house.start()
        house.ready()
        return _stopped(house)


def finishing(folder: Path) -> float:
    """SIGTERM in the middle of a set that ends within the stop time: it is published."""
    with _at_work(folder, do="linger", seconds=1.0) as house:
        seconds = _stopped(house)
        _must(house.published() == ["M27"], f"a set that had the time was not finished: {house.published()}")
        _must_be_kept(house)
    return seconds


def hanging(folder: Path) -> float:
    """SIGTERM in the middle of a set that does not end: handed back, no attempt counted, done by the next start."""
    with _at_work(folder, do="hang", until=str(folder / "gate")) as house:
        seconds = _stopped(house)
        _must(seconds >= STOP_TIMEOUT_S / 2, "the set was not given its time")
        _finish_after(house)
    return seconds


def twice(folder: Path) -> float:
    """A second SIGTERM does not wait for the set."""
    with _at_work(folder, do="hang", until=str(folder / "gate"), stop_timeout_s=600.0) as house:
        assert house.process is not None
        house.process.send_signal(signal.SIGTERM)
        house.until(lambda: "SIGTERM: stopping" in house.last_words())
        seconds = _stopped(house)
        _finish_after(house)
    return seconds


def recovering(folder: Path) -> float:
    """SIGTERM while a lost ledger is rebuilt from many results and left attempts are swept; the longest of four."""
    with _with_a_past(folder) as house:
        seconds = []
        for delay_s in (0.0, 0.05, 0.2, 0.5):
            house.start()
            house.until(lambda: (house.state / "ledger.db-wal").exists())  # the signals are taken before
            time.sleep(delay_s)
            seconds.append(_stopped(house))
        house.start()
        house.ready()
        house.until(lambda: "M27" in house.published())
        _stopped(house)
        _must(len(house.published()) == RECOVERED_SETS + 1, f"{len(house.published())} results")
        _must(not house.in_flight(), "unfinished attempts are left")
    return max(seconds)


def second_instance(folder: Path) -> float:
    """Exit code 75 and a clear line, and the first one goes on; gives the second one's life in seconds."""
    with House(folder) as house:
        house.start()
        house.ready()
        began_s = time.monotonic()
        second = subprocess.run(
            [sys.executable, "-m", "stackd", "run"], cwd=house.folder, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - began_s
        _must(second.returncode == SECOND_INSTANCE, f"exit code {second.returncode}: {second.stderr}")
        _must(f"process {house.process.pid}" in second.stderr, second.stderr)
        house.drop("M27")
        house.until(lambda: house.published() == ["M27"])
        _stopped(house)
        _must_be_kept(house)
    return seconds


BOUNDS: dict[Callable[[Path], float], float] = {
    idle: IDLE_S,
    finishing: STOP_TIMEOUT_S + LEAVE_S,
    hanging: STOP_TIMEOUT_S + LEAVE_S,
    twice: LEAVE_S,
    recovering: LEAVE_S,
    second_instance: 30.0,
}


def _at_work(folder: Path, stop_timeout_s: float = STOP_TIMEOUT_S, **orders: object) -> House:
    """A house with one set at work."""
    house = House(folder, limits__stop_timeout_s=stop_timeout_s)
    house.drop("M27", **orders)
    house.start()
    house.until(lambda: any((house.outbox / STAGING).glob("M27.*/restored.fits")))
    return house


def _with_a_past(folder: Path) -> House:
    """A house without a ledger, with many results, many left attempts and one set to be done."""
    house = House(folder)
    house.drop("M27")
    _must(house.run_once() == 0, house.last_words())
    result = json.loads((house.outbox / "M27" / MANIFEST).read_text())
    for n in range(RECOVERED_SETS):
        name = f"old{n}"
        frames = [frame | {"path": f"{name}/{k}.fits"} for k, frame in enumerate(result["job"]["frames"])]
        result["job"] |= {"set": name, "identity": name, "digest": name, "frames": frames}
        shutil.copytree(house.outbox / "M27", house.outbox / name)
        (house.outbox / name / MANIFEST).write_text(json.dumps(result))
    for n in range(LEFT_ATTEMPTS):
        shutil.copytree(house.outbox / "M27", house.outbox / STAGING / f"left{n}.1")
    shutil.rmtree(house.outbox / "M27")
    shutil.rmtree(house.state)
    return house


def _stopped(house: House) -> float:
    code, seconds = house.stop()
    _must(code == 0, f"exit code {code}:\n{house.last_words()}")
    return seconds


def _finish_after(house: House) -> None:
    """The next start does what was handed back, as a first attempt."""
    _must(not house.published() and not house.in_flight(), "something half is left")
    (house.folder / "gate").touch()
    _must(house.run_once() == 0, house.last_words())
    result = json.loads((house.outbox / "M27" / MANIFEST).read_text())
    _must(result["job"]["attempt"] == 1, "the attempt was counted")
    _must_be_kept(house)


def _must_be_kept(house: House) -> None:
    audit = house.audit()
    _must(audit.kept, str(audit))


def _must(truth: bool, why: str) -> None:
    if not truth:
        raise AssertionError(why)


def main() -> int:
    """Exit code: 0 all within their bounds."""
    slow = 0
    folder = Path(tempfile.mkdtemp(prefix="signals-"))
    for case, bound_s in BOUNDS.items():
        seconds = case(folder / case.__name__)
        slow += seconds > bound_s
        print(f"{case.__name__:16}{seconds:6.2f} s (at most {bound_s:.0f} s)", flush=True)
    shutil.rmtree(folder)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
