"""A training run's state on disk: it comes back as it was, and a kill leaves the old one or the new one."""

from pathlib import Path

import numpy as np
import pytest

from stackd.disk import checkpoint
from stackd.errors import ConfigError, ModelError


def state(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "network/stem/kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32),
        "optimizer/0": np.array(step, np.int64),
        "curve": np.zeros((0,)),
        "step": np.array(step),
    }


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    """Names with slashes, scalars, empty arrays; dtypes and bits; into a folder that was not there."""
    checkpoint.save(tmp_path / "a" / "b", state(7))

    back = checkpoint.load(tmp_path / "a" / "b")

    assert back.keys() == state(7).keys()
    for name, values in state(7).items():
        assert back[name].dtype == values.dtype
        np.testing.assert_array_equal(back[name], values)


def test_the_last_state_counts(tmp_path: Path) -> None:
    """One file, replaced; nothing else is left in the folder."""
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, state(step))

    assert checkpoint.load(tmp_path)["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]


def test_an_interrupted_save_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up halfway: the state before is still there, and the next save works."""
    checkpoint.save(tmp_path, state(1))

    def full(file: object, **arrays: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(tmp_path, state(2))

    assert checkpoint.load(tmp_path)["step"] == 1
    checkpoint.save(tmp_path, state(2))
    assert checkpoint.load(tmp_path)["step"] == 2


def test_nothing_to_resume(tmp_path: Path) -> None:
    """Where there is no state the error names the file and says what to do; forgetting twice is no error."""
    checkpoint.save(tmp_path, state(1))
    checkpoint.remove(tmp_path)
    checkpoint.remove(tmp_path)

    with pytest.raises(ConfigError, match=r"checkpoint\.npz.*--resume"):
        checkpoint.load(tmp_path)
    with pytest.raises(ConfigError):
        checkpoint.load(tmp_path / "never")


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    """A foreign file cannot run anything, half a file is no state: a word on it, of a kind that a run gets over."""
    file = tmp_path / checkpoint.NAME
    np.savez(file, step=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ModelError, match="allow_pickle"):
        checkpoint.load(tmp_path)

    checkpoint.save(tmp_path, state(1))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load(tmp_path)
