"""What travels between the rooms: small frozen records, picklable, in field terms.

Used from F3 (disk) upwards. Light enough for the ledger and for the pipe between the supervisor and its worker: no
arrays, and so no numpy in the supervisor.
"""

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def program() -> str:
    """Name and version of stackd, as results and checkpoints state them."""
    try:
        return f"stackd {version('stackd')}"
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "stackd"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One file as a scan saw it. Two equal sightings mean that the file did not change between."""

    path: str  # relative to the inbox, "/" between folders
    size_bytes: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What a capture's header (and, where it is silent, its name) says. None: not said."""

    width_px: int
    height_px: int
    bands: int  # 1 (mono or Bayer mosaic) or 3
    sample_type: str  # of the file: "uint8", "uint16", "int16", "float32" ...
    target: str | None = None
    filter: str | None = None
    exposure_s: float | None = None
    gain: float | None = None
    binning: str | None = None  # "1x1"
    camera: str | None = None
    taken_at: str | None = None  # start of the exposure, ISO 8601, UTC
    bayer: str | None = None  # pattern from the array's row 0 on: "RGGB", "GRBG", "GBRG", "BGGR"
    bottom_up: bool = False  # row 0 of the array is the bottom of the picture (ROWORDER)
    image_type: str = ""  # light, dark, flat or bias; "": not said, as of most lights
    electrons_per_adu: float | None = None
    temperature_c: float | None = None  # of the sensor
    calibrated: str = ""  # letters of CALSTAT: B, D and F for a bias, a dark and a flat that were taken out

    @property
    def is_light(self) -> bool:
        return self.image_type in ("", "light")


@dataclass(frozen=True, slots=True)
class CaptureSet:
    """Frames that belong together, in order of time."""

    name: str  # safe as a folder name
    frames: tuple[Sighting, ...]

    @property
    def folder(self) -> str:
        """Of the inbox, that its frames lie in; "" for loose ones."""
        return self.frames[0].path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Job:
    """One restoration for a worker: paths and plain values only."""

    set_name: str
    paths: tuple[str, ...]  # absolute, in order of time
    staging: str  # an existing empty folder for the result's files
    restore: dict[str, Any]  # settings.RestoreSettings as a dict
    limits: dict[str, Any]  # settings.LimitsSettings as a dict
    model: str  # folder of the model version to use; "" for the plain stack alone
    config_sha256: str = ""
    aligned: bool = False
    attempt: int = 1
    own_calibration: tuple[
        str, ...
    ] = ()  # absolute: darks, flats and biases in the set's folder, told by their folders
    shared_calibration: tuple[str, ...] = ()  # the same of all sets


@dataclass(frozen=True, slots=True)
class Report:
    """How a job ended. `result` is the content of result.json where it went well.

    `cause` of an end that was not good: "set" (its frames are at fault), "duplicate" (`reason` is the
    set with the same content), "model", "space" (a full disk), "transient" (an input or output error
    that may pass) or "death" (the worker died, ran out of time or met an unforeseen error).
    """

    set_name: str
    ok: bool
    result: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    file: str | None = None
    remedy: str = ""
    retry: bool = False
    cause: str = ""
    sha256s: tuple[str, ...] = ()  # of the frames, in the job's order; empty if they were not read
    calibration_sha256s: tuple[str, ...] = ()  # of the set's own darks, flats and biases, as far as they can be read

    @property
    def contents(self) -> tuple[str, ...]:
        """What the set is: the same frames with other darks in their folder are another one."""
        return self.sha256s + self.calibration_sha256s
