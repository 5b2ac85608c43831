"""Product -> the files of one result in a staging folder, result.json last.

Takes the images and the story of one restored set, gives result.json's content. Array order never
changes; only pictures for people (PNG, JPEG, report) are turned right way up. Knows nothing of
where the folder goes next: making it visible is the outbox's work.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from astropy.io import fits
from numpy.typing import NDArray

from stackd.disk.embed import encode
from stackd.disk.fits_header import BLOCK_BYTES
from stackd.disk.frame import Image
from stackd.disk.headers import iso, quiet_fits, result_header, utc
from stackd.disk.outbox import as_output_error, sync_tree, write_manifest
from stackd.disk.report import render_report
from stackd.imaging.preview import Stretch, apply_stretch, find_stretch
from stackd.records import program

UNSEEN = 0  # in the 16-bit files, where no frame saw the sky
DEEPEST = 65535
JPEG_QUALITY = 93
JPEG_LONGEST_PX = 16_000  # what common viewers still open


@dataclass(frozen=True, slots=True)
class Product:
    """All that a restored set has to say. Images share one grid and unit: ADU above the reference's sky.

    `frames` holds one dict a frame, in order of time: file, sha256, used, reason (why left out),
    transform, fwhm_px, noise_adu, transparency, exposure_s, taken_at, shift_px, rotation_deg,
    rejected_share; keys without a value may be missing or None.
    """

    set_name: str
    restored: Image  # (H, W) or (3, H, W), NaN where no frame saw the sky
    stack: Image
    sigma: Image
    single: Image  # the reference frame alone, sky subtracted
    reference_name: str
    reference_cards: tuple[str, ...]  # the reference's own 80-character header cards
    bottom_up: bool  # row 0 of the arrays is the bottom of the picture
    picture_input: bool  # the frames were PNG, JPEG or TIFF: restored.png is written too
    frames: list[dict[str, Any]]
    calibration: dict[str, Any]  # darks, flats and biases: which were used, which were not and why; {}: there were none
    calibrated: str  # letters of CALSTAT; "" for frames that nothing was taken out of
    figures: dict[str, Any]
    model: dict[str, Any] | None  # name, version, sha256 of the one at hand; None: the plain stack alone was asked for
    network_used: bool  # False: left out of the picture, whatever model was at hand
    psf_fwhm_px: float  # star width of the restored image; NaN: unknown
    history: list[str]
    warnings: list[str]
    config_sha256: str
    started_at: str  # ISO 8601, UTC
    finished_at: str


@dataclass(frozen=True, slots=True)
class Scale:
    """How 16-bit numbers mean ADU: value = zero_adu + scale_adu * number; UNSEEN where nothing was seen."""

    zero_adu: float
    scale_adu: float


def write_result(staging: Path, product: Product) -> dict[str, Any]:
    """Write every file of the result into `staging` but set.log; returns the content of result.json.

    Raises OutputError where the disk refuses.
    """
    stretch = find_stretch(product.stack)
    scale = find_scale(product.restored)
    content = describe(product, stretch, scale)
    try:
        for name in ("restored", "stack", "sigma"):
            _write_fits(staging / f"{name}.fits", getattr(product, name), name, product)
        _write_sixteen_bit(staging, product, scale)
        _write_preview(staging / "preview.jpg", product, stretch)
        (staging / "report.html").write_text(render_report(product, content, stretch), "utf-8")
        write_manifest(staging, content)
        sync_tree(staging)  # here, where it may take minutes: publishing must not keep the watchdog waiting
    except OSError as error:
        raise as_output_error(error) from error
    return content


def describe(product: Product, stretch: Stretch, scale: Scale) -> dict[str, Any]:
    """What result.json says: plain JSON values only, null for what is no finite number."""
    height_px, width_px = product.restored.shape[-2:]
    bands = 3 if product.restored.ndim == 3 else 1
    used = [frame for frame in product.frames if frame.get("used")]
    return plain_values(
        {
            "set": product.set_name,
            "program": program(),
            "unit": "ADU of the reference frame above its sky",
            "reference": product.reference_name,
            "size": {"width_px": width_px, "height_px": height_px, "bands": bands},
            "frames_used": len(used),
            "frames_left_out": len(product.frames) - len(used),
            "inputs": product.frames,
            "calibration": product.calibration,
            "figures": product.figures,
            "model": product.model,
            "network_used": product.network_used,
            "psf_fwhm_px": product.psf_fwhm_px,
            "config_sha256": product.config_sha256,
            "sixteen_bit": asdict(scale) | {"unseen": UNSEEN},
            "preview": asdict(stretch),
            "history": product.history,
            "warnings": product.warnings,
            "started_at": product.started_at,
            "finished_at": product.finished_at,
        }
    )


def find_scale(image: Image) -> Scale:
    """The scale that brings all of an image into 1..65535, so that nothing is cut off."""
    finite = image[np.isfinite(image)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    step = max(high - low, 1e-6) / (DEEPEST - 1)
    return Scale(low - step, step)


def to_sixteen_bit(image: Image, scale: Scale) -> NDArray[np.uint16]:
    """(H, W) or (3, H, W) -> uint16 (H, W) or (H, W, 3)."""
    numbers = np.rint((image - np.float32(scale.zero_adu)) / np.float32(scale.scale_adu)).clip(1, DEEPEST)
    numbers = np.where(np.isfinite(image), numbers, UNSEEN).astype(np.uint16)
    return numbers if numbers.ndim == 2 else np.ascontiguousarray(numbers.transpose(1, 2, 0))


def plain_values(value: Any) -> Any:
    """The same with numpy's numbers and arrays as JSON's own, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain_values(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if isinstance(value, np.generic):
        return plain_values(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)


def _header(product: Product, kind: str) -> fits.Header:
    model = (product.network_used and product.model) or {}
    name = f"{model['name']}@{model['version']}" if model else "none"
    fwhm_px = round(float(product.psf_fwhm_px), 4) if np.isfinite(product.psf_fwhm_px) else 0.0
    facts = {
        "EXTNAME": (kind.upper(), "restored, stack or sigma"),
        "REFFRAME": (product.reference_name, "frame whose grid and unit these are"),
        "PROGRAM": (program(), "software that made this image"),
        "MODEL": (name, "network"),
        "MODELSHA": (str(model.get("sha256") or ""), ""),
        "PSFFWHM": (fwhm_px, "[px] star width of restored.fits; 0: unknown"),
    }
    if product.calibrated:
        facts["CALSTAT"] = (product.calibrated, "bias (B), dark (D), flat (F) taken out")
    if finished := utc(product.finished_at):
        facts["DATE"] = (iso(finished), "UTC, when this image was made")
    colour = product.restored.ndim == 3
    return result_header(product.reference_cards, colour, product.frames, facts, product.history)


def _write_fits(path: Path, image: Image, kind: str, product: Product) -> None:
    """astropy makes the header; the bytes are written here, as its own errors no longer say that a disk is full."""
    pixels = np.asarray(image, ">f4")
    with quiet_fits():
        unit = fits.PrimaryHDU(pixels, _header(product, kind))
        unit.verify("silentfix+ignore")
        header = unit.header.tostring().encode("ascii")
    with path.open("wb") as file:
        file.write(header)
        for plane in pixels.reshape(-1, pixels.shape[-1]):
            file.write(plane.tobytes())
        file.write(bytes(-pixels.nbytes % BLOCK_BYTES))


def _write_sixteen_bit(staging: Path, product: Product, scale: Scale) -> None:
    numbers = to_sixteen_bit(product.restored, scale)
    tifffile.imwrite(
        staging / "restored.tif",
        numbers,
        photometric="minisblack" if numbers.ndim == 2 else "rgb",
        description=_tiff_description(product, scale),
        software=program(),
        metadata=None,
    )
    if product.picture_input:
        upright = numbers[::-1] if product.bottom_up else numbers
        (staging / "restored.png").write_bytes(encode(".png", upright))


def _tiff_description(product: Product, scale: Scale) -> str:
    """What the numbers mean, for people and as JSON, then the FITS cards (as Astro-TIFF does)."""
    meaning = (
        f"stackd, linear: ADU above sky = {scale.zero_adu!r} + {scale.scale_adu!r} * number; "
        f"{UNSEEN}: no frame saw the sky there"
    )
    numbers = json.dumps(asdict(scale) | {"unseen": UNSEEN, "bottom_up": product.bottom_up})
    with quiet_fits():
        cards = _header(product, "restored").tostring(sep="\n", padding=False)
    return "\n".join([meaning, numbers, cards])


def _write_preview(path: Path, product: Product, stretch: Stretch) -> None:
    picture = apply_stretch(product.restored, stretch)
    upright = picture[::-1] if product.bottom_up else picture
    longest = max(upright.shape[:2])
    if longest > JPEG_LONGEST_PX:
        part = JPEG_LONGEST_PX / longest
        upright = cv2.resize(upright, None, fx=part, fy=part, interpolation=cv2.INTER_AREA)
    path.write_bytes(encode(".jpg", upright, cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
