"""Training pictures: whatever lies in the folder, the good ones are found and the others are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stackd.disk import gallery as gallery_room
from stackd.disk.gallery import find_pictures, read_picture, survey
from stackd.errors import ConfigError, SetError


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, np.uint8)


def test_pictures_are_found_by_suffix_in_order(tmp_path: Path, rng: np.random.Generator) -> None:
    """Any depth, any case; hidden and foreign files not."""
    for name in ("b.JPG", "a/c.png", "a/.hidden.png", ".cache/d.png"):
        save(tmp_path / name, noise(rng, 8, 8))
    (tmp_path / "README.md").write_text("no picture")

    assert [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path)] == ["a/c.png", "b.JPG"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    """The message names the folder."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=str(folder)):
            find_pictures(folder)


def test_what_cannot_be_used_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    """One bad file never stops a training; each is told with its reason."""
    good = save(tmp_path / "a.png", noise(rng, 100, 120, 3))
    (tmp_path / "b-copy.png").write_bytes(good.read_bytes())
    save(tmp_path / "c-tiny.png", noise(rng, 95, 300, 3))
    (tmp_path / "d-half.png").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "e-text.jpg").write_text("not a picture")
    (tmp_path / "f-empty.png").touch()
    save(tmp_path / "g-chart.png", np.kron(np.eye(10, dtype=np.uint8), np.full((12, 12), 200, np.uint8)))

    gallery = survey(find_pictures(tmp_path))

    assert gallery.paths == (good,)
    reasons = {left.path.name: left.reason for left in gallery.left_out}
    assert list(reasons) == ["b-copy.png", "c-tiny.png", "d-half.png", "e-text.jpg", "f-empty.png", "g-chart.png"]
    assert "the same picture as" in reasons["b-copy.png"]
    assert "drawn" in reasons["g-chart.png"]
    assert "300 x 95" in reasons["c-tiny.png"]
    assert all("cannot be read" in reasons[name] for name in ("d-half.png", "e-text.jpg", "f-empty.png"))


def test_of_copies_the_largest_stays(tmp_path: Path, rng: np.random.Generator) -> None:
    """A smaller, recompressed copy goes, though its name comes first: it would be on both sides of the split."""
    small = Image.fromarray(noise(rng, 9, 12, 3))
    small.resize((240, 180)).save(tmp_path / "a-small.jpg", quality=70)
    small.resize((480, 360)).save(tmp_path / "b-large.png")

    gallery = survey(find_pictures(tmp_path))

    assert gallery.paths == (tmp_path / "b-large.png",)
    assert [left.path.name for left in gallery.left_out] == ["a-small.jpg"]
    assert "b-large.png" in gallery.left_out[0].reason


@pytest.mark.parametrize("scale", [255, 65535])
def test_grey_pictures_fill_three_bands(tmp_path: Path, scale: int) -> None:
    """8 and 16 bit alike: full scale is 1, half of it 0.5."""
    pixels = np.full((4, 6), scale // 2, np.uint8 if scale == 255 else np.uint16)
    pixels[0, 0] = scale

    picture = read_picture(save(tmp_path / "grey.png", pixels))

    assert picture.shape == (4, 6, 3)
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture[0, 0], 1)
    np.testing.assert_allclose(picture[1:], 0.5, atol=1 / scale)


def test_colours_keep_their_order_and_transparency_is_black(tmp_path: Path) -> None:
    """R G B, and nothing shines through what is transparent."""
    pixels = np.zeros((2, 1, 4), np.uint8)
    pixels[0, 0] = [255, 51, 0, 255]
    pixels[1, 0] = [255, 255, 255, 0]

    picture = read_picture(save(tmp_path / "rgba.png", pixels))

    np.testing.assert_allclose(picture[:, 0], [[1, 0.2, 0], [0, 0, 0]])


def test_pictures_stand_upright(tmp_path: Path, rng: np.random.Generator) -> None:
    """A camera's note that it was turned is obeyed."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright

    assert read_picture(save(tmp_path / "turned.png", noise(rng, 10, 30, 3), exif=exif)).shape == (30, 10, 3)


@pytest.mark.parametrize(("at", "byte"), [(17, 0), (43, 1)])
def test_a_camera_s_damaged_note_costs_its_picture_alone(tmp_path: Path, at: int, byte: int) -> None:
    """Pillow then raises what no list of errors holds (struct.error, TypeError); the survey goes on."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "a camera", 72.0
    path = save(tmp_path / "noted.jpg", np.full((20, 30, 3), 90, np.uint8), exif=exif)
    content = bytearray(path.read_bytes())
    content[content.index(b"Exif") + at] = byte
    path.write_bytes(content)

    with pytest.raises(SetError, match=r"noted\.jpg.*cannot be read"):
        read_picture(path)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, rng: np.random.Generator, wrong: float) -> None:
    """One of them would make all of the picture none, and it would hide copies of others."""
    pixels = rng.random((120, 130)).astype(np.float32)
    pixels[3, 4] = wrong
    save(tmp_path / "wrong.tif", pixels)

    left_out = survey(find_pictures(tmp_path)).left_out

    assert "no numbers" in left_out[0].reason


@pytest.mark.parametrize("name", ["giant.jpg", "giant.png", "giant.tif"])
def test_giants_come_shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By whole pixels and without a change of their light."""
    monkeypatch.setattr(gallery_room, "ENOUGH_PX", 50)
    light = np.linspace(0, 1, 208)[:, None] * np.ones(304)
    pixels = (light * 65535).astype(np.uint16) if name.endswith("tif") else (light * 255).astype(np.uint8)

    picture = read_picture(save(tmp_path / name, pixels))

    assert picture.shape == (52, 76, 3)
    np.testing.assert_allclose(picture[:, 40, 0], light.reshape(52, 4, 304).mean((1, 2)), atol=0.01)


def test_a_missing_picture_names_itself(tmp_path: Path) -> None:
    with pytest.raises(SetError, match=r"gone\.png"):
        read_picture(tmp_path / "gone.png")
