"""The network: what it gives, where it starts, and that it sees no farther than its halo says.

Named otherwise than its module, since test_architecture.py is the test of the house.
"""

import keras
import numpy as np
import pytest

from stackd.imaging.fuse import CONDITIONS
from stackd.network import architecture
from stackd.network.architecture import FIRST_LOGITS, HALO_PX, PRESETS, STRIDE, build
from stackd.network.channels import CHANNELS, MIXED, OWN

SIDE_PX = 2 * HALO_PX + STRIDE


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(5)
    return build(PRESETS["small"])


def random_bank(rng: np.random.Generator, height: int, width: int, batch: int = 1) -> np.ndarray:
    """Maps as fuse gives them: in units of the noise, some stars, spread and depth about 1."""
    bank = rng.normal(0, 1, (batch, height, width, CHANNELS))
    stars = rng.random((batch, height, width, 1)) < 0.01
    bank += np.where(stars, rng.exponential(200, stars.shape), 0)
    bank[..., MIXED + 1 : OWN] = rng.uniform(0.8, 1.5, (batch, height, width, 2))
    return bank.astype(np.float32)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 104)])
def test_any_size_in_the_same_size_out(preset: str, height: int, width: int, rng: np.random.Generator) -> None:
    """Two planes of the bank's size, float32 and finite, for every preset."""
    bank = random_bank(rng, height, width, batch=2)

    restored, log_sigma = build(PRESETS[preset])([bank, np.zeros((2, CONDITIONS), np.float32)])

    for plane in (restored, log_sigma):
        assert plane.shape == (2, height, width)
        assert np.asarray(plane).dtype == np.float32
        assert np.isfinite(np.asarray(plane)).all()
    assert np.abs(np.asarray(log_sigma)).max() <= 12


def test_it_starts_as_a_mixture_of_the_quiet_estimates(network: keras.Model, rng: np.random.Generator) -> None:
    """Untrained it already gives a sensible picture: near the mean of the estimates that could be right, the nearly
    full deconvolution left out, and every other estimate has enough of a share to learn from."""
    bank = random_bank(rng, 96, 96)

    restored = np.asarray(network([bank, np.zeros((1, CONDITIONS), np.float32)])[0])

    shares = np.exp(FIRST_LOGITS) / np.exp(FIRST_LOGITS).sum()
    assert np.std(restored - bank[..., :MIXED] @ shares) < 0.1 * np.std(restored)
    assert shares.argmin() == 1
    assert np.delete(shares, 1).min() > 0.01


def test_the_picture_scales_with_the_stars(network: keras.Model, rng: np.random.Generator) -> None:
    """The correction is bounded: however bright a star, its light stays within e^2 of the linear estimates' range."""
    bank = np.zeros((1, 64, 64, CHANNELS), np.float32)
    bank[..., MIXED + 1 : OWN] = 1
    bank[0, 32, 32, :MIXED] = 1e6

    restored = np.asarray(network([bank, np.zeros((1, CONDITIONS), np.float32)])[0])

    assert 1e6 / np.exp(2.1) < restored[0, 32, 32] < 1e6 * np.exp(2.1)


def see_all_paths(network: keras.Model) -> None:
    """Weights under which nothing that reaches a pixel can cancel or be cut off: all positive, no bias."""
    for variable in network.weights:
        share = 0.0 if variable.path.endswith("bias") else 1 / np.prod(variable.shape[:-1])
        variable.assign(np.full(variable.shape, share, np.float32))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_halo_covers_what_a_pixel_sees(preset: str) -> None:
    """Light beyond the halo of a cell changes nothing in it, to the last bit; light somewhat nearer does."""
    network = build(PRESETS[preset])
    see_all_paths(network)
    size = SIDE_PX + 2 * 5 * STRIDE
    middle = slice(size // 2 - STRIDE // 2, size // 2 + STRIDE // 2)

    def answer(lit_beyond_px: int) -> np.ndarray:
        bank = np.zeros((1, size, size, CHANNELS), np.float32)
        bank[..., MIXED + 1], bank[..., MIXED + 2] = 0.9, 1  # values that the network sees as 0
        dark = slice(middle.start - lit_beyond_px, middle.stop + lit_beyond_px)
        lit = np.full_like(bank[..., :MIXED], 1e30)
        lit[:, dark, dark] = 0
        bank[..., :MIXED] += lit
        return np.asarray(network([bank, np.zeros((1, CONDITIONS), np.float32)])[1])[0, middle, middle]

    assert middle.start % STRIDE == 0
    assert HALO_PX % STRIDE == 0
    assert not answer(HALO_PX).any()
    assert answer(HALO_PX // 2).any()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_halo_is_not_wasted(preset: str) -> None:
    """Only as wide as the largest preset needs, to some strides: every tile pays for it."""
    config = PRESETS[preset]
    # each 3 x 3 convolution looks one cell of its level farther, twice a block, with one more block on the way up
    ways_up = [1] * (len(config["widths"]) - 1) + [0]
    reach = sum(2 * (n + up) * 2 ** (level + 1) for level, (n, up) in enumerate(zip(config["blocks"], ways_up)))

    assert reach + 2 * 3 + STRIDE <= HALO_PX
    assert preset != "default" or HALO_PX - reach <= 4 * STRIDE


def test_the_same_config_builds_the_same_variables() -> None:
    """Names do not depend on what was built before: a stored model finds its places again."""
    one, other = ([v.path for v in build(PRESETS["small"]).weights] for _ in range(2))

    assert one == other
    assert len(set(one)) == len(one)


def test_presets_are_plain_data() -> None:
    """A card holds them as JSON; there is a smaller one for small machines, a larger one for GPUs, none over 10 MB."""
    sizes = {name: build(config).count_params() for name, config in PRESETS.items()}

    assert sizes["small"] < sizes["default"] < sizes["large"] < 10_000_000 / 4
    assert 2 ** len(PRESETS["default"]["widths"]) == architecture.STRIDE
