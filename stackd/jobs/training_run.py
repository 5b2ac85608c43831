"""One training run: what was asked of it and how far it has come, which is what a checkpoint keeps beside the weights.

A run that goes on goes on as it was begun: what decides its result is taken from its checkpoint, not from today's
command. Knows no pictures and no network.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stackd.errors import ModelError
from stackd.jobs.training_request import SetFolders, TrainingRequest
from stackd.network.fit import Recipe
from stackd.records import program

NOTHING_YET = float("nan")


@dataclass
class Run:
    """How far a run has come; what it did in an earlier process counts too."""

    name: str
    request: TrainingRequest
    recipe: Recipe
    started_from: str = ""  # NAME@VERSION of the model whose weights it started from
    spent_s: float = 0.0
    waited_s: float = 0.0  # of that, for the simulator
    psnr: float = NOTHING_YET  # on the watched skies, dB
    curve: list[list[float]] = field(default_factory=list)  # step, loss, PSNR on the watched skies
    finished: bool = False

    @property
    def waited(self) -> float:
        """Share of the time in which the trainer waited for the simulator."""
        return self.waited_s / max(self.spent_s, 1e-9)

    @property
    def length(self) -> str:
        """As it was asked for."""
        return f"{self.request.minutes:g} minutes" if self.request.steps is None else f"{self.request.steps} steps"

    @classmethod
    def begun(cls, request: TrainingRequest, recipe: Recipe, started_from: str) -> "Run":
        """A new one."""
        return cls(f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-seed{request.seed}", request, recipe, started_from)

    def state(self) -> dict[str, np.ndarray]:
        """As a checkpoint keeps it."""
        asked = {
            "asked": np.array(json.dumps(_asked(self.request))),
            "recipe": np.array(json.dumps(asdict(self.recipe))),
            "program": np.array(program()),
        }
        return asked | {key: np.array(getattr(self, key)) for key in KEPT}

    @classmethod
    def of(cls, state: dict[str, np.ndarray], request: TrainingRequest) -> "Run":
        """The run of a checkpoint; `request` says only where things lie.

        Raises ModelError for a checkpoint that another version of stackd has kept.
        """
        by = str(state.get("program", "an older stackd"))
        if by != program():
            raise ModelError(f"{by} has kept it, and this is {program()}")
        recipe = json.loads(str(state["recipe"]))
        kept = {key: state[key].tolist() for key in KEPT}
        return cls(request=_as_asked(request, json.loads(str(state["asked"]))), recipe=Recipe(**recipe), **kept)


KEPT = ("name", "started_from", "spent_s", "waited_s", "psnr", "curve")


def _asked(request: TrainingRequest) -> dict[str, Any]:
    """What decides a run's result."""
    sets = request.sets and {
        "outbox": str(request.sets.outbox), "frames": [str(one) for one in request.sets.frames],
        "names": request.sets.names,
    }  # fmt: skip
    return {
        "pictures": request.pictures and str(request.pictures.absolute()), "steps": request.steps,
        "minutes": request.minutes, "seed": request.seed, "sets": sets, "from_current": request.from_current,
        "learning_rate": request.learning_rate,
    }  # fmt: skip


def _as_asked(request: TrainingRequest, asked: dict[str, Any]) -> TrainingRequest:
    pictures, sets = asked["pictures"], asked["sets"]
    return replace(request, **asked | {
        "pictures": pictures and Path(pictures),
        "sets": sets
        and SetFolders(Path(sets["outbox"]), tuple(Path(one) for one in sets["frames"]), tuple(sets["names"])),
    })  # fmt: skip
