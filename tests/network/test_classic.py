"""The network of 2019: its layer table line by line, and that it learns what it learned then."""

import keras
import numpy as np
import pytest

from stackd.network.classic import STRIP_ROWS, ClassicRestorer, apply_classic, build_classic, fit_classic
from stackd.network.corruption import corrupt
from stackd.network.weights import weights_of

TABLE = """
dense_1              (None, 120, 160, 8)       72
dense_2              (None, 120, 160, 16)      144
dense_3              (None, 120, 160, 16)      272
dense_4              (None, 120, 160, 16)      272
conv2d_transpose_1   (None, 120, 160, 32)      2080
dense_5              (None, 120, 160, 16)      528
conv2d_transpose_2   (None, 120, 160, 32)      2080
dense_6              (None, 120, 160, 16)      528
dense_7              (None, 120, 160, 16)      272
dense_8              (None, 120, 160, 16)      272
dense_9              (None, 120, 160, 16)      272
dense_10             (None, 120, 160, 1)       17
"""


def described(layer: keras.Layer) -> str:
    return f"{layer.name} {layer.output.shape} {layer.count_params()}"


def test_the_layer_table() -> None:
    """Names, output shapes and parameters are those of the article, one by one, and 6,809 in all."""
    network = build_classic()

    assert network.input_shape == (None, 120, 160, 8)
    table = [" ".join(line.split()) for line in TABLE.strip().splitlines()]
    assert [described(layer) for layer in network.layers[1:]] == table
    assert network.count_params() == 6809


def test_kinds_of_layers() -> None:
    """Ten Dense and two transposed convolutions of 2 x 2 that keep the size."""
    layers = build_classic().layers[1:]

    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == [*["Dense"] * 4, "Conv2DTranspose", "Dense", "Conv2DTranspose", *["Dense"] * 5]
    for layer in (layers[4], layers[6]):
        assert (layer.kernel_size, layer.strides, layer.padding) == ((2, 2), (1, 1), "same")


def test_the_seed_decides_the_weights() -> None:
    """The same seed builds the same network whatever was drawn before; no two layers start alike."""
    first, other = build_classic(seed=3), build_classic(seed=4)
    keras.utils.set_random_seed(99)
    again = build_classic(seed=3)

    kernels = [layer.kernel.numpy() for layer in first.layers[1:]]
    assert all(np.array_equal(a, layer.kernel.numpy()) for a, layer in zip(kernels, again.layers[1:], strict=True))
    assert not any(np.array_equal(a, layer.kernel.numpy()) for a, layer in zip(kernels, other.layers[1:], strict=True))
    assert not np.array_equal(kernels[2], kernels[3])


def test_it_takes_other_sizes(rng: np.random.Generator) -> None:
    """Built without a size it restores captures of any; a pixel sees only the three beside it, twice."""
    network = build_classic(None, None, seed=1)
    frames = rng.random((40, 57, 8)).astype(np.float32)
    touched = frames.copy()
    touched[20, 30] += 1

    change = np.abs(apply_classic(network, touched) - apply_classic(network, frames))

    assert change.shape == (40, 57)
    rows, columns = np.nonzero(change > 1e-7)
    assert rows.size
    assert np.ptp(rows) <= 2
    assert np.ptp(columns) <= 2


def test_strips_give_what_the_whole_gives(rng: np.random.Generator) -> None:
    """A large picture goes through in strips of rows: no seam, and no other pixel than at once."""
    network = build_classic(None, None, seed=1)
    frames = rng.random((8, 2 * STRIP_ROWS + 37, 40)).astype(np.float32)

    found = ClassicRestorer({}, weights_of(network)).restore_frames(frames)

    black, white = np.quantile(frames, (0.01, ClassicRestorer.BRIGHTEST))
    whole = apply_classic(network, np.clip((frames - black) / (white - black), 0, 1).transpose(1, 2, 0))
    np.testing.assert_allclose(found, whole * (white - black) + black, atol=1e-5)


def skies(rng: np.random.Generator, count: int, height_px: int, width_px: int) -> np.ndarray:
    """Smooth glows with stars, (count, height_px, width_px) in 0..1."""
    rows, columns = np.mgrid[:height_px, :width_px]
    pictures = np.zeros((count, height_px, width_px))
    for picture in pictures:
        for radius_px, brightness in [*[(15, 0.5)] * 3, *[(1.2, 0.9)] * 12]:
            distance = np.hypot(rows - rng.uniform(0, height_px), columns - rng.uniform(0, width_px))
            picture += rng.uniform(0.2, brightness) * np.exp(-((distance / radius_px) ** 2))
    return np.clip(pictures, 0, 1).astype(np.float32)


def test_the_same_pictures_and_seed_give_the_same_network(rng: np.random.Generator) -> None:
    """A training can be repeated to the last bit."""
    pictures = skies(rng, 12, 24, 32)

    (one, losses), (again, losses_again) = (fit_classic(pictures, epochs=2, seed=5) for _ in range(2))

    assert len(losses) == 2
    assert losses == losses_again
    assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), again.get_weights(), strict=True))


@pytest.mark.slow
def test_it_beats_one_frame_and_the_mean(rng: np.random.Generator) -> None:
    """On pictures that it never saw: some 5 dB better than a frame, and better than the plain mean of the eight."""
    network, losses = fit_classic(skies(rng, 60, 60, 80), seed=1)
    held_out = skies(rng, 30, 60, 80)
    frames = np.stack([corrupt(picture, rng) for picture in held_out])

    restored = np.stack([apply_classic(network, eight) for eight in frames])

    def psnr_db(pictures: np.ndarray) -> float:
        return float(np.mean(-10 * np.log10(np.mean((pictures - held_out) ** 2, axis=(1, 2)))))

    assert losses[-1] < losses[0] / 5
    assert psnr_db(restored) > psnr_db(frames[..., 0]) + 5
    assert psnr_db(restored) > psnr_db(frames.mean(-1)) + 0.3
