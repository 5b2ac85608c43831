"""Set assembly under thousands of steps of whatever an inbox, a clock, a worker and a daemon can do.

`python -m tests.campaigns.assembly [--steps 10000] [--seed N]`: plays tests/jobs/test_assembly_machine.py (files
arrive, grow, break, are rewritten, renamed, copied and deleted, mounts go and come back, clocks jump, sets are claimed
and end, the daemon starts anew) until so many steps were taken and judged. Prints stories, steps, scans, sets and
seconds; exit 1 with the shortest story that breaks a promise.
"""

import argparse
import sys
import time

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.jobs.test_assembly_machine import Inbox

STEPS = 10_000
STORIES_AT_ONCE = 100
LONGEST_STORY = 50  # rules


def main() -> int:
    """Exit code: 0 only if every step kept the promises."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="to be taken")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    how = settings(
        max_examples=STORIES_AT_ONCE,
        stateful_step_count=LONGEST_STORY,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    began_s, rounds = time.monotonic(), 0
    while Inbox.steps < asked.steps:
        try:
            run_state_machine_as_test(seed(asked.seed + rounds)(Inbox), settings=how)
        except Exception as broken:  # noqa: BLE001 - an invariant, or the assembly itself: both break the promise
            print(f"BROKEN (seed {asked.seed + rounds}): {type(broken).__name__}: {broken}")
            print("\n".join(getattr(broken, "__notes__", [])))
            return 1
        rounds += 1
    seconds = time.monotonic() - began_s
    print(f"{rounds * STORIES_AT_ONCE} stories, {Inbox.steps} steps, {Inbox.scans} scans, ", end="")
    print(f"{Inbox.sets} sets claimed, {seconds:.0f} s: kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
