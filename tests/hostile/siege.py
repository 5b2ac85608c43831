"""A real daemon under everything the corpus has: drop it, wait for each verdict, look for harm.

`Siege` stands on a campaigns' House with real work. Gives what it measured and a list of what broke; knows nothing
of pytest, so the quick test and the long campaign share it.
"""

import json
import os
import re
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stackd.jobs.grouping import folder_name
from tests.campaigns.house import House
from tests.hostile import corpus

MOST_S, MOST_BYTES = 30.0, 2 << 30
# One line of the log: time, level, message; a traceback or a forged line would not begin so.
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|SUCCESS|WARNING|ERROR|CRITICAL) ")
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Expected:
    """Something dropped. `verdict`: as the corpus says it, "ignored" or "waiting"; `key` is where to look for it."""

    name: str
    key: str
    verdict: str
    file: str | None = None


@dataclass(slots=True)
class Findings:
    """What a siege measured and what broke; `broken` empty: the promise was kept."""

    seconds: dict[str, float] = field(default_factory=dict)  # from the drop to the verdict
    worker_bytes: int = 0  # largest resident size of any worker
    supervisor_bytes: int = 0
    workers: set[int] = field(default_factory=set)  # process ids
    broken: list[str] = field(default_factory=list)
    each_bytes: dict[str, int] = field(default_factory=dict)  # worker's largest size, one by one only


class Meter(threading.Thread):
    """Largest resident sizes, as the kernel kept them (VmHWM), of the daemon and of each worker."""

    def __init__(self, house: House) -> None:
        super().__init__(daemon=True)
        self.findings = Findings()
        self._house, self._end = house, threading.Event()

    def run(self) -> None:
        while not self._end.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Take the sizes now."""
        found = self.findings
        if self._house.process is not None:
            found.supervisor_bytes = max(found.supervisor_bytes, peak_bytes(self._house.process.pid))
        for worker in self._house.workers():
            found.workers.add(worker.pid)
            found.worker_bytes = max(found.worker_bytes, peak_bytes(worker.pid))

    def close(self) -> None:
        """End and wait for the end."""
        self._end.set()
        self.join()


def peak_bytes(pid: int) -> int:
    """A process's largest resident size so far; 0 when it is gone."""
    with suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(match.group(1)) * 1024 if match else 0
    return 0


def forget_peak(pid: int) -> None:
    """Let the kernel measure the peak anew; only root and the owner may."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


class Siege:
    """Everything hostile dropped into one house's inbox. `house` must have real work and a started daemon."""

    def __init__(self, house: House, *, heavy: bool = False) -> None:
        self.house, self.heavy = house, heavy
        self.meter = Meter(house)
        self.findings = self.meter.findings
        self._dropped: list[Expected] = []
        self._was: dict[bytes, tuple[int, ...]] = {}

    def run(self, *, one_by_one: bool = False, deadline_s: float = 300.0) -> Findings:
        """A good set, everything hostile, a good set again; then look at what was written."""
        self.meter.start()
        try:
            self._good_set("before", 11)
            supervisor = self._pid()
            for drop in self._drops():
                began_s = time.monotonic()
                self._forget_peaks()
                expected = drop()
                self._dropped += expected
                if one_by_one:
                    self._await(expected, began_s, deadline_s)
                    self.findings.each_bytes |= dict.fromkeys((one.name for one in expected), self._peak())
            began_s = time.monotonic()
            self._was = self._state_of_inbox()
            self._await([one for one in self._dropped if one.name not in self.findings.seconds], began_s, deadline_s)
            self._good_set("after", 12)
            if self._pid() != supervisor:
                self.findings.broken.append("the supervisor is another process")
            self._look_for_harm()
        finally:
            self.meter.close()
        return self.findings

    # Dropping

    def _drops(self) -> Iterator[Callable[[], list[Expected]]]:
        inbox = self.house.inbox
        for one in corpus.FILES:
            if self.heavy or one.name not in corpus.HEAVY:
                yield lambda one=one: self._drop_file(one)
        for one in corpus.SETS:
            if not self.heavy and one.name in corpus.HEAVY:
                continue
            yield lambda one=one: self._drop_set(one)
        for name, content in corpus.strange_named_files():
            yield lambda name=name, content=content: self._drop_named(name, content)
        for number, name in enumerate(corpus.STRANGE_FOLDERS):
            if not self.heavy and name in corpus.HEAVY:
                continue
            yield lambda number=number, name=name: self._drop_folder(number, name)
        places = inbox / "places"
        yield lambda: self._drop_places(places)

    def _drop_file(self, one: corpus.HostileFile) -> list[Expected]:
        if not one.verdict.endswith("late"):
            one.make(self.house.inbox / one.name)
            verdict = "waiting" if one.verdict == "read" else "quarantined"
            return [Expected(one.name, one.name, verdict, one.name)]
        folder = self.house.inbox / Path(one.name).stem
        folder.mkdir()
        for k in range(corpus.FRAMES):  # a single one would only wait for seven more
            one.make(folder / f"{k}{Path(one.name).suffix}")
        return [Expected(one.name, folder.name, "quarantined", f"0{Path(one.name).suffix}")]

    def _drop_set(self, one: corpus.HostileSet) -> list[Expected]:
        one.make(self.house.inbox / one.name)
        return [Expected(one.name, one.name, one.verdict, one.file)]

    def _drop_named(self, name: str, content: bytes) -> list[Expected]:
        (self.house.inbox / name).write_bytes(content)
        return [Expected(name, folder_name(name), "quarantined", name)]

    def _drop_folder(self, number: int, name: str) -> list[Expected]:
        corpus.write_good_set(self.house.inbox / name, night=20 + number)
        return [Expected(name, folder_name(name), "done")]

    def _drop_places(self, folder: Path) -> list[Expected]:
        """In a folder of their own, so that their names meet no other's; one good frame makes it no empty one."""
        expected = []
        for one in corpus.PLACES:
            inner = folder if one.name != "a_folder_with_a_frame_s_name" else self.house.inbox
            inner.mkdir(exist_ok=True)
            name = os.fsdecode(one.make(inner))
            shown = ascii(name)[1:-1] if not name.isprintable() else name
            if one.named:
                expected.append(Expected(one.name, shown, "ignored"))
        return expected

    # Waiting for verdicts

    def _await(self, expected: list[Expected], began_s: float, deadline_s: float) -> None:
        left = list(expected)
        end_s = time.monotonic() + deadline_s
        while left and time.monotonic() < end_s:
            self._alive()
            status = self._status()
            for one in [one for one in left if self._has_verdict(one, status)]:
                left.remove(one)
                self.findings.seconds[one.name] = time.monotonic() - began_s
            time.sleep(LOOK_S)
        self.findings.broken += [f"{one.name}: no verdict ({one.verdict}) in {deadline_s:.0f} s" for one in left]

    def _has_verdict(self, one: Expected, status: dict[str, Any]) -> bool:
        match one.verdict:
            case "done":
                return (self.house.outbox / one.key).is_dir()
            case "quarantined":
                return (self.house.quarantine / one.key / "error.json").exists()
            case "named":
                return (self.house.outbox / one.key).is_dir() or (self.house.quarantine / one.key).is_dir()
            case "ignored":
                return any(one.key in line for line in status.get("ignored", []))
        return bool(status.get("waiting"))

    def _status(self) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            return json.loads((self.house.state / "status.json").read_bytes())
        return {}

    def _good_set(self, name: str, night: int) -> None:
        corpus.write_good_set(self.house.inbox / name, night)
        away = self.house.quarantine / name
        self.house.until(lambda: name in self.house.published() or away.exists(), 180.0)
        if away.exists():
            raise RuntimeError(f"a good set was put into quarantine:\n{self.house.last_words()}")

    def _pid(self) -> int:
        self._alive()
        assert self.house.process is not None
        return self.house.process.pid

    def _alive(self) -> None:
        if self.house.process is None or self.house.process.poll() is not None:
            raise RuntimeError(f"the supervisor died:\n{self.house.last_words()}")

    def _forget_peaks(self) -> None:
        for worker in self.house.workers():
            forget_peak(worker.pid)

    def _peak(self) -> int:
        return max((peak_bytes(worker.pid) for worker in self.house.workers()), default=0)

    # Looking for harm

    def _look_for_harm(self) -> None:
        broken = self.findings.broken
        for one in self._dropped:  # a giant can only come with seven more, and each of the eight is a file to judge
            allowed_s = MOST_S * (corpus.FRAMES if one.name in corpus.GIANTS else 1)
            if (took_s := self.findings.seconds.get(one.name, 0.0)) > allowed_s:
                broken.append(f"{one.name}: judged after {took_s:.1f} s")
        if self.findings.worker_bytes > MOST_BYTES:
            broken.append(f"a worker grew to {self.findings.worker_bytes >> 20} MB")
        for one in self._dropped:
            published = (self.house.outbox / one.key).is_dir()
            if one.verdict == "quarantined" or (one.verdict == "named" and not published):
                self._judge_report(one)
            elif one.verdict == "named":
                self._judge_left_out(one)
            if published and (why := self.house.why_not_whole(self.house.outbox / one.key)):
                broken.append(f"{one.name}: {why}")
        self._judge_texts()
        self._judge_status()
        now = self._state_of_inbox()
        broken += [f"{os.fsdecode(path)!r}: the inbox was touched" for path, state in self._was.items()
                   if now.get(path) != state]  # fmt: skip

    def _judge_report(self, one: Expected) -> None:
        """error.json names the file and says what to do, and no word of it can paint a terminal."""
        path = self.house.quarantine / one.key / "error.json"
        if not path.exists():
            return  # said above
        report = json.loads(path.read_text("utf-8"))
        where = f"{report['file']} {report['reason']}"
        if not report["remedy"]:
            self.findings.broken.append(f"{one.name}: no remedy: {report}")
        if one.file is not None and one.file not in where:
            self.findings.broken.append(f"{one.name}: {one.file} is not named: {where}")
        if "fault of stackd" in report["remedy"] or "cannot be read: " in report["reason"]:
            self.findings.broken.append(f"{one.name}: an unforeseen error: {where}")

    def _judge_left_out(self, one: Expected) -> None:
        """The result says which frame it went without, and why."""
        result = json.loads((self.house.outbox / one.key / "result.json").read_text("utf-8"))
        reasons = {frame["file"]: frame["reason"] for frame in result["inputs"] if not frame["used"]}
        if not reasons.get(str(one.file)):
            self.findings.broken.append(f"{one.name}: {one.file} is not named as left out: {reasons}")

    def _judge_texts(self) -> None:
        """Nothing that was written carries a control character, a forged line or a tag from a header."""
        broken, outbox = self.findings.broken, self.house.outbox
        logs = [self.house.log, *outbox.glob("stackd-*.log"), *outbox.glob("*/set.log")]
        for path in logs:
            if path.is_file():
                broken += [f"{path.name}: {line!r}" for line in path.read_text("utf-8").split("\n")[:-1]
                           if not LOG_LINE.match(line) or not line.isprintable()]  # fmt: skip
        for path in [*outbox.glob("*/report.html"), *outbox.glob("*/result.json"), *self.house.quarantine.glob("*/*")]:
            text = path.read_text("utf-8")
            if not text.replace("\n", "").replace("\t", "").isprintable():
                raw = sorted({c for c in text if not c.isprintable() and c not in "\n\t\u202f\u2009"})
                broken += [f"{path.parent.name}/{path.name}: holds {raw!r}"] if raw else []
            if path.suffix == ".html" and ("<script>alert" in text or "<img src=x" in text):
                broken.append(f"{path.parent.name}/{path.name}: a tag from outside")

    def _judge_status(self) -> None:
        """What a person sees of it all on a terminal."""
        words, where = self.house.command("status"), self.house.folder
        shown = subprocess.run(words, cwd=where, env=self.house.environment, capture_output=True, check=False)
        lines = shown.stdout.decode("utf-8").split("\n")
        if shown.returncode:
            self.findings.broken.append(f"`stackd status` failed: {shown.stderr[-500:]!r}")
        self.findings.broken += [f"status: {line!r}" for line in lines if not line.isprintable()]

    def _state_of_inbox(self) -> dict[bytes, tuple[int, ...]]:
        states = {}
        for folder, folders, files in os.walk(os.fsencode(self.house.inbox)):
            for name in files + folders:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                if not stat.S_ISDIR(status.st_mode):
                    states[path] = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
        return states
