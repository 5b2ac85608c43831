"""What the check of a set promises: every problem at once, each naming file and value."""

from stackd.jobs.validate import NamedFacts, problems_of
from stackd.records import FrameFacts


def frames(*said: dict[str, object]) -> list[NamedFacts]:
    usual = {"width_px": 64, "height_px": 48, "bands": 1, "sample_type": "uint16"}
    return [(f"{i}.fits", FrameFacts(**(usual | one))) for i, one in enumerate(said)]  # type: ignore[arg-type]


def problems(*said: dict[str, object]) -> list[str]:
    return problems_of(frames(*said), exposure_tolerance=0.02)


def test_frames_that_agree_have_no_problem() -> None:
    """What is not said, or only spelt differently, agrees; so does a hair of exposure."""
    assert problems({"target": "M 31", "exposure_s": 60.0}, {"target": "m31", "exposure_s": 60.5}, {}) == []


def test_all_problems_come_at_once() -> None:
    """A person should not need one try a problem."""
    found = problems(
        {"filter": "R", "exposure_s": 60.0, "gain": 100.0},
        {"filter": "R", "exposure_s": 60.0, "gain": 100.0},
        {"filter": "B", "exposure_s": 30.0, "width_px": 32, "gain": 200.0, "image_type": "dark"},
    )

    assert found == [
        "size differs: 2.fits has 32x48 px, where 2 of 3 frames have 64x48 px",
        "filter differs: 2.fits has B, where 2 of 3 frames have R",
        "gain differs: 2.fits has 200, where 2 of 3 frames have 100",
        "exposure differs by more than 2% from 60 s: 2.fits 30 s",
        "2.fits: dark frames, not lights",
    ]


def test_colour_and_mono_do_not_mix() -> None:
    """Nor do a mosaic and a grey picture of the same size."""
    for other in ({"bands": 3}, {"bayer": "RGGB"}):
        assert problems({}, {}, other)[0].startswith("colour differs: 2.fits has")


def test_long_lists_are_cut() -> None:
    """Fifty file names are no message."""
    found = problems(*[{"filter": "R"}] * 6, *[{"filter": "B"}] * 5)

    assert found == ["filter differs: 6.fits, 7.fits, 8.fits and 2 more have B, where 6 of 11 frames have R"]


def test_any_number_of_frames_but_none_may_be_a_set() -> None:
    """How many make one is the assembly's to say; nothing at all is always a problem."""
    assert problems() == ["there is no frame"]
    assert problems({}) == []
