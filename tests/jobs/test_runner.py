"""A worker that dies, hangs, grows or fails costs one report, and the next request finds a worker."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from standin import WORK, write_frame

from stackd.disk.ledger import digest_of
from stackd.errors import OutputError
from stackd.jobs.assembly import Problem
from stackd.jobs.runner import Limits, SerialRunner, WorkerRunner
from stackd.jobs.worker import WorkerStart
from stackd.records import FrameFacts, Job, Report

LIMITS = {"max_pixels": 1000, "max_file_mb": 1, "attempts": 3}
START = WorkerStart(WORK, "DEBUG", "", 1, 0)


@pytest.fixture
def steps() -> list[tuple[str, str, float]]:
    """What `on_progress` was told."""
    return []


@pytest.fixture
def runner(steps: list[tuple[str, str, float]]) -> Iterator[WorkerRunner]:
    """A worker with a short deadline that knows no content."""
    one = WorkerRunner(START, Limits(20.0, 100), lambda digest: None, lambda *step: steps.append(step))
    yield one
    one.close()


def job_of(folder: Path, name: str = "M27", **orders: Any) -> Job:
    """A job of two frames whose first asks for a behaviour."""
    paths = [folder / f"{name}-{n}.fits" for n in range(2)]
    for n, path in enumerate(paths):
        write_frame(path, n, **(orders if n == 0 else {}))
    staging = folder / f"staging-{name}"
    staging.mkdir(exist_ok=True)
    return Job(name, tuple(map(str, paths)), str(staging), {}, LIMITS, "")


def until(runner: WorkerRunner, look: Callable[[], Any], deadline_s: float = 30.0) -> Any:
    """What `look` gives once it gives something."""
    end_s = time.monotonic() + deadline_s
    while not (found := look()):
        assert time.monotonic() < end_s, "waited in vain"
        wait(runner.handles, timeout=0.05)
    return found


def run(runner: WorkerRunner, job: Job) -> Report:
    """The report of one job."""
    runner.submit(job)
    [report] = until(runner, runner.finished)
    assert runner.job is None
    return report


def test_a_job_comes_back_with_result_digests_progress_and_log(
    runner: WorkerRunner, tmp_path: Path, steps: list[tuple[str, str, float]]
) -> None:
    """The good case, and the set's own log lies complete in its staging folder."""
    job = job_of(tmp_path)
    report = run(runner, job)

    assert report.ok
    assert report.result["set"] == "M27"
    assert len(report.sha256s) == 2
    assert ("M27", "restore", 0.5) in steps
    assert "2 frames, attempt 1" in Path(job.staging, "set.log").read_text()


def test_a_worker_that_cannot_be_made_is_tried_again(
    runner: WorkerRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory for a process: the caller hears of it, the job stays, and the next turn may find memory."""
    with monkeypatch.context() as patched:
        patched.setattr(SpawnProcess, "start", short_of_memory)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            runner.submit(job_of(tmp_path))
        assert runner.handles == []
    [report] = until(runner, runner.finished)

    assert report.ok


def short_of_memory(process: SpawnProcess) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def test_a_frame_rewritten_between_two_reads_makes_no_result(runner: WorkerRunner, tmp_path: Path) -> None:
    """Size and times may be kept (rsync --inplace -t): the bytes that were restored must be those that were named."""
    report = run(runner, job_of(tmp_path, read="ab" * 32))

    assert (report.ok, report.cause, report.retry) == (False, "transient", True)
    assert "rewritten" in report.reason


@pytest.mark.parametrize(
    ("do", "cause", "retry", "words"),
    [
        ("refuse", "set", False, "show nothing"),
        ("fail", "death", True, "nobody thought of this"),
        ("no space", "space", True, "No space left"),
        ("bad disk", "transient", True, "Input/output error"),
        ("die", "death", True, "signal 9"),
    ],
)
def test_every_failure_is_a_report_with_its_cause(
    runner: WorkerRunner, tmp_path: Path, do: str, cause: str, retry: bool, words: str
) -> None:
    """One bad set is one bad report; the good one after it is restored."""
    report = run(runner, job_of(tmp_path, do=do))

    assert (report.ok, report.cause, report.retry) == (False, cause, retry)
    assert words in report.reason
    assert run(runner, job_of(tmp_path, "good")).ok


def test_a_hanging_set_is_stopped_at_its_deadline(tmp_path: Path) -> None:
    """The worker is killed, and a new one serves."""
    runner = WorkerRunner(START, Limits(1.0, 100), lambda digest: None, lambda *step: None)
    report = run(runner, job_of(tmp_path, do="hang"))
    pid = runner.worker_pid

    assert (report.cause, pid) == ("death", None)
    assert "ran out of time" in report.reason
    runner.close()


@pytest.mark.parametrize("do", ["eat", "eat with OpenCV", "eat with Keras"])
def test_memory_beyond_the_limit_is_a_report(tmp_path: Path, do: str) -> None:
    """limits.memory_mb holds, and the worker lives to say so, whichever library was refused."""
    start = replace(START, memory_mb=1500)
    with closing(WorkerRunner(start, Limits(60.0, 100), lambda digest: None, lambda *step: None)) as runner:
        report = run(runner, job_of(tmp_path, do=do))
        assert run(runner, job_of(tmp_path, "good")).ok

    assert report.cause == "death"
    assert report.reason == "the memory does not suffice"
    assert "limits.memory_mb" in report.remedy


def test_known_content_is_not_restored_again(tmp_path: Path) -> None:
    """The supervisor is asked before any work is done."""
    asked: list[str] = []
    runner = WorkerRunner(START, Limits(20.0, 100), lambda d: asked.append(d) or "first", lambda *step: None)
    report = run(runner, job_of(tmp_path, do="die"))

    assert (report.ok, report.cause, report.reason) == (False, "duplicate", "first")
    assert asked == [digest_of(report.sha256s)]
    runner.close()


def test_looks_blame_the_file_that_kills_the_reader(runner: WorkerRunner, tmp_path: Path) -> None:
    """Among many files one kills the reader again and again: it alone is blamed, all others are read."""
    for n in range(6):
        write_frame(tmp_path / f"{n}.fits", n, **({"look": "die"} if n == 2 else {}))
    (tmp_path / "half.fits").write_text('{"number": 1')
    (tmp_path / "text.fits").write_text("not a capture}")
    names = [*(f"{n}.fits" for n in range(6)), "half.fits", "text.fits", "missing.fits"]
    runner.probe([str(tmp_path / name) for name in names], LIMITS)
    found: dict[str, Any] = {}
    until(runner, lambda: found.update({Path(p.path).name: p.found for p in runner.probed()}) or not runner.looking)
    found.update({Path(p.path).name: p.found for p in runner.probed()})

    assert [name for name in names if isinstance(found[name], FrameFacts)] == [f"{n}.fits" for n in (0, 1, 3, 4, 5)]
    assert isinstance(found["2.fits"], Problem)
    assert "died" in found["2.fits"].reason
    assert (found["half.fits"].finished, found["text.fits"].finished) == (False, True)
    assert found["missing.fits"].passing


def test_one_death_of_a_reader_blames_no_file(runner: WorkerRunner, tmp_path: Path) -> None:
    """The kernel, short of memory, kills a reader of a good file, too: it is read by the next one."""
    mended = tmp_path / "mended"
    write_frame(tmp_path / "0.fits", 0, look="die once", until=str(mended))
    runner.probe([str(tmp_path / "0.fits")], LIMITS)
    [found] = until(runner, runner.probed)

    assert mended.exists()
    assert isinstance(found.found, FrameFacts)


@pytest.mark.parametrize("passes_after", [1, 2, None])
def test_a_stalled_disk_is_given_as_many_tries_as_a_death(tmp_path: Path, passes_after: int | None) -> None:
    """A network disk that stalls costs no good file; one that never comes back holds nobody up for ever."""
    clock_s, tries, passed = [1000.0], tmp_path / "tries", tmp_path / "passed"
    write_frame(tmp_path / "0.fits", 0, look="stall", tries=str(tries), until=str(passed))
    write_frame(tmp_path / "1.fits", 1)
    stalled, waited_s, found = 0, 0.0, {}

    def look() -> bool:
        nonlocal stalled, waited_s
        if tries.exists() and len(tries.read_text().splitlines()) > stalled:
            stalled, waited_s = stalled + 1, 0.0
            if stalled == passes_after:
                passed.touch()
        if stalled and waited_s < 45:  # in steps: the runner's time for this file may begin a moment after the try
            waited_s += 1.5
            clock_s[0] += 1.5
        found.update({Path(probed.path).name: probed.found for probed in one.probed()})
        return len(found) == 2

    one = WorkerRunner(START, Limits(20.0, 100), lambda digest: None, lambda *step: None, lambda: clock_s[0])
    with closing(one):
        one.probe([str(tmp_path / "0.fits"), str(tmp_path / "1.fits")], LIMITS)
        until(one, look, 90.0)

    assert isinstance(found["1.fits"], FrameFacts)
    assert isinstance(found["0.fits"], FrameFacts if passes_after else Problem)
    assert stalled == (passes_after or LIMITS["attempts"])
    if not passes_after:
        assert "ran out of time" in found["0.fits"].reason


def test_worker_is_replaced_when_used_up_or_for_another_model(tmp_path: Path) -> None:
    """TensorFlow leaks and models do not mix: a fresh process cures both."""
    runner = WorkerRunner(START, Limits(20.0, 2), lambda digest: None, lambda *step: None)
    pids = []
    for n, model in enumerate(["m1", "m1", "m1", "m2", "m2"]):
        report = run(runner, replace(job_of(tmp_path, f"s{n}"), model=model))
        assert report.result["model"] == model
        pids.append(runner.worker_pid)

    assert pids[0] == pids[1]
    assert pids[1] != pids[2]
    assert pids[2] != pids[3]
    assert pids[3] == pids[4]
    report = run(runner, replace(job_of(tmp_path, "s9"), model="broken"))
    assert (report.cause, report.retry) == ("model", True)
    runner.close()


def test_the_kernel_takes_the_worker_first_and_no_worker_outlives_its_supervisor(
    runner: WorkerRunner, tmp_path: Path
) -> None:
    """oom_score_adj is set; the usual signals do not reach the worker; close ends it."""
    assert run(runner, job_of(tmp_path)).ok
    assert runner.worker_pid is not None
    worker = psutil.Process(runner.worker_pid)
    assert int(Path(f"/proc/{worker.pid}/oom_score_adj").read_text()) == 500

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(worker.pid, number)
    assert run(runner, job_of(tmp_path, "next")).ok
    assert runner.worker_pid == worker.pid

    runner.close()
    assert not worker.is_running()


def test_an_idle_worker_that_dies_is_replaced_unseen(runner: WorkerRunner, tmp_path: Path) -> None:
    """Nobody is blamed for a death between two jobs."""
    assert run(runner, job_of(tmp_path)).ok
    assert runner.worker_pid is not None
    os.kill(runner.worker_pid, signal.SIGKILL)
    assert wait(runner.handles[:1], timeout=5)  # psutil would reap it, and multiprocessing think that it lives

    assert runner.finished() == []
    assert run(runner, job_of(tmp_path, "next")).ok


def test_serial_runner_keeps_the_same_contract(tmp_path: Path, steps: list[tuple[str, str, float]]) -> None:
    """In-process: same answers, same causes, no process."""
    runner = SerialRunner(WORK, lambda digest: None, lambda *step: steps.append(step))
    runner.submit(job_of(tmp_path))
    runner.submit(job_of(tmp_path, "bad", do="refuse"))
    runner.probe([str(tmp_path / "M27-0.fits")], LIMITS)

    assert [(r.set_name, r.ok, r.cause) for r in runner.finished()] == [("M27", True, ""), ("bad", False, "set")]
    assert runner.finished() == []
    assert isinstance(runner.probed()[0].found, FrameFacts)
    assert ("M27", "restore", 0.5) in steps
    runner.close()


def test_a_ledger_that_cannot_be_read_puts_the_set_off(tmp_path: Path) -> None:
    """The worker asks whether the content is known and nobody can say: it gets an answer, the set no second result."""

    def unreadable(digest: str) -> str | None:
        raise OutputError("ledger.db: the ledger cannot be read now: disk I/O error")

    one = WorkerRunner(START, Limits(20.0, 100), unreadable, lambda *step: None)
    try:
        report = run(one, job_of(tmp_path))
        assert (report.ok, report.cause, report.retry) == (False, "transient", True)
        assert "disk I/O error" in report.reason
    finally:
        one.close()
