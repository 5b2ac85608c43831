"""A daemon's run in a forked process, killed at its n-th call of a kind: hundreds of runs, the imports paid once.

`Forked.run` gives how the run ended, after every process of it is gone. The stand-in work, and waits shortened;
everything else is the product's. Must be used in a process without threads.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackd import daemon, logs, turn
from stackd.disk import ledger
from stackd.jobs import delivery, runner
from stackd.jobs.worker import Work
from stackd.settings import load
from tests.campaigns.house import STANDIN_FOLDER
from tests.campaigns.mutants import MUTANTS

PLACES = ("house", "supervisor", "worker")
ANY = "any"  # the python trap's one kind of call
WORK = Work(process="standin:process", load="standin:load", look="standin:look")
QUICK_S = 0.02
LONGEST_RUN_S = 120.0
_CHANGES = frozenset({"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class StraceIsMissing(Exception):
    """There is no strace, or it may not trace here."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. `fired`: it got to the call at which it, or its worker, was killed."""

    code: int  # negative: the signal that ended it
    fired: bool
    calls: dict[str, int]  # what the trap saw


class Forked:
    """Runs of one data folder. `place`: who is killed, "house" (one process does all), "supervisor" or "worker"."""

    def __init__(self, folder: Path, place: str, mutant: str = "") -> None:
        self._folder, self._place, self._mutant = folder, place, mutant

    def run(self, trap: str, calls: tuple[str, ...], at: int) -> Ended:
        """`stackd once`, killed at the `at`-th of `calls` (0: never); `trap` is "strace", "python" or "" for none."""
        up, up_end = os.pipe()
        down_end, down = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.close(up)
                os.close(down)
                code = self._live(trap, at, up_end, down_end)
            finally:
                os._exit(code)
        os.close(up_end)
        os.close(down_end)
        try:
            tracer = self._trace(up, down, calls, at) if trap == "strace" else None
            code = os.waitstatus_to_exitcode(_waited(pid))
            events = _to_the_end(up)  # its worker is gone, too
        finally:
            os.close(up)
            os.close(down)
        if tracer is not None:
            tracer.wait(LONGEST_RUN_S)
            lines = (self._folder / "trace").read_text(errors="replace").splitlines()
            seen = Counter(line.partition("(")[0] for line in lines if line[:1].isalpha())
        else:
            seen = Counter({ANY: len(events)} if trap else {})
        return Ended(code, 0 < at <= seen.total(), dict(seen))

    def _trace(self, up: int, down: int, calls: tuple[str, ...], at: int) -> subprocess.Popen[bytes]:
        """Put strace onto the process that says its id, then let it go."""
        if shutil.which("strace") is None:
            os.write(down, b"go")
            raise StraceIsMissing("strace is not installed")
        victim = int(os.read(up, 32))
        kinds = ",".join(f"?{call}" for call in calls)  # not every machine has every call
        what = ["-e", f"trace={kinds}"] + (["-e", f"inject={kinds}:signal=SIGKILL:when={at}"] if at else [])
        command = ["strace", "-q", "-o", str(self._folder / "trace"), *what, "-p", str(victim)]
        with open(self._folder / "strace", "wb") as said:
            tracer = subprocess.Popen(command, stderr=said, stdin=subprocess.DEVNULL)
        while "TracerPid:\t0\n" in Path(f"/proc/{victim}/status").read_text():
            if tracer.poll() is not None:
                os.write(down, b"go")
                raise StraceIsMissing(f"strace may not trace here: {(self._folder / 'strace').read_text()}")
            time.sleep(0.001)
        os.write(down, b"go")
        return tracer

    def _live(self, trap: str, at: int, up: int, down: int) -> int:
        """The forked process's main."""
        os.chdir(self._folder)
        os.dup2(os.open("stderr", os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
        sys.path.insert(0, str(STANDIN_FOLDER))
        turn.QUICK_SCAN_S, delivery.FIRST_DELAY_S = QUICK_S, 0.0
        if self._mutant:
            MUTANTS[self._mutant]()
        spring: Callable[[], None] = {
            "": lambda: None,
            "strace": lambda: _wait_for_tracer(up, down),
            "python": lambda: _set_trap(up, at),
        }[trap]
        if self._place == "house":
            daemon.WorkerRunner = lambda start, limits, known, note: runner.SerialRunner(start.work, known, note)
        else:
            self._fork_workers(spring)
        settings = load(Path("config.toml"), {})
        logs.configure("INFO", settings.folders.outbox, settings.log.keep_days)
        if self._place != "worker":
            spring()
        one = daemon.Daemon(settings, work=WORK)
        one.once()
        one.close()
        return 0

    def _fork_workers(self, spring: Callable[[], None]) -> None:
        """Workers by fork: the stand-ins know no TensorFlow. The first one is the victim where that is the place."""
        context, serve = multiprocessing.get_context("fork"), runner.serve
        first = [self._place == "worker"]

        def serve_trapped(*arguments: Any) -> None:
            if first[0]:
                spring()
            serve(*arguments)

        def get_context(kind: str) -> Any:
            return context

        class Process(context.Process):
            def start(self) -> None:
                super().start()
                first[0] = False

        context.Process = Process
        multiprocessing.get_context, runner.serve = get_context, serve_trapped


def _wait_for_tracer(up: int, down: int) -> None:
    os.write(up, str(os.getpid()).encode())
    os.read(down, 2)


def _set_trap(up: int, at: int) -> None:
    """Count what Python does to the disk, and SQLite's transactions; SIGKILL before the `at`-th."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        os.write(up, b"e")
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, details: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and details[2] & _WRITING and _is_ours(details[0])):
            step()

    fsync, enter, leave = os.fsync, ledger._Transaction.__enter__, ledger._Transaction.__exit__

    def stepped(call: Callable[..., None]) -> Callable[..., None]:
        def before_and_after(*arguments: Any) -> None:
            step()
            call(*arguments)
            step()

        return before_and_after

    os.fsync = stepped(fsync)
    ledger._Transaction.__enter__, ledger._Transaction.__exit__ = stepped(enter), stepped(leave)
    sys.addaudithook(hear)


def _is_ours(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and not os.fspath(path).startswith(("/dev/", "/proc/"))


def _waited(pid: int) -> int:
    """The wait status of a child; one that takes too long is killed."""
    end_s = time.monotonic() + LONGEST_RUN_S
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > end_s:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _to_the_end(pipe: int) -> bytes:
    """All that was written, once every writer is gone."""
    content = b""
    while part := os.read(pipe, 65536):
        content += part
    return content
