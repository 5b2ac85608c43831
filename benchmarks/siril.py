"""Siril's own registration and stack of a set, where Siril is installed: https://siril.org, `siril-cli`.

A set's files in, the stacked picture out, on the grid of the first frame. The script uses only commands that every
Siril since 1.0 knows.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

SCRIPT = """requires 1.0.0
set32bits
cd {frames}
convert light{debayer} -out={work}
cd {work}
register light
stack r_light rej 3 3 -norm=addscale -out=result
close
"""
CALIBRATING = """requires 1.0.0
set32bits
cd {calibration}/biases
convert bias -out={work}
cd {calibration}/flats
convert flat -out={work}
cd {calibration}/darks
convert dark -out={work}
cd {frames}
convert light -out={work}
cd {work}
stack bias rej 3 3 -nonorm -out=master_bias
{calibrate} flat -bias=master_bias
stack pp_flat rej 3 3 -norm=mul -out=master_flat
stack dark rej 3 3 -nonorm -out=master_dark
{calibrate} light -dark=master_dark -flat=master_flat -cc=dark{debayer}
register pp_light
stack r_pp_light rej 3 3 -norm=addscale -out=result
close
"""
TIMEOUT_S = 300.0


def find(named: Path | None) -> str | None:
    """The program: the named one, else `siril-cli` on the PATH, else None."""
    return str(named) if named else shutil.which("siril-cli")


def version(program: str) -> str:
    """As "1.0.6"; what it says of itself if that is something else."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    return said.strip().removeprefix("siril ") or "of unknown version"


def stack(
    program: str, frames: Sequence[Path], bayer: bool, folder: Path, calibration: Path | None = None
) -> NDArray[np.float32] | None:
    """(bands, H, W) in Siril's unit, rows as Siril orders them; None if it gave up (its words are in siril.log).

    `calibration`: where darks/, flats/ and biases/ lie.
    """
    inbox, work = folder / "frames", folder / "work"
    for made in (inbox, work):
        made.mkdir(parents=True)
    for frame in frames:
        (inbox / frame.name).symlink_to(frame.absolute())
    script = folder / "stack.ssf"
    places = {"frames": inbox.absolute(), "work": work.absolute()}
    if calibration:
        word = "preprocess" if version(program).startswith("1.0") else "calibrate"
        mosaic = " -cfa -equalize_cfa -debayer" if bayer else ""
        words = CALIBRATING.format(**places, calibration=calibration.absolute(), calibrate=word, debayer=mosaic)
    else:
        words = SCRIPT.format(**places, debayer=" -debayer" if bayer else "")
    script.write_text(words)
    with (folder / "siril.log").open("w") as log:
        command = [program, "-d", str(folder.absolute()), "-s", str(script.absolute())]
        subprocess.run(command, stdout=log, stderr=log, timeout=TIMEOUT_S, check=False)
    results = list(work.glob("result.fit*"))
    if not results:
        return None
    pixels = fits.getdata(results[0]).astype(np.float32)
    shutil.rmtree(work)
    return pixels if pixels.ndim == 3 else pixels[None]
