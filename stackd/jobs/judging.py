"""What a model is worth: on skies held out from training, on the golden set, and on one's own captures if any.

Everything is made once and kept, so that a candidate and the current model are judged on the very same. The rules say
what a candidate must reach to take over.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackd.disk.weights import Weights
from stackd.jobs import golden
from stackd.jobs.promotion import Figures, Rule
from stackd.network import architecture, feed, fit
from stackd.network.halves import HalfSample, agreement
from stackd.network.restorer import Restorer
from stackd.network.weights import set_weights

HELD_OUT_SKIES = 48
HELD_OUT_SEED = 7_000_000  # added to a run's seed: no sky of training is ever judged on
HELD_OUT, GOLDEN, OWN = "held-out skies", "golden set", "held-out sets"

_NO_STAR_LOST = (
    Rule(GOLDEN, "found", "share", True, tolerance=0.005),
    Rule(GOLDEN, "flux_error", "mag", False, tolerance=0.002),
    Rule(GOLDEN, "invented", "per Mpx", False, tolerance=2.0),
)
RULES = (
    Rule(HELD_OUT, "psnr", "dB", True, must_improve=True),
    Rule(HELD_OUT, "loss", "", False),
    Rule(GOLDEN, "psnr", "dB", True, must_improve=True),
    *_NO_STAR_LOST,
)
# learning from one's own captures: better on those, and on no simulated sky worse than can be told
RULES_OF_OWN = (
    Rule(OWN, "disagreement", "", False, must_improve=True),
    Rule(HELD_OUT, "psnr", "dB", True, tolerance=0.05),
    Rule(HELD_OUT, "loss", "", False, tolerance=0.002),
    Rule(GOLDEN, "psnr", "dB", True, tolerance=0.05),
    *_NO_STAR_LOST,
)


class Judge:
    """The skies and sets that all models of a run are judged on."""

    def __init__(self, seed: int, pictures: Sequence[NDArray[np.float32]], own: Sequence[HalfSample] = ()) -> None:
        self.batches = held_out_batches(seed, pictures, range(HELD_OUT_SKIES))
        self._golden = golden.prepare_all()
        self._own = own

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What a candidate has to pass."""
        return RULES_OF_OWN if self._own else RULES

    def figures(self, card: dict[str, Any], weights: Weights) -> Figures:
        """Everything that can be said of a model. Raises ModelError or KeyError for one of another make."""
        network = architecture.build(card["architecture"])
        set_weights(network, weights)
        found = {
            HELD_OUT: fit.evaluate(network, self.batches),
            GOLDEN: golden.judge(self._golden, Restorer(card, weights)),
        }
        return found | ({OWN: {"disagreement": agreement(network, self._own)}} if self._own else {})


def held_out_batches(seed: int, pictures: Sequence[NDArray[np.float32]], numbers: Iterable[int]) -> list[fit.Batch]:
    """Some of the skies that every model of a seed is judged on, one whole band a batch."""
    skies = (feed.simulate(seed + HELD_OUT_SEED, number, pictures) for number in numbers)
    return [(s.bank[None], s.conditions[None], s.truth[None]) for samples in skies for s in samples]
