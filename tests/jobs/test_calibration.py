"""Masters from files: what they do to a set, and that no bad calibration frame costs a set."""

import errno
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
    def run(lights: Sequence[str], own: Sequence[str], shared: Sequence[str] = ()) -> Calibration:
        return calibration_of(own, shared, read(lights)[0], Limits(10**6, 10**7, 0.02))

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
    assert {one["file"].split("/")[-2] for one in found.story["used"]} == {"darks", "flats", "biases"}
    assert found.story["left_out"] == []
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


def test_a_bad_calibration_frame_is_left_out(
    take: Take, calibrate: Calibrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truncated, text, blank, overexposed, dark, gone, refused by the disk: each with its reason; the rest serves."""
    lights = take("light", 1, light=20000)
    good = take("dark") + take("flat", light=30000)
    over, closed = take("flat", 1, light=1e6), take("flat", 1, light=0)
    bad = [tmp_path / "darks" / f"{name}.fits" for name in ("blank", "cut", "gone", "refused", "text")]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(Path(good[0]).read_bytes()[:9000])
    bad[3].write_bytes(Path(good[0]).read_bytes())
    bad[4].write_text("no frame at all, but long enough to be looked at by anybody who reads headers")

    def refusing(path: Path, *limits: int) -> Frame:
        if path.name == "refused.fits":
            raise OSError(errno.EIO, "Input/output error")
        return read_frame(path, *limits)

    monkeypatch.setattr("stackd.jobs.calibration.read_frame", refusing)

    found = calibrate(lights, [*good, *over, *closed, *map(str, bad)])

    assert len(found.story["used"]) == len(good)
    assert found.warnings == ()
    assert set(found.story["left_out"]) == {
        "darks/blank.fits: is empty", "darks/cut.fits: is 9000 bytes long where its header declares 13120",
        "darks/gone.fits: cannot be read: No such file or directory",
        "darks/refused.fits: cannot be read: Input/output error",
        "darks/text.fits: is not a FITS, TIFF, PNG, JPEG or raw file",
        f"flats/{Path(over[0]).name}: is blank: every pixel is 65535",
        f"flats/{Path(closed[0]).name}: is no brighter than what the camera shows without light",
    }  # fmt: skip
    assert evenness(found, lights[0]) < 2 * 20000**-0.5


def test_a_folder_of_the_set_s_own_that_serves_nothing_is_warned_of(take: Take, calibrate: Calibrate) -> None:
    """Somebody took those darks for these lights. Among those of all sets much fits nothing, as it should."""
    lights, darks = take("light", 1, light=20000), take("dark", gain=0.0)

    own, shared = calibrate(lights, darks), calibrate(lights, [], darks)

    reason = f"darks/{Path(darks[0]).name} and 3 more: its gain is 0, the lights' 100"
    assert own.warnings == (f"none of the set's darks is used: {reason}",)
    assert shared.warnings == ()
    assert own.story["left_out"] == shared.story["left_out"] == [reason]


def test_what_took_nothing_out_is_not_said_to_be_used(take: Take, calibrate: Calibrate) -> None:
    """Lights that have lost their offset beside darks that have not: only a bias could tell one from the other."""
    lights = take("light", 1, light=20000, calibrated="B")
    darks = take("dark")

    alone = calibrate(lights, darks)

    assert (alone.letters, alone.story["used"]) == ("", [])
    assert "none of the set's darks is used" in alone.warnings[0]
    assert "add biases" in alone.warnings[0]
    assert calibrate(lights, darks + take("bias")).letters == "D"


def test_a_disk_that_refused_once_is_asked_again(
    take: Take, calibrate: Calibrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the next set: what could not be read is not remembered."""

    def refuse(*args: object) -> Frame:
        raise OSError(errno.ESTALE, "Stale file handle")

    lights, darks = take("light", 1, light=20000), take("dark")
    with monkeypatch.context() as stale:
        stale.setattr("stackd.jobs.calibration.read_frame", refuse)
        assert "Stale file handle" in calibrate(lights, darks).warnings[0]

    assert calibrate(lights, darks).letters == "D"


def test_masters_are_made_once_for_the_sets_of_a_night(
    take: Take, calibrate: Calibrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And anew when a file of theirs changes."""
    lights, darks = take("light", 1, light=20000), take("dark")
    first = calibrate(lights, darks)
    with monkeypatch.context() as without:
        without.setattr("stackd.jobs.calibration.read_frame", lambda *args: pytest.fail("was read again"))
        assert calibrate(take("light", 1, light=9000), darks).masters is first.masters
    pixels, header = fits.getdata(darks[0]), fits.getheader(darks[0])
    fits.writeto(darks[0], (pixels + 40).astype(np.uint16), header, overwrite=True)

    again = calibrate(lights, darks)

    assert np.median(again.masters.dark_adu - first.masters.dark_adu) > 5


def test_an_overexposed_flat_is_no_flat(take: Take, calibrate: Calibrate) -> None:
    """At nine tenths of full scale a camera no longer counts evenly."""
    lights = take("light", 1, light=20000)

    found = calibrate(lights, take("dark") + take("flat", light=65000))

    assert found.masters.flat is None
    assert found.story["left_out"][0].endswith("and 3 more: is overexposed")
    assert "none of the set's flats is used" in found.warnings[0]


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
    assert "ADU below the darks" in found.warnings[0]
    assert found.story["used"] == []


def test_a_dark_in_another_unit_is_told_by_its_noise(
    take: Take, calibrate: Calibrate, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Real numbers below 2 may be shares of full scale, or the few counts that gather in a very cold camera."""
    lights = take("light", 1, light=20000)
    cold = tmp_path / "darks" / "cold.fits"
    cold.parent.mkdir()
    fits.PrimaryHDU(rng.normal(0.3, 0.1, SHAPE).astype(np.float32)).writeto(cold)

    found = calibrate(lights, [str(cold), *take("bias", 9)])

    assert np.median(found.masters.dark_adu) == pytest.approx(500.3, abs=1)
    assert np.std(found.masters.dark_adu) < 5


@pytest.mark.parametrize("lights_lost", [False, True])
@pytest.mark.parametrize("darks_lost", [False, True])
@pytest.mark.parametrize("flats_lost", [False, True])
@pytest.mark.parametrize("flat_darks", [False, True])
def test_the_offset_is_taken_out_once_whoever_lost_it_before(
    take: Take,
    calibrate: Calibrate,
    night: Night,
    lights_lost: bool,
    darks_lost: bool,
    flats_lost: bool,
    flat_darks: bool,
) -> None:
    """Frames of which a program took the bias (CALSTAT) beside others of which it did not."""

    def lose(paths: list[str], lost: bool) -> list[str]:
        for path in paths if lost else ():
            pixels, header = fits.getdata(path).astype(np.int32) - int(night.offset_adu), fits.getheader(path)
            header["CALSTAT"] = "B"
            fits.writeto(path, pixels.clip(0).astype(np.uint16), header, overwrite=True)
        return paths

    lights = lose(take("light", 1, light=20000), lights_lost)
    frames = lose(take("dark", 9), darks_lost) + lose(take("flat", 9, light=3000), flats_lost) + take("bias", 9)
    if flat_darks:
        frames += take("dark", 9, exposure_s=1.0)

    found = calibrate(lights, frames)

    assert found.letters == "DF"
    assert evenness(found, lights[0]) < 1.5 * 20000**-0.5


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
