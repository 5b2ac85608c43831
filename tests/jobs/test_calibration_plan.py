"""Which calibration frames fit a set's lights, and what is said of those that do not."""

from dataclasses import replace

import pytest

from stackd.jobs.calibration_plan import Plan, Seen, plan_for, sentences
from stackd.records import FrameFacts

LIGHT = FrameFacts(
    640, 480, 1, "uint16", filter="Ha", exposure_s=120.0, gain=100.0, binning="1x1", camera="ZWO ASI2600MM",
    temperature_c=-10.0,
)  # fmt: skip
DARK = replace(LIGHT, filter=None, image_type="dark")
FLAT = replace(LIGHT, exposure_s=2.0, image_type="flat")
BIAS = replace(DARK, exposure_s=None, image_type="bias")
RAW_LIGHT, RAW_DARK, RAW_FLAT, RAW_BIAS = (replace(one, calibrated="B") for one in (LIGHT, DARK, FLAT, BIAS))


def plan(*frames: tuple[str, FrameFacts], light: FrameFacts = LIGHT) -> Plan:
    """Paths that begin with "all/" are those of all sets."""
    seen = [Seen(f"/inbox/{path}", facts, not path.startswith("all/")) for path, facts in frames]
    return plan_for(light, seen, exposure_tolerance=0.02)


def short(paths: tuple[str, ...]) -> list[str]:
    return [path.removeprefix("/inbox/") for path in paths]


def test_each_kind_serves_by_its_folder() -> None:
    """Whatever headers say or do not say of their type."""
    silent = FrameFacts(640, 480, 1, "uint16")

    found = plan(("darks/d", DARK), ("Flats/f", FLAT), ("bias/b", silent))

    assert (short(found.darks), short(found.flats), short(found.biases)) == (["darks/d"], ["Flats/f"], ["bias/b"])
    assert (found.left_out, found.needless, found.dark_scale) == ((), (), 1.0)
    assert found.with_offset == {"lights", "darks", "flats", "biases"}


@pytest.mark.parametrize(
    ("folder", "frame", "words"),
    [
        ("darks", replace(DARK, width_px=320), "its size is 320x480 px, the lights' 640x480 px"),
        ("darks", replace(DARK, gain=0.0), "its gain is 0, the lights' 100"),
        ("biases", replace(BIAS, binning="2x2"), "its binning is 2x2, the lights' 1x1"),
        ("darks", replace(DARK, camera="ZWO ASI294MM"), "its camera is ZWO ASI294MM, the lights' ZWO ASI2600MM"),
        ("flats", replace(FLAT, bottom_up=True), "its row order is BOTTOM-UP, the lights' TOP-DOWN"),
        ("flats", replace(FLAT, filter="OIII"), "its filter is OIII, the lights' Ha"),
        ("flats", replace(FLAT, sample_type="uint8"), "is of 8 bits, the lights are not"),
        ("darks", replace(DARK, temperature_c=12.0), "was taken at 12 C, the lights at -10 C"),
        ("darks", replace(DARK, exposure_s=300.0), "is of 300 s, the lights of 120 s"),
        ("darks", FLAT, "is a flat frame by its header"),
        ("darks", replace(LIGHT, image_type="light"), "is a light frame by its header"),
    ],
)
def test_what_does_not_fit_is_left_out_with_its_reason(folder: str, frame: FrameFacts, words: str) -> None:
    good = {"darks": DARK, "flats": FLAT, "biases": BIAS}[folder]

    found = plan((f"{folder}/x", frame), (f"{folder}/y", good), ("biases/z", BIAS))

    assert dict(found.left_out) == {f"/inbox/{folder}/x": words}
    assert sentences(found.left_out) == [f"{folder}/x: {words}"]


def test_reasons_are_told_once_each() -> None:
    frames = [("darks/" + str(n), replace(DARK, gain=float(n % 2))) for n in range(5)]

    assert sentences(plan(*frames).left_out) == [
        "darks/0 and 2 more: its gain is 0, the lights' 100", "darks/1 and 1 more: its gain is 1, the lights' 100",
    ]  # fmt: skip


def test_darks_differ_from_flats_and_biases_in_what_has_to_agree() -> None:
    """A dark has no filter, a bias no temperature to speak of, a flat an exposure of its own."""
    found = plan(
        ("darks/d", replace(DARK, filter="OIII")), ("flats/f", replace(FLAT, temperature_c=5.0)),
        ("biases/b", replace(BIAS, temperature_c=20.0)),
    )  # fmt: skip

    assert found.left_out == ()


def test_a_set_s_own_come_before_those_of_all_sets() -> None:
    """Kind by kind, and only where they fit: darks of the flats hide no dark of the lights."""
    own = ("M31/darks/short", replace(DARK, exposure_s=2.0)), ("M31/flats/f", FLAT)
    shared = ("all/darks/long", DARK), ("all/flats/f", FLAT), ("all/biases/b", BIAS)

    found = plan(*own, *shared)

    assert (short(found.darks), short(found.flat_darks)) == (["all/darks/long"], ["M31/darks/short"])
    assert (short(found.flats), short(found.biases)) == (["M31/flats/f"], ["all/biases/b"])
    assert dict(found.needless) == {"/inbox/all/flats/f": "the set has its own"}
    assert found.left_out == ()


def test_darks_of_another_length_are_scaled_beside_biases() -> None:
    """The nearest ones; without biases nobody knows what of a dark grows with time, and a short one is noise."""
    darks = [(f"darks/{s:g}", replace(DARK, exposure_s=s)) for s in (30.0, 300.0, 302.0)]

    found = plan(*darks, ("biases/b", BIAS))

    assert short(found.darks) == ["darks/300", "darks/302"]
    assert found.dark_scale == pytest.approx(0.4)
    assert plan(*darks).darks == ()
    assert plan(darks[0], ("biases/b", BIAS)).darks == ()
    assert plan(("darks/90", replace(DARK, exposure_s=90.0)), ("biases/b", BIAS)).dark_scale == pytest.approx(4 / 3)


def test_lights_that_do_not_say_how_long_they_are_take_darks_that_are_one() -> None:
    silent = replace(LIGHT, exposure_s=None)
    long = replace(DARK, exposure_s=300.0)

    assert len(plan(("darks/a", DARK), ("darks/b", DARK), light=silent).darks) == 2
    mixed = plan(("darks/a", DARK), ("darks/b", long), light=silent)
    assert mixed.darks == ()
    assert dict(mixed.left_out)["/inbox/darks/b"] == "the darks differ in exposure, and the lights do not say theirs"


def test_flats_need_something_that_tells_the_offset() -> None:
    """Else dividing would make the field uneven, not even."""
    words = "nothing tells its light from the camera's offset; add biases"

    assert dict(plan(("flats/f", FLAT)).left_out) == {"/inbox/flats/f": words}
    assert plan(("flats/f", FLAT), ("darks/d", DARK)).flats
    assert plan(("flats/f", replace(FLAT, sample_type="float32")), light=replace(LIGHT, calibrated="BD")).flats
    assert plan(("flats/f", RAW_FLAT), light=RAW_LIGHT).flats
    # a dark that has lost its offset tells none
    assert not plan(("flats/f", FLAT), ("darks/d", replace(DARK, calibrated="B"))).flats


def test_calibrated_lights_are_not_calibrated_twice() -> None:
    """What is needless is told, and is no fault of anybody's."""
    frames = ("darks/d", DARK), ("flats/f", FLAT), ("biases/b", BIAS)

    twice = plan(*frames, light=replace(LIGHT, calibrated="BDF"))
    half = plan(*frames, light=replace(LIGHT, calibrated="BD"))

    assert (twice.darks, twice.flats, twice.left_out) == ((), (), ())
    assert "the lights are calibrated already (CALSTAT = 'BDF')" in dict(twice.needless).values()
    assert (half.darks, short(half.flats)) == ((), ["flats/f"])
    assert "lights" not in half.with_offset


@pytest.mark.parametrize(("samples", "words"), [("uint8", "not linear"), ("float32", "real numbers")])
def test_some_lights_are_left_as_they_are(samples: str, words: str) -> None:
    """A JPEG's numbers are no amounts of light; real numbers come from programs that calibrate."""
    found = plan(("darks/d", DARK), ("flats/f", FLAT), ("biases/b", BIAS), light=replace(LIGHT, sample_type=samples))

    assert (found.darks, found.flats, found.biases, found.left_out) == ((), (), (), ())
    assert len(found.needless) == 3
    assert all(words in reason for _, reason in found.needless)


def test_flats_that_cannot_serve_all_say_why() -> None:
    """Own and all sets', with and without an exposure in their headers."""
    silent = replace(FLAT, exposure_s=None)

    found = plan(("M31/flats/f", FLAT), ("all/flats/f", silent), ("all/flats/g", FLAT))

    assert found.flats == ()
    assert {reason for _, reason in found.left_out} == {"nothing tells its light from the camera's offset; add biases"}
    assert len(found.left_out) == 3


def test_no_mean_is_made_of_frames_with_and_without_the_offset() -> None:
    """A program leaves its master beside the frames that it was made of."""
    master = replace(FLAT, sample_type="float32")

    found = plan(
        ("darks/d", DARK), ("darks/master", replace(DARK, calibrated="B")),
        ("flats/f", FLAT), ("flats/master", master), ("biases/b", BIAS),
    )  # fmt: skip

    assert (short(found.darks), short(found.flats)) == (["darks/d"], ["flats/f"])
    assert set(dict(found.left_out).values()) == {"has lost the camera's offset, the others have not"}
    assert short(plan(("flats/master", master), ("biases/b", BIAS)).flats) == ["flats/master"]


def test_raw_files_have_lost_the_same_offset_all_of_them() -> None:
    found = plan(("darks/d", RAW_DARK), ("flats/f", RAW_FLAT), ("biases/b", RAW_BIAS), light=RAW_LIGHT)

    assert found.with_offset == frozenset()
    assert (found.left_out, found.needless) == ((), ())
