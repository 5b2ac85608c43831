"""The report is one safe page that loads nothing and says what matters."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from stackd.disk.figures import comparisons_of, duration, headline_of, label, measures_of, moment, number, span
from stackd.disk.report import render_report
from stackd.disk.writer import Product, describe, find_scale, write_result
from stackd.imaging.preview import find_stretch

Make = Callable[..., Product]
VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Tags in order, addresses loaded, text seen; complains about tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.sources, self.text, self._open = [], [], "", []
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attributes if key in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def render(product: Product) -> str:
    stretch = find_stretch(product.stack)
    return render_report(product, describe(product, stretch, find_scale(product.restored)), stretch)


@pytest.mark.parametrize("bands", [1, 3])
def test_page_is_whole_and_loads_nothing(make_product: Make, bands: int) -> None:
    """Every picture is inside the page; it can be mailed or archived as one file."""
    html = render(make_product(bands))

    page = Page(html)

    assert len([source for source in page.sources if source.startswith("data:image/")]) == 8
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", html)


def test_page_tells_the_story(make_product: Make) -> None:
    """Frames used and left out with the reason, figures with unit, model, history, warnings."""
    text = Page(render(make_product(warnings=["the sky was bright"]))).text
    for expected in (
        "M31", "2 of 3 frames", "12.0 s each, 24.0 s", "the sky was bright", "light_1.fit", "trailed", "left out",
        "Noise", "9.00", "Flux change", "0.00200", "default", "0123456789ab", "hot pixels mended: 12", "Uncertainty",
    ):  # fmt: skip
        assert expected in text, expected


def test_text_from_files_is_escaped_everywhere(make_product: Make) -> None:
    """A header cannot bring a script into somebody's browser."""
    evil = "\"><script>alert('x')</script><img src=x onerror=y>"
    product = make_product()
    frames = [frame | {"file": evil, "reason": evil, "taken_at": evil} for frame in product.frames]
    model = {"name": evil, "version": evil, "sha256": evil}
    told = {"history": [evil], "warnings": [evil], "figures": {evil: evil, "group": {evil: 1.0}}}
    names = {"set_name": evil, "reference_name": evil, "config_sha256": evil, "finished_at": evil}
    page = render(make_product(frames=frames, model=model, **told, **names))
    assert Page(page).tags.count("script") == 1
    assert "<img src=x" not in page


def test_before_and_after_share_one_size_and_stay_small(make_product: Make, tmp_path: Path) -> None:
    """Pure noise is the worst a JPEG can meet; the page still stays below 5 MB."""
    rng = np.random.default_rng(3)
    noisy = {name: rng.normal(0, 10, (3, 1000, 1700)).astype(np.float32) for name in ("restored", "stack", "single")}
    write_result(tmp_path, make_product(3, sigma=np.ones((3, 1000, 1700), np.float32), **noisy))

    html = (tmp_path / "report.html").read_text("utf-8")

    assert len(html) < 5_000_000
    jpegs = [base64.b64decode(part) for part in re.findall(r"data:image/jpeg;base64,([^\"]+)", html)]
    shapes = {cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape for jpeg in jpegs[:3]}
    assert all(max(shape) <= 1600 for shape in shapes)


def test_plain_stack_alone_is_called_so(make_product: Make) -> None:
    """No network, no claim of one, and no map of changes that do not exist."""
    product = make_product(model=None)
    text = Page(render(make_product(model=None, restored=product.stack, stack=product.stack))).text
    assert "No network was used" in text and "Restored minus plain stack" not in text


def test_frame_rows_may_say_little(make_product: Make) -> None:
    """Pictures without a header have no times and no exposures."""
    text = Page(render(make_product(frames=[{"file": "1.png", "used": True}, {"file": "2.png"}]))).text
    assert "1.png" in text and "1 of 2 frames" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (float("nan"), "–"), (0.0, "0"), (-0.0, "0"), (412, "412"), (12345, "12\u202f345"), (2.1, "2.10"),
        (0.00213, "0.00213"), (-3.14159, "\u22123.14"), (48211.7, "48\u202f212"), (True, "yes"), ("stars", "stars"),
        ([1.5, -2.0], "1.50, \u22122.00"), ([], "–"), (1e-12, "0.000000"),
    ],
)  # fmt: skip
def test_numbers_are_rounded_for_reading(value: object, text: str) -> None:
    """Three significant digits, never an exponent."""
    assert number(value) == text


def test_labels_take_the_unit_from_the_name() -> None:
    """A new figure needs no line in the report."""
    assert label("stack_fwhm_px") == ("Stack FWHM", "px")
    assert label("s") == ("S", "")
    assert label("stars") == ("Stars", "")


def test_comparisons_and_measures_share_the_figures_between_them() -> None:
    """Nothing is shown twice and nothing is lost."""
    figures = {"noise_adu": {"single": 9.0, "restored": 1.0}, "flux": {"scatter_mag": 0.01}, "stars": 40}
    assert comparisons_of(figures) == [{"label": "Noise", "unit": "ADU", "values": ["9.00", "–", "1.00"]}]
    assert measures_of(figures) == [
        {"label": "Flux: scatter", "value": "0.0100", "unit": "mag"},
        {"label": "Stars", "value": "40", "unit": ""},
    ]


def test_times_are_said_in_words() -> None:
    """Seconds, minutes, hours; what is no time is shown as it is."""
    assert (duration(48), duration(480), duration(9600)) == ("48.0 s", "8 min", "2 h 40 min")
    assert moment("2026-11-22T20:05:00.250") == "2026-11-22 20:05:00 UTC"
    assert (moment("soon"), moment(None)) == ("soon", "–")
    assert span("2026-11-22T21:30:00", "2026-11-22T21:32:00") == "2 min"
    assert span("", "x") == "–"


def test_headline_names_unlike_exposures_only_in_sum() -> None:
    """60 and 120 s frames are not "60 s each"."""
    inputs = [{"used": True, "exposure_s": 60.0}, {"used": True, "exposure_s": 120.0}]
    content = {"inputs": inputs, "size": {"width_px": 10, "height_px": 5, "bands": 3}}
    assert headline_of(content) == ["2 of 2 frames", "3 min", "10 × 5 px, colour"]


def test_what_calibrated_the_set_and_what_did_not_is_told(make_product: Make) -> None:
    """Names of files are escaped; nothing of it without calibration frames."""
    story = {
        "used": [{"file": "darks/a.fits", "sha256": "0"}],
        "left_out": ["darks/<b>.fits and 1 more: its gain is 0, the lights' 100", "flats/f.fits: is overexposed"],
    }

    page = Page(render(make_product(calibration=story)))

    text = re.sub(r"\s+", " ", page.text)
    assert "1 used. Not used:" in text
    assert "darks/<b>.fits and 1 more: its gain is 0, the lights' 100" in text
    assert "flats/f.fits: is overexposed" in text
    assert "Darks, flats" not in Page(render(make_product())).text
