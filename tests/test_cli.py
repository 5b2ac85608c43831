"""Commands, exit codes, and that none loads TensorFlow without need."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from standin import WORK, write_frame
from typer.testing import CliRunner

from stackd import cli, single, status
from stackd.daemon import Daemon
from stackd.disk import model_store, models
from stackd.errors import ConfigError, InstanceError, ModelError, OutputError, SetError, StackdError
from stackd.jobs import promotion, training
from stackd.jobs.training_request import Outcome, TrainingRequest
from stackd.records import program
from stackd.settings import load

HEAVY = ("tensorflow", "keras")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with an inbox, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "config.toml").write_text("[restore]\nnetwork = false\n[set]\nsettle_s = 0.1\nscan_interval_s = 0.5\n")
    return tmp_path


@pytest.fixture
def call(here: Path) -> Callable[..., Any]:
    """A command in this process; its errors become exit codes as in `main`."""

    def run(*words: str, app: Any = cli.app) -> Any:
        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, StackdError):
            return SimpleNamespace(exit_code=result.exception.exit_code, stdout=result.stdout, error=result.exception)
        return SimpleNamespace(exit_code=result.exit_code, stdout=result.stdout, error=result.exception)

    return run


def stackd(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "stackd", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def write_capture(path: Path, n: int, size: int = 32, level: float = 100, **header: Any) -> None:
    """A real FITS capture."""
    pixels = np.random.default_rng(n).poisson(level, (size, size)).astype(np.uint16)
    hdu = fits.PrimaryHDU(pixels)
    hdu.header.update({"DATE-OBS": f"2026-01-01T00:00:{n:02d}", "EXPTIME": 10.0, "OBJECT": "M 27", **header})
    path.parent.mkdir(parents=True, exist_ok=True)
    hdu.writeto(path)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["restore", "--help"], ["check"], ["check", "set"], ["status"], ["models", "list"]],
)
def test_light_commands_stay_light(here: Path, words: list[str]) -> None:
    """--help, check, status and models never load TensorFlow."""
    write_capture(here / "set" / "a.fits", 1)
    code = (
        "import sys; from stackd.cli import main; sys.argv = ['stackd', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        f"assert not set({HEAVY!r}) & set(sys.modules), 'heavy'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=here, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_helps(call: Callable[..., Any]) -> None:
    """Each command has a help page and takes --config."""
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert set(names) == {"run", "once", "restore", "check", "status", "retry", "demo"}
    for name in names:
        result = call(name, "--help")
        assert result.exit_code == 0
        assert "--config" in result.stdout
    assert "--preset" in call("--help", app=cli.train_app).stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("x"), 2), (InstanceError("x"), 75), (SetError("x"), 1), (ModelError("x"), 1), (OutputError("x"), 1)],
)
def test_errors_become_exit_codes(error: StackdError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The words go to stderr, each line marked."""

    def fails() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        cli._exit_with_code(fails)
    assert end.value.code == code
    assert capsys.readouterr() == ("", "stackd: x\n")


def test_what_this_user_may_not_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """`stackd status` by somebody else than the service's user: a line and exit 1, no traceback."""

    def refused() -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/var/lib/stackd/lock")

    with pytest.raises(SystemExit) as end:
        cli._exit_with_code(refused)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("stackd: /var/lib/stackd/lock: Permission denied; ")
    assert said.count("\n") == 1


def test_no_training_lasts_no_time(call: Callable[..., Any]) -> None:
    """Zero minutes are a slip, not thirty."""
    assert call("--minutes", "0", app=cli.train_app).exit_code == 2


def test_training_spares_the_version_that_the_config_pins(
    call: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Week by week newer versions come; the one that every set is to be restored with stays."""
    weights = [{"a": np.full(3, number, np.float32)} for number in range(4)]
    pinned = model_store.publish(here / "models", "default", weights[0], {}, at=datetime(2026, 1, 1, tzinfo=UTC))
    wanted = f"default@{pinned.version}"
    (here / "config.toml").write_text(f'[restore]\nmodel = "{wanted}"\n[train]\nkeep = 2\n')
    won = promotion.Comparison("", ())

    def train(request: TrainingRequest, report: object) -> Outcome:
        for one in weights[1:]:
            version = promotion.publish(request.store, "default", one, {}, won, request.keep, request.spared)
        return Outcome(version, True, {}, won)

    monkeypatch.setattr(training, "train", train)
    assert call(app=cli.train_app).exit_code == 0
    assert models.resolve(here / "models", wanted).path == pinned.path


def test_usage_and_config_errors_end_with_2(here: Path) -> None:
    """All problems at once, nothing on stdout."""
    (here / "config.toml").write_text("[set]\nframs = 8\n[limit]\n")
    for words in (["status"], ["run"], ["once"], ["check"]):
        done = stackd(here, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "frames" in done.stderr
        assert "limits" in done.stderr
    assert stackd(here, "status", "--config", "missing.toml").returncode == 2
    assert stackd(here, "nonsense").returncode == 2
    assert not (here / "outbox").exists()


def test_check_says_everything_at_once(call: Callable[..., Any], here: Path) -> None:
    """The house's problems and the set's; nothing is made or changed."""
    write_capture(here / "set" / "a.fits", 1)
    write_capture(here / "set" / "b.fits", 2, size=40)
    (here / "set" / "c.fits").write_text("no FITS")
    (here / "inbox").rmdir()
    before = sorted(here.rglob("*"))
    result = call("check", "set")

    assert result.exit_code == 1
    assert "folders.inbox" in result.stdout
    assert "c.fits" in result.stdout
    assert "size differs" in result.stdout
    assert sorted(here.rglob("*")) == before
    assert "no such file" in call("check", "missing").stdout


def test_check_says_what_calibrates_a_set_and_what_does_not(call: Callable[..., Any], here: Path) -> None:
    """Each reason once; what lies beside all sets of the inbox counts for a set in it, and nowhere else."""
    for n in range(8):
        write_capture(here / "inbox/M31" / f"{n}.fits", n, GAIN=100)
    for n in range(3):
        write_capture(here / "inbox/M31/darks" / f"{n}.fits", 20 + n, IMAGETYP="Dark", GAIN=100)
        write_capture(here / "inbox/biases" / f"{n}.fits", 30 + n, IMAGETYP="Bias", GAIN=100)
        write_capture(here / "inbox/flats" / f"{n}.fits", 40 + n, IMAGETYP="Flat", GAIN=100)
    write_capture(here / "inbox/flats/blue.fits", 45, IMAGETYP="Flat", GAIN=50)
    good = call("check", "inbox/M31")
    for n in range(2):
        write_capture(here / "inbox/M31/darks" / f"wrong{n}.fits", 50 + n, IMAGETYP="Dark", GAIN=0)
    (here / "inbox/M31/darks/text.fits").write_text("not a frame at all, and long enough to be looked at")
    bad = call("check", "inbox/M31")

    assert good.exit_code == 0
    assert "calibrated by 3 darks, 3 biases, 3 flats\n" in good.stdout
    assert bad.exit_code == 1
    assert "darks/wrong0.fits and 1 more: its gain is 0, the lights' 100\n" in bad.stdout
    assert "darks/text.fits: is not a FITS" in bad.stdout
    assert "calibrated by 3 darks" in bad.stdout
    assert "flats/blue.fits: its gain is 50, the lights' 100\n" in good.stdout  # of all sets: no problem of this one
    (here / "inbox/M31").rename(here / "elsewhere")
    assert "flats" not in call("check", "elsewhere").stdout


def test_check_passes_over_calibration_frames_however_the_folder_is_named(call: Callable[..., Any], here: Path) -> None:
    """A dark among a folder's lights is left out, as the daemon leaves it out; the lights are a good set."""
    for n in range(8):
        write_capture(here / "set" / f"{n}.fits", n, IMAGETYP="Light Frame")
    write_capture(here / "set" / "dark.fits", 9, IMAGETYP="Dark Frame")

    assert call("check", "set").stdout == call("check", str(here / "set")).stdout
    assert "dark" not in call("check", "set").stdout


def test_status_knows_what_waits_runs_and_failed(call: Callable[..., Any], here: Path) -> None:
    """With a daemon and without one; without any history, too."""
    assert "not running" in call("status").stdout
    assert not (here / ".stackd").exists()
    for n in range(8):
        write_frame(here / "inbox/bad" / f"{n}.fits", n, **({"do": "refuse"} if n == 0 else {}))
        write_frame(here / "inbox/good" / f"{n}.fits", n + 20)
    for n in range(6):
        write_frame(here / "inbox/M27" / f"{n}.fits", n + 40)
        write_frame(here / "inbox/Darks" / f"{n}.fits", n + 50)
    daemon = Daemon(load(here / "config.toml", {}), work=WORK)
    daemon.once()
    alive = json.loads(call("status", "--json").stdout)
    daemon.close()
    left = json.loads(call("status", "--json").stdout)
    words = call("status").stdout

    assert (alive["daemon"], left["daemon"]) == ("running", "not running")
    assert alive["done"] == left["done"] == 1
    [waiting] = left["waiting"]
    assert (waiting["set"], waiting["frames"]) == ("M27", 6)
    assert "6 of 8" in waiting["reason"]
    [away] = left["quarantined"]
    assert (away["set"], away["reason"], away["remedy"]) == ("bad", "the frames show nothing", "take others")
    assert "bad: the frames show nothing (take others)" in words
    assert "6 of 8" in words
    assert alive["calibration"] == {"Darks": 6}
    assert "calibration  6 in Darks/, for all sets" in words

    assert call("retry", "bad", "good").exit_code == 1
    assert json.loads(call("status", "--json").stdout)["quarantined"] == []
    assert call("retry", "bad").exit_code == 1


def test_restore_writes_one_result_and_overwrites_none(here: Path) -> None:
    """Any number of frames, in order of time; the folder appears whole; a taken one is refused."""
    settings = load(here / "config.toml", {})
    for n in (2, 0, 1):
        write_frame(here / "set" / f"{'cab'[n]}.fits", n)
    steps: list[tuple[str, str, float]] = []
    result = single.restore(
        [here / "set"], here / "out", settings, lambda *step: steps.append(step), aligned=False, work=WORK
    )

    assert (here / "out/restored.fits").read_text() == "c.fits a.fits b.fits"
    assert result["set"] == "out"
    assert ("out", "restore", 0.5) in steps
    assert sorted(path.name for path in here.iterdir()) == ["config.toml", "inbox", "out", "set"]
    with pytest.raises(ConfigError, match="not an empty folder"):
        single.restore([here / "set"], here / "out", settings, lambda *step: None, aligned=False, work=WORK)
    (here / "empty").mkdir()
    single.restore([here / "set/a.fits"], here / "empty", settings, lambda *step: None, aligned=True, work=WORK)
    assert (here / "empty/restored.fits").read_text() == "a.fits"


def test_a_frame_that_shows_nothing_is_named_and_no_setting_with_it(call: Callable[..., Any], here: Path) -> None:
    """By hand there is no quarantine to come back from."""
    fits.PrimaryHDU(np.full((32, 32), 7, np.uint16)).writeto(here / "blank.fits")

    error = str(call("restore", "blank.fits", "--out", "out").error)

    assert "no frame shows anything: blank.fits is blank" in error
    assert "retry" not in error
    assert "min_frames" not in error


def test_restore_is_calibrated_by_what_lies_in_the_folder(call: Callable[..., Any], here: Path) -> None:
    """As the daemon does it: history, header and result.json tell."""
    for n in range(8):
        write_capture(here / "set" / f"{n}.fits", n, EXPTIME=60.0)
    for n in range(3):
        write_capture(here / "set/darks" / f"{n}.fits", 20 + n, level=20.0, EXPTIME=60.0)

    assert call("restore", "set", "--out", "out", "--aligned").exit_code == 0

    assert fits.getheader(here / "out/restored.fits")["CALSTAT"] == "D"
    result = json.loads((here / "out/result.json").read_text())
    assert [one["file"] for one in result["calibration"]["used"]] == [f"set/darks/{n}.fits" for n in range(3)]


def test_restore_says_all_problems_and_leaves_nothing(here: Path) -> None:
    """A bad set is exit 1 with every reason, and no folder is left behind."""
    settings = load(here / "config.toml", {})
    (here / "set").mkdir()
    for name in ("a.fits", "b.fits"):
        (here / "set" / name).write_text("no capture }")
    with pytest.raises(SetError, match=r"a\.fits(.|\n)*b\.fits"):
        single.restore([here / "set"], here / "out", settings, lambda *step: None, aligned=False, work=WORK)
    write_frame(here / "good" / "a.fits", 1, do="refuse")
    with pytest.raises(SetError, match="show nothing"):
        single.restore([here / "good"], here / "out", settings, lambda *step: None, aligned=False, work=WORK)
    with pytest.raises(ConfigError, match="no such"):
        single.restore([here / "nowhere"], here / "out", settings, lambda *step: None, aligned=False, work=WORK)
    assert sorted(path.name for path in here.iterdir()) == ["config.toml", "good", "inbox", "set"]


def test_once_without_anything_to_do_is_good(here: Path) -> None:
    """Folders that stackd writes to are made; exit 0; nothing on stdout for machines, and a word for people."""
    done = stackd(here, "once", "--json")
    assert (done.returncode, done.stdout) == (0, "")
    assert (here / "outbox").is_dir()
    assert "no set is complete" in stackd(here, "once").stdout


def test_the_version_is_told(call: Callable[..., Any]) -> None:
    """As results name it."""
    assert call("--version").stdout == f"{program()}\n"


def test_check_tells_what_a_good_set_waits_for(call: Callable[..., Any], here: Path) -> None:
    """Three frames are good, and no set yet."""
    for n in range(3):
        write_capture(here / "set" / f"{n}.fits", n)

    told = call("check", "set")

    assert told.exit_code == 0
    assert "usable frames: 3; a set has 8" in told.stdout
    assert "5 more make the next one whole" in told.stdout


def test_snapshot_in_one_line() -> None:
    """What systemd shows."""
    view: dict[str, Any] = {"running": None, "complete": [], "waiting": [1], "spoiled": [], "trouble": ""}
    assert status.one_line(view) == "waits for frames, 1 waiting"
    assert status.one_line(view | {"running": {"set": "A", "step": "read 0%"}}) == "A: read 0%, 1 waiting"
    assert status.one_line(view | {"trouble": "no space"}) == "pauses: no space"
