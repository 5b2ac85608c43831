"""`stackd check`: everything that would keep this configuration, or one set, from being restored.

Takes settings that are valid by themselves and looks at the machine: folders, disks, the model, and
the frames of a set where one is named. Changes nothing and loads no network.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from stackd.disk import model_store, models, outbox
from stackd.disk.lock import NETWORK_FILESYSTEMS, filesystem_of
from stackd.errors import ModelError, StackdError
from stackd.jobs.calibration_plan import Seen, counted, kinds_without, plan_for, sentences
from stackd.jobs.runner import SerialRunner
from stackd.jobs.worker import Work
from stackd.records import FrameFacts
from stackd.settings import Settings
from stackd.single import Found, find_frames


def problems_of_house(settings: Settings, config: Path | None) -> list[str]:
    """Every problem of the folders, the disks, the model and the config file itself, one sentence each."""
    return [*_config_problems(config), *_folder_problems(settings), *_model_problems(settings)]


def problems_of_set(path: Path, settings: Settings) -> tuple[list[str], list[str]]:
    """Every problem of the frames in a folder, or of one frame; and what is none: what they still wait for, and which
    darks, flats and biases calibrate them."""
    runner = SerialRunner(Work(), lambda digest: None, lambda *step: None)
    try:
        found = find_frames([path], settings, runner)
    except StackdError as error:
        return [str(error)], []
    except OSError as error:
        return [_cannot_be_read(str(error.filename or path), error)], []
    problems, remarks = _calibration_of_set(found, settings, runner)
    frames, whole = len(found.frames), settings.set.frames
    left, lacking = frames % whole, -frames % whole
    waits = f"usable frames: {frames}; a set has {whole} (set.frames), {lacking} more make the next one whole"
    return [*(str(problem) for problem in found.problems), *problems], [*([waits] if left else []), *remarks]


def _calibration_of_set(found: Found, settings: Settings, runner: SerialRunner) -> tuple[list[str], list[str]]:
    """What is wrong with a set's own darks, flats and biases; how many serve, and which of all sets' do not."""
    paths = (*found.own_calibration, *found.shared_calibration)
    if not paths or not found.frames:
        return [], []
    runner.probe(paths, settings.limits.model_dump())
    looked = {one.path: one.found for one in runner.probed()}
    own = set(found.own_calibration)
    seen = [Seen(path, facts, path in own) for path, facts in looked.items() if isinstance(facts, FrameFacts)]
    bad = [(path, facts.reason) for path, facts in looked.items() if not isinstance(facts, FrameFacts)]
    plan = plan_for(found.frames[0][1], seen, exposure_tolerance=settings.set.exposure_tolerance)
    used = [path for paths in plan.roles.values() for path in paths]
    problems = kinds_without(own, used, [*bad, *plan.left_out]) or sentences(one for one in bad if one[0] in own)
    remarks = sentences((*(one for one in bad if one[0] not in own), *plan.left_out, *plan.needless))
    return problems, [*remarks, f"calibrated by {counted(plan.roles) or 'nothing'}"]


def _config_problems(config: Path | None) -> Iterator[str]:
    if config is not None and config.stat().st_mode & stat.S_IWOTH:
        yield f"{config}: everybody may write to it, and it names commands that stackd runs; chmod o-w it"


def _folder_problems(settings: Settings) -> Iterator[str]:
    archive = ("archive",) if settings.set.after == "archive" else ()
    for name in ("inbox", "outbox", "quarantine", "state", *archive):
        try:
            yield from _inbox_problems(settings) if name == "inbox" else _problems_of_writing(name, settings)
        except OSError as error:
            yield _cannot_be_read(f"folders.{name} ({getattr(settings.folders, name)})", error)


def _inbox_problems(settings: Settings) -> Iterator[str]:
    """Raises OSError where nobody can tell, as on a mount whose server has gone."""
    inbox = settings.folders.inbox
    if not _is_there(inbox) or not inbox.is_dir():
        yield f"folders.inbox ({inbox}) is not there; make it, or mount it"
    elif not os.access(inbox, os.R_OK | os.X_OK):
        yield f"folders.inbox ({inbox}) may not be read by this user"
    if settings.set.after == "archive" and not os.access(inbox, os.W_OK):
        yield f'set.after = "archive" moves frames, but folders.inbox ({inbox}) may not be written by this user'
    kind = filesystem_of(inbox)
    if kind in NETWORK_FILESYSTEMS and settings.set.watch != "poll":
        yield f'folders.inbox ({inbox}) lies on {kind}, which sends no events; set set.watch = "poll"'


def _problems_of_writing(name: str, settings: Settings) -> Iterator[str]:
    """Of a folder that stackd writes to. Raises OSError where nobody can tell."""
    folder = getattr(settings.folders, name)
    above = _nearest_there(folder)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        yield f"folders.{name} ({folder}) cannot be written by this user"
    elif name in ("outbox", "state") and outbox.free_mb(above) < settings.limits.min_free_mb:
        left_mb = outbox.free_mb(above)
        yield f"folders.{name} ({folder}): {left_mb:.0f} MB left, below limits.min_free_mb; free some space"
    kind = filesystem_of(above)
    if name == "state" and kind in NETWORK_FILESYSTEMS:
        yield f"folders.state ({folder}) lies on {kind}, a network disk; name a folder on a local one"


def _model_problems(settings: Settings) -> Iterator[str]:
    if settings.restore.uses_network:
        try:
            model_store.verify(models.resolve(settings.folders.models, settings.restore.model))
        except ModelError as error:
            yield f"restore.model: {error}"


def _nearest_there(folder: Path) -> Path:
    """The folder or, where it is still to be made, the one above it that is there."""
    return next(path for path in (folder, *folder.parents) if _is_there(path))


def _is_there(path: Path) -> bool:
    """Raises OSError where nobody can tell: later Pythons' `exists` would take a dead mount for nothing at all."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _cannot_be_read(what: str, error: OSError) -> str:
    return f"{what} cannot be read: {error.strerror or error}; see that its disk is there, and who may read it"
