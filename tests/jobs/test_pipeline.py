"""From files to a finished result, end to end on small simulated nights: what is in it, and what it never does."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from astropy.io import fits

from stackd.disk import model_store, models
from stackd.errors import ModelError, SetError
from stackd.imaging import skies
from stackd.imaging.camera import expose, uneven
from stackd.imaging.cells import cells_of, medians_of
from stackd.imaging.closure import FluxCheck
from stackd.imaging.fuse import Bank
from stackd.imaging.psf import Psf
from stackd.imaging.quality import robust_scatter
from stackd.imaging.skies import Sky
from stackd.imaging.stack import clipped_stack
from stackd.imaging.stars import find_stars
from stackd.imaging.truth import matched, psnr_db, seen_from
from stackd.jobs import pipeline, restore
from stackd.jobs.align import Aligned, align
from stackd.jobs.delivery import what_to_restore
from stackd.jobs.loading import load_restorer
from stackd.jobs.pipeline import process
from stackd.network.architecture import PRESETS, build
from stackd.network.calibrate import AS_CLAIMED
from stackd.network.channels import MIXED
from stackd.network.restorer import Restored, Restorer
from stackd.network.weights import weights_of
from stackd.records import Job
from stackd.settings import LimitsSettings, RestoreSettings, Settings
from tests.disk.raw_files import BLACK_ADU, CAMERA, EXPOSURE_S, ISO, dng
from tests.jobs.nights import (
    NIGHT,
    SHAPE,
    frames_of,
    night_of,
    star_field,
    write_calibration,
    write_set,
)

FILES = {
    "restored.fits", "stack.fits", "sigma.fits", "restored.tif", "preview.jpg", "report.html", "result.json",
}  # fmt: skip
CARD = {
    "architecture": PRESETS["small"], "target_fwhm_px": 2.0, "sigma_curve": AS_CLAIMED,
    "trained_range": {"frames": [1, 32], "fwhm_px": [1.7, 6.0], "ellipticity": [0.0, 0.25]},
    "name": "default", "version": "20261122T200000Z-0123456789ab", "sha256": "ab" * 32,
}  # fmt: skip

Run = Callable[..., tuple[dict[str, Any], Path]]


class Wrong(Restorer):
    """A restorer without a network: the sharpest Wiener map, put wrong by a function."""

    def __init__(self, wrong: Callable[[np.ndarray], np.ndarray]) -> None:
        self.card, self.wrong = CARD, wrong

    def restore(
        self, banks: Sequence[Bank], tile_done: Callable[[float], None] = lambda share: None, *, orientations: int = 1
    ) -> list[Restored]:
        return [
            Restored(self.wrong(b.wiener[0] * b.unit_adu + b.floor_adu).astype(np.float32), np.full_like(b.plain, 3))
            for b in banks
        ]


def faithful(picture: np.ndarray) -> np.ndarray:
    return picture


def dimmed(picture: np.ndarray) -> np.ndarray:
    return 0.8 * picture


def halved(picture: np.ndarray) -> np.ndarray:
    return 0.5 * picture


def moved(picture: np.ndarray) -> np.ndarray:
    return np.roll(picture, 3, axis=1)


@pytest.fixture(scope="module")
def untrained() -> Restorer:
    """Whose picture is near the softest Wiener map: stars keep their light, and no guard steps in."""
    keras.utils.set_random_seed(1)
    weights = weights_of(build(PRESETS["small"]))
    weights["head/bias"][[0, *range(4, MIXED)]] = -6  # neither the plain stack nor a background has a share
    return Restorer(CARD, weights)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """run(paths, restorer, aligned=..., **restore settings) -> (content of result.json, the result's folder)."""

    def start(
        paths: Sequence[str],
        restorer: Restorer | None = None,
        aligned: bool = False,
        calibration: tuple[str, ...] = (),
        **restore: Any,
    ) -> tuple[dict[str, Any], Path]:
        staging = tmp_path / f"staging-{len(list(tmp_path.glob('staging-*')))}"
        staging.mkdir()
        settings = what_to_restore(Settings(restore=RestoreSettings(**restore)))
        job = Job(
            "M31", tuple(paths), str(staging), settings, LimitsSettings().model_dump(mode="json"), "", "c" * 64,
            aligned=aligned, own_calibration=calibration,
        )  # fmt: skip
        return process(job, restorer, lambda step, share: None), staging

    return start


def image(folder: Path, name: str) -> np.ndarray:
    return fits.getdata(folder / f"{name}.fits").astype(np.float32)


@pytest.fixture(scope="module")
def light_paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return write_set(tmp_path_factory.mktemp("night"), night_of(star_field(1)))


def test_a_result_is_complete(light_paths: tuple[str, ...], run: Run, untrained: Restorer) -> None:
    """All files of the contract, result.json the same as what comes back, every image finite on the frames' grid."""
    content, folder = run(light_paths, untrained)

    assert {p.name for p in folder.iterdir()} == FILES
    assert json.loads((folder / "result.json").read_text()) == content
    for name in ("restored", "stack", "sigma"):
        pixels = image(folder, name)
        assert pixels.shape == SHAPE
        assert np.isfinite(pixels).all()
    assert image(folder, "sigma").min() > 0
    header = fits.getheader(folder / "restored.fits")
    assert header["STACKCNT"] == 6
    assert header["REFFRAME"] == content["reference"]
    assert header["MODELSHA"] == CARD["sha256"]
    assert content["network_used"] is True
    assert header["OBJECT"] == "Field"


def test_calibration_frames_make_the_field_even(run: Run, tmp_path: Path) -> None:
    """Vignetting, dust and hot pixels: with darks and flats the picture is as of a perfect camera; and it says so."""
    sky, camera = star_field(1), uneven(replace(NIGHT, hot_pixels=1e-3), SHAPE, np.random.default_rng(1))
    exposures = expose(sky, camera, np.random.default_rng(3))
    paths, calibration = write_set(tmp_path, exposures), write_calibration(tmp_path, camera)

    found, errs = {}, {}
    for name, used in (("calibrated", calibration), ("raw", ())):
        found[name], folder = run(paths, calibration=used)
        reference = int(Path(found[name]["reference"]).stem[-1])
        there = seen_from(sky, exposures[reference].matrix).truth(2.8)
        off = matched(image(folder, "stack")[None], there)[0] - there
        errs[name] = robust_scatter(medians_of(cells_of(off[0], (10, 10))))
        header = fits.getheader(folder / "restored.fits")
        assert header.get("CALSTAT", "") == {"calibrated": "DF", "raw": ""}[name]

    assert errs["calibrated"] < 0.4 * errs["raw"]
    assert len(found["calibrated"]["calibration"]["used"]) == 24
    assert found["calibrated"]["calibration"]["left_out"] == []
    assert found["calibrated"]["history"][0] == "calibrated: 8 darks, 8 biases, 8 flats"
    assert found["raw"]["calibration"] == {}
    assert found["calibrated"]["figures"]["hot_pixels"] > 20  # too noisy to be told by their level


def test_what_result_json_says(light_paths: tuple[str, ...], run: Run, untrained: Restorer) -> None:
    """Each frame with digest, place, width, light and share rejected; figures, model and settings beside them."""
    content, _ = run(light_paths, untrained)

    assert content["set"] == "M31"
    assert (content["frames_used"], content["frames_left_out"]) == (6, 0)
    assert content["size"] == {"width_px": SHAPE[1], "height_px": SHAPE[0], "bands": 1}
    assert content["model"] == {key: CARD[key] for key in ("name", "version", "sha256")}
    # this network has learnt nothing: its stars are not as narrow as it was asked for
    assert content["psf_fwhm_px"] == content["figures"]["star_fwhm_px"]["restored"]
    assert content["config_sha256"] == "c" * 64
    assert [row["file"] for row in content["inputs"]] == [Path(p).name for p in light_paths]
    for row in content["inputs"]:
        assert row["used"]
        assert len(row["sha256"]) == 64
        assert 2.2 < row["fwhm_px"] < 3.5
        assert 0.7 < row["transparency"] < 1.4
        assert 0 <= row["rejected_share"] < 0.01
        assert np.array(row["transform"]).shape == (2, 3)
        assert row["registered_by"] in ("stars", "identity")
        assert row["exposure_s"] == 60
    figures = content["figures"]
    single_noise = np.mean([row["noise_adu"] for row in content["inputs"]])
    assert figures["stack_noise_adu"] == pytest.approx(single_noise / np.sqrt(6), rel=0.25)
    assert figures["stars"] > 30
    assert figures["hot_pixels"] > 0
    assert 0 < figures["strength"] <= 1
    assert content["started_at"] <= content["finished_at"]


def test_the_plain_stack_alone(light_paths: tuple[str, ...], run: Run) -> None:
    """Without a network restored.fits is stack.fits, no model is named, and the stack is quieter than its frames."""
    content, folder = run(light_paths, None)

    np.testing.assert_array_equal(image(folder, "restored"), image(folder, "stack"))
    assert content["model"] is None
    assert content["figures"]["strength"] == 0
    assert content["psf_fwhm_px"] == pytest.approx(content["figures"]["stack_fwhm_px"])
    assert {p.name for p in folder.iterdir()} == FILES
    assert image(folder, "sigma").min() > 0


def test_half_the_strength_says_how_wide_its_stars_are(light_paths: tuple[str, ...], run: Run) -> None:
    """Between the network's stars and the stack's: as measured, and told by which network at which strength."""
    content, folder = run(light_paths, Wrong(faithful), strength=0.5)

    figures = content["figures"]
    assert 2.0 < content["psf_fwhm_px"] < figures["stack_fwhm_px"]
    assert content["psf_fwhm_px"] == figures["star_fwhm_px"]["restored"]
    history = [str(line) for line in fits.getheader(folder / "restored.fits")["HISTORY"]]
    assert any("strength 0.50" in line for line in history)
    assert not any("Wiener" in line for line in history)


def test_star_shapes_that_change_over_the_field_are_followed(
    light_paths: tuple[str, ...], tmp_path: Path, run: Run, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where lenses draw stars wider towards the corners, the result says so, and they come out narrower there than one
    shape for the whole picture makes them; where they do not, nothing is said."""
    shape = (520, 560)
    sky = skies.Sky(np.zeros((1, *shape), np.float32), *skies.star_catalogue(shape, 1, rng, 2500, (3000, 3e5)))
    frames = night_of(sky, frames=3, fwhm_px=(2.4, 2.8), ellipticity=(0.0, 0.03), corner_growth=0.4)
    paths = write_set(tmp_path, frames)

    content, folder = run(paths, Wrong(faithful))
    ordinary, _ = run(light_paths, Wrong(faithful))
    monkeypatch.setattr("stackd.jobs.align.measure_field", lambda *facts: None)
    _, untold = run(paths, Wrong(faithful))

    (corner, _, _), (_, middle, _), _ = content["figures"]["fwhm_over_field_px"]
    assert corner > 1.1 * middle
    assert any("followed over the field" in line for line in content["history"])
    assert ordinary["figures"]["fwhm_over_field_px"] is None
    assert not any("over the field" in line for line in ordinary["history"])

    def width_in_corners_px(result: Path) -> float:
        stars = find_stars(image(result, "restored"), content["figures"]["stack_noise_adu"])
        off_axis = np.hypot(stars.x / shape[1] - 0.5, stars.y / shape[0] - 0.5) * np.sqrt(2)
        return float(np.median(stars.fwhm_px[(stars.flux > 3e3) & (off_axis > 0.65)]))

    assert width_in_corners_px(folder) < 0.95 * width_in_corners_px(untold)


@pytest.mark.parametrize(("wanted", "orientations"), [(0, 4), (2, 2)])
def test_how_often_the_network_saw_it_is_told(
    light_paths: tuple[str, ...], run: Run, untrained: Restorer, wanted: int, orientations: int
) -> None:
    """By itself a small picture is seen in all four orientations; else as often as is asked for."""
    content, _ = run(light_paths, untrained, orientations=wanted)

    assert content["figures"]["orientations"] == orientations


@pytest.mark.parametrize(
    ("mpx", "bands", "orientations"), [(2, 1, 4), (4, 3, 4), (13, 1, 2), (24, 1, 2), (24, 3, 1), (150, 3, 1)]
)
def test_large_pictures_are_seen_less_often(mpx: int, bands: int, orientations: int) -> None:
    """No more often than the minute allows, and never not at all."""
    assert restore._affordable_orientations(mpx * 1_000_000 * bands) == orientations


def test_fluxes_that_hold_are_let_pass(light_paths: tuple[str, ...], run: Run) -> None:
    """The sharpest Wiener map keeps the stars' light: full strength, no warning of fluxes."""
    content, _ = run(light_paths, Wrong(faithful))

    figures = content["figures"]
    assert figures["strength"] == 1
    assert figures["flux_stars"] >= 5
    assert abs(figures["network_flux_change_mag"]) < 0.03
    assert abs(figures["flux_change_mag"]) < 0.03
    assert not any("flux" in line for line in content["warnings"])


def test_lost_light_is_told(light_paths: tuple[str, ...], run: Run) -> None:
    """A network that takes a fifth of all light, stars and nebula alike: the 0.24 mag are told and hold it back."""
    content, _ = run(light_paths, Wrong(dimmed), flux_tolerance=0.05)

    figures = content["figures"]
    assert figures["network_flux_change_mag"] == pytest.approx(0.24, abs=0.03)
    assert figures["flux_change_mag"] == pytest.approx(0.24, abs=0.04)
    assert figures["flux_scatter_mag"] < 0.02
    assert figures["strength"] == pytest.approx(0.15 / figures["flux_change_mag"], abs=0.001)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("wrong", [halved, moved])
def test_a_network_that_breaks_fluxes_is_held_back(
    light_paths: tuple[str, ...], run: Run, wrong: Callable[[np.ndarray], np.ndarray], strength: float
) -> None:
    """Half of all light gone, or every star in a wrong place: its share falls to what is tolerated of the worst of what
    stars lack among each other, in common (a third counts) and lacked before they were set right (a fifth)."""
    content, folder = run(light_paths, Wrong(wrong), strength=strength, flux_tolerance=0.02)
    _, trusted = run(light_paths, Wrong(wrong), flux_tolerance=1.0)

    figures = content["figures"]
    common, network = abs(figures["flux_change_mag"]) / 3, figures["network_flux_scatter_mag"] / 5
    share = 0.02 / max(figures["flux_scatter_mag"], common, network)
    assert share < 0.6
    assert figures["strength"] == pytest.approx(strength * share, abs=0.001)
    assert any("flux_tolerance" in line for line in content["warnings"])
    plain, restored, clean = (image(f, n) for f, n in ((folder, "stack"), (folder, "restored"), (trusted, "restored")))
    want = strength * share * (clean - plain)
    np.testing.assert_allclose(restored - plain, want, atol=0.05 + 1e-3 * np.abs(want).max())


@pytest.fixture(scope="module")
def colour_field() -> Aligned:
    exposures = night_of(star_field(4, bands=3, per_mpx=700, glow_peak=0.0), frames=4, shift_px=0.0, rotation_deg=0.0)
    return align(frames_of(exposures), aligned=True, progress=lambda step, share: None)


def test_a_star_saturated_in_one_band_is_saturated(colour_field: Aligned) -> None:
    """The mean of the bands hides a clipped green; what its charge spills over lies around it."""
    aligned = replace(colour_field, single=colour_field.single.copy(), saturation_adu=1e6)
    stars = aligned.stars
    star = len(stars) // 2
    row, column = round(stars.y[star]), round(stars.x[star])
    aligned.single[1, row, column] = 1e6

    saturated = restore._near_saturation(aligned)
    x, y = restore._outside(saturated, stars)

    distance_px = np.hypot(*(grid - at for grid, at in zip(np.mgrid[: SHAPE[0], : SHAPE[1]], (row, column))))
    np.testing.assert_array_equal(saturated[distance_px <= restore.SATURATION_REACH_PX - 1], True)
    np.testing.assert_array_equal(saturated[distance_px >= restore.SATURATION_REACH_PX + 1], False)
    assert stars.x[star] not in x
    everywhere, kept = np.stack([stars.x, stars.y]), np.stack([x, y])
    far, kept_far = (np.hypot(a - column, b - row) > restore.SATURATION_REACH_PX + 1 for a, b in (everywhere, kept))
    np.testing.assert_array_equal(kept[:, kept_far], everywhere[:, far])


def test_a_bleeding_column_puts_out_no_star(colour_field: Aligned) -> None:
    """A star whose ring a saturated column runs through keeps its light, as the network gave it."""
    stars = colour_field.stars
    order = np.argsort(-stars.flux)
    inside = (stars.x > 40) & (stars.x < SHAPE[1] - 40) & (stars.y > 40) & (stars.y < SHAPE[0] - 40)
    star = next(k for k in order if inside[k])
    row, column = round(stars.y[star]), round(stars.x[star])
    bands = tuple(band.copy() for band in colour_field.bands)
    single = colour_field.single.copy()
    for plane in (*bands, single):
        plane[..., row - 15 : row + 3, column + 8 : column + 11] += 40000
    aligned = replace(colour_field, bands=bands, single=single, saturation_adu=30000.0)
    stacks = [clipped_stack(band, noise, 4.0) for band, noise in zip(bands, aligned.noise_adu)]
    # as a network does, the picture has the column narrower than the stack
    clean = np.stack([stack.mean for stack in stacks])
    clean[:, row - 15 : row + 3, column + 8] = clean[:, row, column + 14, None]

    closed, *_ = restore._close(aligned, stacks, clean, 2.0)

    own = np.s_[:, row - 4 : row + 5, column - 4 : column + 5]
    light = (clean[own] - np.median(clean, axis=(1, 2), keepdims=True)).sum()
    assert abs((closed - clean)[own].sum()) < 0.15 * light


def test_holes_are_filled_and_told(colour_field: Aligned) -> None:
    """A picture with a black pixel beside a star: as light as the darkest sky around, and the error knows it."""
    stacks = [clipped_stack(band, noise, 4.0) for band, noise in zip(colour_field.bands, colour_field.noise_adu)]
    clean = np.stack([stack.mean for stack in stacks])
    sigma = np.full_like(clean, 3.0)
    clean[1, 80, 90] = -5000

    filled, claimed = restore._without_holes(clean, sigma, stacks)

    assert filled[1, 80, 90] > -10 * stacks[1].noise[80, 90]
    assert claimed[1, 80, 90] == pytest.approx(filled[1, 80, 90] + 5000)
    others = np.isfinite(clean)
    others[1, 80, 90] = False
    np.testing.assert_array_equal(filled[others], clean[others])
    np.testing.assert_array_equal(claimed[others], 3.0)


@pytest.mark.parametrize("soft_px", [2.5, 5.0])
def test_where_only_sharp_frames_saw_stars_are_sharper(colour_field: Aligned, soft_px: float) -> None:
    """On the right the soft frames saw nothing: an aperture has more of a star's light there, and none on the left."""
    bands = tuple(band.copy() for band in colour_field.bands)
    for band in bands:
        band[2:, :, SHAPE[1] // 2 :] = np.nan
    sharp, soft = Psf(2.4, 3.3), Psf(soft_px, 3.3)
    aligned = replace(colour_field, bands=bands, psfs=(sharp, sharp, soft, soft))

    excess = restore._excess(aligned, np.ones(4), aligned.stars.x, aligned.stars.y)(4.0)

    right = np.round(aligned.stars.x) >= SHAPE[1] // 2
    assert 5 < right.sum() < len(right) - 5
    np.testing.assert_allclose(excess[~right], 0, atol=1e-12)
    whole = (sharp.share_within(4.0) + soft.share_within(4.0)) / 2
    np.testing.assert_allclose(excess[right], sharp.share_within(4.0) / whole - 1)


def test_stars_without_a_shape_are_not_sharpened(colour_field: Aligned, untrained: Restorer) -> None:
    """Trailed stars placed the frames but tell no PSF: the plain stack, which no guessed blur spoils."""
    aligned = replace(colour_field, psfs=None)
    assert aligned.by_stars
    stacks = [clipped_stack(band, noise, 4.0) for band, noise in zip(aligned.bands, aligned.noise_adu)]

    picture = restore.restore(aligned, stacks, untrained, RestoreSettings().model_dump(), lambda share: None)

    np.testing.assert_array_equal(picture.restored, picture.stack)
    assert (picture.strength, picture.orientations, picture.sharpened) == (0.0, 0, False)
    assert "plain stack" in picture.warnings[0]


@pytest.mark.parametrize(("psfs", "by_stars"), [(None, True), (None, False)], ids=["plain stack", "sharpened"])
def test_a_network_that_was_left_out_is_not_named(
    light_paths: tuple[str, ...], run: Run, untrained: Restorer, monkeypatch: pytest.MonkeyPatch, psfs, by_stars
) -> None:
    """Neither in the header nor on the page, whatever was loaded."""
    monkeypatch.setattr(
        pipeline, "align", lambda frames, **told: replace(align(frames, **told), psfs=psfs, by_stars=by_stars)
    )

    content, folder = run(light_paths, untrained)

    assert content["network_used"] is False
    assert content["model"]["version"] == CARD["version"]  # what was at hand
    assert fits.getheader(folder / "restored.fits")["MODEL"] == "none"
    page = (folder / "report.html").read_text()
    assert "No network was used" in page
    assert ("sharpened" in page.split("<footer>")[1]) == (not by_stars)


def test_a_sky_of_its_own_tells_what_is_saturated() -> None:
    """A frame taken at dawn has less room above its sky than its fellows: its limit holds for all."""
    frames = frames_of(night_of(star_field(1), frames=3))
    frames[1].pixels[...] += 5000

    one, other = (align(some, aligned=True, progress=lambda step, share: None) for some in (frames[::2], frames))

    assert one.saturation_adu - other.saturation_adu == pytest.approx(5000, abs=500)


def test_frames_clipped_at_black_are_told() -> None:
    """What was cut off the noise is missing in all that is measured; borders and quiet skies are not meant."""
    clear = frames_of(night_of(star_field(1), frames=4))
    cut = [replace(frame, pixels=np.maximum(frame.pixels - np.median(frame.pixels), 0)) for frame in clear]
    for frame in clear:
        frame.pixels[:30] = 0

    whole, part = (
        align(frames, aligned=True, progress=lambda step, share: None) for frames in (clear, [clear[0], *cut[1:]])
    )

    assert pipeline._clipped(whole) == []
    [warning] = pipeline._clipped(part)
    assert "3 of 4 frames are clipped at black" in warning


def test_every_band_counts() -> None:
    """One band's stars are off in common, another's among each other: the guard hears of both."""
    red, blue = FluxCheck(-0.12, 0.01, 40), FluxCheck(0.0, 0.10, 25)

    assert restore._worst([red, None, blue]) == FluxCheck(-0.12, 0.10, 25)
    assert restore._worst([None]) is None


@pytest.mark.parametrize(
    ("by_network", "common", "scatter", "share"),
    [
        (0.0, 0.0, 0.0, 1), (0.24, 0.14, 0.049, 1), (0.0, 0.0, 0.1, 0.5), (0.0, 0.3, 0.0, 0.5), (0.0, -0.3, 0.0, 0.5),
        (0.5, 0.0, 0.0, 0.5), (0.5, 0.3, 0.2, 0.25),
    ],
)  # fmt: skip
def test_the_worst_change_decides(by_network: float, common: float, scatter: float, share: float) -> None:
    """What is left among stars counts in full, what they have in common at a third, what the network itself did among
    them at a fifth; the wanted strength is brought down, never up."""
    settings = {"strength": 0.8, "flux_tolerance": 0.05}

    strength, warnings = restore._allowed_strength(
        settings, FluxCheck(0.0, by_network, 9), FluxCheck(common, scatter, 9)
    )

    assert strength == pytest.approx(0.8 * share)
    assert bool(warnings) == (share < 1)
    assert restore._allowed_strength(settings, None, None) == (0.8, [])


def test_wider_stars_are_to_be_had(light_paths: tuple[str, ...], run: Run) -> None:
    """target_fwhm_px above the model's: stars of that width with the same light, and the result says the width."""
    sharp, folder = run(light_paths, Wrong(faithful))
    soft, wide = run(light_paths, Wrong(faithful), target_fwhm_px=3.5)

    assert (sharp["psf_fwhm_px"], soft["psf_fwhm_px"]) == (2.0, 3.5)
    widths = [content["figures"]["star_fwhm_px"]["restored"] for content in (sharp, soft)]
    assert widths[0] < 2.6
    assert widths[1] == pytest.approx(3.5, rel=0.1)
    assert image(wide, "restored").sum() == pytest.approx(image(folder, "restored").sum(), rel=0.01)
    assert not any("target_fwhm_px" in line for line in soft["warnings"])
    # the same everywhere there, but for where the stand-in's map rings at the edges and is mended
    claimed = image(folder, "sigma")
    unmended = cv2.dilate((claimed != claimed.min()).astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
    assert unmended.mean() > 0.6
    np.testing.assert_allclose(image(wide, "sigma")[unmended], claimed[unmended], rtol=1e-3)


def test_sharper_stars_than_the_models_are_not_invented(light_paths: tuple[str, ...], run: Run) -> None:
    """target_fwhm_px below the model's: its own width, and a warning that names both."""
    _, folder = run(light_paths, Wrong(faithful))
    content, sharper = run(light_paths, Wrong(faithful), target_fwhm_px=1.5)

    np.testing.assert_array_equal(image(sharper, "restored"), image(folder, "restored"))
    assert content["psf_fwhm_px"] == 2.0
    assert any("target_fwhm_px = 1.5" in line and "2.0 px" in line for line in content["warnings"])


def test_what_the_model_never_saw_is_said(light_paths: tuple[str, ...], run: Run) -> None:
    """A set outside the model's training carries a warning with the figure."""
    strange = Wrong(faithful)
    strange.card = CARD | {"trained_range": {"frames": [1, 4], "fwhm_px": [1.7, 2.0], "ellipticity": [0.0, 0.9]}}

    content, _ = run(light_paths, strange)

    assert any(line.startswith("frames 6 ") for line in content["warnings"])
    assert any(line.startswith("fwhm_px") for line in content["warnings"])
    assert not any(line.startswith("ellipticity") for line in content["warnings"])


def test_the_order_of_paths_does_not_change_the_picture(light_paths: tuple[str, ...], run: Run) -> None:
    """The same frames in another order: the same reference, the same stack but for rounding."""
    one, folder = run(light_paths, None)
    other, again = run(light_paths[::-1], None)

    assert other["reference"] == one["reference"]
    difference = np.abs(image(again, "stack") - image(folder, "stack"))
    assert np.quantile(difference, 0.99) < 0.05 * one["figures"]["stack_noise_adu"]


def test_a_foreign_frame_and_a_cloudy_one(tmp_path: Path, run: Run) -> None:
    """Another field is left out and says why; a cloudy frame is used for what it is worth and is not the reference."""
    sky = star_field(1)
    exposures = night_of(sky, frames=4, shift_px=3.0)
    exposures[1] = night_of(star_field(77), frames=1)[0]
    exposures.insert(0, night_of(sky, seed=3, frames=1, cloud_chance=1.0, fwhm_px=(2.4, 2.4))[0])
    paths = write_set(tmp_path, exposures)

    content, _ = run(paths, None)

    rows = content["inputs"]
    assert [row["used"] for row in rows] == [True, True, False, True, True]
    assert rows[2]["reason"]
    assert rows[2]["transform"] is None
    assert rows[2]["rejected_share"] is None
    assert (content["frames_used"], content["frames_left_out"]) == (4, 1)
    assert content["reference"] != "light_0.fits"
    assert rows[0]["transparency"] < 0.75


def test_a_satellite_leaves_no_trace(tmp_path: Path, run: Run) -> None:
    """A bright trail through one frame: the stack is the same without it, to its noise."""
    exposures = night_of(star_field(1), frames=6)
    pixels = exposures[3].pixels.copy()
    cv2.line(pixels, (10, 5), (190, 180), 2500.0, 2)
    dirty = [*exposures[:3], replace(exposures[3], pixels=pixels), *exposures[4:]]
    (tmp_path / "clean").mkdir()
    (tmp_path / "dirty").mkdir()

    _, clean = run(write_set(tmp_path / "clean", exposures), None)
    content, trailed = run(write_set(tmp_path / "dirty", dirty), None)

    assert content["inputs"][3]["rejected_share"] > 0.005
    difference = np.abs(image(trailed, "stack") - image(clean, "stack"))
    assert np.quantile(difference, 0.999) < 5 * content["figures"]["stack_noise_adu"]
    assert difference.mean() < 0.2 * content["figures"]["stack_noise_adu"]


def test_frames_of_two_sizes_are_no_set(tmp_path: Path, run: Run) -> None:
    """Both sizes and the odd file are named; nothing is written."""
    exposures = night_of(star_field(1), frames=3)
    exposures[2] = replace(exposures[2], pixels=exposures[2].pixels[:150, :160])
    paths = write_set(tmp_path, exposures)

    with pytest.raises(SetError, match=r"light_2\.fits") as error:
        run(paths, None)

    assert "160x150" in str(error.value)
    assert f"{SHAPE[1]}x{SHAPE[0]}" in str(error.value)
    assert not list((tmp_path / "staging-0").iterdir())


def test_frames_of_different_skies_are_no_set(tmp_path: Path, run: Run) -> None:
    """No two fit together: an error that names the frames."""
    exposures = [night_of(star_field(seed), frames=1)[0] for seed in (1, 77)]

    with pytest.raises(SetError, match="no two frames"):
        run(write_set(tmp_path, exposures), None)


def test_one_frame_is_a_set_too(light_paths: tuple[str, ...], run: Run, untrained: Restorer) -> None:
    """Of any number from one on."""
    content, folder = run(light_paths[:1], untrained)

    assert content["frames_used"] == 1
    assert {p.name for p in folder.iterdir()} == FILES
    assert np.isfinite(image(folder, "restored")).all()


def test_a_mosaic_becomes_a_colour_picture(tmp_path: Path, run: Run, untrained: Restorer) -> None:
    """(3, H, W) in R G B order: a field whose stars are red comes out red; no card of the mosaic is left."""
    sky = star_field(4, bands=3)
    sky = replace(sky, flux=sky.flux * np.array([[1.0], [0.4], [0.2]]))
    paths = write_set(tmp_path, night_of(sky, frames=4, bayer="GRBG"), "GRBG")

    content, folder = run(paths, untrained)

    restored = image(folder, "restored")
    assert restored.shape == (3, *SHAPE)
    assert content["size"]["bands"] == 3
    stack = image(folder, "stack")
    bright = stack.sum(0) > np.quantile(stack.sum(0), 0.99)
    red, green, blue = stack[:, bright].sum(1)
    assert red > 1.8 * green > 1.8 * blue
    assert "BAYERPAT" not in fits.getheader(folder / "restored.fits")


def test_raw_files_give_what_fits_gives(tmp_path: Path, run: Run) -> None:
    """The same counts from a camera's raw files: the same colour picture, and the camera's notes in its header."""
    exposures = night_of(star_field(4, bands=3), frames=4, bayer="GRBG")
    in_fits, folder_of_fits = run(write_set(tmp_path, exposures, "GRBG"), None)
    paths = []
    for k, exposure in enumerate(exposures):
        path = tmp_path / f"IMG_{k}.CR2"
        path.write_bytes(dng((exposure.pixels + BLACK_ADU).astype(np.uint16), "GRBG", white_adu=65535))
        paths.append(str(path))

    in_raw, folder = run(paths, None)

    assert in_raw["frames_used"] == in_fits["frames_used"] == 4
    mine, theirs = image(folder, "stack"), image(folder_of_fits, "stack")
    assert np.nanmax(np.abs(mine - theirs)) < 0.02 * np.nanmax(theirs)
    assert np.nanmedian(np.abs(mine - theirs)) < 0.5
    header = fits.getheader(folder / "restored.fits")
    assert (header["INSTRUME"], header["ISOSPEED"], header["EXPTIME"]) == (CAMERA, ISO, EXPOSURE_S)
    assert header["LIVETIME"] == 4 * EXPOSURE_S
    assert header["DATE-OBS"] == "2024-08-12T23:14:05.250"
    assert header.comments["DATE-OBS"] == "camera's time, start of the first frame"
    assert header["ROWORDER"] == "TOP-DOWN"


def test_pictures_give_a_picture(tmp_path: Path, run: Run) -> None:
    """16-bit PNG frames without a header: restored.png lies beside the rest."""
    paths = []
    for k, frame in enumerate(frames_of(night_of(star_field(1), frames=3))):
        paths.append(str(tmp_path / f"light_{k}.png"))
        cv2.imwrite(paths[-1], frame.pixels.astype(np.uint16))

    content, folder = run(paths, None)

    assert {p.name for p in folder.iterdir()} == FILES | {"restored.png"}
    assert content["frames_used"] == 3


def test_aligned_frames_are_not_moved(tmp_path: Path, run: Run) -> None:
    """`restore --aligned`: all transforms are the identity, and the stack is the mean of the frames as they are."""
    exposures = night_of(star_field(1), frames=4, shift_px=0.0, rotation_deg=0.0, cosmic_rays_per_mpx=0.0)
    paths = write_set(tmp_path, exposures)

    content, folder = run(paths, None, aligned=True)

    for row in content["inputs"]:
        assert row["transform"] == [[1, 0, 0], [0, 1, 0]]
        assert row["shift_px"] == [0, 0]
    raw = np.median([(e.pixels - e.sky_adu) / e.transparency for e in exposures], axis=0)
    cool = raw < np.quantile(raw, 0.999)  # hot pixels are mended
    assert np.corrcoef(image(folder, "stack")[cool], raw[cool])[0, 1] > 0.95


def test_progress_is_told_in_order(light_paths: tuple[str, ...], tmp_path: Path, untrained: Restorer) -> None:
    """Step by step up to writing, shares rising from 0 to 1."""
    told: list[tuple[str, float]] = []
    settings, limits = what_to_restore(Settings()), LimitsSettings().model_dump()

    process(Job("a", light_paths[:3], str(tmp_path), settings, limits, ""), untrained, lambda *step: told.append(step))

    steps = list(dict.fromkeys(step for step, _ in told))
    assert steps == ["read", "calibrate", "register", "warp", "measure", "stack", "restore", "write"]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


def test_a_missing_file_is_no_silent_set(light_paths: tuple[str, ...], tmp_path: Path, run: Run) -> None:
    """A path that is gone, and a text file named .fits: an error, no result."""
    text = tmp_path / "light_9.fits"
    text.write_text("these are not the pixels you look for " * 100)

    with pytest.raises(SetError, match=r"light_9\.fits"):
        run([*light_paths[:2], str(text)], None)
    with pytest.raises((SetError, OSError), match=r"gone\.fits"):
        run([*light_paths[:2], str(tmp_path / "gone.fits")], None)


@pytest.mark.parametrize("name", ["default", "classic"])
def test_what_is_shipped_can_be_trusted(name: str, tmp_path: Path) -> None:
    """Without a store of one's own the shipped model serves: digest, names, shapes and numbers hold, and it loads."""
    version = models.resolve(tmp_path, name)

    model_store.verify(version)

    assert (version.name, version.shipped, version.current) == (name, True, True)
    assert load_restorer(str(version.path)).card["sha256"] == version.sha256


@pytest.mark.parametrize("seed", [5, 424242])
def test_the_shipped_network_beats_the_plain_stack(seed: int, tmp_path: Path, run: Run) -> None:
    """Skies it never saw, in usual seeing: at least 4 dB nearer to the truth (asinh), star fluxes within 0.05 mag."""
    sky = unseen_sky(seed)
    night = replace(NIGHT, frames=8, fwhm_px=(2.8, 4.4))
    exposures = expose(sky, night, np.random.default_rng(20190308))
    restorer = load_restorer(str(models.resolve(tmp_path, "default").path))

    content, folder = run(write_set(tmp_path, exposures), restorer)

    reference = exposures[[row["file"] for row in content["inputs"]].index(content["reference"])]
    truth = seen_from(sky, reference.matrix).truth(restorer.target_fwhm_px)
    ground = reference.sky_adu * night.electrons_per_adu
    softening = float(np.hypot(np.sqrt(ground), night.read_noise))
    inner = (slice(None), slice(24, -24), slice(24, -24))  # the sky beyond its edge is mirrored, not simulated
    restored, plain = (
        psnr_db(matched(image(folder, name)[None][inner], truth[inner])[0], truth[inner], softening)
        for name in ("restored", "stack")
    )
    assert restored > plain + 4
    figures = content["figures"]
    assert figures["flux_stars"] >= 5
    assert max(abs(figures["flux_change_mag"]), figures["flux_scatter_mag"]) < 0.05
    assert figures["strength"] > 0.9


def unseen_sky(seed: int) -> Sky:
    """Stars and a nebula (1, 256, 264)."""
    rng = np.random.default_rng(seed)
    shape = (256, 264)
    stars = skies.star_catalogue(shape, 1, rng, 2000, (300, 2e5))
    return Sky(skies.procedural(shape, 1, rng, 400.0).astype(np.float32), *stars)


def _useless(like: np.ndarray, how: str) -> np.ndarray:
    pixels = np.array(like, dtype=np.float32)
    pixels[:] = {"blank": 0.0, "nan": np.nan, "saturated": 65535.0}[how]
    if how == "saturated":
        pixels[:40] = 900.0 + np.arange(pixels.shape[1])
    return pixels


@pytest.mark.parametrize(("how", "words"), [("blank", "blank"), ("nan", "no number"), ("saturated", "saturated: 80%")])
def test_a_frame_that_shows_nothing_is_left_out(tmp_path: Path, run: Run, how: str, words: str) -> None:
    """One such frame costs itself alone; the result says why, in its place among the others."""
    paths = write_set(tmp_path, night_of(star_field(1)))
    header = fits.getheader(paths[2])
    for card in ("BZERO", "BSCALE"):
        header.remove(card, ignore_missing=True)
    others = [fits.getdata(path).astype(np.float32) for path in paths]
    for k, path in enumerate(paths):  # all of one sample type, or headers alone would tell them apart
        pixels = _useless(others[k], how) if k == 2 else others[k]
        cards = header if k == 2 else fits.getheader(path)
        fits.writeto(path, pixels, cards, overwrite=True, output_verify="silentfix")

    content, _ = run(paths)

    assert [row["used"] for row in content["inputs"]] == [True, True, False, True, True, True]
    left_out = content["inputs"][2]
    assert words in left_out["reason"]
    assert left_out["sha256"] == hashlib.sha256(Path(paths[2]).read_bytes()).hexdigest()
    assert (content["frames_used"], content["frames_left_out"], content["figures"]["frames"]) == (5, 1, 6)


def test_too_few_frames_that_show_anything(tmp_path: Path, run: Run) -> None:
    """Fewer than set.min_frames: the set is refused, every such frame named, and what to do."""
    paths = write_set(tmp_path, night_of(star_field(1)))[:3]
    for path in paths[1:]:
        fits.writeto(path, np.zeros(SHAPE, np.uint16), fits.getheader(path), overwrite=True)

    with pytest.raises(SetError, match=r"only 1 of 3 .* light_1\.fits is blank.*; light_2\.fits is blank") as caught:
        run(paths)
    assert caught.value.file == paths[1]
    assert "set.min_frames" in caught.value.remedy


def test_the_classic_network_says_before_the_work_that_it_takes_eight(
    light_paths: tuple[str, ...], tmp_path: Path
) -> None:
    """Not after minutes of aligning."""
    told: list[str] = []
    classic = load_restorer(str(models.resolve(tmp_path, "classic").path))
    settings, limits = what_to_restore(Settings()), LimitsSettings().model_dump()

    with pytest.raises(SetError, match="exactly 8 frames, not 6"):
        process(Job("a", light_paths, str(tmp_path), settings, limits, ""), classic, lambda step, _: told.append(step))
    assert set(told) == {"read"}


def test_the_classic_network_takes_a_strength(tmp_path: Path, run: Run) -> None:
    """0 gives the plain stack, one half the middle between both."""
    classic = load_restorer(str(models.resolve(tmp_path, "classic").path))
    paths = write_set(tmp_path, night_of(star_field(1), frames=8))
    pictures = {}
    for strength in (0.0, 0.5, 1.0):
        found, folder = run(paths, classic, strength=strength)
        pictures[strength] = image(folder, "restored")
        assert found["figures"]["strength"] == strength

    np.testing.assert_array_equal(pictures[0.0], image(folder, "stack"))
    np.testing.assert_allclose(pictures[0.5], (pictures[0.0] + pictures[1.0]) / 2, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("scale", [1 / 65535, 65537])
def test_any_unit_gives_the_same_picture(tmp_path: Path, run: Run, scale: float) -> None:
    """Shares of full scale, or 32 bits of it: nothing in the way may stand on counts of 16 bits."""
    exposures = night_of(star_field(1), frames=4)
    plain, plain_folder = run(write_set(tmp_path / "usual", exposures))
    samples = np.float32 if scale < 1 else np.uint32
    for path in sorted((tmp_path / "usual").iterdir()):
        pixels, header = fits.getdata(path), fits.getheader(path)
        (tmp_path / "other").mkdir(exist_ok=True)
        scaled = (pixels.astype(np.float64) * scale).astype(samples)
        fits.PrimaryHDU(scaled, fits.Header({key: header[key] for key in ("DATE-OBS", "EXPTIME")})).writeto(
            tmp_path / "other" / path.name
        )

    other, folder = run([str(path) for path in sorted((tmp_path / "other").iterdir())])

    assert other["figures"]["stars"] == pytest.approx(plain["figures"]["stars"], abs=2)
    for name in ("stack_noise_adu", "median_sigma_adu"):
        assert other["figures"][name] == pytest.approx(scale * plain["figures"][name], rel=0.02)
    off = np.abs(image(folder, "stack") / scale - image(plain_folder, "stack"))
    assert np.mean(off > 1) < 1e-3  # a sample at the edge of being rejected may fall on either side


def test_two_frames_cannot_tell_what_is_wrong_in_one(tmp_path: Path, run: Run) -> None:
    """And the result does not say that anything was rejected."""
    found, _ = run(write_set(tmp_path, night_of(star_field(1), frames=2)))

    assert "trails and cosmic rays stay in the picture" in found["warnings"][0]
    assert "inverse-variance weighted mean: the plain stack" in found["history"]


@pytest.mark.parametrize("missing", ["architecture", "sigma_curve"])
def test_a_card_that_describes_no_network(missing: str, tmp_path: Path) -> None:
    """A model's fault, not a set's: the old model goes on."""
    card = {key: value for key, value in CARD.items() if key != missing}
    version = model_store.publish(tmp_path, "mine", weights_of(build(PRESETS["small"])), card)

    with pytest.raises(ModelError, match="describes no network"):
        load_restorer(str(version.path))


def test_weights_of_another_network_name_their_model(tmp_path: Path) -> None:
    """Which of the store's versions is refused must be in the reason: log and status show nothing else."""
    weights = {name: np.concatenate([v, v], -1) for name, v in weights_of(build(PRESETS["small"])).items()}
    version = model_store.publish(tmp_path, "mine", weights, CARD)

    with pytest.raises(ModelError, match=f"{version.version}: the weight .* has shape"):
        load_restorer(str(version.path))


def test_a_model_folder_without_a_model(tmp_path: Path) -> None:
    """ModelError, as for any weights that do not belong to their card."""
    with pytest.raises(ModelError):
        load_restorer(str(tmp_path))
