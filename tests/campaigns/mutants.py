"""Four ways to get it wrong, each of which the campaigns must catch: a harness that misses one proves nothing.

Each function breaks the house in the process that calls it; never used by the product.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stackd.disk import outbox
from stackd.disk.ledger import Ledger
from stackd.jobs.delivery import Delivery, digest_of


def publish_in_place() -> None:
    """m1: the result is copied into the outbox file by file instead of renamed."""

    def publish(staging: Path, folder: Path, set_name: str) -> Path:
        target = folder / set_name
        target.mkdir()
        for file in sorted(staging.iterdir()):
            shutil.copyfile(file, target / file.name)
        return target

    outbox.publish = publish


def done_before_rename() -> None:
    """m2: the ledger says done before the result is visible."""
    deliver_result = Delivery._deliver_result

    def early(self: Delivery, claim: Any, report: Any) -> Any:
        self._ledger.finish(claim.identity, digest_of(report.sha256s), claim.capture_set.name, self._now())
        return deliver_result(self, claim, report)

    Delivery._deliver_result = early


def no_requeue() -> None:
    """m3: what was at work when the house died is forgotten."""
    Delivery.settle_running = lambda self, *, counted: None


def late_count() -> None:
    """m4: an attempt is counted after the work instead of before."""
    start, end = Ledger.start, Ledger._end

    def uncounted(self: Ledger, capture_set: Any, now_s: float) -> int:
        attempt = start(self, capture_set, now_s)
        self._db.execute("UPDATE sets SET attempts = attempts - 1 WHERE state = 'running'")
        return attempt

    def counted(self: Ledger, identity: str, state: str, *rest: Any, **more: Any) -> None:
        if "next_try_s" not in more:
            self._db.execute("UPDATE sets SET attempts = attempts + 1 WHERE identity = ?", (identity,))
        end(self, identity, state, *rest, **more)

    Ledger.start, Ledger._end = uncounted, counted


MUTANTS: dict[str, Callable[[], None]] = {
    "in-place": publish_in_place,
    "early-done": done_before_rename,
    "no-requeue": no_requeue,
    "late-count": late_count,
}
