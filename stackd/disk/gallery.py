"""Clean pictures to train on: which files of a folder are usable, and one of them as an array.

Takes a folder, returns paths and (H, W, 3) arrays in 0..1; what is left out is named with its reason.
Knows nothing of training, and of captures least of all: those are read by reader.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stackd.errors import ConfigError, SetError
from stackd.imaging.screening import PRINT_PX, copy_among, print_of, why_unfit

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
SMALLEST_PX = 96  # a side shorter than a training crop teaches nothing
LARGEST_PX = 150_000_000  # beyond it decoding may take all of the memory
ENOUGH_PX = 1500  # a shorter side of twice that or more is brought near it: skies are cut from shrunk pictures anyway


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not trained on, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """The usable pictures of a folder, by path, and the files that are not."""

    paths: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]


def find_pictures(folder: Path) -> list[Path]:
    """All picture files in a folder and the folders in it, by their suffix, in order of path; hidden ones not.

    Raises ConfigError where the folder is missing or holds none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name one with clean pictures")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise ConfigError(f"{folder}: holds no picture ({', '.join(SUFFIXES)}); name a folder with clean ones")
    return found


def survey(paths: Sequence[Path]) -> Gallery:
    """Sort out what cannot be trained on: unreadable, tiny, empty or drawn pictures, and further copies of one.

    Of copies, also shrunk or recompressed ones, the largest stays. Decodes each file once and keeps none of them.
    """
    left_out: dict[Path, str] = {}
    sizes: dict[Path, int] = {}
    prints: dict[Path, NDArray[np.float32]] = {}
    for path in paths:
        try:
            picture = read_picture(path)
        except SetError as error:
            left_out[path] = str(error)
            continue
        if min(picture.shape[:2]) < SMALLEST_PX:
            size = f"{picture.shape[1]} x {picture.shape[0]} px"
            left_out[path] = f"{size}: a side is shorter than {SMALLEST_PX} px"
        elif reason := why_unfit(picture):
            left_out[path] = reason
        else:
            sizes[path], prints[path] = picture.shape[0] * picture.shape[1], print_of(picture)
    left_out |= _copies(sizes, prints)
    usable = tuple(path for path in paths if path not in left_out)
    return Gallery(usable, tuple(LeftOut(path, left_out[path]) for path in paths if path in left_out))


def _copies(sizes: dict[Path, int], prints: dict[Path, NDArray[np.float32]]) -> dict[Path, str]:
    """The pictures that show what a larger one (or one of the same size and an earlier name) shows, with that one."""
    kept: list[Path] = []
    of_kept = np.empty((len(sizes), PRINT_PX**2), np.float32)
    copies = {}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        same = copy_among(prints[path], of_kept[: len(kept)])
        if same is None:
            of_kept[len(kept)] = prints[path]
            kept.append(path)
        else:
            copies[path] = f"the same picture as {kept[same]}"
    return copies


def read_picture(path: Path) -> NDArray[np.float32]:
    """A picture as (H, W, 3), R G B in 0..1 of full scale, turned upright, on black where it is transparent.

    Giants come shrunk, so that reading one costs neither much time nor much memory. Raises SetError for a file that is
    no picture, is cut short, holds values that are no numbers or is too large.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > LARGEST_PX:
                raise ValueError(f"{picture.width} x {picture.height} px is more than {LARGEST_PX} px")
            picture.draft(None, (ENOUGH_PX, ENOUGH_PX))  # JPEG alone can be decoded at half its size or less
            return _as_rgb(ImageOps.exif_transpose(picture))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever it stumbles over in a damaged file, struct.error for one
        reason = f"cannot be read as a picture: {error}"
        raise SetError(reason, file=str(path), remedy="replace or remove it, or make it smaller") from error


def _as_rgb(picture: Image.Image) -> NDArray[np.float32]:
    times = max(1, min(picture.size) // ENOUGH_PX)
    if picture.mode in ("I;16", "I;16L", "I;16B", "I", "F"):  # Pillow would cut these at 255
        grey = np.asarray(picture, np.float32)
        if not np.isfinite(grey).all():
            raise ValueError("some of its values are no numbers")
        full_scale = 65535.0 if picture.mode != "F" else max(float(grey.max()), 1e-12)
        smaller = cv2.resize(grey, None, fx=1 / times, fy=1 / times, interpolation=cv2.INTER_AREA)
        return np.repeat(np.clip(smaller / np.float32(full_scale), 0, 1)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB").reduce(times), np.float32) / np.float32(255)
