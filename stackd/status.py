"""What `stackd status` says: the daemon's own snapshot, the ledger's counts, the model, the space left.

The daemon rewrites state/status.json whenever what it says changes; reading needs no daemon and
changes nothing.
"""

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from stackd.disk import models, outbox
from stackd.disk.ledger import LEDGER_NAME, QUARANTINED, RETRY, Ledger
from stackd.disk.lock import is_held
from stackd.errors import ModelError, OutputError
from stackd.jobs.serving import usable_model
from stackd.settings import Settings
from stackd.turn import Turn, missing_space

STATUS_NAME = "status.json"
MOST_NAMED = 3  # of the files that are ignored for one reason; `--json` names all


def snapshot(turn: Turn, step: str, watch: str) -> dict[str, Any]:
    """The daemon's view now, as plain values."""
    at_work = turn.claimed.capture_set.name if turn.claimed else None
    return {
        "running": {"set": at_work, "step": step} if at_work else None,
        "complete": [one.name for one in turn.assembly.complete if one.name != at_work],
        "waiting": [{"set": one.set_name, "frames": one.frames, "reason": one.reason} for one in turn.assembly.waiting],
        "spoiled": [
            {"set": one.set_name, "reason": one.reason, "file": one.file, "remedy": one.remedy}
            for one in turn.assembly.spoiled
        ],
        "calibration": _shared_calibration(turn),
        "ignored": [
            *(f"{one.path}: {one.reason}" for one in (*turn.listing.ignored, *turn.assembly.unused)),
            *(f"{folder}: no capture lies in this folder" for folder in _folders_without_captures(turn)),
        ],
        "trouble": turn.inbox_trouble or (turn.trouble.what if turn.trouble else ""),
        "remarks": list(turn.remarks),
        "served_instead": turn.served_instead,
        "watch": watch,
    }


def _shared_calibration(turn: Turn) -> dict[str, int]:
    """How many files lie in each folder of darks, flats and biases that serve all sets."""
    parts = (one.path.split("/") for one in turn.listing.calibration)
    return Counter(folders[0] for *folders, _ in parts if len(folders) == 1)


def _folders_without_captures(turn: Turn) -> tuple[str, ...]:
    """Archived sets leave their folders empty: those are no news."""
    return turn.listing.empty_folders if turn.settings.set.after == "keep" else ()


def one_line(view: dict[str, Any]) -> str:
    """The snapshot as systemd's STATUS."""
    if view["trouble"]:
        return f"pauses: {view['trouble']}"
    at_work = view["running"]
    now = f"{at_work['set']}: {at_work['step']}" if at_work else "waits for frames"
    counts = [f"{len(view[key])} {key}" for key in ("complete", "waiting", "spoiled") if view[key]]
    return ", ".join([now, *counts])


def write(state: Path, view: dict[str, Any]) -> None:
    """Replace status.json in one step. Raises OSError."""
    unfinished = state / f".{STATUS_NAME}.tmp"
    unfinished.write_text(json.dumps(view, ensure_ascii=False), "utf-8")
    unfinished.replace(state / STATUS_NAME)


def sets_by_state(ledger: Ledger, view: dict[str, Any]) -> dict[str, int]:
    """How many sets are in each state, `view` being a snapshot: in quarantine are also those spoiled before they were
    begun, of which the ledger knows nothing. Raises OutputError."""
    reopened = _reopened(view)
    away = [entry for entry in ledger.entries(QUARANTINED) if entry.name not in reopened]
    return ledger.counts() | {QUARANTINED: len(view["spoiled"]) + len(away)}


def gather(settings: Settings) -> dict[str, Any]:
    """Everything there is to say, read only. Raises OutputError for a state folder or ledger that cannot be read."""
    state = settings.folders.state
    try:
        alive, view = is_held(state), _snapshot_in(state)
        counts, later, away = _said_by_ledger(state)
    except PermissionError:  # the command line knows what to do about it
        raise
    except OSError as error:
        raise OutputError(f"{state}: folders.state cannot be read: {error.strerror or error}") from error
    view["trouble"] = view["trouble"] or _missing_space(settings)  # a full disk does not take the daemon's own word
    if not alive or "running" not in view:
        view["running"] = None
    folder, model = _model_in_use(settings, view.get("served_instead", {}) if alive else {})
    free_mb, unreadable = _disk_left(settings)
    reopened = _reopened(view)
    later, away = ([one for one in left if one["set"] not in reopened] for left in (later, away))
    view["complete"] = [name for name in view["complete"] if name not in {one["set"] for one in later}]
    return view | {
        "daemon": "running" if alive else "not running",
        "done": counts.get("done", 0),
        "duplicates": counts.get("duplicate", 0),
        "retry": later,
        "quarantined": away,
        "model": model,
        "model_folder": folder,
        "free_mb": free_mb,
        "unreadable": unreadable,
    }


def as_text(view: dict[str, Any]) -> str:
    """The same for people."""
    as_of = "" if view["daemon"] == "running" else " (what follows is how it was left)"
    lines = [f"daemon       {view['daemon']}{as_of}", f"model        {view['model']}"]
    if view["trouble"]:
        goes_on = " (goes on by itself once that has passed)" if view["daemon"] == "running" else ""
        lines.append(f"paused       {view['trouble']}{goes_on}")
    lines += [f"remark       {one}" for one in view.get("remarks", ())]
    if view["running"]:
        lines.append(f"running      {view['running']['set']}: {view['running']['step']}")
    lines += [f"complete     {name}" for name in view["complete"]]
    lines += [f"waiting      {one['set']}: {one['reason']}" for one in view["waiting"]]
    for one in view["retry"]:
        why = f"{one['reason']} (next at {one['next_try']})" if one["next_try"] else "with the next scan"
        lines.append(f"tried again  {one['set']}: {why}")
    for one in (*view["spoiled"], *view["quarantined"]):
        lines.append(f"quarantined  {one['set']}: {in_words(one['set'], one['reason'], one['file'], one['remedy'])}")
    if shared := view.get("calibration"):
        lines.append(f"calibration  {', '.join(f'{n} in {folder}/' for folder, n in shared.items())}, for all sets")
    lines += [f"ignored      {one}" for one in _by_reason(view["ignored"])]
    repeats = f", {_counted(view['duplicates'], 'repeat')}" if view["duplicates"] else ""
    lines.append(f"done         {_counted(view['done'], 'set')}{repeats}")
    left = (f"{name} {_words_mb(mb, view['unreadable'].get(name))}" for name, mb in view["free_mb"].items())
    lines.append("disk left    " + ", ".join(left))
    return "\n".join(line.replace("\n", "\n             ") for line in lines)


def in_words(set_name: str, reason: str, file: str | None, remedy: str) -> str:
    """What is wrong, what to do, and the file at fault where neither the reason nor the set's name says it."""
    what_to_do = f" ({remedy})" if remedy else ""
    where = f"; file: {file}" if file and file != set_name and file not in reason else ""
    return f"{reason}{what_to_do}{where}"


def _by_reason(ignored: list[str]) -> list[str]:
    """One line a reason: a camera that saves JPEG beside raw files leaves one to ignore for each frame."""
    paths: dict[str, list[str]] = {}
    for one in ignored:
        path, _, reason = one.rpartition(": ")
        paths.setdefault(reason, []).append(path)
    return [f"{_some_of(names)}: {reason}" for reason, names in paths.items()]


def _some_of(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _reopened(view: dict[str, Any]) -> set[str]:
    """Sets whose frames changed since the ledger noted their end."""
    return {one["set"] for one in (*view["waiting"], *view["spoiled"])}


def _snapshot_in(state: Path) -> dict[str, Any]:
    """What the daemon said last; of a house that never worked, nothing. Raises OSError."""
    try:
        return json.loads((state / STATUS_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return {"complete": [], "waiting": [], "spoiled": [], "ignored": [], "trouble": "", "watch": ""}


def _said_by_ledger(state: Path) -> tuple[dict[str, int], list[dict[str, Any]], list[dict[str, Any]]]:
    """(Sets by state, those tried again, those in quarantine). Raises OSError or OutputError."""
    if not (state / LEDGER_NAME).exists():
        return {}, [], []
    ledger = Ledger(state, read_only=True)
    later = [{"set": e.name, "reason": e.reason, "next_try": _time(e.next_try_s)} for e in ledger.entries(RETRY)]
    away = [
        {"set": e.name, "reason": e.reason, "file": e.file, "remedy": e.remedy, "attempts": e.attempts}
        for e in ledger.entries(QUARANTINED)
    ]
    counts = ledger.counts()
    ledger.close()
    return counts, later, away


def _model_in_use(settings: Settings, served_instead: dict[str, str]) -> tuple[str, str]:
    """(folder, "name version"): an older one where the daemon had to refuse the one that is still asked for."""
    folder, model = usable_model(settings)
    if folder not in served_instead or not settings.restore.uses_network:
        return folder, model
    served = served_instead[folder]
    try:
        version = models.at_path(Path(served))
    except ModelError:
        return served, served
    return served, f"{version.name} {version.version}"


def _disk_left(settings: Settings) -> tuple[dict[str, float | None], dict[str, str]]:
    """(MiB left by folder, None where nobody can tell; why a folder cannot be read)."""
    free_mb: dict[str, float | None] = {}
    unreadable: dict[str, str] = {}
    for name in ("outbox", "state"):
        free_mb[name] = None
        try:
            free_mb[name] = round(outbox.free_mb(getattr(settings.folders, name)), 1)
        except FileNotFoundError:  # not there yet
            continue
        except OSError as error:  # a mount whose server or device has gone
            unreadable[name] = error.strerror or str(error)
    return free_mb, unreadable


def _missing_space(settings: Settings) -> str:
    try:
        return missing_space(settings)
    except FileNotFoundError:  # not there yet
        return ""
    except OSError as error:
        return str(outbox.as_output_error(error))


def _words_mb(mb: float | None, unreadable: str | None) -> str:
    if unreadable:
        return f"(cannot be read: {unreadable})"
    if mb is None:
        return "(not there yet)"
    return f"{mb / 1024:.1f} GB" if mb >= 1024 else f"{mb:.0f} MB"


def _time(unix_s: float) -> str:
    """ISO 8601, "" for a time that was not set: the next scan."""
    if not unix_s:
        return ""
    return datetime.fromtimestamp(unix_s).astimezone().isoformat(timespec="seconds")
