"""A result's files hold the pixels and the story, whatever the reference frame's header looked like."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackd.disk.headers import plain_text, quiet_fits, result_header
from stackd.disk.writer import Product, plain_values, write_result
from stackd.errors import OutputError

Make = Callable[..., Product]


@pytest.mark.parametrize("bands", [1, 3])
def test_fits_files_hold_the_pixels_as_they_are(tmp_path: Path, make_product: Make, bands: int) -> None:
    """float32, linear, same order of rows and bands, NaN where nothing was seen, valid FITS."""
    product = make_product(bands)

    write_result(tmp_path, product)

    for name in ("restored", "stack", "sigma"):
        with fits.open(tmp_path / f"{name}.fits") as file:
            file.verify("exception")
            assert file[0].data.dtype.newbyteorder("=") == np.float32
            np.testing.assert_array_equal(file[0].data, getattr(product, name))


def test_header_keeps_the_references_cards_and_tells_what_was_done(tmp_path: Path, make_product: Make) -> None:
    """Kept: sky and capture. Gone: what described the raw file. Added: times, counts, model, history."""
    write_result(tmp_path, make_product())

    header = fits.getheader(tmp_path / "restored.fits")

    assert (header["OBJECT"], header["ROWORDER"], header["CRVAL1"]) == ("M 31", "TOP-DOWN", 10.6847)
    for keyword in ("BAYERPAT", "XBAYROFF", "YBAYROFF", "BZERO", "BSCALE", "DATAMIN", "DATAMAX", "CHECKSUM"):
        assert keyword not in header
    assert header["REFFRAME"] == "light_0.fit"
    assert (header["STACKCNT"], header["NCOMBINE"]) == (2, 2)
    assert (header["EXPTIME"], header["LIVETIME"], header["TOTALEXP"]) == (12, 24, 24)
    assert header["DATE-OBS"] == "2026-11-22T20:05:00.000"
    assert header["DATE-AVG"] == "2026-11-22T20:06:06.000"
    assert header["DATE-END"] == "2026-11-22T20:07:12.000"
    assert header["MJD-OBS"] == pytest.approx(61366.8368056, abs=1e-6)
    assert header["EXPSTART"] == pytest.approx(2461367.3368056, abs=1e-6)
    assert header["PROGRAM"].startswith("stackd")
    assert header["MODEL"] == "default@20261122T213000Z-0123456789ab"
    assert len(header["MODELSHA"]) == 64
    assert header["PSFFWHM"] == 2.0
    assert header["HISTORY"][0] == "taken with care"
    assert "hot pixels mended: 12" in list(header["HISTORY"])
    assert "a clear night" in list(header["COMMENT"])


def test_times_come_from_the_frames_not_from_the_reference(tmp_path: Path, make_product: Make) -> None:
    """A reference from the middle of the night does not make the set begin there."""
    product = make_product()
    later = [frame | {"taken_at": frame["taken_at"].replace("T20", "T19")} for frame in product.frames]
    write_result(tmp_path, make_product(frames=later))
    header = fits.getheader(tmp_path / "stack.fits")
    assert header["DATE-OBS"] == "2026-11-22T19:05:00.000"
    assert header["MJD-OBS"] == pytest.approx(61366.8368056 - 1 / 24, abs=1e-6)


def test_nothing_of_the_reference_contradicts_the_set(tmp_path: Path, make_product: Make) -> None:
    """Its own start, its own middle, the levels at which it was full or shown."""
    stale = {
        "DATE-BEG": "'2026-11-22T20:06:00'", "DATE-LOC": "'2026-11-22T21:06:00'", "TIME-OBS": "'20:06:00'",
        "UT": "'20:06:00'", "MJD-AVG": "61366.8", "JD": "2461367.3", "SATURATE": "65535", "CWHITE": "2000",
    }  # fmt: skip
    cards = tuple(f"{name:8}= {value}".ljust(80) for name, value in stale.items())
    product = make_product()

    write_result(tmp_path, make_product(reference_cards=product.reference_cards + cards))

    header = fits.getheader(tmp_path / "stack.fits")
    assert not set(stale) & set(header)
    assert header["OBJECT"] == "M 31"


@pytest.mark.parametrize("bands", [1, 3])
def test_sky_coordinates_hold_for_the_result(tmp_path: Path, make_product: Make, bands: int) -> None:
    """The plate solution of the reference is that of the result, in colour too."""
    write_result(tmp_path, make_product(bands))
    sky = WCS(fits.getheader(tmp_path / "restored.fits"), naxis=2)
    assert sky.wcs_pix2world([[31.5, 23.5]], 0)[0] == pytest.approx([10.6847, 41.2690])


def test_colour_planes_are_named(tmp_path: Path, make_product: Make) -> None:
    """RGB on the third axis where no plate solution could be disturbed."""
    plain = tuple(c for c in make_product().reference_cards if not c.startswith(("CTYPE", "CRVAL", "CRPIX", "CD")))
    write_result(tmp_path, make_product(3, reference_cards=plain))
    header = fits.getheader(tmp_path / "restored.fits")
    assert (header["NAXIS3"], header["CTYPE3"]) == (3, "RGB")


def test_frames_that_tell_neither_time_nor_exposure_make_no_times_up(tmp_path: Path, make_product: Make) -> None:
    """Pictures have no header; what nobody knows is left out."""
    frames = [{"file": f"{k}.png", "sha256": "0" * 64, "used": True} for k in range(2)]
    write_result(tmp_path, make_product(frames=frames, reference_cards=(), picture_input=True, model=None))
    header = fits.getheader(tmp_path / "restored.fits")
    assert header["STACKCNT"] == 2 and header["MODEL"] == "none"
    assert not {"EXPTIME", "LIVETIME", "DATE-OBS", "DATE-AVG"} & set(header)


ODD_CARDS = [
    "OBJECT  = 'Sonne \x07 Größe é ☄'",
    "EXPTIME = twelve",
    "lowercase= 5",
    "FILTER  = 'never closed",
    "GAIN    =",
    "A B C   = 3",
    "TOOLONG9= 'x'",
    "NAN     =                  nan",
    "\x00" * 80,
    "",
    "=",
    "HIERARCH ESO DET WIN1 = 5 / fine",
    "CONTINUE  'lost'",
    "LONGSTR = '" + "a" * 66 + "&'",
    "CONTINUE  '" + "b" * 60 + "' / joined",
    "WCSAXES = 'two'",
    "END",
]


def test_no_card_of_the_reference_makes_a_result_fail(tmp_path: Path, make_product: Make) -> None:
    """Broken, foreign and binary cards are mended, kept as a comment or dropped."""
    cards = tuple(text[:80].ljust(80) for text in ODD_CARDS)

    write_result(tmp_path, make_product(reference_cards=cards))

    with fits.open(tmp_path / "restored.fits") as file:
        file.verify("exception")
        header = file[0].header
        assert header["LONGSTR"] == "a" * 66 + "b" * 60
        assert header["ESO DET WIN1"] == 5
        assert header["STACKCNT"] == 2
        assert header["EXPTIME"] == 12


def test_names_of_any_length_and_alphabet_are_written(tmp_path: Path, make_product: Make) -> None:
    """File names and history come from users."""
    name = "Андромеда – " + "very long name " * 20 + ".fit"
    write_result(tmp_path, make_product(reference_name=name, history=["step\none \x1b[31m é " + "x" * 300]))
    header = fits.getheader(tmp_path / "restored.fits")
    assert header["REFFRAME"] == plain_text(name)
    assert header["REFFRAME"].isascii() and "very long name" in header["REFFRAME"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cards=st.lists(st.text(max_size=90), max_size=6), tail=st.text(max_size=70))
def test_any_text_in_a_header_can_be_written_again(cards: list[str], tail: str) -> None:
    """The same for whatever a generator of texts comes up with."""
    cards = [*cards, f"KEYWORD = {tail}", f"STRING  = '{tail}", f"NUMBER  = 1{tail}"]
    header = result_header(cards, False, [], {"REFFRAME": (tail, "a name")}, [tail])
    with quiet_fits():  # as the writer does: beside a long value a comment is cut short
        header.tostring()


def test_tiff_says_what_its_numbers_mean(tmp_path: Path, make_product: Make) -> None:
    """16 bit, linear, nothing cut off: the ADU come back to half a step, unseen pixels are 0."""
    product = make_product()

    scale = write_result(tmp_path, product)["sixteen_bit"]

    with tifffile.TiffFile(tmp_path / "restored.tif") as file:
        numbers = file.asarray()
        description = file.pages[0].description
    assert numbers.dtype == np.uint16
    seen = np.isfinite(product.restored)
    assert (numbers[~seen] == scale["unseen"]).all()
    back = scale["zero_adu"] + scale["scale_adu"] * numbers[seen]
    assert np.abs(back - product.restored[seen]).max() <= 0.51 * scale["scale_adu"] + 1e-3
    assert json.loads(description.splitlines()[1])["scale_adu"] == scale["scale_adu"]
    assert "ADU above sky" in description and "OBJECT  = 'M 31" in description


def test_colour_tiff_is_rgb(tmp_path: Path, make_product: Make) -> None:
    """Band 0 is red."""
    product = make_product(3)
    product.restored[0] += 500
    write_result(tmp_path, product)
    numbers = tifffile.imread(tmp_path / "restored.tif")
    assert numbers.shape == (48, 64, 3)
    assert numbers[20:, :, 0].mean() > numbers[20:, :, 2].mean() + 1000


@pytest.mark.parametrize("bottom_up", [False, True])
def test_only_pictures_for_people_are_turned_upright(tmp_path: Path, make_product: Make, bottom_up: bool) -> None:
    """The star at array row 12 is at the top of the picture, or near its bottom for a bottom-up array."""
    write_result(tmp_path, make_product(3, bottom_up=bottom_up, picture_input=True))

    row = 47 - 12 if bottom_up else 12
    preview = cv2.imread(str(tmp_path / "preview.jpg"))
    png = cv2.imread(str(tmp_path / "restored.png"), cv2.IMREAD_UNCHANGED)
    tif = tifffile.imread(tmp_path / "restored.tif")

    assert preview.shape == (48, 64, 3) and png.dtype == np.uint16 and png.shape == (48, 64, 3)
    assert np.argmax(preview[:, 40].sum(axis=1)) == pytest.approx(row, abs=1)
    assert np.argmax(png[:, 40].astype(int).sum(axis=1)) == pytest.approx(row, abs=1)
    assert np.argmax(tif[:, 40].astype(int).sum(axis=1)) == pytest.approx(12, abs=1)


def test_result_json_is_strict_and_complete(tmp_path: Path, make_product: Make) -> None:
    """Machines read it with any parser: no NaN, no numpy; it is what write_result returns."""
    figures = {"a": np.float32(2.5), "b": np.nan, "c": np.arange(3), "d": (np.int64(1), np.bool_(True))}

    content = write_result(tmp_path, make_product(figures=figures))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads((tmp_path / "result.json").read_text("utf-8"), parse_constant=refuse)
    assert read == content
    assert read["figures"] == {"a": 2.5, "b": None, "c": [0, 1, 2], "d": [1, True]}
    assert (read["set"], read["frames_used"], read["frames_left_out"]) == ("M31", 2, 1)
    assert [frame["sha256"][0] for frame in read["inputs"]] == ["0", "1", "2"]
    assert read["inputs"][1]["reason"] == "trailed"
    assert read["model"]["sha256"] and read["config_sha256"] and read["finished_at"] > read["started_at"]


def test_all_files_of_the_contract_are_there_and_no_other(tmp_path: Path, make_product: Make) -> None:
    """restored.png only for sets of pictures; set.log is not the writer's."""
    names = {"restored.fits", "stack.fits", "sigma.fits", "restored.tif", "preview.jpg", "report.html", "result.json"}
    for folder, picture_input in (("sky", False), ("pictures", True)):
        (tmp_path / folder).mkdir()
        write_result(tmp_path / folder, make_product(picture_input=picture_input))
        assert {p.name for p in (tmp_path / folder).iterdir()} == names | ({"restored.png"} if picture_input else set())


@pytest.mark.parametrize("name", ["restored.fits", "sigma.fits", "restored.tif", "preview.jpg", "report.html"])
def test_full_disk_is_an_output_error_and_leaves_no_result_json(tmp_path: Path, make_product: Make, name: str) -> None:
    """result.json is the proof of a whole result, so it comes last or not at all."""
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OutputError, match="free some space"):
        write_result(tmp_path, make_product())
    assert not (tmp_path / "result.json").exists()


def test_vanished_staging_folder_is_an_output_error(tmp_path: Path, make_product: Make) -> None:
    """A lost mount is tried again later."""
    with pytest.raises(OutputError) as raised:
        write_result(tmp_path / "gone", make_product())
    assert raised.value.retry


def test_image_without_a_seen_pixel_is_written(tmp_path: Path, make_product: Make) -> None:
    """Frames that share no sky are somebody else's error; the writer does not fall over it."""
    nothing = np.full((48, 64), np.nan, np.float32)
    write_result(tmp_path, make_product(restored=nothing, stack=nothing, sigma=nothing, single=nothing))
    assert np.isnan(fits.getdata(tmp_path / "restored.fits")).all()


def test_values_of_other_kinds_become_text() -> None:
    """A path in the figures is no reason to fail."""
    assert plain_values({"p": Path("a/b"), 3: [float("inf")]}) == {"p": "a/b", "3": [None]}
