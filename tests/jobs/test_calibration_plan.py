"""Which calibration frames fit a set's lights, and what is said of those that do not."""

from dataclasses import replace

import pytest

from stackd.jobs.calibration_plan import Plan, in_words, plan_for
from stackd.records import FrameFacts

LIGHT = FrameFacts(
    640, 480, 1, "uint16", filter="Ha", exposure_s=120.0, gain=100.0, binning="1x1", camera="ZWO ASI2600MM",
    temperature_c=-10.0,
)  # fmt: skip
DARK = replace(LIGHT, filter=None, image_type="dark")
FLAT = replace(LIGHT, exposure_s=2.0, image_type="flat")
BIAS = replace(DARK, exposure_s=None, image_type="bias")


def plan(*frames: tuple[str, FrameFacts], light: FrameFacts = LIGHT) -> Plan:
    return plan_for(light, [(f"/inbox/M31/{path}", facts) for path, facts in frames], exposure_tolerance=0.02)


def short(paths: tuple[str, ...]) -> list[str]:
    return [path.removeprefix("/inbox/M31/") for path in paths]


def test_each_kind_serves_by_its_folder() -> None:
    """Whatever headers say or do not say of their type."""
    silent = FrameFacts(640, 480, 1, "uint16")

    found = plan(("darks/d", DARK), ("Flats/f", FLAT), ("biases/b", silent))

    assert (short(found.darks), short(found.flats), short(found.biases)) == (["darks/d"], ["Flats/f"], ["biases/b"])
    assert (found.left_out, found.remarks, found.dark_scale) == ((), (), 1.0)


def test_biases_are_read_only_where_they_are_needed() -> None:
    """Lights have their darks, flats theirs."""
    flat_dark = replace(DARK, exposure_s=2.05)

    found = plan(("darks/d", DARK), ("darks/short", flat_dark), ("flats/f", FLAT), ("biases/b", BIAS))

    assert (short(found.darks), short(found.flat_darks)) == (["darks/d"], ["darks/short"])
    assert (found.biases, found.left_out) == ((), ())
    assert short(plan(("biases/b", BIAS)).biases) == ["biases/b"]


@pytest.mark.parametrize(
    ("folder", "frame", "words"),
    [
        ("darks", replace(DARK, width_px=320), "its size is 320x480 px, the lights' 640x480 px"),
        ("darks", replace(DARK, gain=0.0), "its gain is 0, the lights' 100"),
        ("biases", replace(BIAS, binning="2x2"), "its binning is 2x2, the lights' 1x1"),
        ("darks", replace(DARK, camera="ZWO ASI294MM"), "its camera is ZWO ASI294MM, the lights' ZWO ASI2600MM"),
        ("flats", replace(FLAT, filter="OIII"), "its filter is OIII, the lights' Ha"),
        ("darks", replace(DARK, temperature_c=12.0), "was taken at 12 C, the lights at -10 C"),
        ("darks", replace(DARK, exposure_s=300.0), "is of 300 s, the lights of 120 s"),
        ("darks", FLAT, "is a flat frame by its header"),
    ],
)
def test_what_does_not_fit_is_left_out_with_its_reason(folder: str, frame: FrameFacts, words: str) -> None:
    """And where nothing of a folder is left, the result says so."""
    good = {"darks": DARK, "flats": FLAT, "biases": BIAS}[folder]

    alone = plan((f"{folder}/x", frame))
    beside = plan((f"{folder}/x", frame), (f"{folder}/y", good), ("biases/z", BIAS))

    assert dict(alone.left_out) == {f"/inbox/M31/{folder}/x": words}
    assert alone.remarks == (f"none of the 1 frames in {folder}/ is used: {words}",)
    assert dict(beside.left_out) == dict(alone.left_out)
    assert beside.remarks == ()
    assert in_words(beside.left_out) == [f"{folder}/: 1 of its frames cannot be used: {words}"]


def test_darks_differ_from_flats_and_biases_in_what_has_to_agree() -> None:
    """A dark has no filter, a bias no temperature to speak of, a flat an exposure of its own."""
    found = plan(
        ("darks/d", replace(DARK, filter="OIII")), ("flats/f", replace(FLAT, temperature_c=5.0)),
        ("biases/b", replace(BIAS, temperature_c=20.0)),
    )  # fmt: skip

    assert found.left_out == ()


def test_darks_of_another_length_are_scaled_beside_biases() -> None:
    """The nearest ones; without biases nobody knows what of a dark grows with time."""
    darks = [(f"darks/{s:g}", replace(DARK, exposure_s=s)) for s in (30.0, 300.0, 302.0)]

    found = plan(*darks, ("biases/b", BIAS))

    assert short(found.darks) == ["darks/300", "darks/302"]
    assert found.dark_scale == pytest.approx(0.4)
    assert short(found.biases) == ["biases/b"]
    assert plan(*darks).darks == ()


def test_flats_need_something_that_tells_the_offset() -> None:
    """Else dividing would make the field uneven, not even."""
    words = "without darks or biases nobody can tell light from the camera's offset"

    assert dict(plan(("flats/f", FLAT)).left_out) == {"/inbox/M31/flats/f": words}
    assert plan(("flats/f", FLAT), ("darks/d", DARK)).flats
    assert plan(("flats/f", replace(FLAT, sample_type="float32")), light=replace(LIGHT, calibrated="BD")).flats
    # a camera's raw files lose their offset as they are read
    assert plan(("flats/f", replace(FLAT, calibrated="B")), light=replace(LIGHT, calibrated="B")).flats


def test_calibrated_lights_are_not_calibrated_twice() -> None:
    frames = ("darks/d", DARK), ("flats/f", FLAT), ("biases/b", BIAS)

    twice = plan(*frames, light=replace(LIGHT, calibrated="BDF"))
    half = plan(*frames, light=replace(LIGHT, calibrated="BD"))

    assert (twice.darks, twice.flats, twice.biases) == ((), (), ())
    assert all("calibrated already (CALSTAT = 'BDF')" in reason for _, reason in twice.needless)
    assert len(twice.needless) == 3
    assert twice.remarks == twice.left_out == ()
    assert (half.darks, short(half.flats), short(half.biases)) == ((), ["flats/f"], ["biases/b"])
    assert not half.biases_for_lights


def test_raw_files_have_lost_the_same_offset_all_of_them() -> None:
    """As they are read; what is left in a bias is the sensor's pattern, which is in the lights, too."""
    light, bias = (replace(one, calibrated="B") for one in (LIGHT, BIAS))

    found = plan(("biases/b", bias), light=light)

    assert short(found.biases) == ["biases/b"]
    assert found.biases_for_lights
    assert not plan(("biases/b", BIAS), light=light).biases


@pytest.mark.parametrize(("samples", "words"), [("uint8", "not linear"), ("float32", "real numbers")])
def test_some_lights_are_left_as_they_are(samples: str, words: str) -> None:
    """A JPEG's numbers are no amounts of light; real numbers come from programs that calibrate."""
    found = plan(("darks/d", DARK), ("flats/f", FLAT), ("biases/b", BIAS), light=replace(LIGHT, sample_type=samples))

    assert (found.darks, found.flats, found.biases, found.remarks) == ((), (), (), ())
    assert len(found.needless) == 3
    assert all(words in reason for _, reason in found.needless)
