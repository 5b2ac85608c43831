"""A restored set to write, small and made up."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stackd.disk.writer import Product


def card(text: str) -> str:
    return text.ljust(80)


CARDS = tuple(
    card(text)
    for text in (
        "SIMPLE  =                    T",
        "BITPIX  =                   16",
        "NAXIS   =                    2",
        "NAXIS1  =                   64",
        "NAXIS2  =                   48",
        "BZERO   =                32768",
        "BSCALE  =                    1",
        "OBJECT  = 'M 31    '           / what it is",
        "EXPTIME =                   12 / [s]",
        "DATE-OBS= '2026-11-22T20:05:00.000'",
        "MJD-OBS =        61366.8368056",
        "ROWORDER= 'TOP-DOWN'",
        "BAYERPAT= 'RGGB    '",
        "XBAYROFF=                    0",
        "DATAMAX =                65535",
        "CHECKSUM= 'abcdefghijklmnop'",
        "CTYPE1  = 'RA---TAN'",
        "CTYPE2  = 'DEC--TAN'",
        "CRVAL1  =              10.6847",
        "CRVAL2  =              41.2690",
        "CRPIX1  =                 32.5",
        "CRPIX2  =                 24.5",
        "CD1_1   =          -2.7778E-04",
        "CD1_2   =                  0.0",
        "CD2_1   =                  0.0",
        "CD2_2   =           2.7778E-04",
        "COMMENT a clear night",
        "HISTORY taken with care",
    )
)


def frames() -> list[dict[str, Any]]:
    """Three frames a minute apart, the second left out."""
    return [
        {
            "file": f"light_{k}.fit", "sha256": f"{k}" * 64, "used": k != 1, "reason": "" if k != 1 else "trailed",
            "exposure_s": 12.0, "taken_at": f"2026-11-22T20:0{5 + k}:00.000", "fwhm_px": 3.1 + k, "noise_adu": 9.0,
            "transparency": 1.0, "shift_px": [1.5 * k, -2.0], "rotation_deg": 0.1, "rejected_share": 0.001,
        }
        for k in range(3)
    ]  # fmt: skip


@pytest.fixture
def make_product(rng: np.random.Generator) -> Callable[..., Product]:
    """A product of 48 x 64 px; any field can be given another value, `bands` says mono (1) or colour (3)."""

    def make(bands: int = 1, **fields: Any) -> Product:
        shape = (48, 64) if bands == 1 else (3, 48, 64)
        y, x = np.mgrid[:48, :64]
        star = 900 * np.exp(-((x - 40) ** 2 + (y - 12) ** 2) / 8)
        restored = (star + rng.normal(0, 1, shape)).astype(np.float32)
        restored[..., :2, :] = np.nan
        product = Product(
            set_name="M31",
            restored=restored,
            stack=restored + rng.normal(0, 3, shape).astype(np.float32),
            sigma=np.where(np.isfinite(restored), np.float32(1.5), np.nan),
            single=restored + rng.normal(0, 9, shape).astype(np.float32),
            reference_name="light_0.fit",
            reference_cards=CARDS,
            bottom_up=False,
            picture_input=False,
            frames=frames(),
            calibration={},
            calibrated="",
            figures={"noise_adu": {"single": 9.0, "stack": 3.0, "restored": 1.0}, "flux_change_mag": 0.002},
            model={"name": "default", "version": "20261122T213000Z-0123456789ab", "sha256": "0123456789abcdef" * 4},
            network_used=True,
            psf_fwhm_px=2.0,
            history=["hot pixels mended: 12", "registered 2 of 3 frames onto REFFRAME"],
            warnings=[],
            config_sha256="c" * 64,
            started_at="2026-11-22T21:30:00.000+00:00",
            finished_at="2026-11-22T21:30:48.000+00:00",
        )
        return replace(product, **fields)

    return make
