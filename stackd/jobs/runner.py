"""Who does the work: one spawned process with a deadline (WorkerRunner), or this one (SerialRunner).

Both take paths to look at and jobs to do, and give Probed and Report records; neither blocks longer
than the work of SerialRunner itself. The supervisor stays free of TensorFlow, astropy and whatever a
stranger's file does to a parser: a worker that dies, hangs or grows costs one attempt, not the night.
"""

import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from loguru import logger

from stackd.errors import OutputError
from stackd.jobs.assembly import Problem
from stackd.jobs.worker import Hands, Known, Probed, Work, WorkerStart, serve
from stackd.records import Job, Report

OnProgress = Callable[[str, str, float], None]  # set's name, step, fraction of the whole
LOOK_DEADLINE_S = 30.0  # for one try at one file's header
LOOKS_AT_ONCE = 64
_KILL_WAIT_S = 5.0


class Runner(Protocol):
    """What the daemon asks of whoever does the work."""

    @property
    def job(self) -> Job | None:
        """The job at work or waiting to be, if any; only without one may `submit` be called."""

    @property
    def looking(self) -> int:
        """How many files are still to be looked at."""

    @property
    def handles(self) -> list[Any]:
        """What `multiprocessing.connection.wait` may wait for: something is to be collected then."""

    def probe(self, paths: Iterable[str], limits: dict[str, Any]) -> None:
        """Have a look at files; the answers come from `probed`."""

    def submit(self, job: Job) -> None:
        """Do a job; the answer comes from `finished`."""

    def probed(self) -> list[Probed]:
        """The looks that are done, each once."""

    def finished(self) -> list[Report]:
        """The jobs that ended, each once."""

    def close(self) -> None:
        """Stop at once. A job at work is lost, and its staging folder left as it is."""


class SerialRunner:
    """The contract in this process: `submit` returns when the job is done."""

    def __init__(self, work: Work, known: Known, on_progress: OnProgress) -> None:
        self._hands, self._known, self._on_progress = Hands(work), known, on_progress
        self._probed: list[Probed] = []
        self._reports: list[Report] = []
        self.job: Job | None = None
        self.looking = 0
        self.handles: list[Any] = []

    def probe(self, paths: Iterable[str], limits: dict[str, Any]) -> None:
        self._probed += [self._hands.look(path, limits) for path in paths]

    def submit(self, job: Job) -> None:
        self._reports.append(self._hands.do(job, lambda *step: self._on_progress(job.set_name, *step), self._known))

    def probed(self) -> list[Probed]:
        done, self._probed = self._probed, []
        return done

    def finished(self) -> list[Report]:
        done, self._reports = self._reports, []
        return done

    def close(self) -> None:
        """Nothing runs between calls."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker is stopped or replaced; names and units of settings.LimitsSettings."""

    set_timeout_s: float
    sets_per_worker: int


class WorkerRunner:
    """The contract in one spawned process, made when needed and replaced when dead, used up or misled.

    `known` is asked in this process for the finished set with a digest. `clock` is monotonic, s.
    """

    def __init__(
        self,
        start: WorkerStart,
        limits: Limits,
        known: Known,
        on_progress: OnProgress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._limits = start, limits
        self._known, self._on_progress, self._clock = known, on_progress, clock
        self._to_look: deque[tuple[str, dict[str, Any]]] = deque()
        self._at_look: deque[tuple[str, dict[str, Any]]] = deque()
        self._deaths = Counter[str]()  # of readers at a file, since it was last read
        self._probed: list[Probed] = []
        self._reports: list[Report] = []
        self._job: Job | None = None
        self._at_work = False  # the job was sent to the worker
        self._deadline_s = 0.0
        self._process: Any = None
        self._pipe: Any = None
        self._model = ""
        self._sets = 0

    @property
    def job(self) -> Job | None:
        return self._job

    @property
    def looking(self) -> int:
        return len(self._to_look) + len(self._at_look)

    @property
    def handles(self) -> list[Any]:
        return [self._pipe, self._process.sentinel] if self._process else []

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, None while there is none."""
        return self._process.pid if self._process else None

    def adopt(self, start: WorkerStart, limits: Limits) -> None:
        """New settings: the next request goes to a new worker."""
        self._start, self._limits = start, limits
        self._sets = limits.sets_per_worker

    def probe(self, paths: Iterable[str], limits: dict[str, Any]) -> None:
        self._to_look.extend((path, limits) for path in paths)
        self._advance()

    def submit(self, job: Job) -> None:
        if self._job is not None:
            raise RuntimeError("one job at a time: ask `job` before `submit`")
        self._job = job
        self._advance()

    def probed(self) -> list[Probed]:
        self._advance()
        done, self._probed = self._probed, []
        return done

    def finished(self) -> list[Report]:
        self._advance()
        done, self._reports = self._reports, []
        return done

    def close(self) -> None:
        self._kill()
        self._job, self._at_work = None, False
        self._to_look.clear()
        self._at_look.clear()

    def _advance(self) -> None:
        """Take in what the worker says, judge whether it lives and is in time, give it something to do."""
        if self._process is not None:
            alive = self._process.is_alive()  # asked first: what it said before it died is still in the pipe
            said_all = self._receive()
            if not alive or not said_all:
                self._bury("died" + _how(self._process))
            elif self._busy and self._clock() > self._deadline_s:
                self._bury("ran out of time and was stopped")
        if not self._busy:
            self._send_next()

    @property
    def _busy(self) -> bool:
        return self._at_work or bool(self._at_look)

    def _receive(self) -> bool:
        """Handle all messages that are there; False if the pipe is broken."""
        try:
            while self._pipe.poll():
                kind, *details = self._pipe.recv()
                self._hear(kind, details)
        except (EOFError, OSError):
            return False
        return True

    def _hear(self, kind: str, details: list[Any]) -> None:
        match kind:
            case "progress":
                self._on_progress(self._job.set_name if self._job else "", *details)
            case "digest":
                self._pipe.send(self._answer(details[0]))
            case "probed":
                self._deaths.pop(self._at_look.popleft()[0], None)
                self._deadline_s = self._clock() + LOOK_DEADLINE_S
                self._probed.append(details[0])
            case "report":
                self._job, self._at_work = None, False
                self._sets += 1
                self._reports.append(details[0])

    def _answer(self, digest: str) -> str | OutputError | None:
        """What `known` says, or why it cannot say: the worker waits for a word in any case."""
        try:
            return self._known(digest)
        except OutputError as error:
            return error

    def _send_next(self) -> None:
        if self._job is not None:
            self._ready_for(self._job.model)
            self._at_work = True
            self._deadline_s = self._clock() + self._limits.set_timeout_s
            self._send("do", self._job)
        elif self._to_look:
            self._ready_for("")
            limits = self._to_look[0][1]
            while self._to_look and len(self._at_look) < LOOKS_AT_ONCE and self._to_look[0][1] is limits:
                self._at_look.append(self._to_look.popleft())
            self._deadline_s = self._clock() + LOOK_DEADLINE_S
            self._send("look", [path for path, _ in self._at_look], limits)

    def _send(self, *request: Any) -> None:
        try:
            self._pipe.send(request)
        except OSError:
            logger.warning("the worker took no request")  # it is dead; the next `_advance` buries it

    def _ready_for(self, model: str) -> None:
        """A worker that may take the next request: alive, not used up, with no other model loaded."""
        misled = bool(model and self._model and model != self._model)
        if self._process is not None and (misled or self._sets >= self._limits.sets_per_worker):
            self._kill()
        if self._process is None:
            context = multiprocessing.get_context("spawn")  # a forked TensorFlow hangs
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, self._start), name="stackd-worker", daemon=True)
            try:
                process.start()
            except OSError:  # no memory or no process left: there is no worker, and the house pauses
                ours.close()
                raise
            finally:
                theirs.close()
            self._pipe, self._process = ours, process
            self._sets, self._model = 0, ""
        self._model = model or self._model

    def _bury(self, how: str) -> None:
        """The worker is gone or must go: blame what it was at, put the rest back."""
        self._kill()
        if self._at_work and self._job is not None:
            logger.error("the worker {} while it restored {}", how, self._job.set_name)
            remedy = "look at the set's frames; more memory, limits.memory_mb or limits.set_timeout_s may help"
            self._reports.append(
                Report(self._job.set_name, False, reason=f"the worker {how}", remedy=remedy, retry=True, cause="death")
            )
            self._job, self._at_work = None, False
        elif self._at_look:
            self._bury_reader(how)

    def _bury_reader(self, how: str) -> None:
        """A death may be an accident, as when memory is short, and a network disk may stall: the file is looked at
        again, `limits.attempts` times in all."""
        path, limits = self._at_look.popleft()
        logger.error("the worker {} while it looked at {}", how, path)
        self._to_look.extendleft(reversed(self._at_look))
        self._at_look.clear()
        self._deaths[path] += 1
        if self._deaths[path] < limits["attempts"]:
            self._to_look.append((path, limits))  # after all others
            return
        del self._deaths[path]
        remedy = "replace or remove the file; if its disk was at fault, a restart or SIGHUP has it looked at again"
        self._probed.append(Probed(path, Problem(f"cannot be read: the reader {how}", remedy)))

    def _kill(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.join(_KILL_WAIT_S)
        self._pipe.close()
        self._process = self._pipe = None


def _how(process: Any) -> str:
    process.join(_KILL_WAIT_S)
    code = process.exitcode
    return f" (signal {-code})" if code is not None and code < 0 else f" (exit code {code})"
