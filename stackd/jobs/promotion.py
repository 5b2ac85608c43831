"""Whether a candidate takes over: held against the current model figure by figure, then stored with the comparison.

A candidate has to be better where it counts and nowhere worse than a stated tolerance; with no current model that can
be run, it takes over. Knows no training and no skies: figures come in as plain numbers.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from stackd.disk import model_store, models
from stackd.disk.weights import Weights
from stackd.errors import ModelError

Figures = dict[str, dict[str, float]]  # by what was judged on ("held-out skies", "golden set"), by figure


@dataclass(frozen=True, slots=True)
class Rule:
    """What a figure has to be. `tolerance` is how much worse it may be than the current model's; a figure that must
    improve has none."""

    judged_on: str
    figure: str
    unit: str
    higher_is_better: bool
    tolerance: float = 0.0
    must_improve: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison."""

    judged_on: str
    figure: str
    unit: str
    candidate: float
    current: float | None
    tolerance: float
    must_improve: bool
    passed: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside the current model; `against` is its NAME@VERSION, "" where there is none."""

    against: str
    rows: tuple[Row, ...]

    @property
    def promoted(self) -> bool:
        """Whether the candidate takes over."""
        return not self.against or all(row.passed for row in self.rows)

    def failed(self) -> str:
        """In which figures the candidate fell short, in words."""
        return ", ".join(f"{row.figure} on the {row.judged_on}" for row in self.rows if not row.passed)


def compare(candidate: Figures, current: Figures | None, against: str, rules: Sequence[Rule]) -> Comparison:
    """Every rule applied. A figure that neither model has is left out; one that only the candidate lacks has failed."""
    rows = []
    for rule in rules:
        mine = candidate.get(rule.judged_on, {}).get(rule.figure, math.nan)
        theirs = None if current is None else current.get(rule.judged_on, {}).get(rule.figure, math.nan)
        if math.isnan(mine) and (theirs is None or math.isnan(theirs)):
            continue
        passed = theirs is None or _passes(rule, mine, theirs)
        figures = mine, theirs, rule.tolerance, rule.must_improve, passed
        rows.append(Row(rule.judged_on, rule.figure, rule.unit, *figures))
    return Comparison(against, tuple(rows))


def models_in_use(store: Path, name: str) -> Iterator[tuple[models.ModelVersion, dict[str, Any], Weights]]:
    """(version, card, weights) of the current model of a name, then of those that were current before, latest first, as
    the daemon falls back to them. What cannot be loaded is passed over, said in the log."""
    try:
        current = [models.resolve(store, name)]
    except ModelError as error:
        logger.info("no current model: {}", error)
        current = []
    for version in (*current, *models.earlier(store, name)):
        try:
            yield version, *model_store.load_weights(version)
        except ModelError as error:
            logger.warning("{}@{} cannot be loaded: {}", name, version.version, error)


def figures_of_current(
    store: Path, name: str, judge: Callable[[dict[str, Any], Weights], Figures]
) -> tuple[str, Figures | None]:
    """(NAME@VERSION, figures by `judge(card, weights)`) of the current model, or the latest before it that can be run,
    which is then the one in use; ("", None) where none can."""
    for version, card, weights in models_in_use(store, name):
        try:
            return f"{version.name}@{version.version}", judge(card, weights)
        except (ModelError, KeyError) as error:
            # a model of another time: its card lacks a key or its arrays are not this architecture's
            logger.warning("{}@{} cannot be run by this stackd, so it is no rival: {}", name, version.version, error)
    return "", None


def publish(
    store: Path,
    name: str,
    weights: Weights,
    card: dict[str, Any],
    comparison: Comparison,
    keep: int,
    spared: Collection[str] = (),
) -> models.ModelVersion:
    """Store a candidate with its comparison, make it current if it won, and let the oldest versions go, but for the
    `spared` ones ("NAME@VERSION").

    Raises ModelError where the disk refuses or the weights could never be loaded; the current model then stays.
    """
    full = card | {"comparison": as_card(comparison)}
    version = model_store.publish(store, name, weights, full)
    if comparison.promoted:
        model_store.promote(store, f"{name}@{version.version}")
        logger.info("{}@{} is the current model now", name, version.version)
    else:
        logger.warning("{}@{} is stored, not promoted: {}", name, version.version, comparison.failed())
    try:
        model_store.prune(store, name, keep, spared)
    except OSError as error:  # the candidate's fate is decided; old versions can go next time
        logger.warning("old versions of {} stay for now: {}", name, error)
    return version


def as_card(comparison: Comparison) -> dict[str, Any]:
    """The comparison as a card keeps it."""
    rows = [asdict(row) for row in comparison.rows]
    return {"against": comparison.against or None, "promoted": comparison.promoted, "rows": rows}


def _passes(rule: Rule, mine: float, theirs: float) -> bool:
    if math.isnan(theirs):
        return True
    gain = mine - theirs if rule.higher_is_better else theirs - mine
    return gain > 0 if rule.must_improve else gain >= -rule.tolerance
