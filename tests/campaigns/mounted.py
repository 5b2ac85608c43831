"""Real small file systems under a running daemon: full, read-only, gone, dead, and back.

    python -m tests.campaigns.mounted [CASE ...]

Each case runs in a mount namespace of its own (`unshare`), so nothing is left behind: a data folder whose outbox,
state and inbox are tmpfs of a few megabytes, a daemon and its worker as processes, stand-in work. Prints a line a
case; exits 1 if one fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stackd import inspection, status
from stackd.settings import load
from tests.campaigns.house import House

OUTER = Path(__file__).parents[2]
PAUSE_S = "0.5"
SMALL = "size=16m"  # SQLite's write-ahead log alone may take four
CASE_DEADLINE_S = 240.0
FUSE = "/dev/fuse"


class Mounts:
    """A House whose folders lie on small file systems."""

    def __init__(self, folder: Path) -> None:
        for name in ("outbox", ".stackd", "disk", "inbox"):
            (folder / name).mkdir(parents=True)
        for name in ("outbox", ".stackd", "disk"):
            _do("mount", "-t", "tmpfs", "-o", SMALL, "tmpfs", str(folder / name))
        self.house = House(folder)
        self.disk = folder / "disk"
        _do("mount", "--bind", str(self.disk), str(self.house.inbox))

    def start(self) -> None:
        """A daemon that has done set A."""
        self.house.start("--pause", PAUSE_S)
        self.house.ready()
        self.house.drop("A")
        self.wait_done("A")

    def wait_done(self, *names: str) -> None:
        """Until the sets are in the outbox."""
        self.house.until(lambda: set(names) <= set(self.house.published()))

    def wait_paused(self, word: str, full: Path | None = None) -> None:
        """Until `stackd status` shows a pause for this reason, and the log too; `full`: where all space is taken."""
        settings = load(self.house.folder / "config.toml", {})

        def shown() -> bool:
            if settings.folders.state == full:  # it cannot take the daemon's word, only the log can
                return True
            text = status.as_text(status.gather(settings))
            return any(line.startswith("paused") and word in line for line in text.splitlines())

        def logged() -> bool:
            lines = self.house.log.read_text().splitlines()
            return any("the work pauses" in line and word in line for line in lines)

        self.house.until(lambda: shown() and logged())

    def check(self) -> None:
        """Nothing partial, altered or doubled at any moment."""
        if not (audit := self.house.audit(settled=False)).kept:
            raise AssertionError(f"in between: {audit}")

    def end(self) -> None:
        """Everything came out once, and the daemon stops politely."""
        self.house.until(lambda: not self.house.in_flight())
        code, _ = self.house.stop()
        audit = self.house.audit()
        if code or not audit.kept or any(self.house.quarantine.iterdir()):
            raise AssertionError(f"exit code {code}, {audit}, quarantine {list(self.house.quarantine.iterdir())}")


def outbox_full(mounts: Mounts) -> None:
    """Not a byte left in the outbox, day log and all: the sets wait, and go on when there is space."""
    _full(mounts, mounts.house.outbox, "space")


def state_full(mounts: Mounts) -> None:
    """The ledger cannot grow: no set is claimed, none is lost or done twice."""
    _full(mounts, mounts.house.state, "full")


def _full(mounts: Mounts, folder: Path, word: str) -> None:
    mounts.start()
    ballast = _fill(folder)
    mounts.house.drop("B")
    mounts.house.drop("C")
    mounts.wait_paused(word, folder)
    mounts.check()
    ballast.unlink()
    mounts.wait_done("A", "B", "C")


def outbox_read_only(mounts: Mounts) -> None:
    """As a file system does after an error; writable again, the work goes on."""
    mounts.start()
    _do("mount", "-o", "remount,ro", str(mounts.house.outbox))
    mounts.house.drop("B")
    mounts.wait_paused("Read-only")
    mounts.check()
    _do("mount", "-o", "remount,rw", str(mounts.house.outbox))
    mounts.wait_done("A", "B")


def outbox_dead(mounts: Mounts) -> None:
    """A mount whose server died, as sshfs leaves it: daemon, status and check say so; connected again, all goes on."""
    mounts.start()
    outbox = mounts.house.outbox
    _mount_dead(outbox)
    mounts.house.drop("B")
    mounts.wait_paused("not connected")
    settings = load(mounts.house.folder / "config.toml", {})
    told = status.as_text(status.gather(settings)), *inspection.problems_of_house(settings, None)
    if "outbox (cannot be read: " not in told[0] or not any(f"({outbox}) cannot be read" in one for one in told[1:]):
        raise AssertionError(f"not told: {told}")
    _do("umount", str(outbox))
    mounts.wait_done("A", "B")


def inbox_gone(mounts: Mounts) -> None:
    """Unmounted in the middle of a night: the empty folder beneath is not taken for an inbox without files."""
    mounts.start()
    mounts.house.drop("half", frames=3)
    bad = mounts.house.inbox / "bad"
    bad.mkdir()
    for n in range(8):
        (bad / f"{n}.fits").write_text("no capture }")
    mounts.house.until((mounts.house.quarantine / "bad" / "error.json").exists)
    _do("umount", str(mounts.house.inbox))
    mounts.house.until(lambda: "the inbox cannot be read" in mounts.house.log.read_text())
    if not (mounts.house.quarantine / "bad" / "error.json").exists():
        raise AssertionError("a report went with the mount")
    _do("mount", "--bind", str(mounts.disk), str(mounts.house.inbox))
    shutil.rmtree(bad)
    mounts.house.drop("half")
    mounts.wait_done("A", "half")
    mounts.house.until(lambda: not (mounts.house.quarantine / "bad").exists())


CASES: dict[str, Callable[[Mounts], None]] = {
    "outbox_full": outbox_full,
    "state_full": state_full,
    "outbox_read_only": outbox_read_only,
    "inbox_gone": inbox_gone,
}
if os.access(FUSE, os.W_OK):
    CASES["outbox_dead"] = outbox_dead


def why_not() -> str:
    """Why no file system can be mounted here; "" if it can."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*_namespace(), "mount", "-t", "tmpfs", "-o", SMALL, "tmpfs", folder]
        try:
            tried = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        except OSError as error:
            return str(error)
    return tried.stderr.strip() if tried.returncode else ""


def run_case(case: str) -> tuple[int, str]:
    """Exit code and output of one case in a namespace of its own."""
    words = [*_namespace(), sys.executable, "-m", "tests.campaigns.mounted", "--inside", case]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, cwd=OUTER, timeout=CASE_DEADLINE_S)
    return ended.returncode, ended.stdout + ended.stderr


def _namespace() -> list[str]:
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


def _do(*words: str) -> None:
    subprocess.run(words, check=True)


def _mount_dead(folder: Path) -> None:
    """A file system that nobody serves any more: each look at it is an error, and not that nothing is there."""
    device = os.open(FUSE, os.O_RDWR)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
        words = ["mount", "-i", "-t", "fuse", "-o", options, "dead", str(folder)]
        subprocess.run(words, check=True, pass_fds=[device])
    finally:
        os.close(device)


def _fill(folder: Path) -> Path:
    """A file that takes all the space that is left."""
    ballast = folder / ".ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while file.write(bytes(size)):
                    continue
            except OSError:
                continue
    return ballast


def _inside(case: str) -> None:
    with tempfile.TemporaryDirectory(prefix="stackd-mounted-") as folder:
        data = Path(folder, "data")
        mounts = Mounts(data)
        try:
            CASES[case](mounts)
            mounts.end()
        finally:
            mounts.house.close()
            for name in ("inbox", "outbox", ".stackd", "disk"):
                _do("umount", "-l", str(data / name))


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--inside", choices=CASES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        _inside(asked.inside)
        return 0
    if why := why_not():
        print(f"no file system can be mounted here: {why}")
        return 1
    failed = 0
    for case in asked.cases:
        began_s = time.monotonic()
        code, said = run_case(case)
        failed += code != 0
        print(f"{case:20} {'kept' if code == 0 else 'BROKEN'} {time.monotonic() - began_s:6.1f} s", flush=True)
        if code:
            print(said)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
