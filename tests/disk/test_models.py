"""The model store: what goes in comes out, what is damaged stays out, and there is always a way back."""

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from stackd.disk import model_store, models
from stackd.disk.model_card import CARD, FORMAT, WEIGHTS
from stackd.disk.models import ModelVersion
from stackd.disk.weights import Weights, write_version
from stackd.errors import ModelError

NIGHT = datetime(2026, 11, 22, 21, 30, tzinfo=UTC)


@pytest.fixture
def weights(rng: np.random.Generator) -> Weights:
    return {
        "stem/kernel": rng.normal(size=(3, 3, 8, 4)).astype(np.float32),
        "stem/bias": np.zeros(4, np.float32),
        "step": np.asarray(7, np.int64),
    }


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Weights) -> Path:
    """A package that ships one model, 'default'."""
    folder = tmp_path / "package" / "shipped"
    (folder / "default").mkdir(parents=True)
    write_version(folder / "default", "default", "20260101T000000Z", weights, {"about": "shipped"})
    monkeypatch.setattr(models, "SHIPPED", folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "models"


def publish(store: Path, weights: Weights, day: int = 0, name: str = "default") -> ModelVersion:
    changed = weights | {"stem/bias": np.full(4, day, np.float32)}
    return model_store.publish(store, name, changed, {"score_db": float(day)}, at=NIGHT + timedelta(days=day))


def promote(store: Path, version: ModelVersion) -> ModelVersion:
    return model_store.promote(store, f"{version.name}@{version.version}")


def test_what_goes_in_comes_out(store: Path, weights: Weights) -> None:
    """Arrays, dtypes and the card survive the store; the version names time and digest."""
    version = model_store.publish(store, "mine", weights, {"preset": "small", "seed": np.int64(3)}, at=NIGHT)

    card, loaded = model_store.load_weights(models.resolve(store, f"mine@{version.version}"))

    assert version.version == f"20261122T213000Z-{version.sha256[:12]}"
    assert (card["preset"], card["seed"], card["sha256"]) == ("small", 3, version.sha256)
    assert set(loaded) == set(weights)
    for path, values in weights.items():
        assert loaded[path].dtype == values.dtype
        np.testing.assert_array_equal(loaded[path], values)
    assert sorted(entry.name for entry in version.path.iterdir()) == [CARD, WEIGHTS]
    assert not list((store / model_store.UNFINISHED).iterdir())


@pytest.mark.parametrize("made", [True, False])
def test_shipped_model_serves_an_empty_or_missing_store(store: Path, made: bool) -> None:
    """Nothing needs to be set up before the first restoration."""
    if made:
        store.mkdir()

    version = models.resolve(store, "default")

    assert version.shipped and version.current
    assert model_store.load_weights(version)[0]["about"] == "shipped"
    assert models.resolve(store, f"default@{version.version}") == version
    assert models.at_path(version.path).shipped


def test_published_version_serves_only_once_promoted(store: Path, weights: Weights) -> None:
    """A training run alone changes nothing for the daemon."""
    version = publish(store, weights)
    assert models.resolve(store, "default").shipped

    promote(store, version)

    resolved = models.resolve(store, "default")
    assert (resolved.version, resolved.current, resolved.shipped) == (version.version, True, False)


def test_rollback_goes_all_the_way_back_to_the_shipped_model(store: Path, weights: Weights) -> None:
    """Each rollback undoes one promotion; where nothing is left it says so."""
    first, second = publish(store, weights, 1), publish(store, weights, 2)
    promote(store, first)
    promote(store, second)

    assert model_store.rollback(store, "default").version == first.version
    assert models.resolve(store, "default").version == first.version
    assert model_store.rollback(store, "default").shipped
    assert models.resolve(store, "default").shipped
    with pytest.raises(ModelError, match="no earlier version"):
        model_store.rollback(store, "default")


def test_promoting_twice_needs_one_rollback(store: Path, weights: Weights) -> None:
    """Promoting what is current already leaves no trace."""
    version = publish(store, weights)
    promote(store, version)
    promote(store, version)

    assert model_store.rollback(store, "default").shipped


def test_rollback_passes_over_a_damaged_version(store: Path, weights: Weights) -> None:
    """Going back never lands on a model that cannot be loaded."""
    first, second, third = (publish(store, weights, day) for day in (1, 2, 3))
    for version in (first, second, third):
        promote(store, version)
    os.truncate(second.path / WEIGHTS, 100)

    assert model_store.rollback(store, "default").version == first.version


def test_shipped_version_can_be_promoted(store: Path, weights: Weights) -> None:
    """Back to the package's own model by name, and it stays the package's after an upgrade."""
    shipped = models.resolve(store, "default")
    promote(store, publish(store, weights))

    assert promote(store, shipped).shipped
    assert models.resolve(store, "default").shipped
    assert json.loads((store / "default" / models.POINTER).read_text())["current"] is None


def _cut(version: ModelVersion) -> None:
    path = version.path / WEIGHTS
    os.truncate(path, path.stat().st_size - 1)


def _flip_a_bit(version: ModelVersion) -> None:
    path = version.path / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _lose_the_weights(version: ModelVersion) -> None:
    (version.path / WEIGHTS).unlink()


def _link_the_weights(version: ModelVersion) -> None:
    real = version.path.parent / "elsewhere"
    (version.path / WEIGHTS).rename(real)
    (version.path / WEIGHTS).symlink_to(real)


def _rewrite(version: ModelVersion, weights: Weights) -> None:
    """Other arrays with a card whose digest is right but whose list of arrays is the old one."""
    content = save(weights)
    (version.path / WEIGHTS).write_bytes(content)
    card = json.loads((version.path / CARD).read_text())
    card["sha256"] = hashlib.sha256(content).hexdigest()
    (version.path / CARD).write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "damaged or exchanged"),
        (_flip_a_bit, "damaged or exchanged"),
        (_lose_the_weights, "cannot be read"),
        (_link_the_weights, "cannot be read"),
        (lambda v: (v.path / CARD).write_text("{"), "not JSON"),
        (lambda v: (v.path / CARD).write_text("{}"), "must name"),
        (lambda v: _rewrite(v, {"stem/kernel": np.zeros(3, np.float32)}), "exchanged"),
    ],
)
def test_damaged_version_is_refused_with_its_reason(store: Path, weights: Weights, damage, said: str) -> None:
    """Whatever is wrong with the files, the answer is a ModelError that names the file."""
    version = publish(store, weights)
    damage(version)

    with pytest.raises(ModelError, match=said) as refused:
        model_store.verify(version)
    assert str(version.path) in str(refused.value)
    with pytest.raises(ModelError):
        promote(store, version)
    assert models.resolve(store, "default").shipped


def test_weights_that_are_not_finite_or_of_another_shape_are_refused(store: Path, weights: Weights) -> None:
    """Keras loads NaN in silence; the store does not, neither on the way in nor on the way out."""
    broken = weights | {"stem/bias": np.asarray([0, np.nan, 0, 0], np.float32)}
    with pytest.raises(ModelError, match="not finite"):
        model_store.publish(store, "default", broken, {})

    version = publish(store, weights)
    _rewrite(version, broken)
    with pytest.raises(ModelError, match="not finite"):
        model_store.verify(models.at_path(version.path))
    _rewrite(version, {"stem/kernel": weights["stem/kernel"]})
    with pytest.raises(ModelError, match="arrays are not those of the card: stem/bias"):
        model_store.verify(models.at_path(version.path))
    _rewrite(version, weights | {"stem/bias": np.zeros(5, np.float32)})
    with pytest.raises(ModelError, match="stem/bias"):
        model_store.verify(models.at_path(version.path))


def test_another_format_says_so(store: Path, weights: Weights) -> None:
    """An older stackd must not guess what a card of tomorrow means, nor a newer one call good what it cannot run: the
    cards of the first models, which knew no backgrounds, name format 1 or none."""
    version = publish(store, weights)
    path = version.path / CARD
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"format": FORMAT + 1}))
    with pytest.raises(ModelError, match=rf"format {FORMAT + 1}, .*update stackd"):
        promote(store, version)

    path.write_text(json.dumps(card | {"format": 1}))
    with pytest.raises(ModelError, match=r"format 1, .*train the model again"):
        promote(store, version)

    del card["format"]
    path.write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"format 1, .*train the model again"):
        model_store.verify(models.at_path(version.path))


def test_what_was_current_before_latest_first(store: Path, weights: Weights) -> None:
    """A way on when the current one is refused, without a second pointer; a pinned version has none."""
    first, second, third = (publish(store, weights, day) for day in range(3))
    for version in (first, second, third):
        promote(store, version)
    (second.path / CARD).unlink()

    assert [version.version for version in models.earlier(store, "default")] == [
        first.version, models.resolve(store / "none", "default").version,
    ]  # fmt: skip
    assert list(models.earlier(store, f"default@{third.version}")) == []
    (store / "default" / models.POINTER).write_text("{")
    assert list(models.earlier(store, "default")) == []


def test_files_seen_tell_a_mended_version(store: Path, weights: Weights) -> None:
    """The rest of a half-copied file arrives: the refusal no longer holds."""
    version = publish(store, weights)
    whole = (version.path / WEIGHTS).read_bytes()
    before = models.files_seen(version.path)
    assert models.files_seen(version.path) == before
    (version.path / WEIGHTS).write_bytes(whole[:100])
    cut = models.files_seen(version.path)
    (version.path / WEIGHTS).unlink()
    assert len({before, cut, models.files_seen(version.path)}) == 3
    (version.path / WEIGHTS).write_bytes(whole)
    assert models.files_seen(version.path) != cut


def test_prune_keeps_the_newest_and_the_current(store: Path, weights: Weights) -> None:
    """However old it is, the version at work is never removed."""
    versions = [publish(store, weights, day) for day in range(5)]
    promote(store, versions[0])

    removed = model_store.prune(store, "default", 2)

    assert [version.version for version in removed] == [version.version for version in versions[1:3]]
    left = [version.version for version in models.list_versions(store) if not version.shipped]
    assert left == [versions[0].version, versions[3].version, versions[4].version]


def test_prune_keeps_what_a_rollback_goes_to(store: Path, weights: Weights) -> None:
    """Week after week is refused; the week that wins does not cost the model that served until then."""
    served, *_, winner = (publish(store, weights, day) for day in range(7))
    promote(store, served)
    promote(store, winner)

    model_store.prune(store, "default", 2)

    left = [version.version for version in models.list_versions(store) if not version.shipped]
    assert served.version in left
    assert len(left) == 3
    assert model_store.rollback(store, "default").version == served.version


def test_prune_keeps_what_is_asked_for_by_its_version(store: Path, weights: Weights) -> None:
    """Pinned in the configuration, neither new nor current: without it nothing could be restored any more."""
    pinned, other, *_ = versions = [publish(store, weights, day) for day in range(5)]
    namesake = publish(store, weights, 0, name="mine")
    promote(store, versions[-1])

    removed = model_store.prune(store, "default", 2, [f"default@{pinned.version}", f"mine@{other.version}"])

    assert [version.version for version in removed] == [version.version for version in versions[1:3]]
    assert models.resolve(store, f"default@{pinned.version}").path.is_dir()
    assert namesake.path.is_dir()


def test_list_names_shipped_stored_current_and_broken_versions(store: Path, weights: Weights) -> None:
    """One broken card hides no other version."""
    good, bad = publish(store, weights, 1), publish(store, weights, 2, name="mine")
    promote(store, good)
    (bad.path / CARD).unlink()

    listed = {(version.name, version.version): version for version in models.list_versions(store)}

    assert len(listed) == 3
    assert listed["default", good.version].current
    assert listed["mine", bad.version].sha256 == ""
    assert [version.name for version in listed.values() if version.shipped] == ["default"]


def test_interrupted_publish_leaves_no_version(store: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the one rename there is nothing to see."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ModelError, match="No space left"):
        publish(store, weights)

    assert [version.shipped for version in models.list_versions(store)] == [True]


def test_version_is_never_overwritten(store: Path, weights: Weights) -> None:
    """The same weights at the same second are the same version, and it is there already."""
    publish(store, weights)
    with pytest.raises(ModelError, match="never overwritten"):
        publish(store, weights)


@pytest.mark.parametrize("wanted", ["", "../etc", "a/b", "default@../x", "default@", "nobody", "default@2020"])
def test_names_that_mean_nothing_are_refused(store: Path, wanted: str) -> None:
    """No name leads out of the store."""
    with pytest.raises(ModelError):
        models.resolve(store, wanted)


def test_unreadable_pointer_is_an_error_not_another_model(store: Path, weights: Weights) -> None:
    """A model is never exchanged behind the user's back because a file was damaged."""
    promote(store, publish(store, weights))
    (store / "default" / models.POINTER).write_text("{}")
    with pytest.raises(ModelError, match="which version is current"):
        models.resolve(store, "default")
