"""Promise: nothing in the inbox stops the daemon, and each hostile file gets its verdict in time and in bounds.

    python -m tests.campaigns.hostile [--network] [--folder FOLDER] [--memory-mb 2048]

Drops the whole corpus (tests/hostile/corpus.py) into the inbox of one real daemon, one thing after the other, between
two good sets; takes the seconds to each verdict and the worker's largest size meanwhile. Then looks at every log,
report and error.json for hostile text, and at the inbox for any touch. With `--network` the shipped network restores
the sets that are good. Prints the slowest and the largest, and what broke; exits 1 if anything did: a dead supervisor,
no verdict within 30 s, a worker beyond the memory limit, a good set that failed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.campaigns.house import House
from tests.hostile.siege import Findings, Siege

SETTLE_S = 0.3
SHOWN = 8


def main() -> int:
    """1 if anything broke."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", action="store_true", help="restore with the shipped network")
    parser.add_argument("--light", action="store_true", help="leave out what takes gigabytes of reading")
    parser.add_argument("--memory-mb", type=int, default=2048, help="limits.memory_mb of the daemon; 0: none")
    parser.add_argument("--folder", type=Path, help="where the house stands and stays; else a temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stackd-hostile-") as temporary:
        house = House(
            asked.folder or Path(temporary),
            standin=False,
            set__settle_s=SETTLE_S,
            restore__network=asked.network,
            limits__memory_mb=asked.memory_mb,
        )
        try:
            house.start()
            house.ready()
            found = Siege(house, heavy=not asked.light).run(one_by_one=True)
            code, _ = house.stop()
        finally:
            house.close()
    if code:
        found.broken.append(f"the daemon ended with exit code {code}")
    sys.stdout.write(_table(found) + "\n")
    return 1 if found.broken else 0


def _table(found: Findings) -> str:
    seconds = sorted(found.seconds.items(), key=lambda one: -one[1])
    sizes = sorted(found.each_bytes.items(), key=lambda one: -one[1])
    lines = [f"{len(found.seconds)} verdicts, {len(found.workers)} workers, "
             f"worker at most {found.worker_bytes >> 20} MB, supervisor {found.supervisor_bytes >> 20} MB"]  # fmt: skip
    lines += ["slowest:", *(f"  {s:6.1f} s  {name[:80]}" for name, s in seconds[:SHOWN])]
    lines += ["largest:", *(f"  {size >> 20:6} MB {name[:80]}" for name, size in sizes[:SHOWN])]
    lines += [f"{len(found.broken)} broken", *(f"  {one[:300]}" for one in found.broken)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
