"""Which model a set is given when the current one is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stackd.disk import model_store, models
from stackd.disk.ledger import Ledger
from stackd.disk.model_card import CARD, WEIGHTS
from stackd.errors import ModelError
from stackd.jobs.delivery import Delivery
from stackd.jobs.serving import usable_model
from stackd.records import CaptureSet, Report, Sighting
from stackd.settings import load


@pytest.fixture
def delivery(tmp_path: Path) -> Iterator[Delivery]:
    """A house with a model store and no set."""
    for name in ("inbox", "outbox", "quarantine", ".stackd"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.toml").touch()
    settings = load(tmp_path / "config.toml", {})
    ledger = Ledger(settings.folders.state)
    yield Delivery(settings, ledger, now=lambda: 1000.0)
    ledger.close()


def version(delivery: Delivery, number: int) -> models.ModelVersion:
    """A version that is current from now on."""
    store = delivery.settings.folders.models
    made = model_store.publish(store, "default", {"a": np.full(3, number, np.float32)}, {})
    return model_store.promote(store, f"default@{made.version}")


def test_after_a_restart_the_one_before_goes_on(delivery: Delivery) -> None:
    """Nothing served yet in this process: what was current before is asked, and the trouble is told."""
    good, bad = version(delivery, 1), version(delivery, 2)
    (bad.path / CARD).unlink()

    assert delivery.serving.choose(delivery.settings) == str(good.path)
    assert bad.version in delivery.serving.trouble
    assert str(good.path) in delivery.serving.trouble


def test_without_another_the_house_waits(delivery: Delivery) -> None:
    """A store whose pointer cannot be read: no guess."""
    one = version(delivery, 1)
    (one.path.parent / models.POINTER).write_text("{")
    with pytest.raises(ModelError, match="which version is current"):
        delivery.serving.choose(delivery.settings)


def test_a_pinned_version_is_that_one_or_none(delivery: Delivery) -> None:
    """NAME@VERSION asks for one model; another one would be a surprise."""
    good, bad = version(delivery, 1), version(delivery, 2)
    restore = delivery.settings.restore.model_copy(update={"model": f"default@{bad.version}"})
    delivery.settings = delivery.settings.model_copy(update={"restore": restore})
    assert delivery.serving.choose(delivery.settings) == str(bad.path)
    (bad.path / CARD).unlink()
    with pytest.raises(ModelError):
        delivery.serving.choose(delivery.settings)
    assert good.path.is_dir()


def test_a_mended_version_is_taken_up(delivery: Delivery) -> None:
    """Half-copied when it became current: refused; whole later: used, and nobody was asked to restart."""
    good = version(delivery, 1)
    bad = version(delivery, 2)
    whole = (bad.path / WEIGHTS).read_bytes()
    (bad.path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    frames = delivery.settings.folders.inbox / "M27"
    frames.mkdir()
    (frames / "1.fits").write_bytes(b"x" * 10)
    found = (frames / "1.fits").stat()
    capture_set = CaptureSet("M27", (Sighting("M27/1.fits", 10, found.st_mtime_ns, 0),))
    claim = delivery.claim(capture_set, delivery.serving.choose(delivery.settings))
    assert claim is not None
    outcome = delivery.deliver(claim, Report("M27", False, reason="it is cut off", cause="model", retry=True))
    assert outcome.verdict == "retry"

    assert delivery.serving.choose(delivery.settings) == str(good.path)
    assert "cut off" in delivery.serving.trouble
    (bad.path / WEIGHTS).write_bytes(whole)
    assert delivery.serving.choose(delivery.settings) == str(bad.path)
    assert delivery.serving.trouble == ""


@pytest.mark.parametrize("asked", [{"network": False}, {"strength": 0.0}])
def test_where_the_plain_stack_is_asked_for_no_model_is_named(delivery: Delivery, asked: dict[str, Any]) -> None:
    """However it is asked for: no network is loaded and run for a share of nothing; `check` says why there is none."""
    version(delivery, 1)
    restore = delivery.settings.restore.model_copy(update=asked)
    delivery.settings = delivery.settings.model_copy(update={"restore": restore})

    assert delivery.serving.choose(delivery.settings) == ""
    folder, why = usable_model(delivery.settings)
    assert folder == ""
    assert f"restore.{next(iter(asked))} = " in why
