"""What reading promises: values as the file means them, one verdict for every broken file, the name in each error."""

import errno
import gzip
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image

from stackd.disk import pictures
from stackd.disk.frame import Frame
from stackd.disk.inbox import Unfinished
from stackd.disk.reader import read_facts, read_frame
from stackd.errors import SetError
from stackd.records import FrameFacts

WriteFits = Callable[..., Path]
MAX_PIXELS, MAX_BYTES = 10**6, 10**7


@pytest.fixture
def sky(rng: np.random.Generator) -> NDArray[np.uint16]:
    """A noisy sky of 24x32 px with one star."""
    pixels = rng.normal(1000, 20, (24, 32))
    pixels[10, 12] += 3000
    return pixels.astype(np.uint16)


@pytest.fixture
def write_fits(tmp_path: Path, sky: NDArray[np.uint16]) -> WriteFits:
    """write_fits(name, pixels=sky, **cards) -> path; written by astropy, another hand than the reader's."""

    def write(name: str = "light.fits", pixels: NDArray[Any] = sky, **cards: object) -> Path:
        path = tmp_path / name
        header = fits.Header([(key.replace("_", "-"), value) for key, value in cards.items()])
        fits.PrimaryHDU(pixels, header).writeto(path)
        return path

    return write


def facts_of(path: Path) -> FrameFacts:
    return read_facts(path, MAX_PIXELS, MAX_BYTES)


def frame_of(path: Path) -> Frame:
    return read_frame(path, MAX_PIXELS, MAX_BYTES)


# FITS: values


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".fit", ".FITS", ".fts"])
def test_every_sample_type_comes_back_as_it_was(write_fits: WriteFits, kind: str, suffix: str) -> None:
    """Unsigned types hide behind BZERO; the reader says what was meant."""
    pixels = (np.arange(24 * 32) % 250).reshape(24, 32).astype(kind)
    path = write_fits("light" + suffix, pixels)

    frame = frame_of(path)

    assert frame.facts.sample_type == kind
    assert frame.facts == facts_of(path)
    assert frame.pixels.dtype == np.float32
    np.testing.assert_array_equal(frame.pixels, pixels.astype(np.float32))


def test_sixteen_bit_extremes_survive(write_fits: WriteFits) -> None:
    """0 and 65535 neither wrap nor clip."""
    pixels = np.array([[0, 1], [32768, 65535]], np.uint16)

    np.testing.assert_array_equal(frame_of(write_fits(pixels=pixels)).pixels, pixels)


def test_three_planes_are_bands_first(write_fits: WriteFits, rng: np.random.Generator) -> None:
    """A colour cube is (3, H, W), as its planes lie in the file; a Bayer card left on it means nothing."""
    pixels = rng.random((3, 20, 30)).astype(np.float32)

    frame = frame_of(write_fits(pixels=pixels, BAYERPAT="RGGB"))

    assert (frame.facts.bands, frame.facts.height_px, frame.facts.width_px) == (3, 20, 30)
    assert frame.facts.bayer is None
    np.testing.assert_array_equal(frame.pixels, pixels)


def test_scale_blank_and_infinity_are_applied(write_fits: WriteFits) -> None:
    """Where the file has no value the frame has NaN."""
    path = write_fits(pixels=np.array([[1, 2], [3, -9]], np.int16), BLANK=-9, GAIN=0.5)
    path.write_bytes(path.read_bytes().replace(b"GAIN    =", b"BSCALE  ="))

    np.testing.assert_array_equal(frame_of(path).pixels, [[0.5, 1], [1.5, np.nan]])
    floats = write_fits("float.fits", np.array([[1, 2], [np.inf, np.nan]], np.float32))
    np.testing.assert_array_equal(frame_of(floats).pixels, [[1, 2], [np.nan, np.nan]])


def test_a_frame_keeps_its_cards_path_and_digest(write_fits: WriteFits) -> None:
    """The result's header is made from the reference frame's own cards."""
    path = write_fits(OBJECT="M31")

    frame = frame_of(path)

    assert frame.path == str(path)
    assert len(frame.sha256) == 64
    assert any(card.startswith("OBJECT  = 'M31") for card in frame.cards)
    assert fits.Header.fromstring("".join(frame.cards))["NAXIS1"] == 32


def test_an_image_in_the_first_extension_is_read(tmp_path: Path, sky: NDArray[np.uint16]) -> None:
    """Some programs leave the primary unit empty."""
    primary = fits.PrimaryHDU(header=fits.Header([("OBJECT", "M31")]))
    fits.HDUList([primary, fits.ImageHDU(sky)]).writeto(tmp_path / "a.fits")

    frame = frame_of(tmp_path / "a.fits")

    assert frame.facts.target == "M31"
    np.testing.assert_array_equal(frame.pixels, sky)


# FITS: meanings


def test_facts_come_from_any_program_s_cards(write_fits: WriteFits) -> None:
    """Siril's aliases; quotes and blanks trimmed."""
    path = write_fits(
        OBJECT="  'M 31' ",
        EXPOSURE="60.0",
        FILT_1="Ha",
        INSTRUME="ASI",
        ISOSPEED=800,
        BINX=2,
        CVF=0.9,
        FRAMETYP="LIGHT",
        CCDTEMP=-9.8,
        CALSTAT="bd ",
    )

    facts = facts_of(path)

    assert (facts.target, facts.exposure_s, facts.filter) == ("M 31", 60.0, "Ha")
    assert (facts.camera, facts.gain, facts.binning, facts.electrons_per_adu) == ("ASI", 800.0, "2x2", 0.9)
    assert (facts.image_type, facts.temperature_c, facts.calibrated) == ("light", -9.8, "BD")


@pytest.mark.parametrize("said", [-10.0, 0.0, 1e300, "nan", "inf"])
def test_a_number_that_cannot_be_true_is_silent(write_fits: WriteFits, said: float | str) -> None:
    """An exposure of 1e300 s would carry every later sum out of the numbers."""
    facts = facts_of(write_fits(EXPTIME=said, EGAIN=said, XBINNING=said))

    assert (facts.exposure_s, facts.electrons_per_adu, facts.binning) == (None, None, None)


@pytest.mark.parametrize("said", ["Unknown", "", "None", "'  '"])
def test_a_card_that_says_nothing_is_silent(write_fits: WriteFits, said: str) -> None:
    """`Unknown` is no target."""
    facts = facts_of(write_fits(OBJECT=said, FILTER=said, BAYERPAT=said))

    assert (facts.target, facts.filter, facts.bayer, facts.exposure_s) == (None, None, None, None)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Light Frame", "light"),
        ("DARK", "dark"),
        ("Master Flat", "flat"),
        ("Bias Frame", "bias"),
        ("DarkFlat", "dark"),
        ("Snapshot", "light"),
    ],
)
def test_image_types_are_known_by_substring(write_fits: WriteFits, said: str, meant: str) -> None:
    """Each program spells them its own way."""
    assert facts_of(write_fits(IMAGETYP=said)).image_type == meant


@pytest.mark.parametrize(
    ("cards", "meant"),
    [
        ({"DATE_OBS": "2017-12-19T19:33:12.638-0700"}, "2017-12-20T02:33:12.638"),
        ({"DATE_OBS": "2024-01-01T00:00:00.1234567"}, "2024-01-01T00:00:00.123"),
        ({"DATE_OBS": "2024-01-01", "TIME_OBS": "01:02:03"}, "2024-01-01T01:02:03.000"),
        ({"MJD_OBS": 60310.5}, "2024-01-01T12:00:00.000"),
        ({"DATE_OBS": "yesterday"}, None),
        ({"MJD_OBS": 1e12}, None),
        ({"DATE_OBS": "0001-01-01T00:00:00+23:59"}, None),
        ({"DATE_OBS": "9999-12-31T23:59:59-23:59"}, None),
        ({"DATE_OBS": "9999-12-31T23:59:59"}, None),
    ],
)
def test_start_times_are_utc(write_fits: WriteFits, cards: dict[str, Any], meant: str | None) -> None:
    """One form for all, so that they sort."""
    assert facts_of(write_fits(**cards)).taken_at == meant


@pytest.mark.parametrize(
    ("height_px", "cards", "meant"),
    [
        (24, {}, "RGGB"),
        (24, {"XBAYROFF": 1}, "GRBG"),
        (24, {"YBAYROFF": 1}, "GBRG"),
        (24, {"BAYOFFX": 1}, "GRBG"),  # an older spelling
        (24, {"BAYOFFX": 1, "BAYOFFY": 1, "YBAYROFF": 0}, "GRBG"),
        (24, {"XBAYROFF": 1, "YBAYROFF": 3}, "BGGR"),
        (24, {"ROWORDER": "TOP-DOWN"}, "RGGB"),
        (24, {"ROWORDER": "BOTTOM-UP"}, "GBRG"),
        (23, {"ROWORDER": "BOTTOM-UP"}, "RGGB"),
        (24, {"ROWORDER": "BOTTOM-UP", "YBAYROFF": 1}, "RGGB"),
    ],
)
def test_the_pattern_is_that_of_the_array_s_first_rows(
    write_fits: WriteFits, sky: NDArray[np.uint16], height_px: int, cards: dict[str, Any], meant: str
) -> None:
    """Wrong phases turn red into blue."""
    facts = facts_of(write_fits(pixels=sky[:height_px], BAYERPAT="'rggb '", **cards))

    assert facts.bayer == meant
    assert facts.bottom_up == (cards.get("ROWORDER") == "BOTTOM-UP")


def test_an_unknown_colour_pattern_is_refused(write_fits: WriteFits) -> None:
    """A mosaic taken for grey would be worse than none."""
    with pytest.raises(SetError, match=r"light\.fits: BAYERPAT is 'CYGM'"):
        facts_of(write_fits(BAYERPAT="CYGM"))


# Saturation


@pytest.mark.parametrize(
    ("kind", "plateau", "cards", "meant"),
    [
        ("uint16", None, {}, 65535),
        ("int16", None, {}, 32767),
        ("int16", 4095, {}, 4095),
        ("uint16", 16383, {}, 16383),
        ("uint16", 2000, {}, 65535),
        ("uint8", 255, {}, 255),
        ("uint16", 16383, {"SATURATE": 60000}, 60000),
        ("float32", 0.9, {}, np.float32(0.9)),
        ("float32", None, {}, np.inf),
    ],
)
def test_saturation_is_said_seen_or_the_type_s_limit(
    write_fits: WriteFits, kind: str, plateau: float | None, cards: dict[str, Any], meant: float
) -> None:
    """A 12-bit camera in a 16-bit file saturates at 4095; five equal low pixels prove nothing."""
    pixels = np.linspace(0, 0.5 if kind == "float32" else 100, 24 * 32).reshape(24, 32).astype(kind)
    if plateau is not None:
        pixels[5, 5:10] = plateau

    assert frame_of(write_fits(pixels=pixels, **cards)).saturation_adu == meant


# Broken files


@pytest.mark.parametrize("value", [0, 77, np.nan])
def test_a_frame_without_light_is_refused(write_fits: WriteFits, value: float) -> None:
    """All pixels equal, or none a number: a capped telescope, a failed transfer."""
    path = write_fits(pixels=np.full((24, 32), value, np.float32))

    assert facts_of(path).width_px == 32
    with pytest.raises(SetError, match=r"light\.fits: (is blank|holds no number)"):
        frame_of(path)


def test_a_colour_without_a_number_is_refused(write_fits: WriteFits, rng: np.random.Generator) -> None:
    """Else the frame's luminance would hold none either, and its stars would be said to be too few."""
    planes = rng.normal(100, 5, (3, 24, 32)).astype(np.float32)
    planes[2] = np.nan

    with pytest.raises(SetError, match="no number in one of its colours"):
        frame_of(write_fits(pixels=planes))


def test_a_zero_scale_is_refused(write_fits: WriteFits) -> None:
    """BSCALE = 0 makes every frame blank."""
    path = write_fits(pixels=np.arange(768, dtype=np.int16).reshape(24, 32), GAIN=1.0)
    path.write_bytes(path.read_bytes().replace(b"GAIN    =                  1.0", b"BSCALE  =                  0.0"))

    with pytest.raises(SetError, match="BSCALE"):
        frame_of(path)


@pytest.mark.parametrize("content", [b"hello", b"just some text\n" * 300, b"\xff" * 5000, gzip.compress(b"SIMPLE  =")])
def test_what_is_no_capture_is_refused_for_good(tmp_path: Path, content: bytes) -> None:
    """Text or a compressed file named .fits will not become a frame by waiting."""
    path = tmp_path / "a.fits"
    path.write_bytes(content)

    for read in (facts_of, frame_of):
        with pytest.raises(SetError, match=r"a\.fits") as caught:
            read(path)
        assert not isinstance(caught.value, Unfinished)
        assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"SIMP", b"\x89PNG", b"\0" * 5760, b"SIMPLE  =                    T / FITS"])
def test_what_may_still_become_a_capture_is_unfinished(tmp_path: Path, content: bytes) -> None:
    """Empty, begun, or allocated ahead by a file server."""
    path = tmp_path / "a.fits"
    path.write_bytes(content)

    with pytest.raises(Unfinished, match=r"a\.fits"):
        facts_of(path)


def encoded(kind: str, pixels: NDArray[Any]) -> bytes:
    buffer = BytesIO()
    if kind == "tif":
        tifffile.imwrite(buffer, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    elif kind == "fits":
        fits.PrimaryHDU(pixels).writeto(buffer)
    else:
        Image.fromarray(pixels).save(buffer, "PNG" if kind == "png" else "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["fits", "png", "jpg", "tif"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.8])
def test_half_a_file_is_unfinished_in_every_format(
    tmp_path: Path, rng: np.random.Generator, kind: str, part: float
) -> None:
    """It may be growing: never a frame, and never condemned at once."""
    content = encoded(kind, rng.integers(0, 255, (120, 100), np.uint8))
    path = tmp_path / f"half.{kind}"
    path.write_bytes(content[: int(len(content) * part)])

    for read in (facts_of, frame_of):
        with pytest.raises(Unfinished, match=r"half\."):
            read(path)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_a_damaged_picture_gives_a_verdict(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    """Whatever bytes are wrong: a frame or a SetError, never another exception."""
    content = encoded(kind, rng.integers(0, 255, (40, 30, 3), np.uint8))
    path = tmp_path / f"a.{kind}"
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        start = int(rng.integers(4, len(content) if rng.random() < 0.5 else 200))
        damaged[start : start + 4] = rng.bytes(4)
        path.write_bytes(damaged)
        try:
            frame_of(path)
        except SetError:
            refused += 1

    assert refused > 0


@pytest.mark.parametrize("kind", ["fits", "png", "jpg", "tif"])
def test_too_many_pixels_are_refused_before_unpacking(tmp_path: Path, kind: str) -> None:
    """A small file of a giant picture costs nothing."""
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(kind, np.zeros((120, 100), np.uint8)))

    for limit in (11_999, 5_000):
        with pytest.raises(SetError, match="max_pixels"):
            read_facts(path, limit, MAX_BYTES)
    assert read_facts(path, 12_000, MAX_BYTES).height_px == 120


def test_a_bomb_is_refused_and_a_growing_giant_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What unpacks to a thousand times its size is no frame; half of a large file may still be growing."""
    monkeypatch.setattr(pictures, "_BOMB_BYTES", 10**6)
    path = tmp_path / "a.png"
    content = imagecodecs.png_encode(np.zeros((1_000, 1_000), np.uint16))
    path.write_bytes(content)
    with pytest.raises(SetError, match="would unpack") as caught:
        facts_of(path)
    assert not isinstance(caught.value, Unfinished)

    path.write_bytes(content[:-100])

    with pytest.raises(Unfinished):
        facts_of(path)


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """Pillow would give the damaged rows as they are."""
    path = tmp_path / "a.png"
    content = bytearray(encoded("png", rng.integers(0, 255, (40, 30), np.uint8)))
    content[600] ^= 1
    path.write_bytes(content)

    with pytest.raises(SetError, match="checksum"):
        frame_of(path)


def test_what_the_disk_says_is_not_the_file_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input error may pass: it reaches the worker as it is, and the set is tried again."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("jpg", np.zeros((40, 30), np.uint8)))

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Image, "open", fail)

    with pytest.raises(OSError, match="input/output"):
        facts_of(path)


def test_too_little_memory_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be either the file or the limit: both are named."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("jpg", np.zeros((40, 30), np.uint8)))

    def fail(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)

    with pytest.raises(SetError, match="does not fit into the memory") as caught:
        facts_of(path)
    assert "limits.memory_mb" in caught.value.remedy


def test_a_decoder_s_words_are_made_printable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may repeat what stands in the file, and end in logs and on terminals."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("jpg", np.zeros((40, 30), np.uint8)))

    def fail(*args: object, **options: object) -> None:
        raise ValueError("\x1b[2J\u202e" + "x" * 10_000)

    monkeypatch.setattr(Image, "open", fail)

    with pytest.raises(SetError) as caught:
        facts_of(path)
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 300


# Pictures


def test_png_of_every_kind(tmp_path: Path, rng: np.random.Generator) -> None:
    """8 and 16 bit, grey, RGB and RGBA; alpha is dropped, nothing is rescaled."""
    for bits, planes in [(8, 1), (8, 2), (8, 3), (8, 4), (16, 1), (16, 2), (16, 3), (16, 4)]:
        kind = f"uint{bits}"
        pixels = rng.integers(0, 2**bits, (21, 17, planes)).astype(kind)
        path = tmp_path / f"a{bits}{planes}.png"
        path.write_bytes(imagecodecs.png_encode(pixels if planes > 1 else pixels[..., 0]))

        frame = frame_of(path)

        meant = np.moveaxis(pixels[..., :3], -1, 0) if planes > 2 else pixels[..., 0]
        np.testing.assert_array_equal(frame.pixels, meant)
        assert frame.facts == facts_of(path)
        assert (frame.facts.sample_type, frame.facts.width_px, frame.facts.height_px) == (kind, 17, 21)


def test_tiff_of_every_kind(tmp_path: Path, rng: np.random.Generator) -> None:
    """8 and 16 bit and float; grey, RGB and RGBA; planes apart or together; packed or not."""
    for kind in ("uint8", "uint16", "float32"):
        for planes, layout, packing in [
            (1, "contig", None),
            (3, "contig", "lzw"),
            (4, "contig", None),
            (3, "separate", "zlib"),
        ]:
            pixels = (rng.random((3, 21, 17)) * 200).astype(kind)
            pixels = np.concatenate([pixels, pixels[:1]])[:planes]
            stored = pixels[0] if planes == 1 else pixels if layout == "separate" else np.moveaxis(pixels, 0, -1)
            path = tmp_path / f"{kind}{planes}{layout}.tif"
            options = {} if planes == 1 else {"planarconfig": layout}
            if planes == 4:
                options["extrasamples"] = ["unassalpha"]
            photometric = "minisblack" if planes == 1 else "rgb"
            tifffile.imwrite(path, stored, photometric=photometric, compression=packing, **options)

            frame = frame_of(path)

            np.testing.assert_array_equal(frame.pixels, pixels[0] if planes == 1 else pixels[:3])
            assert frame.facts == facts_of(path)
            assert frame.facts.sample_type == kind


def test_jpeg_grey_and_colour(tmp_path: Path, rng: np.random.Generator) -> None:
    """JPEG is lossy, its shape is not."""
    for mode, shape in (("L", (21, 17)), ("RGB", (3, 21, 17))):
        path = tmp_path / f"{mode}.jpg"
        Image.fromarray(rng.integers(0, 255, (21, 17, 3), np.uint8)).convert(mode).save(path)

        assert frame_of(path).pixels.shape == shape
        assert facts_of(path).bands == len(mode)


def test_three_equal_planes_are_mono(tmp_path: Path, sky: NDArray[np.uint16]) -> None:
    """A grey picture saved as RGB is restored as what it is."""
    grey = (sky // 20).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")

    frame = frame_of(tmp_path / "grey.png")

    assert frame.facts.bands == 1
    np.testing.assert_array_equal(frame.pixels, grey)


def test_the_content_decides_not_the_name(tmp_path: Path, sky: NDArray[np.uint16]) -> None:
    """A JPEG that somebody renamed is still read as one."""
    Image.fromarray((sky // 20).astype(np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")

    assert facts_of(tmp_path / "a.png").width_px == 32


def test_a_tiff_of_several_frames_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """Which of them would be the frame?"""
    tifffile.imwrite(tmp_path / "a.tif", rng.integers(0, 255, (5, 20, 30), np.uint8), photometric="minisblack")

    with pytest.raises(SetError, match="holds several pictures"):
        facts_of(tmp_path / "a.tif")
