"""Raw files for tests: DNGs as converters and phones write them, by tifffile, another hand than LibRaw's."""

from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

MOSAIC, LINEAR_RAW = 32803, 34892  # TIFF's PhotometricInterpretation
BLACK_ADU, WHITE_ADU = 64, 4095
CAMERA = "Canon EOS 6D"
EXPOSURE_S, ISO = 30.0, 1600
CLOCK, EDITED = "2024:08:12 23:14:05", "2024:08:13 09:00:00"

_SHORT, _BYTE, _TEXT, _FRACTION, _SIGNED_FRACTION = "H", "B", "s", "2I", "2i"
_IDENTITY = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)


def dng(
    counts: NDArray[np.uint16],
    pattern: str = "RGGB",
    black_adu: tuple[int, ...] = (BLACK_ADU,),
    white_adu: int = WHITE_ADU,
    zone: str = "",
    more: tuple[tuple[int, str, int, Any], ...] = (),
    **options: Any,
) -> bytes:
    """A DNG of these counts: (H, W), a mosaic of `pattern` or, without one, of a sensor that sees no colours; or
    (H, W, 3), which the camera has mixed. `black_adu`: one level, or one for each place of the pattern."""
    tags = [
        (271, _TEXT, 0, "Canon"),
        (272, _TEXT, 0, CAMERA),
        (306, _TEXT, 0, EDITED),
        (33434, _FRACTION, 1, (int(EXPOSURE_S), 1)),
        (34855, _SHORT, 1, ISO),
        (36867, _TEXT, 0, CLOCK),
        (37521, _TEXT, 0, "25"),
        (50706, _BYTE, 4, (1, 4, 0, 0)),
        (50708, _TEXT, 0, CAMERA),
        (50714, _SHORT, len(black_adu), black_adu if len(black_adu) > 1 else black_adu[0]),
        (50717, _SHORT, 1, white_adu),
        (50721, _SIGNED_FRACTION, 9, _IDENTITY),
        *more,
    ]
    tags += [(36881, _TEXT, 0, zone)] if zone else []
    tags += [(50713, _SHORT, 2, (2, 2))] if len(black_adu) == 4 else []
    mixed = counts.ndim == 3
    photometric = LINEAR_RAW if mixed else MOSAIC if pattern else tifffile.PHOTOMETRIC.MINISBLACK
    out = BytesIO()
    extra = [(*tag, True) for tag in tags] + (_mosaic_tags(pattern) if pattern else [])
    tifffile.imwrite(out, counts, photometric=photometric, metadata=None, software=False, extratags=extra, **options)
    content = out.getvalue()
    if pattern or mixed:
        return content
    # tifffile wants three samples of a linear raw
    return _with_entry(content, 262, LINEAR_RAW)


def nikon(counts: NDArray[np.uint16], pattern: str = "RGGB") -> bytes:
    """A small developed picture first and the sensor's counts in a directory below it, as NEF and ARW have them."""
    camera = [(271, _TEXT, 0, "NIKON CORPORATION", True), (272, _TEXT, 0, "NIKON D750", True)]
    out = BytesIO()
    with tifffile.TiffWriter(out) as tiff:
        thumbnail = np.full((8, 12, 3), 100, np.uint8)
        tiff.write(
            thumbnail, photometric="rgb", subifds=1, subfiletype=1, metadata=None, software=False, extratags=camera
        )
        tiff.write(counts, photometric=MOSAIC, metadata=None, software=False, extratags=_mosaic_tags(pattern))
    return out.getvalue()


def _mosaic_tags(pattern: str) -> list[tuple[int, str, int, Any, bool]]:
    return [(33421, _SHORT, 2, (2, 2), True), (33422, _BYTE, 4, bytes("RGB".index(c) for c in pattern), True)]


def _with_entry(content: bytes, tag: int, value: int) -> bytes:
    """The TIFF with another value for a single number of its first directory, which is little-endian."""
    directory = int.from_bytes(content[4:8], "little")
    for k in range(int.from_bytes(content[directory : directory + 2], "little")):
        at = directory + 2 + 12 * k
        if int.from_bytes(content[at : at + 2], "little") == tag:
            return content[: at + 8] + value.to_bytes(4, "little") + content[at + 12 :]
    raise KeyError(tag)
