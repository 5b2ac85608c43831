"""The model is exchanged again and again while sets are at work, now and then for a bad one: no set fails.

    python -m tests.campaigns.swaps [--count 100] [--seed 1] [--real]

A daemon with a store of small models, whose files alone are looked at, by stand-in work; with `--real` networks are
built of them and restore real captures (a new process that loads TensorFlow for each swap). Before each swap a set is
dropped to be at work meanwhile, after it a second one. A good version must have made the second set without a restart
of the daemon. A bad one (half-copied, truncated, full of NaN, of a wrong shape or digest, without a card, of a newer
format) is written into the store past `stackd models promote`, which refuses it too where its files tell: its reason
must be in log and status, and the last good one goes on. Prints a table by kind of swap; exits 1 if the promise broke.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
from safetensors.numpy import save

from stackd import status
from stackd.disk import model_store, models
from stackd.disk.model_card import CARD, WEIGHTS
from stackd.disk.outbox import read_manifest
from stackd.errors import ModelError
from stackd.network.architecture import PRESETS, build
from stackd.network.calibrate import AS_CLAIMED
from stackd.network.weights import weights_of
from stackd.settings import load
from tests.campaigns.house import House

NAME = "default"
GOOD = "good"
SET_DEADLINE_S = 600.0  # of a real one on a machine with other things to do
DESCRIPTION = {
    "architecture": PRESETS["small"], "target_fwhm_px": 2.0, "sigma_curve": AS_CLAIMED,
    "trained_range": {"frames": [1, 32], "fwhm_px": [1.7, 6.0], "ellipticity": [0.0, 0.25]},
}  # fmt: skip


def half_copied(folder: Path) -> None:
    _cut(folder / WEIGHTS, lambda size: size // 2)


def truncated(folder: Path) -> None:
    _cut(folder / WEIGHTS, lambda size: size - 1)


def empty(folder: Path) -> None:
    _cut(folder / WEIGHTS, lambda size: 0)


def wrong_digest(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 0x40
    (folder / WEIGHTS).write_bytes(content)


def full_of_nan(folder: Path) -> None:
    """Whoever wrote it made digest and card agree."""
    _exchange(folder, lambda values: np.full_like(values, np.nan))


def wrong_shape(folder: Path) -> None:
    """Of another network: file and card agree with each other, not with the architecture."""
    _exchange(folder, lambda values: np.concatenate([values, values], axis=-1))


def other_arrays(folder: Path) -> None:
    """The card lists others than the file holds."""
    _write_card(folder, arrays={})


def no_card(folder: Path) -> None:
    (folder / CARD).unlink()


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def newer_format(folder: Path) -> None:
    _write_card(folder, format=99)


def no_network(folder: Path) -> None:
    _write_card(folder, architecture={"kind": "of the year 2031"})


UNBUILDABLE = (wrong_shape, no_network)  # files in good order: only whoever builds the network can tell
BAD: tuple[Callable[[Path], None], ...] = (
    half_copied, truncated, empty, wrong_digest, full_of_nan, no_card, no_weights, newer_format, other_arrays,
    *UNBUILDABLE,
)  # fmt: skip


class Swaps:
    """A daemon at work with a store of its own. `made` counts sets by the sha256 of the model that made them."""

    def __init__(self, folder: Path, seed: int, *, real: bool) -> None:
        self.house = House(folder, standin=not real, restore__network=True)
        self.store = folder / "models"
        self.broken: list[str] = []
        self.made: Counter[str] = Counter()
        self._number = 0
        self._weights = network_weights(seed) if real else {"a": np.zeros((3, 4), np.float32)}
        self._good = self._publish()
        self._point_at(self._good.version)
        self.house.start(*(() if real else ("--checked-models",)))
        self.house.ready()
        self._began = self.house.process.pid if self.house.process else 0

    def swap(self, kind: str) -> None:
        """One exchange under load, and what must come of it; `kind` is GOOD or the name of a function in BAD."""
        before = self._drop()
        self.house.until(lambda: self.house.in_flight() or self._model_of(before), SET_DEADLINE_S)
        fresh = self._publish()
        if kind != GOOD:
            spoil = next(spoil for spoil in BAD if spoil.__name__ == kind)
            spoil(fresh.path)
            with suppress(ModelError):
                model_store.promote(self.store, f"{NAME}@{fresh.version}")
                if spoil not in UNBUILDABLE:
                    self.broken.append(f"{kind}: `stackd models promote` takes it")
        self._point_at(fresh.version)
        after = self._drop()
        old, self._good = self._good, fresh if kind == GOOD else self._good
        for name, allowed in ((before, {old.sha256, self._good.sha256}), (after, {self._good.sha256})):
            model = self.house.until(lambda name=name: self._model_of(name), SET_DEADLINE_S)
            self.made[model["sha256"]] += 1
            if model["sha256"] not in allowed or model["version"] not in (old.version, self._good.version):
                self.broken.append(f"{kind}: {name} was made by {model}, not by {self._good.version}")
        if kind != GOOD:
            self._check_said(kind, fresh.path)

    def end(self) -> None:
        """Stop, and compare everything with what was dropped."""
        alive = self.house.process is not None and self.house.process.pid == self._began
        if not alive:
            self.broken.append("the daemon was restarted")
        code, _ = self.house.stop()
        audit = self.house.audit()
        quarantined = [one.name for one in self.house.quarantine.iterdir()] if self.house.quarantine.is_dir() else []
        if code or not audit.kept or quarantined:
            self.broken.append(f"exit code {code}, {audit}, quarantine {quarantined}")

    def memory_mb(self) -> float:
        """The supervisor's."""
        return psutil.Process(self._began).memory_info().rss / 2**20

    def _check_said(self, kind: str, folder: Path) -> None:
        """log and status name the refused version's folder."""
        view = status.gather(load(self.house.folder / "config.toml", {}))
        if not any(folder.name in remark for remark in view.get("remarks", ())):
            self.broken.append(f"{kind}: status does not tell: {view.get('remarks')}")
        if f"{folder}" not in self.house.log.read_text(errors="replace"):
            self.broken.append(f"{kind}: the log does not tell")

    def _publish(self) -> models.ModelVersion:
        """A good version unlike all others."""
        self._number += 1
        noise = np.random.default_rng(self._number)
        weights = {name: (v + noise.normal(0, 1e-4, v.shape)).astype(v.dtype) for name, v in self._weights.items()}
        return model_store.publish(self.store, NAME, weights, DESCRIPTION)

    def _point_at(self, version: str) -> None:
        """As `promote` does it, without its questions."""
        fresh = self.store / NAME / "fresh"
        fresh.write_text(json.dumps({"current": version, "before": []}))
        fresh.replace(self.store / NAME / models.POINTER)

    def _drop(self) -> str:
        name = f"set{len(self.house.dropped)}"
        self.house.drop(name)
        return name

    def _model_of(self, name: str) -> dict[str, Any] | None:
        manifest = read_manifest(self.house.outbox / name)
        return manifest["model"] if manifest else None


def network_weights(seed: int) -> dict[str, Any]:
    """Of a small network that learnt nothing."""
    keras.utils.set_random_seed(seed)
    return weights_of(build(PRESETS["small"]))


def kinds_of(count: int, rng: random.Random, *, real: bool) -> list[str]:
    """Two good swaps to each bad one, every kind of bad one in turn."""
    bad = [spoil.__name__ for spoil in BAD if real or spoil not in UNBUILDABLE]
    rng.shuffle(bad)
    return [GOOD if n % 3 else bad[n // 3 % len(bad)] for n in range(count)]


def run(count: int, seed: int, folder: Path, *, real: bool) -> list[str]:
    """The campaign; gives what broke."""
    swaps = Swaps(folder, seed, real=real)
    tally: Counter[str] = Counter()
    known = 0
    began_s, memory_mb = time.monotonic(), swaps.memory_mb()
    try:
        for n, kind in enumerate(kinds_of(count, random.Random(seed), real=real)):
            swaps.swap(kind)
            tally[kind] += 1
            for one in swaps.broken[known:]:
                print(one, flush=True)
            known = len(swaps.broken)
            if (n + 1) % 10 == 0:
                print(f"{n + 1:4} swaps, {time.monotonic() - began_s:5.0f} s, {len(swaps.broken)} broken", flush=True)
        grown_mb = swaps.memory_mb() - memory_mb
        swaps.end()
    finally:
        swaps.house.close()
    print(f"\n{'swap to':16} {'count':>5}")
    for kind, times in sorted(tally.items()):
        print(f"{kind:16} {times:5}")
    print(f"{len(swaps.house.dropped)} sets by {len(swaps.made)} models, {len(swaps.broken)} promises broken, "
          f"supervisor grew {grown_mb:.1f} MB, {time.monotonic() - began_s:.0f} s")  # fmt: skip
    return swaps.broken


def _cut(path: Path, size_of: Callable[[int], int]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: size_of(len(content))])


def _exchange(folder: Path, change: Callable[[Any], Any]) -> None:
    """Other arrays under a digest and a list that are true of them."""
    arrays = {name: change(values) for name, values in model_store.load_weights(models.at_path(folder))[1].items()}
    content = save(arrays)
    (folder / WEIGHTS).write_bytes(content)
    listed = {name: {"shape": list(values.shape), "dtype": str(values.dtype)} for name, values in arrays.items()}
    _write_card(folder, sha256=hashlib.sha256(content).hexdigest(), arrays=listed)


def _write_card(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / CARD).read_text("utf-8"))
    (folder / CARD).write_text(json.dumps(card | changes), "utf-8")


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stackd-swaps-"))
    broken = run(asked.count, asked.seed, folder, real=asked.real)
    if broken:
        print(f"what is broken lies in {folder}")
    else:
        shutil.rmtree(folder)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
