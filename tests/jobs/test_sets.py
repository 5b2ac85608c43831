"""Learning from finished sets: their frames are found again, the unusable are left out, some sets are held out."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stackd.disk import model_store
from stackd.disk.captures import write_capture
from stackd.disk.frame import Frame
from stackd.errors import ConfigError, SetError
from stackd.imaging import camera, skies
from stackd.imaging.masters import NOTHING_KNOWN
from stackd.jobs import golden, honesty, judging, sets, training, training_loop
from stackd.jobs.training import train
from stackd.jobs.training_request import SetFolders, TrainingRequest
from stackd.network import feed, fit, halves, pool
from stackd.network.calibrate import AS_CLAIMED
from stackd.records import FrameFacts
from tests.network.nights import NoProcesses, quick_skies

SIZE_PX, FRAMES = 352, 8


def captures(folder: Path, seed: int) -> list[Path]:
    """A simulated set on disk."""
    rng = np.random.default_rng(seed)
    shape = (SIZE_PX, SIZE_PX)
    sky = skies.Sky(np.zeros((1, *shape), np.float32), *skies.star_catalogue(shape, 1, rng, 3000, (500, 1e5)))
    night = camera.Night(frames=FRAMES, shift_px=2.0, rotation_deg=0.0, gradient=0.0)
    facts = FrameFacts(SIZE_PX, SIZE_PX, 1, "uint16", exposure_s=60.0, electrons_per_adu=1.0)
    paths = []
    for number, exposure in enumerate(camera.expose(sky, night, rng)):
        paths.append(folder / f"{number}.fits")
        write_capture(paths[-1], exposure.pixels, replace(facts, taken_at=f"2026-01-01T00:{number:02d}:00"))
    return paths


def finish(
    folders: SetFolders, name: str, paths: list[Path], *, used: int = FRAMES, calibration: Sequence[Path] = ()
) -> None:
    """What the outbox keeps of a set."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    frames = [
        {"path": str(path.relative_to(folders.frames[0])), "size_bytes": 1, "mtime_ns": 1, "sha256": sha256}
        for path, sha256 in zip(paths, digests)
    ]
    inputs = [{"file": p.name, "sha256": d, "used": k < used} for k, (p, d) in enumerate(zip(paths, digests))]
    job = {"set": name, "identity": name, "digest": name, "attempt": 1, "frames": frames}
    job["calibration"] = [
        {"path": str(path.relative_to(folders.frames[0])), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in calibration
    ]
    (folders.outbox / name).mkdir(parents=True)
    story = {"taken_out": "D", "dark_scale": 1.0} if calibration else {}
    manifest = {"inputs": inputs, "calibration": story, "job": job}
    (folders.outbox / name / "result.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> SetFolders:
    """Two good sets and three that cannot be used: frames gone, frames changed, too few of them."""
    here = tmp_path_factory.mktemp("house")
    folders = SetFolders(here / "outbox", (here / "inbox", here / "archive"))
    for seed, name in enumerate(("A", "B")):
        finish(folders, name, captures(here / "inbox" / name, seed))
    (here / "archive").mkdir()
    (here / "inbox" / "B").rename(here / "archive" / "B")
    for name in ("gone", "changed", "few"):
        paths = captures(here / "inbox" / name, 9)
        finish(folders, name, paths, used=3 if name == "few" else FRAMES)
        if name == "gone":
            paths[2].unlink()
        elif name == "changed":
            paths[2].write_bytes(paths[1].read_bytes())
    return folders


def test_frames_are_found_where_they_lie_now(folders: SetFolders) -> None:
    """In the inbox or in the archive; a set with a frame missing, or with too few used ones, is not there."""
    found = {one.name: one for one in sets.recorded_sets(folders)}

    assert set(found) == {"A", "B", "changed"}
    assert all(path.is_file() for one in found.values() for path in one.paths)
    assert found["B"].paths[0].parent.parent.name == "archive"
    assert len(found["A"].paths) == FRAMES


def test_one_set_is_held_out(folders: SetFolders) -> None:
    """Whole sets on either side, a changed one on none; samples as the loss takes them."""
    learnt, held_out = sets.learnt_and_held_out(folders, 3)

    assert len(learnt) == len(held_out) == 2 * sets.WINDOWS
    for sample in learnt + held_out:
        assert sample.other.shape == (halves.WINDOW_PX - 2 * halves.EDGE_PX,) * 2
        assert np.isfinite(sample.bank).all()
        assert np.isfinite(sample.other).all()


def test_sets_are_calibrated_as_they_were_when_they_were_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same files, the middle of whose masters fits the middle of the frames; not at all without them."""
    monkeypatch.setattr(sets, "MIDDLE_PX", 200)
    folders = SetFolders(tmp_path / "outbox", (tmp_path / "inbox",))
    pattern = np.random.default_rng(0).integers(300, 400, (SIZE_PX, SIZE_PX))
    paths, darks = captures(tmp_path / "inbox/A", 3), tmp_path / "inbox/A/darks"
    for number in range(2):
        facts = FrameFacts(SIZE_PX, SIZE_PX, 1, "uint16", exposure_s=60.0, image_type="dark")
        write_capture(darks / f"{number}.fits", pattern, facts)
    finish(folders, "A", paths, calibration=sorted(darks.iterdir()))

    [found] = sets.recorded_sets(folders)

    assert [path for path, _ in found.calibration] == sorted(darks.iterdir())
    masters, middle = sets._masters_of(found), slice(76, 276)
    np.testing.assert_array_equal(masters.dark_adu, pattern[middle, middle])
    assert masters.flat is None
    assert sets._masters_of(replace(found, calibration=())) == NOTHING_KNOWN
    renamed = tuple((path, "another") for path, _ in found.calibration)
    for changed in (replace(found, calibration=renamed), replace(found, calibrated=("D", 0.5))):
        with pytest.raises(SetError, match="no longer calibrated"):
            sets._masters_of(changed)
    found.calibration[0][0].unlink()
    assert sets.recorded_sets(folders) == []


def test_named_sets_alone_are_learnt_from(folders: SetFolders) -> None:
    """A run that goes on learns from what it was begun with, whatever came in meanwhile."""
    named = replace(folders, names=("B", "changed"))

    assert [one.name for one in sets.recorded_sets(named)] == ["B", "changed"]


def test_memory_does_not_grow_with_the_camera(folders: SetFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large frames the middle is aligned, as in small ones: the windows hold the same stars, mosaics stay such."""
    frame = Frame("a", "0", FrameFacts(501, 403, 1, "uint16"), np.arange(403 * 501.0).reshape(403, 501), 1e4)
    monkeypatch.setattr(sets, "MIDDLE_PX", 340)

    middle = sets._middle_of(frame)

    assert middle.pixels.shape == (340, 340) == (middle.facts.height_px, middle.facts.width_px)
    np.testing.assert_array_equal(middle.pixels, frame.pixels[30:370, 80:420])
    learnt, held_out = sets.learnt_and_held_out(folders, 3)
    assert len(learnt) == len(held_out) == 2 * sets.WINDOWS


def test_one_set_alone_is_not_enough(folders: SetFolders, tmp_path: Path) -> None:
    """Nothing could be held out: said, with what to do."""
    alone = SetFolders(tmp_path, folders.frames)
    (tmp_path / "A").symlink_to(folders.outbox / "A")

    with pytest.raises(ConfigError, match="at least 2"):
        sets.learnt_and_held_out(alone, 3)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_learns_from_captures(folders: SetFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the current model on, a step in four on captures; judged on the held-out set, too, and the rules are those
    of one's own captures. Resumed or not, the samples are the same for a seed."""
    make: Callable[..., TrainingRequest] = lambda **fields: TrainingRequest(  # noqa: E731
        **({"store": tmp_path / "models", "run_folder": tmp_path / "run", "preset": "small", "steps": 4} | fields)
    )
    for room, name, value in (
        (training_loop, "WARM_SKIES", 2), (training_loop, "WINDOW_SKIES", 3), (judging, "HELD_OUT_SKIES", 1),
        (training, "WATCHED_SKIES", 1), (golden, "prepare_all", list), (feed, "simulate", quick_skies),
        (golden, "judge", lambda prepared, restorer: {"psnr": 40.0}), (pool, "ProcessPoolExecutor", NoProcesses),
        (fit, "use_fast_arithmetic", lambda: None), (honesty, "measured_curve", lambda card, weights: AS_CLAIMED),
    ):  # fmt: skip
        monkeypatch.setattr(room, name, value)
    seen: list[str] = []
    monkeypatch.setattr(training_loop, "draw_batch", lambda *of: seen.append("halves") or halves.draw_batch(*of))

    train(make(steps=1))
    outcome = train(make(sets=folders, from_current=True, seed=1))

    assert seen == ["halves"]
    rows = {(row.judged_on, row.figure) for row in outcome.comparison.rows}
    assert (judging.OWN, "disagreement") in rows
    card, _ = model_store.load_weights(outcome.version)
    assert card["started_from"]
    assert "--from-sets" in card["command"]
    assert np.isfinite(card["figures"][judging.OWN]["disagreement"])
