"""The reference is the frame that shows most."""

from stackd.imaging.reference import FrameFigures, choose_reference

GOOD = {"stars": 100, "fwhm_px": 2.5, "ellipticity": 0.1, "noise_adu": 10.0, "transparency": 1.0}


def figures(**changes):
    return FrameFigures(**{**GOOD, **changes})


def test_clouds_blur_noise_and_trails_speak_against_a_frame():
    """Each fault alone loses against a frame without it."""
    for fault in ({"transparency": 0.5}, {"fwhm_px": 4.0}, {"noise_adu": 16.0}, {"ellipticity": 0.6}, {"stars": 0}):
        assert choose_reference([figures(**fault), figures()]) == 1


def test_equals_are_told_apart_by_overlap_then_order():
    """The frame amid the drift, else the first."""
    assert choose_reference([figures(overlap=0.8), figures(overlap=0.95)]) == 1
    assert choose_reference([figures(), figures()]) == 0


def test_a_frame_without_stars_may_serve_where_none_has_any():
    """The Moon: nothing is known but the overlap."""
    bare = {"stars": 0, "fwhm_px": float("nan"), "ellipticity": float("nan"), "noise_adu": 0.0}

    assert choose_reference([figures(**bare, overlap=0.7), figures(**bare, overlap=0.9)]) == 1
