"""What a worker does: look at new files, restore sets, turn every error into a Probed or a Report.

`Hands` does it in whatever process it is called in; `serve` is the life of a spawned worker, which
reads requests from a pipe until it is killed. The functions that touch pixels are named by text and
imported on first use, so that importing this module loads neither TensorFlow nor astropy.
"""

import errno
import importlib
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from loguru import logger

from stackd import logs
from stackd.child import belong_to_parent
from stackd.disk.inbox import read_once
from stackd.disk.ledger import digest_of
from stackd.disk.outbox import NO_SPACE
from stackd.errors import ModelError, OutputError, SetError
from stackd.jobs.assembly import Problem
from stackd.records import FrameFacts, Job, Report

Progress = Callable[[str, float], None]
Known = Callable[[str], str | None]  # content digest -> the finished set that has it
OOM_SCORE = 500  # the kernel, short of memory, takes the worker before the supervisor
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.EAGAIN, errno.EMFILE, errno.ENFILE})
_CV2_NO_MEMORY = -4  # cv2.Error.StsNoMem
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Work:
    """The functions of a worker as "module:name"; tests put stand-ins here."""

    process: str = "stackd.jobs.pipeline:process"
    load: str = "stackd.jobs.loading:load_restorer"
    look: str = "stackd.disk.reader:read_facts"


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """All that a fresh worker process is told."""

    work: Work
    log_level: str
    log_folder: str  # the outbox; "" for no day file
    keep_days: int
    memory_mb: int  # 0: no limit


@dataclass(frozen=True, slots=True)
class Probed:
    """What a look at a file gave."""

    path: str
    found: FrameFacts | Problem


class Hands:
    """Does the work in this process and keeps the model from one set to the next."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._model = ""
        self._restorer: Any = None

    def look(self, path: str, limits: dict[str, Any]) -> Probed:
        """Read a file's header. Never raises: what is wrong with the file is the answer."""
        module, read_facts = _resolve(self._work.look)
        unfinished = getattr(module, "Unfinished", ())  # the reader's word for "may still be growing"
        try:
            return Probed(path, read_facts(Path(path), limits["max_pixels"], limits["max_file_mb"] * _MIB))
        except SetError as error:
            return Probed(path, Problem(error.reason, error.remedy, finished=not isinstance(error, unfinished)))
        except OSError as error:
            remedy = "check the disk, and that the user that stackd runs as may read the file"
            return Probed(path, Problem(f"cannot be read for now: {error.strerror or error}", remedy, passing=True))
        except Exception as error:  # noqa: BLE001 - a stranger's file may break any parser; it must not stop the night
            logger.opt(exception=error).debug("{}: the reader failed", path)
            if _lacks_memory(error):
                remedy = "raise limits.memory_mb if the file is in order, or remove it"
                return Probed(path, Problem("does not fit into the memory", remedy))
            return Probed(path, Problem(f"cannot be read: {_words(error)}", "replace or remove the file"))

    def do(self, job: Job, progress: Progress, known: Known) -> Report:
        """Restore one set into job.staging. Never raises: see `Report.cause`."""
        try:
            with logs.of_set(job.set_name, Path(job.staging)):
                return self._restored(job, progress, known)
        except OSError as error:  # its set.log: a part of the result like any other
            with logs.of_set(job.set_name):
                return _failure(job, error, ())

    def _restored(self, job: Job, progress: Progress, known: Known) -> Report:
        sha256s: tuple[str, ...] = ()
        try:
            logger.info("{} frames, attempt {}", len(job.paths), job.attempt)
            progress("reading", 0.0)
            sha256s = tuple(_digest(path, job.limits) for path in job.paths)
            calibration = tuple(_digests_if_usable(job.own_calibration, job.limits))
            begun = Report(job.set_name, False, sha256s=sha256s, calibration_sha256s=calibration)
            original = known(digest_of(begun.contents))
            if original is not None:
                return replace(begun, reason=original, cause="duplicate")
            _, process = _resolve(self._work.process)
            result = process(job, self._restorer_for(job.model), progress)
            if not _frames_in(result) <= set(begun.sha256s):
                raise OutputError("a frame was rewritten while the set was restored")
            return replace(begun, ok=True, result=result)
        except Exception as error:  # noqa: BLE001 - one bad set may not stop the night
            return _failure(job, error, sha256s)

    def _restorer_for(self, model: str) -> Any:
        if model and model != self._model:
            _, load = _resolve(self._work.load)
            self._restorer, self._model = load(model), model
        return self._restorer if model else None


def _digest(path: str, limits: dict[str, Any]) -> str:
    """Before any work: the same frames under another name need none."""
    return read_once(Path(path), limits["max_file_mb"] * _MIB)[1]


def _digests_if_usable(paths: Iterable[str], limits: dict[str, Any]) -> Iterator[str]:
    """Of calibration frames: one that is no file to read costs the set nothing."""
    for path in paths:
        with suppress(SetError, OSError):
            yield _digest(path, limits)


def _frames_in(result: dict[str, Any]) -> set[str]:
    """The sha256 of the frames that a result was made from."""
    return {one["sha256"] for one in result.get("inputs", ())}


def serve(pipe: Connection, start: WorkerStart) -> None:
    """A worker process's main: answer requests until the supervisor is gone or kills us."""
    belong_to_parent()
    _limit_memory(start.memory_mb)
    logs.configure(start.log_level, Path(start.log_folder) if start.log_folder else None, start.keep_days)
    hands = Hands(start.work)

    def known(digest: str) -> str | None:
        pipe.send(("digest", digest))
        answer = pipe.recv()
        if isinstance(answer, OutputError):
            raise answer
        return answer

    with suppress(EOFError, BrokenPipeError):  # the supervisor closed its end
        while True:
            request, *details = pipe.recv()
            if request == "look":
                paths, limits = details
                for path in paths:
                    pipe.send(("probed", hands.look(path, limits)))
            else:
                pipe.send(("report", hands.do(*details, lambda *step: pipe.send(("progress", *step)), known)))


def _limit_memory(memory_mb: int) -> None:
    """RLIMIT_DATA, not RLIMIT_AS: TensorFlow maps many times the address space that it uses."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # a container may forbid it
        file.write(str(OOM_SCORE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * _MIB, memory_mb * _MIB))


def _failure(job: Job, error: Exception, sha256s: tuple[str, ...]) -> Report:
    """An error's meaning for the set: its own fault, the disk's, the model's or nobody knows whose."""
    match error:
        case SetError():
            logger.error("cannot be restored: {}", error)
            words = {"reason": error.reason, "file": error.file, "remedy": error.remedy, "cause": "set"}
        case ModelError() if _errno(error) in _PASSING:
            logger.warning("put off: {}", error)
            words = {"reason": str(error), "cause": "transient", "retry": True}
        case ModelError():
            logger.error("the model cannot be used: {}", error)
            words = {"reason": str(error), "cause": "model", "retry": True}
        case OSError() | OutputError():
            logger.warning("put off: {}", error)
            cause = "space" if _errno(error) in NO_SPACE else "transient"
            words = {"reason": str(error), "cause": cause, "retry": True}
        case _ if _lacks_memory(error):
            logger.error("the memory does not suffice")
            remedy = "raise limits.memory_mb or give the machine more memory"
            words = {"reason": "the memory does not suffice", "remedy": remedy, "cause": "death", "retry": True}
        case _:
            logger.opt(exception=error).error("an unforeseen error")
            remedy = "this is a fault of stackd: please report it with the set's log"
            reason = f"an unforeseen error: {_words(error)}"
            words = {"reason": reason, "remedy": remedy, "cause": "death", "retry": True}
    return Report(job.set_name, False, sha256s=sha256s, **words)


def _lacks_memory(error: Exception) -> bool:
    """Whether Python, OpenCV or TensorFlow says that memory is short; by name, as neither is loaded here."""
    match f"{type(error).__module__}.{type(error).__name__}":
        case "cv2.error":
            return getattr(error, "code", None) == _CV2_NO_MEMORY
        case "tensorflow.python.framework.errors_impl.ResourceExhaustedError":
            return True
    return isinstance(error, MemoryError)


def _errno(error: BaseException) -> int | None:
    """The errno of an OSError or of the one that an OutputError was raised from."""
    source = error if isinstance(error, OSError) else error.__cause__
    return source.errno if isinstance(source, OSError) else None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _resolve(name: str) -> tuple[Any, Callable[..., Any]]:
    module_name, _, attribute = name.partition(":")
    with logs.without_stderr():
        module = importlib.import_module(module_name)
    return module, getattr(module, attribute)
