"""config.toml as typed, closed, frozen settings: the only place where defaults live.

Read once by the command line and handed down in slices. Unknown keys are an error that names the
nearest known one; STACKD_SECTION__KEY in the environment wins over the file; relative paths are
relative to the file. Knows nothing of what the values are used for.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stackd.errors import ConfigError

CONFIG_NAME = "config.toml"
ENVIRONMENT_PREFIX = "STACKD_"


class Section(BaseModel):
    """One table of config.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _home_is_known(cls, value: Any) -> Any:
        """`load` has put a home in place of every "~" that stands for one."""
        if isinstance(value, Path) and value.parts[:1] and value.parts[0].startswith("~"):
            raise ValueError(f"{value.parts[0]} in {value} is nobody's home on this machine; write the whole path")
        return value


class FolderSettings(Section):
    inbox: Path = Field(Path("inbox"), description="where captures are dropped; stackd only reads here")
    outbox: Path = Field(Path("outbox"), description="finished sets, one folder each, and the day's log")
    quarantine: Path = Field(Path("quarantine"), description="error.json of each set that could not be restored")
    models: Path = Field(Path("models"), description="model store; the shipped model serves while it is empty")
    state: Path = Field(Path(".stackd"), description="ledger and lock; must lie on a local disk")
    archive: Path = Field(Path("archive"), description='where finished frames move to when set.after = "archive"')

    @model_validator(mode="after")
    def _apart(self) -> Self:
        """No folder lies in one whose folders are named after sets: it would be taken for a set, or a set for it.

        What feeds itself would restore its own results for ever. Links are followed; state and models may hold others.
        """
        real = {name: Path(os.path.realpath(getattr(self, name))) for name in type(self).model_fields}
        problems, equal = [], set()
        for outer in ("inbox", "outbox", "quarantine", "archive"):
            for name, place in real.items():
                if name != outer and place.is_relative_to(real[outer]) and (outer, name) not in equal:
                    where = "is the same folder as" if place == real[outer] else "lies inside"
                    problems.append(f"{self._named(name)} {where} {self._named(outer)}; put it beside the {outer}")
                    equal |= {(name, outer)} if place == real[outer] else set()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _named(self, name: str) -> str:
        """A folder as it was named and, where links lead elsewhere, as it is."""
        named = getattr(self, name)
        real = os.path.realpath(named)
        return f"folders.{name} ({named}{f', that is {real}' if real != str(named.absolute()) else ''})"


class SetSettings(Section):
    frames: Annotated[int, Field(ge=1, le=1000)] = Field(8, description="frames in a complete set")
    settle_s: Annotated[float, Field(ge=0)] = Field(
        5.0, description="a file counts once it has not changed for so long"
    )
    scan_interval_s: Annotated[float, Field(gt=0)] = Field(10.0, description="the inbox is scanned at least so often")
    watch: Literal["auto", "poll"] = Field("auto", description='"poll" for network mounts, which send no events')
    partial: Literal["wait", "restore", "quarantine"] = Field(
        "wait", description="what becomes of a set that stays incomplete"
    )
    partial_after_s: Annotated[float, Field(ge=0)] = Field(
        3600.0, description="a set counts as incomplete after so long without a new frame"
    )
    min_frames: Annotated[int, Field(ge=1)] = Field(
        2, description='fewest frames that show anything; partial = "restore" accepts no fewer'
    )
    exposure_tolerance: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="exposures in a set may differ by this share"
    )
    after: Literal["keep", "archive"] = Field("keep", description="what becomes of a finished set's frames")

    @model_validator(mode="after")
    def _fewest_fit(self) -> Self:
        if self.min_frames > self.frames:
            raise ValueError(f"set.min_frames ({self.min_frames}) is more than set.frames ({self.frames})")
        return self


class RestoreSettings(Section):
    model: str = Field("default", description="NAME or NAME@VERSION from the model store")
    network: bool = Field(True, description="false: the plain stack alone")
    target_fwhm_px: Annotated[float, Field(ge=1.0, le=10.0)] = Field(2.0, description="star width asked of the result")
    strength: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="0 gives the plain stack, 1 the network's result"
    )
    orientations: Literal[0, 1, 2, 4] = Field(
        0, description="the network sees the picture turned so many ways; 0: four, of large pictures fewer"
    )
    flux_tolerance: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description="most that star fluxes may scatter against the stack's, mag; past it less of the network"
    )
    reject_kappa: Annotated[float, Field(ge=2, le=20)] = Field(
        4.0, description="outliers beyond so many sigma are left out"
    )

    @property
    def uses_network(self) -> bool:
        """False where the plain stack alone is asked for, in either way."""
        return self.network and self.strength > 0


class LimitsSettings(Section):
    max_pixels: Annotated[int, Field(gt=0)] = Field(150_000_000, description="largest frame accepted, px")
    max_file_mb: Annotated[int, Field(gt=0)] = Field(1024, description="largest file accepted")
    memory_mb: Annotated[int, Field(ge=0)] = Field(0, description="most memory for the worker; 0: no limit")
    set_timeout_s: Annotated[float, Field(gt=0)] = Field(1800.0, description="a set that takes longer is stopped")
    stop_timeout_s: Annotated[float, Field(gt=0)] = Field(
        90.0, description="a running set may finish within it on SIGTERM"
    )
    attempts: Annotated[int, Field(ge=1)] = Field(3, description="tries before a set is quarantined")
    sets_per_worker: Annotated[int, Field(ge=1)] = Field(200, description="the worker is replaced after so many sets")
    min_free_mb: Annotated[int, Field(ge=0)] = Field(500, description="below it the work pauses until there is space")


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least level that is logged")
    keep_days: Annotated[int, Field(ge=1)] = Field(30, description="the outbox's day logs are kept so long")


class MetricsSettings(Section):
    textfile: Path | None = Field(None, description='Prometheus text file of the sets by state; "" for none')


class NotifySettings(Section):
    # the daemon waits for it, and systemd's watchdog for the daemon: 60 s in deploy/stackd.service
    command: list[str] = Field([], description="run after each set with its name and verdict as arguments")
    timeout_s: Annotated[float, Field(gt=0, le=50)] = Field(30.0, description="the command is stopped after so long")


class ClusterSettings(Section):
    runner: Literal["local"] = Field("local", description="who restores: a process on this machine")


class TrainSettings(Section):
    pictures: Path | None = Field(None, description='folder of clean pictures; "" for simulated skies alone')
    preset: str = Field("default", description="network and recipe to train")
    minutes: Annotated[float, Field(gt=0)] = Field(30.0, description="length of a training run")
    seed: int = Field(0, description="seed of data, weights and order")
    keep: Annotated[int, Field(ge=2)] = Field(5, description="versions of a model kept in the store")


class Settings(Section):
    """All of config.toml. `folder` is where the file lies; every path in the result is absolute."""

    folders: FolderSettings = Field(default_factory=FolderSettings)  # not on import: it looks at the folders
    set: SetSettings = SetSettings()
    restore: RestoreSettings = RestoreSettings()
    limits: LimitsSettings = LimitsSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    notify: NotifySettings = NotifySettings()
    cluster: ClusterSettings = ClusterSettings()
    train: TrainSettings = TrainSettings()

    def digest(self) -> str:
        """sha256 of all values, to name in each result."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def find_config(named: Path | None) -> Path | None:
    """The config file to read: the named one, else ./config.toml, else None (packaged defaults)."""
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: no such config file (name one with --config, or leave the option out)")
        return named
    here = Path(CONFIG_NAME)
    return here if here.is_file() else None


def load(path: Path | None, environment: dict[str, str] | None = None) -> Settings:
    """Settings from a file (None: defaults, relative to the current folder) and the environment.

    Raises ConfigError with every problem in the file at once.
    """
    folder = (path.parent if path else Path()).resolve()
    written = _read_toml(path) if path else {}
    environment = dict(os.environ) if environment is None else environment
    problems, values = _unknown_keys(written, path), _known_keys(written)
    from_environment = _from_environment(environment, problems)
    for section, keys in from_environment.items():
        values[section] = values.get(section, {}) | keys
    if environment.get("STATE_DIRECTORY") and "state" not in values.get("folders", {}):
        values.setdefault("folders", {})["state"] = environment["STATE_DIRECTORY"].split(":")[0]
    try:
        settings = Settings.model_validate(_absolute_paths(values, folder))
    except ValidationError as error:
        told = {f"{section}.{key}" for section, keys in from_environment.items() for key in keys}
        problems += [line for e in error.errors() for line in _explain(e, path, told)]
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from None


def _sections() -> dict[str, type[Section]]:
    return {name: info.annotation for name, info in Settings.model_fields.items()}


def _unknown_keys(values: dict[str, Any], path: Path | None) -> list[str]:
    problems = []
    sections = _sections()
    for section, keys in values.items():
        if section not in sections:
            problems.append(f"{path}: unknown section [{section}]{_nearest(section, list(sections))}")
        elif not isinstance(keys, dict):
            problems.append(f"{path}: {section} must be a section, [{section}]")
        else:
            known = list(sections[section].model_fields)
            problems += [
                f"{path}: unknown key {section}.{key}{_nearest(key, known)}" for key in keys if key not in known
            ]
    return problems


def _known_keys(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is left to be judged once the unknown is told."""
    return {
        section: {key: value for key, value in values[section].items() if key in kind.model_fields}
        for section, kind in _sections().items()
        if isinstance(values.get(section), dict)
    }


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _from_environment(environment: dict[str, str], problems: list[str]) -> dict[str, dict[str, Any]]:
    """STACKD_SECTION__KEY variables as a nested dict; JSON where it parses as such, else text."""
    found: dict[str, dict[str, Any]] = {}
    sections = _sections()
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or "__" not in variable:
            continue
        section, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__", 1)
        if section not in sections or key not in sections[section].model_fields:
            known = [f"{s}__{k}" for s, kind in sections.items() for k in kind.model_fields]
            problems.append(f"{variable} in the environment: unknown key{_nearest(f'{section}__{key}', known)}")
            continue
        found.setdefault(section, {})[key] = _plain(text)
    return found


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _absolute_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same values with every path, default ones too, made absolute against the config's folder."""
    out = {section: dict(keys) for section, keys in values.items()}
    for section, kind in _sections().items():
        for key, info in kind.model_fields.items():
            if info.annotation not in (Path, Path | None):
                continue
            value = out.get(section, {}).get(key, info.default)
            if value == "":
                out[section][key] = None  # "" names nothing, and where something has to be named that is an error
            elif isinstance(value, (str, Path)):
                with suppress(RuntimeError):  # a home that nobody has: `Section` tells it
                    value = folder / Path(value).expanduser()
                out.setdefault(section, {})[key] = Path(os.path.normpath(value))
    return out


def _explain(error: Any, path: Path | None, from_environment: set[str]) -> list[str]:
    """What is wrong, blamed on the file or on the variable; `from_environment`: "section.key" of its values.

    One line for a value, one or more for values of a section that are at odds.
    """
    where, what = ".".join(str(part) for part in error["loc"][:2]), error["msg"].removeprefix("Value error, ")
    if len(error["loc"]) == 1:
        return [_at_odds(line, path, from_environment) for line in what.splitlines()]
    if error["type"] == "path_type":
        what = "must name a folder"
    if where in from_environment:
        return [f"{_variable(where)} in the environment: {what}"]
    return [f"{path or 'defaults'}: {where}: {what}"]


def _at_odds(what: str, path: Path | None, from_environment: set[str]) -> str:
    variables = [_variable(key) for key in sorted(from_environment) if re.search(rf"\b{key}\b", what)]
    beside = f" (from the environment: {', '.join(variables)})" if variables else ""
    return f"{path or 'defaults'}: {what}{beside}"


def _variable(where: str) -> str:
    return ENVIRONMENT_PREFIX + where.upper().replace(".", "__")
