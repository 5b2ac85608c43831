"""Who takes over: better where it counts, nowhere worse than tolerated, and the card says how it was decided."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stackd.disk import cards, model_card, model_store, models
from stackd.errors import ModelError
from stackd.jobs import promotion
from stackd.jobs.judging import GOLDEN, HELD_OUT, OWN, RULES, RULES_OF_OWN

CURRENT = {
    HELD_OUT: {"psnr": 38.0, "loss": -0.2},
    GOLDEN: {"psnr": 40.0, "found": 0.7, "flux_error": 0.02, "invented": 1.0},
}
BETTER = {
    HELD_OUT: {"psnr": 38.1, "loss": -0.21},
    GOLDEN: {"psnr": 40.1, "found": 0.7, "flux_error": 0.02, "invented": 1.0},
}
WEIGHTS = {"a": np.ones(3, np.float32)}


def changed(judged_on: str, figure: str, value: float) -> promotion.Figures:
    return BETTER | {judged_on: BETTER[judged_on] | {figure: value}}


def test_better_on_both_takes_over() -> None:
    """A higher PSNR on the held-out skies and on the golden set, everything else as good."""
    assert promotion.compare(BETTER, CURRENT, "small@1", RULES).promoted


@pytest.mark.parametrize(
    ("judged_on", "figure", "value"),
    [
        (HELD_OUT, "psnr", 38.0), (HELD_OUT, "loss", -0.19), (GOLDEN, "psnr", 40.0), (GOLDEN, "found", 0.69),
        (GOLDEN, "flux_error", 0.0225), (GOLDEN, "invented", 3.5), (GOLDEN, "psnr", math.nan),
    ],
)  # fmt: skip
def test_one_shortfall_is_enough(judged_on: str, figure: str, value: float) -> None:
    """Whatever figure falls short keeps the candidate out, and it is named."""
    comparison = promotion.compare(changed(judged_on, figure, value), CURRENT, "small@1", RULES)

    assert not comparison.promoted
    assert comparison.failed() == f"{figure} on the {judged_on}"


@pytest.mark.parametrize(("figure", "value"), [("found", 0.6951), ("flux_error", 0.0219), ("invented", 2.9)])
def test_ties_are_tolerated(figure: str, value: float) -> None:
    """What chance alone may change does not keep a sharper picture out."""
    assert promotion.compare(changed(GOLDEN, figure, value), CURRENT, "small@1", RULES).promoted


def test_own_sets_decide_what_is_learnt_from_them() -> None:
    """Better on held-out captures is a must, and then simulated skies may stay as they are; losing there is not one."""
    mine, theirs = {OWN: {"disagreement": 0.50}}, {OWN: {"disagreement": 0.52}}

    assert promotion.compare(CURRENT | mine, CURRENT | theirs, "small@1", RULES_OF_OWN).promoted
    assert not promotion.compare(CURRENT | theirs, CURRENT | theirs, "small@1", RULES_OF_OWN).promoted
    assert not promotion.compare(BETTER | theirs, CURRENT | mine, "small@1", RULES_OF_OWN).promoted
    loses = changed(GOLDEN, "psnr", 39.9) | mine
    assert not promotion.compare(loses, CURRENT | theirs, "small@1", RULES_OF_OWN).promoted


def test_without_a_rival_it_takes_over() -> None:
    """The first model, or one where the current cannot be run."""
    comparison = promotion.compare(BETTER, None, "", RULES)

    assert comparison.promoted
    assert all(row.current is None for row in comparison.rows)


def test_a_current_model_of_another_time_is_no_rival(tmp_path: Path) -> None:
    """Its card lacks a key, or its arrays fit no network of today: said, and not in the way."""
    version = model_store.publish(tmp_path, "small", WEIGHTS, {"architecture": {}})
    model_store.promote(tmp_path, f"small@{version.version}")

    def fails(card: dict, arrays: dict) -> promotion.Figures:
        raise ModelError("not of this architecture")

    assert promotion.figures_of_current(tmp_path, "small", fails) == ("", None)
    newer = model_store.publish(tmp_path, "small", {"a": np.zeros(3, np.float32)}, {"architecture": {"new": 1}})
    model_store.promote(tmp_path, f"small@{newer.version}")

    def knows_old_ones(card: dict, arrays: dict) -> promotion.Figures:
        return fails(card, arrays) if card["architecture"] else CURRENT

    # as the daemon does: the one before serves, so it is the rival
    assert promotion.figures_of_current(tmp_path, "small", knows_old_ones) == (f"small@{version.version}", CURRENT)
    assert promotion.figures_of_current(tmp_path, "small", lambda card, arrays: CURRENT)[0].startswith("small@")


def test_the_card_keeps_the_comparison(tmp_path: Path) -> None:
    """Stored with every candidate, promoted or not; a refused one leaves the current model as it is."""
    card = {"architecture": {}, "figures": BETTER}
    first = promotion.publish(tmp_path, "small", WEIGHTS, card, promotion.compare(CURRENT, None, "", RULES), 5)
    poor = promotion.compare(CURRENT, BETTER, f"small@{first.version}", RULES)
    other = {"a": np.zeros(3, np.float32)}
    second = promotion.publish(tmp_path, "small", other, card, poor, 5)

    assert models.resolve(tmp_path, "small").version == first.version
    told = model_card.read_card(second.path)
    assert told["comparison"]["promoted"] is False
    lines = cards.comparison_lines(told)
    assert lines[0] == f"against small@{first.version}: not promoted"
    assert any("psnr, golden set" in line and "fell short" in line for line in lines)
    assert "PSNR 40.10 dB" in cards.summary_of(told)
    assert "not comparable" in cards.summary_of(told)
    assert "not comparable" not in cards.summary_of(told | {"golden_edition": cards.GOLDEN_EDITION})
    assert cards.comparison_lines({}) == []
    assert cards.summary_of({"scores": {"psnr": 38.25}}) == "PSNR 38.25 dB on held-out skies"


def test_what_nobody_can_say_is_left_out() -> None:
    """A figure that both lack decides nothing."""
    mine, theirs = changed(GOLDEN, "found", math.nan), CURRENT | {GOLDEN: CURRENT[GOLDEN] | {"found": math.nan}}

    comparison = promotion.compare(mine, theirs, "small@1", RULES)

    assert comparison.promoted
    assert "found" not in {row.figure for row in comparison.rows}
    assert replace(comparison, rows=()).promoted
