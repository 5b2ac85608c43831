"""What all campaigns stand on: a daemon in a fresh folder, tiny captures, and an audit of what came of them.

`House` starts, stops and kills daemons in one data folder and remembers each file dropped into its inbox;
`House.audit` compares inbox, outbox and ledger with that memory; a `Witness` looks at the outbox all the while.
Knows nothing of pytest.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil

from stackd.disk.ledger import DONE, RETRY, RUNNING, Ledger
from stackd.disk.outbox import STAGING, published_folders, read_manifest

STANDIN_FOLDER = Path(__file__).parents[1] / "standin"
CHILD = STANDIN_FOLDER / "child.py"
STANDIN_FILES = frozenset({"restored.fits", "result.json", "set.log"})
IMAGES = frozenset({"restored.fits", "stack.fits", "sigma.fits", "restored.tif", "preview.jpg"})
REAL_FILES = IMAGES | {"report.html", "result.json", "set.log"}
QUICK = {"set__settle_s": 0.1, "set__scan_interval_s": 0.5, "restore__network": False, "limits__min_free_mb": 0}
FITS_BLOCK = 2880
LOOK_S = 0.01  # between two looks of `until` and of a Witness


@dataclass(frozen=True, slots=True)
class Audit:
    """Names of what went wrong, each with a reason; all empty: the promise was kept."""

    lost: tuple[str, ...]  # dropped and neither in the outbox nor, if expected there, in quarantine
    doubled: tuple[str, ...]  # the same frames in two results
    partial: tuple[str, ...]  # a folder in the outbox that is no whole result
    altered: tuple[str, ...]  # a file of the inbox that is gone or otherwise than it was dropped
    unsettled: tuple[str, ...]  # rows of the ledger that disagree with the outbox, attempts left in staging

    @property
    def kept(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.lost or self.doubled or self.partial or self.altered or self.unsettled)

    def __str__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, name))} {name}" for name in self.__slots__)
        named = [f"\n  {name}: {one}" for name in self.__slots__ for one in getattr(self, name)[:10]]
        return counts + "".join(named)


class House:
    """A data folder of its own and the daemons started in it. Settings as `section__key=value`.

    `standin`: stand-in work (tests/standin) instead of the real pipeline. `start` may be called again after
    each end. stderr of all of them goes to `folder/stderr`.
    """

    def __init__(self, folder: Path, *, standin: bool = True, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.standin = folder.resolve(), standin
        self.inbox, self.outbox = self.folder / "inbox", self.folder / "outbox"
        self.quarantine, self.state = self.folder / "quarantine", self.folder / ".stackd"
        self.log = self.folder / "stderr"
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._nursery: subprocess.Popen[str] | None = None
        self.dropped: dict[str, dict[str, str]] = {}  # set -> path in the inbox -> sha256
        self.inbox.mkdir(exist_ok=True)
        self.configure(**QUICK | settings)
        self._address = f"\0stackd-house-{os.getpid()}-{id(self)}"  # abstract: a deep folder's path would be too long
        self._ear: Ear | None = None  # made at the first start: a house that never starts one may be forked
        self._started_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def configure(self, **settings: Any) -> None:
        """Write config.toml anew, from `section__key=value`."""
        sections: dict[str, list[str]] = {}
        for name, value in settings.items():
            section, _, key = name.partition("__")
            sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
        lines = [line for section, keys in sections.items() for line in (f"[{section}]", *keys)]
        (self.folder / "config.toml").write_text("\n".join(lines) + "\n")

    def command(self, *options: str) -> list[str]:
        """What starts a daemon here: child.py for stand-ins and where its "--..." are asked for, else `stackd`."""
        if self.standin or any(option.startswith("--") for option in options):
            return [sys.executable, str(CHILD), "config.toml", *([] if self.standin else ["--real"]), *options]
        return [sys.executable, "-m", "stackd", *(options or ("run",))]

    @property
    def environment(self) -> dict[str, str]:
        """Of the daemon: one thread for arithmetic, the stand-ins on the path, our ear as systemd's."""
        quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1", "NOTIFY_SOCKET": "@" + self._address[1:]}
        return os.environ | quiet | {"PYTHONPATH": str(STANDIN_FOLDER)}

    def start(self, *options: str, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start a daemon, `before` being words in front of its command (strace ...). Does not wait."""
        self._ear = self._ear or Ear(self._address)
        self._ear.ready.clear()
        self._started_s = time.monotonic()
        with open(self.log, "ab") as log:
            words = [*before, *self.command(*options)]
            self.process = subprocess.Popen(words, cwd=self.folder, stderr=log, env=self.environment)
        return self.process

    def start_quickly(self, *options: str) -> "Forked":
        """Start a stand-in daemon by fork from a process that has imported everything; its workers are forked, too."""
        self._ear = self._ear or Ear(self._address)
        if self._nursery is None:
            with open(self.log, "ab") as log:
                words, pipe = [sys.executable, str(CHILD), "--nursery"], subprocess.PIPE
                environment = self.environment
                self._nursery = subprocess.Popen(
                    words, cwd=self.folder, stdin=pipe, stdout=pipe, stderr=log, env=environment, text=True
                )
        self._ear.ready.clear()
        self._started_s = time.monotonic()
        self._nursery.stdin.write(json.dumps(["config.toml", *options]) + "\n")
        self._nursery.stdin.flush()
        self.process = Forked(int(self._nursery.stdout.readline()))
        return self.process

    def ready(self, deadline_s: float = 60.0) -> float:
        """Wait until the daemon has said READY=1, as systemd would hear it; gives the seconds since its start.

        Heard already: returns at once. No SIGTERM before it, which would meet a bare interpreter.
        """
        assert self._ear is not None
        self.until(self._ear.ready.is_set, deadline_s)
        return self._ear.ready_s - self._started_s

    @property
    def is_ready(self) -> bool:
        """Whether the daemon that was started last has said READY=1."""
        return self._ear is not None and self._ear.ready.is_set()

    def run_once(self, deadline_s: float = 120.0) -> int:
        """Everything that is complete, in a daemon that ends by itself; gives its exit code."""
        return self.start("once").wait(deadline_s)

    def until(self, look: Callable[[], Any], deadline_s: float = 60.0, *, alive: bool = True) -> Any:
        """What `look` gives once it gives something; with `alive` the daemon must live meanwhile."""
        end_s = time.monotonic() + deadline_s
        while not (found := look()):
            if time.monotonic() > end_s:
                raise TimeoutError(f"waited {deadline_s} s in vain:\n{self.last_words()}")
            if alive and self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended ({self.process.returncode}):\n{self.last_words()}")
            time.sleep(LOOK_S)
        return found

    def last_words(self, lines: int = 40) -> str:
        """The end of the daemons' log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def stop(self, deadline_s: float = 120.0) -> tuple[int, float]:
        """SIGTERM; gives the exit code and the seconds it took."""
        assert self.process is not None
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(deadline_s), time.monotonic() - began_s

    def workers(self) -> list[psutil.Process]:
        """The daemon's worker, if it has one now (multiprocessing's own resource tracker is none)."""
        if self.process is None or self.process.poll() is not None:
            return []
        with suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children()
            return [one for one in children if not any("resource_tracker" in word for word in one.cmdline())]
        return []

    def kill(self, workers: list[psutil.Process] | None = None) -> None:
        """SIGKILL for the supervisor, as the kernel's memory killer does it; its worker must go by itself.

        `workers`: those known already, which saves the look.
        """
        assert self.process is not None
        workers = self.workers() if workers is None else workers
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=60)
        if alive:
            raise RuntimeError(f"the worker outlives its supervisor: {alive}")

    def kill_worker(self, workers: list[psutil.Process] | None = None) -> bool:
        """SIGKILL for the worker alone; whether there was one."""
        workers = self.workers() if workers is None else workers
        for one in workers:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        return bool(workers)

    def close(self) -> None:
        """Leave no process behind."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        if self._ear is not None:
            self._ear.close()
            self._ear = None
        if self._nursery is not None:
            self._nursery.communicate()  # the end of its stdin ends it
            self._nursery = None

    def drop(self, name: str, frames: int = 8, **orders: Any) -> None:
        """A set's folder with files unlike all others; the first stand-in frame carries the orders.

        As most programs do it, straight into the inbox. `target` and the like go to real captures' headers.
        """
        for n in range(frames):
            content = (
                standin_frame(n, target=name, **(orders if n == 0 else {}))
                if self.standin
                else fits_frame(n, OBJECT=name, **orders)
            )
            self.put(name, f"{name}/{n}.fits", content)

    def put(self, set_name: str, path: str, content: bytes) -> None:
        """One file into the inbox, remembered as part of a set."""
        target = self.inbox / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
        self.dropped.setdefault(set_name, {})[path] = hashlib.sha256(content).hexdigest()

    def published(self) -> list[str]:
        """Folders in the outbox."""
        return [path.name for path in published_folders(self.outbox)] if self.outbox.is_dir() else []

    def in_flight(self) -> bool:
        """Whether a set's staging folder is there: it is at work, or was when the daemon died (see `is_ready`)."""
        with suppress(FileNotFoundError):
            return bool(os.listdir(self.outbox / STAGING))
        return False

    def why_not_whole(self, folder: Path) -> str:
        """What a folder of the outbox lacks to be a result; "" for a whole one."""
        files = STANDIN_FILES if self.standin else REAL_FILES
        there = {one.name: one.stat().st_size for one in folder.iterdir()}
        if there.keys() != files or not all(there.values()):
            return f"holds {there}"
        manifest = read_manifest(folder)
        if manifest is None or not manifest["job"]["frames"]:
            return "result.json is no proof"
        images = [] if self.standin else [name for name in there if name.endswith(".fits")]
        return next((f"{name} is cut off" for name in images if there[name] % FITS_BLOCK), "")

    def audit(self, *, away: frozenset[str] = frozenset(), settled: bool = True) -> Audit:
        """Compare everything with what was dropped. `away`: sets that belong into quarantine.

        `settled`: all work is done and the daemon stopped; else only what holds at any moment is judged
        (nothing partial, nothing doubled, nothing altered).
        """
        jobs: dict[str, dict[str, Any]] = {}
        partial = []
        for folder in published_folders(self.outbox) if self.outbox.is_dir() else []:
            if why := self.why_not_whole(folder):
                partial.append(f"{folder.name}: {why}")
            elif manifest := read_manifest(folder):
                jobs[folder.name] = manifest["job"]
        results = Counter(tuple(sorted(frame["sha256"] for frame in job["frames"])) for job in jobs.values())
        wanted = {name: tuple(sorted(frames.values())) for name, frames in self.dropped.items()}
        lost = [name for name in wanted if name not in away and not results[wanted[name]]]
        lost += [f"{name}: not in quarantine" for name in away if not (self.quarantine / name / "error.json").exists()]
        doubled = [name for name, digests in wanted.items() if results[digests] > 1]
        unknown = [f"{name}: of no set" for name, job in jobs.items() if job["set"] not in wanted]
        return Audit(
            tuple(sorted(lost)) if settled else (),
            tuple(sorted(doubled)),
            tuple(partial + unknown),
            tuple(self._altered()),
            tuple(self._unsettled(jobs)) if settled else (),
        )

    def _altered(self) -> list[str]:
        """Frames lie in the inbox or, with set.after = "archive", in the archive under the same path; never in both."""
        remembered = {path: digest for frames in self.dropped.values() for path, digest in frames.items()}
        there, archived = _files_below(self.inbox), _files_below(self.folder / "archive")
        altered = [f"{path}: twice" for path in there.keys() & archived.keys()]
        there |= archived
        altered += [f"{path}: gone" for path in remembered.keys() - there.keys()]
        altered += [f"{path}: was never dropped" for path in there.keys() - remembered.keys()]
        for path in remembered.keys() & there.keys():
            if hashlib.sha256(there[path].read_bytes()).hexdigest() != remembered[path]:
                altered.append(f"{path}: changed")
        return sorted(altered)

    def _unsettled(self, jobs: dict[str, dict[str, Any]]) -> list[str]:
        ledger = Ledger(self.state, read_only=True)
        try:
            open_rows = [*ledger.entries(RUNNING), *ledger.entries(RETRY)]
            done = {entry.identity: entry.folder for entry in ledger.entries(DONE)}
        finally:
            ledger.close()
        unsettled = [f"{one.name}: {one.state} in the ledger" for one in open_rows]
        proven = {job["identity"]: folder for folder, job in jobs.items()}
        unsettled += [f"{done.get(i)} in the ledger, {proven.get(i)} in the outbox"
                      for i in done.keys() | proven.keys() if done.get(i) != proven.get(i)]  # fmt: skip
        return unsettled + ([f"{STAGING} is not empty"] if self.in_flight() else [])


class Forked:
    """What a campaign needs of Popen, for a daemon that is another process's child: no exit code."""

    returncode: int | None = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """None while it lives."""
        if self.returncode is None and not self._process.is_running():
            self.returncode = -1
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Until it is gone."""
        self._process.wait(timeout)
        self.returncode = -1
        return -1

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Any signal."""
        with suppress(psutil.NoSuchProcess):
            self._process.send_signal(number)


class Ear(threading.Thread):
    """Listens where a daemon thinks systemd is, and always: one that nobody hears waits a while at each word."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.ready = threading.Event()  # READY=1 was heard, at
        self.ready_s = 0.0  # monotonic
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self.start()

    def run(self) -> None:
        while heard := self._socket.recv(65536):
            if b"READY=1" in heard.split(b"\n"):
                self.ready_s = time.monotonic()
                self.ready.set()

    def close(self) -> None:
        """End and wait for the end."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as voice:
            voice.sendto(b"", self._socket.getsockname())  # an empty word ends it
        self.join()
        self._socket.close()


class Witness(threading.Thread):
    """Looks at the outbox all the while: `partial` gets whatever is visible and no whole result, even for a moment.

    Started as a thread, or asked to `look` now and then where there may be none.
    """

    def __init__(self, house: House) -> None:
        super().__init__(daemon=True)
        self.partial: list[str] = []
        self.looks = 0
        self._house, self._seen, self._stop_asked = house, set[str](), threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Judge what has become visible since the last look."""
        self.looks += 1
        for name in set(self._house.published()) - self._seen:
            self._seen.add(name)
            if why := self._house.why_not_whole(self._house.outbox / name):
                self.partial.append(f"{name}: {why}")

    def close(self) -> None:
        """End and wait for the end."""
        self._stop_asked.set()
        self.join()


def standin_frame(number: int, **orders: Any) -> bytes:
    """A stand-in capture (see tests/standin/standin.py)."""
    return json.dumps({"number": number, **orders}).encode()


def fits_frame(number: int, side: int = 64, **cards: Any) -> bytes:
    """A real 16-bit FITS capture of a few stars that drift a little from frame to frame; written by hand, so quick.

    Text in `cards` (OBJECT) changes the noise, so that two sets never have the same content.
    """
    seed = int.from_bytes(hashlib.sha256(repr(sorted(cards.items())).encode()).digest()[:4])
    y, x = np.mgrid[:side, :side].astype(np.float64)
    sky, stars = np.full((side, side), 500.0), np.random.default_rng(5)
    for _ in range(25):
        x0, y0, flux = *stars.uniform(4, side - 4, 2), stars.uniform(3e3, 5e4)
        sky += flux / 20 * np.exp(-((x - x0 - 0.3 * number) ** 2 + (y - y0 - 0.2 * number) ** 2) / 6.4)
    pixels = np.random.default_rng([seed, number]).poisson(sky).clip(0, 32767).astype(">i2")
    header = {"SIMPLE": True, "BITPIX": 16, "NAXIS": 2, "NAXIS1": side, "NAXIS2": side, "EXPTIME": 10.0}
    header |= {"DATE-OBS": f"2026-01-01T00:{number:02d}:00", **cards}
    text = "".join(f"{key:8}= {_card_value(value)}".ljust(80) for key, value in header.items()) + "END".ljust(80)
    return _padded(text.encode("ascii"), b" ") + _padded(pixels.tobytes(), b"\0")


def write_fits(path: Path, number: int, side: int = 64, **cards: Any) -> None:
    """`fits_frame` as a file; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(fits_frame(number, side, **cards))


def _files_below(folder: Path) -> dict[str, Path]:
    return {str(one.relative_to(folder)): one for one in folder.rglob("*") if not one.is_dir()}


def _card_value(value: Any) -> str:
    if isinstance(value, bool):
        return f"{'T' if value else 'F':>20}"
    return f"'{value:8}'" if isinstance(value, str) else f"{value:>20}"


def _padded(content: bytes, filler: bytes) -> bytes:
    return content + filler * (-len(content) % FITS_BLOCK)
