"""A night as its user lives it: the real daemon process, files dripping in, kills, restarts, a broken set."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from astropy.io import fits
from standin import write_frame

from tests.campaigns.house import CHILD

CONFIG = """
[set]
settle_s = 0.3
scan_interval_s = 0.5
[restore]
network = false
"""
IMAGES = {"restored.fits", "stack.fits", "sigma.fits", "restored.tif", "preview.jpg"}
RESULT = IMAGES | {"report.html", "result.json", "set.log"}


class Night:
    """A folder with a config and the processes started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.inbox, self.outbox = folder, folder / "inbox", folder / "outbox"
        self.inbox.mkdir()
        (folder / "config.toml").write_text(CONFIG)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *command: str) -> subprocess.Popen[str]:
        """The daemon: `stackd run` unless another command is given. Its log goes to a file."""
        words = command or (sys.executable, "-m", "stackd", "run")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(self.folder / "stderr", "a") as log:
            self.process = subprocess.Popen(words, cwd=self.folder, stderr=log, text=True, env=environment)
        return self.process

    def starts(self) -> int:
        """How often a daemon has said that it watches the inbox."""
        log = self.folder / "stderr"
        return log.read_text().count("stackd watches") if log.exists() else 0

    def start_standin(self) -> subprocess.Popen[str]:
        """The same daemon with stand-in work."""
        return self.start(sys.executable, str(CHILD), "config.toml")

    def until(self, look: Callable[[], Any], deadline_s: float = 90.0) -> Any:
        """What `look` gives once it gives something; the daemon must live meanwhile."""
        end_s = time.monotonic() + deadline_s
        while not (found := look()):
            assert time.monotonic() < end_s, f"waited in vain:\n{(self.folder / 'stderr').read_text()}"
            assert self.process is None or self.process.poll() is None, (self.folder / "stderr").read_text()
            time.sleep(0.02)
        return found

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL, as a power cut would: the worker must go by itself."""
        assert self.process is not None
        workers = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive

    def published(self) -> list[str]:
        if not self.outbox.is_dir():
            return []
        return sorted(one.name for one in self.outbox.iterdir() if one.is_dir() and not one.name.startswith("."))

    def at_work_or_beyond(self, before: int) -> bool:
        """A set is in staging, or more are published than before."""
        return any((self.outbox / ".stackd-tmp").glob("*.*")) or len(self.published()) > before

    def jobs(self) -> list[dict[str, Any]]:
        return [json.loads((self.outbox / name / "result.json").read_text())["job"] for name in self.published()]


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    """A night, with no process left behind."""
    one = Night(tmp_path)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.kill()


def write_capture(path: Path, number: int, **header: Any) -> None:
    """A real FITS capture of a few stars, shifted a little from frame to frame."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:96, :96].astype(np.float64)
    sky = np.full((96, 96), 500.0)
    for _ in range(25):
        x0, y0, flux = rng.uniform(5, 90), rng.uniform(5, 90), rng.uniform(3e3, 5e4)
        sky += flux / 20 * np.exp(-((x - x0 - 0.3 * number) ** 2 + (y - y0 - 0.2 * number) ** 2) / 6.4)
    hdu = fits.PrimaryHDU(np.random.default_rng(number).poisson(sky).clip(0, 65535).astype(np.uint16))
    hdu.header.update({"OBJECT": "M 27", "EXPTIME": 10.0, "DATE-OBS": f"2026-01-01T00:{number:02d}:00", **header})
    path.parent.mkdir(parents=True, exist_ok=True)
    hdu.writeto(path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_darks_copied_after_the_lights_calibrate_them(night: Night) -> None:
    """Dripping in while the set waits or is at work, killed in the middle: what comes out knows all of them."""
    night.start()
    night.until(lambda: night.outbox.is_dir())
    for n in range(8):
        write_capture(night.inbox / "M27" / f"{n}.fits", n)
    for n in range(12):
        dark = np.random.default_rng(n).poisson(200, (96, 96)).astype(np.uint16)
        (night.inbox / "M27/darks").mkdir(exist_ok=True)
        fits.PrimaryHDU(dark, fits.Header({"EXPTIME": 10.0, "IMAGETYP": "Dark"})).writeto(
            night.inbox / "M27/darks" / f"{n}.fits"
        )
        time.sleep(0.25)
        if n == 6:
            night.kill()
            night.start()
    night.until(night.published, 300.0)

    assert night.stop() == 0
    assert night.published() == ["M27"]
    result = json.loads((night.outbox / "M27/result.json").read_text())
    assert len(result["calibration"]["used"]) == 12
    assert fits.getheader(night.outbox / "M27/restored.fits")["CALSTAT"] == "D"
    assert {len(list(night.inbox.rglob(f"M27/{where}"))) for where in ("*.fits", "darks/*.fits")} == {8, 12}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_eight_files_dripping_in_become_one_result(night: Night) -> None:
    """The real thing, whole: eight frames one by one, one of them slowly, a broken set between, SIGTERM."""
    night.start()
    night.until(lambda: night.outbox.is_dir())
    for n in range(8):
        write_capture(night.inbox / "broken" / f"{n}.fits", n, EXPTIME=10.0 + 10 * (n == 3))
        source = night.folder / "source" / f"{n}.fits"
        write_capture(source, n)
        content = source.read_bytes()
        with open(night.inbox / f"light{n}.fits", "wb") as file:
            for part in (content[: len(content) // 2], content[len(content) // 2 :]):
                file.write(part)
                file.flush()
                time.sleep(0.05)
    night.until(night.published, 300.0)
    night.until(lambda: (night.folder / "quarantine/broken/error.json").exists())

    assert night.stop() == 0
    [name] = night.published()
    assert set(os.listdir(night.outbox / name)) == RESULT
    result = json.loads((night.outbox / name / "result.json").read_text())
    assert len(result["inputs"]) == 8
    assert [frame["sha256"] for frame in result["job"]["frames"]] == [one["sha256"] for one in result["inputs"]]
    assert "frames" in (night.outbox / name / "set.log").read_text()
    error = json.loads((night.folder / "quarantine/broken/error.json").read_text())
    assert "exposure" in error["reason"]
    assert len(list(night.inbox.glob("*.fits"))) == 8
    assert os.listdir(night.outbox / ".stackd-tmp") == []
    [log] = night.outbox.glob("stackd-*.log")
    assert f"{name}: done" in log.read_text()


@pytest.mark.slow
def test_killed_at_any_moment_every_set_comes_out_once(night: Night) -> None:
    """SIGKILL again and again while sets are at work; then one undisturbed run: each set exactly once."""
    for s in range(6):
        for n in range(8):
            write_frame(night.inbox / f"set{s}" / f"{n}.fits", n, target=f"set{s}")
    (night.folder / "config.toml").write_text(CONFIG + "[limits]\nattempts = 50\n")
    rng = np.random.default_rng(1)
    for _ in range(8):
        before = len(night.published())
        night.start_standin()
        night.until(partial(night.at_work_or_beyond, before))
        time.sleep(rng.uniform(0.0, 0.05))
        night.kill()
        assert all((night.outbox / name / "result.json").exists() for name in night.published())
        if len(night.published()) == 6:
            break
    starts = night.starts()
    night.start_standin()
    night.until(lambda: len(night.published()) == 6)
    night.until(lambda: night.starts() > starts)  # all may be out already: SIGTERM must not meet a bare interpreter

    assert night.stop() == 0
    assert Counter(job["set"] for job in night.jobs()) == {f"set{s}": 1 for s in range(6)}
    assert os.listdir(night.outbox / ".stackd-tmp") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_kills_lose_nothing(tmp_path: Path) -> None:
    """A few of the thousand kills of `python -m tests.campaigns.kills`, so that the campaign itself stays whole."""
    command = [sys.executable, "-m", "tests.campaigns.kills", "--count", "15", "--real", "0", "--folder", str(tmp_path)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_lost_or_damaged_ledger_redoes_nothing(night: Night) -> None:
    """The state folder may be deleted or scribbled over: the outbox is the truth."""
    for n in range(8):
        write_frame(night.inbox / "M27" / f"{n}.fits", n)
    night.start_standin()
    night.until(lambda: night.outbox.is_dir() and night.published())
    assert night.stop() == 0
    first = (night.outbox / "M27/result.json").stat().st_mtime_ns
    shutil.rmtree(night.folder / ".stackd")

    night.start_standin()
    night.until(lambda: (night.folder / ".stackd/status.json").exists())
    assert night.stop() == 0
    (night.folder / ".stackd/ledger.db").write_bytes(os.urandom(20_000))
    for n in range(8):
        write_frame(night.inbox / "M31" / f"{n}.fits", n, target="M31")
    night.start_standin()
    night.until(lambda: "M31" in night.published())
    assert night.stop() == 0

    assert night.published() == ["M27", "M31"]
    assert (night.outbox / "M27/result.json").stat().st_mtime_ns == first
    assert (night.folder / ".stackd/ledger.db.damaged-1").is_file()
