"""What belongs together: order, groups and names, as a person would have put them."""

import pytest

from stackd.jobs.grouping import (
    FrameOf,
    common_stem,
    folder_name,
    in_order,
    loose_groups,
    loose_name,
    name_shape,
    natural_key,
    safe_name,
)
from stackd.records import FrameFacts, Sighting


def frame(path: str, **said: object) -> FrameOf:
    return Sighting(path, 100, 1, 1), FrameFacts(64, 48, 1, "uint16", **said)  # type: ignore[arg-type]


def paths(frames: list[FrameOf]) -> list[str]:
    return [sighting.path for sighting, _ in frames]


def test_numbers_in_names_count_as_numbers() -> None:
    """2.png comes before 10.png."""
    names = ["10.png", "9.png", "1.png", "a10b2.png", "a9b10.png", "A2.png"]

    assert sorted(names, key=natural_key) == ["1.png", "9.png", "10.png", "A2.png", "a9b10.png", "a10b2.png"]


def test_time_orders_frames_where_every_frame_has_one() -> None:
    """Otherwise the names do; half an order in time would be no order."""
    late, early = frame("1.fits", taken_at="2024-01-01T02"), frame("2.fits", taken_at="2024-01-01T01")

    assert paths(in_order([late, early])) == ["2.fits", "1.fits"]
    assert paths(in_order([late, early, frame("0.fits")])) == ["0.fits", "1.fits", "2.fits"]


@pytest.mark.parametrize(
    "difference",
    [
        {"target": "M33"},
        {"filter": "B"},
        {"gain": 2.0},
        {"binning": "2x2"},
        {"camera": "B"},
        {"bayer": "RGGB"},
        {"exposure_s": 61.3},
        {"exposure_s": None},
    ],
)
def test_frames_that_differ_in_what_makes_a_set_are_apart(difference: dict[str, object]) -> None:
    """Each of these alone separates."""
    said = {"target": "M 31", "filter": "R", "gain": 1.0, "binning": "1x1", "camera": "A", "exposure_s": 60.0}

    groups = loose_groups([frame("1.fits", **said), frame("2.fits", **(said | difference))], 0.02)

    assert sorted(map(paths, groups)) == [["1.fits"], ["2.fits"]]


def test_spelling_and_a_hair_of_exposure_do_not_separate() -> None:
    """M31 and m_31 are one target; 300, 300.1 and 300.2 s one exposure."""
    frames = [
        frame("1.fits", target="M 31", exposure_s=300.0),
        frame("2.fits", target="m_31", exposure_s=300.2),
        frame("3.fits", target="M31", exposure_s=300.1),
    ]

    assert len(loose_groups(frames, 0.02)) == 1


def test_bursts_without_headers_are_told_apart_by_their_names() -> None:
    """moon1.png and sun1.png are two bursts; 1.png and 2.png, or names without numbers, one."""
    bursts = [frame(name) for name in ("moon1.png", "sun1.png", "moon2.png")]

    assert sorted(map(paths, loose_groups(bursts, 0.02))) == [["moon1.png", "moon2.png"], ["sun1.png"]]
    assert len(loose_groups([frame("1.png"), frame("12.png")], 0.02)) == 1
    assert len(loose_groups([frame("first.png"), frame("second.png")], 0.02)) == 1
    assert name_shape("IMG_0042.png") == name_shape("img_7.PNG")


def test_names_of_loose_sets() -> None:
    """Target, filter, exposure and first start; else what the files are called; else their size."""
    said = {"target": "HAT-P 32", "filter": "Clear", "exposure_s": 60.0, "taken_at": "2017-12-20T02:33:12.638"}

    assert loose_name([frame("1.fits", **said)]) == "HAT-P-32_Clear_60s_20171220-023312"
    assert loose_name([frame("gray-star2.png"), frame("gray-star10.png")]) == "gray-star"
    assert loose_name([frame("1.png"), frame("2.png")]) == "frames_64x48"
    assert loose_name([frame("1.png", target="../../etc/x", exposure_s=0.5)]) == "etc-x_0.5s"


def test_no_text_becomes_a_dangerous_folder_name() -> None:
    """No separators, no leading dots, never too long for a revision's suffix."""
    for text in ("../up", "/abs", ".stackd-tmp", "a\nb", "\u202egnp", "-rf", "x" * 300, "..."):
        name = safe_name(text)
        assert "/" not in name
        assert not name.startswith((".", "-"))
        assert name.isascii()
        assert name.isprintable()
        assert len(name) <= 120
    assert folder_name("M 31 (Größe)") == "M 31 (Größe)"
    assert len(folder_name("é" * 100).encode()) <= 120
    assert folder_name("星" * 60) == folder_name("星" * 60) != folder_name("月" * 60) != ""  # never no name at all
    assert common_stem(["a1.png", "b1.png"]) == ""
