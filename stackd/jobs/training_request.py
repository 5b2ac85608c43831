"""What is asked of a training run and what came of it. Loads nothing heavy, so the command line may build one."""

from dataclasses import dataclass
from pathlib import Path

from stackd.disk import models
from stackd.jobs.promotion import Comparison


@dataclass(frozen=True, slots=True)
class SetFolders:
    """Where finished sets are told of (outbox) and where their frames may lie."""

    outbox: Path
    frames: tuple[Path, ...]  # the inbox, and the archive if there is one
    names: tuple[str, ...] = ()  # of the sets to learn from; none: the newest


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What to train. Without `steps` the run lasts `minutes`; with it, the result depends on the seed alone."""

    store: Path
    run_folder: Path  # checkpoints of the run, to resume from
    pictures: Path | None = None
    preset: str = "default"
    steps: int | None = None
    minutes: float = 30.0
    seed: int = 0
    resume: bool = False
    keep: int = 5
    spared: tuple[str, ...] = ()  # NAME@VERSION that stays beside those: the configuration asks for it
    sets: SetFolders | None = None  # learn from these captures, too
    from_current: bool = False  # start from the current model's weights
    learning_rate: float | None = None  # the first one; None: the recipe's, a gentle one from the current model


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, for a progress bar. `psnr` (dB) is the last one on a few held-out skies."""

    share: float
    step: int
    loss: float
    psnr: float
    left_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. `scores` are those on held-out data; `version` is None for a run that did not end here."""

    version: models.ModelVersion | None
    promoted: bool
    scores: dict[str, float]
    comparison: Comparison | None
    figure: Path | None = None
    interrupted: bool = False
