"""Masters from files: what they do to a set, and that no bad calibration frame costs a set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from stackd.disk.captures import write_capture
from stackd.disk.frame import Frame
from stackd.disk.reader import read_frame
from stackd.imaging.camera import Night, calibration_frame
from stackd.jobs.calibration import Calibration, Limits, calibration_of
from stackd.records import FrameFacts

SHAPE = (64, 80)
FACTS = FrameFacts(SHAPE[1], SHAPE[0], 1, "uint16", exposure_s=60.0, gain=100.0, electrons_per_adu=1.0)
EXPOSURES = {"light": 60.0, "dark": 60.0, "flat": 1.0, "bias": None}
FOLDERS = {"dark": "darks", "flat": "flats", "bias": "biases"}

Take = Callable[..., list[str]]
Calibrate = Callable[..., Calibration]


@pytest.fixture
def night(rng: np.random.Generator) -> Night:
    """A camera with vignetting, dark current and an offset of 500 ADU."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    answer = 1 - 0.3 * ((x - 40) ** 2 + (y - 32) ** 2) / 50**2
    return Night(sensitivity=answer, dark_current=rng.exponential(100, SHAPE), offset_adu=500)


@pytest.fixture
def take(tmp_path: Path, night: Night, rng: np.random.Generator) -> Take:
    """Writes frames of a kind; gives their paths."""

    def write(kind: str, count: int = 4, light: float = 0.0, **said: object) -> list[str]:
        facts = replace(FACTS, **{"image_type": kind, "exposure_s": EXPOSURES[kind]} | said)
        lasts = (facts.exposure_s or 0.0) / 60
        folder, paths = tmp_path / FOLDERS.get(kind, "."), []
        for _ in range(count):
            path = folder / f"{kind}_{len(list(tmp_path.rglob('*.fits')))}.fits"
            write_capture(path, calibration_frame(night, SHAPE, rng, light=light, exposures=lasts), facts)
            paths.append(str(path))
        return paths

    return write


@pytest.fixture
def calibrate() -> Calibrate:
    def run(lights: Sequence[str], calibration: Sequence[str]) -> Calibration:
        return calibration_of(calibration, read(lights)[0], Limits(10**6, 10**7, 0.02))

    return run


def read(paths: Sequence[str]) -> list[Frame]:
    return [read_frame(Path(path), 10**6, 10**7) for path in paths]


def evenness(calibration: Calibration, light: str) -> float:
    """Scatter of an evenly lit frame once it is calibrated, over its level."""
    seen = calibration.masters.applied_to(read([light])[0].pixels)
    return float(np.std(seen) / np.median(seen))


def test_a_whole_set_of_calibration_frames(take: Take, calibrate: Calibrate) -> None:
    """What is left is photon noise, and result.json can tell what was done."""
    [light] = take("light", 1, light=20000)
    frames = take("dark", 9) + take("flat", 9, light=30000) + take("bias", 9)

    found = calibrate([light], frames)

    assert evenness(found, light) < 1.3 * 20000**-0.5
    assert evenness(Calibration(), light) > 0.05
    assert (found.letters, found.warnings) == ("DF", ())
    assert found.history == ("calibrated: 9 darks, 9 biases, 9 flats",)
    assert {one["file"].partition("/")[0] for one in found.story["used"]} == {"darks", "flats", "biases"}
    assert {one["sha256"] for one in found.story["used"]} == {frame.sha256 for frame in read(frames)}


def test_without_calibration_frames_nothing_is_done(take: Take, calibrate: Calibrate) -> None:
    assert calibrate(take("light", 1, light=500), []) == Calibration()


def test_biases_alone_take_the_offset(take: Take, calibrate: Calibrate) -> None:
    [light] = take("light", 1, light=20000)

    found = calibrate([light], take("bias") + take("flat", light=30000))

    assert found.letters == "BF"
    assert evenness(found, light) < 2 * 20000**-0.5


def test_darks_of_another_length_are_scaled(take: Take, calibrate: Calibrate, night: Night) -> None:
    """By what gathers in them, not by the offset."""
    lights = take("light", 1, light=20000)

    found = calibrate(lights, take("dark", 16, exposure_s=180.0) + take("bias", 16))

    assert found.masters.dark_adu is not None
    np.testing.assert_allclose(found.masters.dark_adu, 500 + night.dark_current, atol=25)
    assert found.story["dark_scale"] == pytest.approx(1 / 3)
    assert found.history[0].endswith("darks scaled by 0.333")


def test_darks_of_the_flats_tell_the_flats_offset(take: Take, calibrate: Calibrate) -> None:
    [light] = take("light", 1, light=20000)

    found = calibrate([light], take("dark") + take("dark", exposure_s=1.0) + take("flat", light=3000))

    assert found.history == ("calibrated: 4 darks, 4 flats, 4 darks of the flats",)
    assert evenness(found, light) < 0.02


def test_a_bad_calibration_frame_is_left_out(take: Take, calibrate: Calibrate, tmp_path: Path) -> None:
    """Truncated, text, blank, overexposed, dark flats: each with its reason, and the rest serves."""
    lights = take("light", 1, light=20000)
    good = take("dark") + take("flat", light=30000)
    over, closed = take("flat", 1, light=1e6), take("flat", 1, light=0)
    cut, text, blank = (tmp_path / "darks" / name for name in ("cut.fits", "text.fits", "blank.fits"))
    cut.write_bytes(Path(good[0]).read_bytes()[:9000])
    text.write_text("no frame at all, but long enough to be looked at by anybody who reads headers")
    fits.PrimaryHDU(np.full(SHAPE, 7, np.uint16)).writeto(blank)

    found = calibrate(lights, [*good, *over, *closed, str(cut), str(text), str(blank)])

    reasons = {one["file"]: one["reason"] for one in found.story["left_out"]}
    assert len(found.story["used"]) == len(good)
    assert reasons.keys() == {"darks/cut.fits", "darks/text.fits", "darks/blank.fits"} | {
        f"flats/{Path(path).name}" for path in over + closed
    }
    assert reasons[f"flats/{Path(over[0]).name}"] == "is blank: every pixel is 65535"
    assert "no brighter" in reasons[f"flats/{Path(closed[0]).name}"]
    assert evenness(found, lights[0]) < 2 * 20000**-0.5


def test_an_overexposed_flat_is_no_flat(take: Take, calibrate: Calibrate) -> None:
    """At nine tenths of full scale a camera no longer counts evenly."""
    lights = take("light", 1, light=20000)

    found = calibrate(lights, take("dark") + take("flat", light=65000))

    assert found.masters.flat is None
    assert {one["reason"] for one in found.story["left_out"]} == {"is overexposed"}


def test_the_wrong_darks_do_no_harm(take: Take, calibrate: Calibrate) -> None:
    """Brighter than the lights' sky: nothing is taken out, and the result warns."""
    lights = take("light", 1, light=50)
    hot = [str(path) for path in map(Path, take("dark"))]
    for path in map(Path, hot):
        pixels, header = fits.getdata(path), fits.getheader(path)
        fits.writeto(path, (pixels + 4000).astype(np.uint16), header, overwrite=True)

    found = calibrate(lights, hot + take("flat", light=30000))

    assert found.masters == Calibration().masters
    assert (found.letters, found.history) == ("", ())
    assert "ADU below their darks" in found.warnings[0]


def test_masters_of_other_programs(take: Take, calibrate: Calibrate, tmp_path: Path, night: Night) -> None:
    """Real numbers of full scale; the dark without its offset, which the biases know; the flat without any."""
    [light] = take("light", 1, light=20000)
    (tmp_path / "flats").mkdir()
    take("dark", 0)
    for folder, pixels in (("darks", night.dark_current / 65535), ("flats", 0.4 * night.sensitivity)):
        (tmp_path / folder).mkdir(exist_ok=True)
        fits.PrimaryHDU(pixels.astype(np.float32)).writeto(tmp_path / folder / "master.fits")
    masters = [str(tmp_path / folder / "master.fits") for folder in ("darks", "flats")]

    found = calibrate([light], masters + take("bias", 9))

    assert evenness(found, light) < 1.3 * 20000**-0.5
    assert float(np.median(found.masters.dark_adu)) == pytest.approx(500 + np.median(night.dark_current), rel=0.02)
