"""Stand-ins for the functions that touch pixels: a "capture" is a line of JSON saying what shall happen.

Lets the tests of the runner, the daemon and the whole process die, hang and fail at will, fast and
without TensorFlow. Imported by name in the worker; tests put this folder on sys.path.
"""

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stackd.disk import models
from stackd.errors import ModelError, SetError
from stackd.jobs.worker import Work
from stackd.records import FrameFacts, Job

WORK = Work(process="standin:process", load="standin:load", look="standin:look")


class Unfinished(SetError):
    """As the reader's own: the file may still be growing."""


def write_frame(path: Path, number: int, **orders: Any) -> None:
    """A capture that asks `process` or `look` for a certain behaviour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"number": number, **orders}))


def look(path: Path, max_pixels: int, max_bytes: int) -> FrameFacts:
    """The facts of a stand-in capture."""
    text = path.read_text()
    if not text.endswith("}"):
        raise Unfinished("is shorter than it should be", file=str(path))
    orders = json.loads(text)
    if orders.get("look") == "die once" and not Path(orders["until"]).exists():
        Path(orders["until"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if orders.get("look") == "stall" and not Path(orders["until"]).exists():
        with Path(orders["tries"]).open("a") as tries:
            tries.write("stalled\n")
        time.sleep(3600.0)
    if orders.get("pixels", 0) > max_pixels:
        raise SetError("has too many pixels", file=str(path), remedy="raise limits.max_pixels")
    if orders.get("look") == "refused" and not Path(orders["until"]).exists():
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if orders.get("look") == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    taken_at = f"2026-01-01T00:00:{orders['number']:02d}"
    return FrameFacts(8, 8, 1, "uint16", target=orders.get("target"), taken_at=taken_at)


def load(model: str) -> str:
    """A stand-in model: its folder's name."""
    if "broken" in model:
        raise ModelError(f"{model}: is broken")
    return model


def load_checked(model: str) -> dict[str, str]:
    """What of a real model says which it is, once its files are found to be in order; no network is built."""
    from stackd.disk import model_store  # noqa: PLC0415 - in the worker only: the supervisor holds no numpy

    card, _ = model_store.load_weights(models.at_path(Path(model)))
    return {key: card[key] for key in ("name", "version", "sha256")}


def process(job: Job, restorer: Any, progress: Callable[[str, float], None]) -> dict[str, Any]:
    """Write a result of two files, or do what the first frame asks for."""
    orders = json.loads(Path(job.paths[0]).read_text())
    staging = Path(job.staging)
    (staging / "restored.fits").write_text(" ".join(Path(path).name for path in job.paths))
    progress("restore", 0.5)
    _obey(orders, staging)
    result = {"set": job.set_name, "model": restorer, "attempt": job.attempt}
    calibration = job.own_calibration, job.shared_calibration
    result["calibrated_by"] = [["/".join(Path(path).parts[-2:]) for path in paths] for paths in calibration]
    if "read" in orders:
        result["inputs"] = [{"sha256": orders["read"]}]
    (staging / "result.json").write_text(json.dumps(result))
    return result


def _obey(orders: dict[str, Any], staging: Path) -> None:
    """`do` is what shall happen, `until` a file whose presence ends it."""
    if "until" in orders and Path(orders["until"]).exists():
        return
    match orders.get("do"):
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            while not ("until" in orders and Path(orders["until"]).exists()):
                time.sleep(0.01)
        case "linger":
            time.sleep(orders["seconds"])
        case "drop":  # somebody puts another file into the inbox
            write_frame(Path(orders["until"]), 99)
        case "touch":
            os.utime(orders["file"])
        case "refuse":
            raise SetError("the frames show nothing", file="a.fits", remedy="take others")
        case "fail":
            raise ValueError("nobody thought of this")
        case "no space":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(staging))
        case "bad disk":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(staging))
        case "eat":
            bytearray(4 << 30)
        case "eat with OpenCV":
            import cv2  # noqa: PLC0415 - nor OpenCV, nor numpy
            import numpy as np  # noqa: PLC0415

            cv2.resize(np.zeros((100, 100), np.uint8), (60_000, 60_000))
        case "eat with Keras":
            import keras  # noqa: PLC0415

            keras.layers.Lambda(lambda value: value + keras.ops.zeros((1 << 20, 1 << 20)))(keras.ops.zeros((1, 1)))
