"""What is asked of a training run and what came of it. Loads nothing heavy, so the command line may build one."""

from dataclasses import dataclass
from pathlib import Path

from stackd.disk import models


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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, for a progress bar."""

    share: float
    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Both scores are on the same held-out data; `current_scores` is None without a current model.
    """

    version: models.ModelVersion | None
    promoted: bool
    scores: dict[str, float]
    current_scores: dict[str, float] | None
    interrupted: bool = False
