"""Promise: whatever bytes lie in a file, the readers give a frame or a verdict in time and in bounds.

    python -m tests.campaigns.fuzz --minutes 60 --seed 1 [--memory-mb 2048] [--keep FOLDER]

Feeds `read_facts` and `read_frame` with three kinds of input, by turns: good files of every format with damage in
them (FITS of 8, 16, 32, 64, -32 and -64 bits, in an extension and with a wide header; PNG of 8 and 16 bits; TIFF
plain, packed and in tiles; JPEG plain and progressive; raw files), FITS headers made by hypothesis from hostile cards,
and directories and chunks of pictures with hostile numbers. Each input runs in a child that may use so much memory
and no more than 30 s. Anything but a frame or a SetError, a child's death, or an input that takes too long is a
failure: the input is kept in the folder, named by its digest. Prints a line a minute and a table; exits 1 after
a failure. The same seed gives the same inputs.
"""

import argparse
import faulthandler
import hashlib
import io
import multiprocessing
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stackd.disk.reader import Unfinished, read_facts, read_frame
from stackd.errors import SetError
from tests.disk.raw_files import dng, nikon

MOST_S = 30.0
MAX_PIXELS, MAX_BYTES = 150_000_000, 1 << 30  # the product's own limits
HEIGHT_PX, WIDTH_PX = 40, 48
BATCH = 200  # inputs of one child's errand
BLOCK = 2880
_MIB = 1 << 20

Make = Callable[[random.Random], bytes]

KEYWORDS = (
    *("SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BSCALE", "BZERO", "BLANK", "EXTEND", "GROUPS"),
    *("PCOUNT", "GCOUNT", "XTENSION", "OBJECT", "FILTER", "EXPTIME", "EXPOSURE", "DATE-OBS", "TIME-OBS", "MJD-OBS"),
    *("GAIN", "EGAIN", "CVF", "XBINNING", "YBINNING", "BAYERPAT", "XBAYROFF", "YBAYROFF", "ROWORDER", "IMAGETYP"),
    *("SATURATE", "INSTRUME", "HISTORY", "COMMENT", "CONTINUE", "HIERARCH", "END", ""),
)
VALUES = (
    *("T", "F", "0", "-0", "1", "-1", "2", "3", "8", "16", "-32", "-64", "64", "40", "48", "999", "65535", "32768"),
    *("2147483647", "-2147483648", "9223372036854775808", "1" * 60, "1E300", "-1E300", "1E-320", "1D400", "1E999"),
    *("NaN", "inf", "-inf", "0.0", ".", "+", "-", "1.", "1e", "0x10", "1_000", "١٢", "''", "'", "'''", "'a''", "'T'"),
    *("'RGGB'", "'rggb'", "'XXXX'", "'IMAGE   '", "'BINTABLE'", "'BOTTOM-UP'", "'Dark'", "'yesterday'"),
    *("'0001-01-01T00:00:00+23:59'", "'9999-12-31T23:59:59.999999'", "'2026-01-01T00:00:00Z'", "'2026-W01-1'"),
    *("'20260101'", "'2026-01-01T24:00:00'", "'24:61:61'", "'-1'", "'<script>'", "'\x1b[2J'", "'\x00'", "'\xff'"),
)


# Good files


def pixels(kind: str, planes: int = 1) -> NDArray[Any]:
    """A noisy ramp of one type, (H, W) or (H, W, planes)."""
    shape = (HEIGHT_PX, WIDTH_PX) if planes == 1 else (HEIGHT_PX, WIDTH_PX, planes)
    ramp = np.linspace(0, 200, int(np.prod(shape))).reshape(shape)
    return (ramp + np.random.default_rng(1).normal(20, 3, shape)).clip(0, 255).astype(kind)


def fits_file(bits: int, planes: int = 1, *, extension: bool = False, cards: int = 10) -> bytes:
    """A FITS file of one image, written by hand."""
    axes = {"NAXIS": 2 if planes == 1 else 3, "NAXIS1": WIDTH_PX, "NAXIS2": HEIGHT_PX}
    shape = {"BITPIX": bits} | axes | ({} if planes == 1 else {"NAXIS3": planes})
    more = {"BZERO": 32768, "BSCALE": 1, "EXPTIME": 10.0, "GAIN": 100, "XBINNING": 1, "SATURATE": 60000}
    text = {"OBJECT": "M 27", "FILTER": "Ha", "DATE-OBS": "2026-01-01T00:00:00.123", "BAYERPAT": "RGGB"}
    lines = [f"{key:8}= {value:>20}" for key, value in (shape | more).items()]
    lines += [f"{key:8}= '{value}'" for key, value in text.items()] + [f"HISTORY {k}" for k in range(cards)]
    first = "XTENSION= 'IMAGE   '" if extension else "SIMPLE  =                    T"
    kind = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[bits]
    data = np.stack([pixels("float64")] * planes).astype(kind).tobytes()
    empty = _header("SIMPLE  =                    T", "BITPIX  = 8", "NAXIS   = 0") if extension else b""
    return empty + _header(first, *lines) + data + bytes(-len(data) % BLOCK)


def _header(*lines: str) -> bytes:
    text = b"".join(line.encode("latin-1", "replace")[:80].ljust(80) for line in (*lines, "END"))
    return text + b" " * (-len(text) % BLOCK)


def _pillow(kind: str, image: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def _tiff(image: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, photometric="rgb" if image.ndim == 3 else "minisblack", **options)
    return buffer.getvalue()


def good_files() -> dict[str, bytes]:
    """One of each kind that the readers know, by name."""
    files = {f"fits {bits}": fits_file(bits) for bits in (8, 16, 32, 64, -32, -64)}
    files |= {"fits colour": fits_file(16, 3), "fits extension": fits_file(16, extension=True)}
    files["fits wide header"] = fits_file(16, cards=300)
    for kind in ("uint8", "uint16"):
        for planes in (1, 3, 4):
            files[f"png {kind} {planes}"] = imagecodecs.png_encode(pixels(kind, planes))
    files["png palette"] = _pillow("PNG", np.asarray(Image.fromarray(pixels("uint8")).convert("P")))
    files["jpeg grey"] = _pillow("JPEG", pixels("uint8"))
    files["jpeg colour"] = _pillow("JPEG", pixels("uint8", 3))
    files["jpeg progressive"] = _pillow("JPEG", pixels("uint8", 3), progressive=True)
    for kind in ("uint8", "uint16", "float32", "float64"):
        files[f"tiff {kind}"] = _tiff(pixels(kind))
    files["tiff colour lzw"] = _tiff(pixels("uint16", 3), compression="lzw", predictor=True)
    files["tiff deflate"] = _tiff(pixels("float32"), compression="zlib", predictor=True)
    files["tiff packbits"] = _tiff(pixels("uint8"), compression="packbits", rowsperstrip=7)
    files["tiff tiles"] = _tiff(pixels("uint16"), tile=(16, 16), compression="zlib")
    files["tiff big"] = _tiff(pixels("uint16"), bigtiff=True)
    files["tiff planes apart"] = _tiff(np.moveaxis(pixels("uint8", 3), -1, 0), planarconfig="separate")
    files["tiff other end"] = _tiff(pixels("uint16"), byteorder=">")
    files |= {"raw mosaic": dng(pixels("uint16")), "raw mono": dng(pixels("uint16"), pattern="")}
    files["raw behind a thumbnail"] = nikon(pixels("uint16"))
    return files


# Damage


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The file with one to six wounds, more of them near its beginning, where the numbers are."""
    file = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        _WOUNDS[draw.randrange(len(_WOUNDS))](file, draw)
    return _with_right_sums(bytes(file)) if draw.random() < 0.7 else bytes(file)


def _place(file: bytearray, draw: random.Random) -> int:
    return draw.randrange(max(1, min(len(file), draw.choice((64, 400, 3000, 1 << 30)))))


def _flip(file: bytearray, draw: random.Random) -> None:
    if file:
        file[_place(file, draw)] ^= 1 << draw.randrange(8)


def _number(file: bytearray, draw: random.Random) -> None:
    """A number of two, four or eight bytes that somebody may compute with."""
    value = draw.choice((0, 1, 2, 7, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1))
    form = draw.choice("HIQ")
    place = _place(file, draw)
    content = struct.pack(draw.choice("<>") + form, value & ((1 << 8 * struct.calcsize("=" + form)) - 1))
    file[place : place + len(content)] = content


def _noise(file: bytearray, draw: random.Random) -> None:
    place = _place(file, draw)
    noise = draw.randbytes(draw.choice((1, 4, 16, 80, 500)))
    file[place : place + len(noise)] = noise


def _cut(file: bytearray, draw: random.Random) -> None:
    del file[_place(file, draw) :]


def _remove(file: bytearray, draw: random.Random) -> None:
    place = _place(file, draw)
    del file[place : place + draw.choice((1, 4, 80, 1000))]


def _repeat(file: bytearray, draw: random.Random) -> None:
    place = _place(file, draw)
    file[place:place] = file[place : place + draw.choice((1, 12, 80, 600))] * draw.choice((1, 2, 50))


def _card(file: bytearray, draw: random.Random) -> None:
    """A hostile card over another one, where a FITS file has cards."""
    place = draw.randrange(0, max(1, min(len(file), 3 * BLOCK))) // 80 * 80
    file[place : place + 80] = hostile_card(draw)


_WOUNDS = (_flip, _flip, _number, _number, _number, _noise, _cut, _remove, _repeat, _card)


def hostile_card(draw: random.Random) -> bytes:
    """80 bytes: a keyword that the readers look at, with a value that they do not expect."""
    text = f"{draw.choice(KEYWORDS):8}{draw.choice(('= ', '= ', '=', '  '))}{draw.choice(VALUES)}"
    return text.encode("latin-1", "replace")[:80].ljust(80)


def _with_right_sums(file: bytes) -> bytes:
    """A PNG's checksums mended, so that damage reaches what lies behind them."""
    if not file.startswith(b"\x89PNG"):
        return file
    mended, position = bytearray(file), 8
    while position + 12 <= len(file):
        end = position + 8 + int.from_bytes(file[position : position + 4], "big")
        if end + 4 > len(file):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(file[position + 4 : end]))
        position = end + 4
    return bytes(mended)


# FITS headers out of nothing, by hypothesis

_values = st.one_of(
    st.sampled_from(VALUES),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(repr),
    st.text(st.characters(max_codepoint=255), max_size=70).map(lambda text: f"'{text}'"),
    st.datetimes().map(lambda moment: f"'{moment.isoformat()}'"),
)
_cards = st.builds(
    lambda keyword, mark, value: f"{keyword:8}{mark}{value}",
    st.sampled_from(KEYWORDS),
    st.sampled_from(["= ", "= ", "= ", "=", " "]),
    _values,
)
_sizes = st.sampled_from(["1", "2", "7", "40", "48", "64", "100", "40", "48", "0", "-1", "100000", "4294967296"])
_DATA = random.Random(0).randbytes(100_000)
_images = st.builds(
    lambda bits, width, height: [f"BITPIX  = {bits}", "NAXIS   = 2", f"NAXIS1  = {width}", f"NAXIS2  = {height}"],
    st.sampled_from(["8", "16", "32", "64", "-32", "-64", "12"]),
    _sizes,
    _sizes,
)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Some cards in any order, most often of a usable image, and some data."""
    first = ["SIMPLE  =                    T"]
    lines = first + (draw(_images) if draw(st.integers(0, 4)) else []) + draw(st.lists(_cards, max_size=30))
    data = draw(st.binary(max_size=40)) + _DATA[: draw(st.sampled_from([100_000, 100_000, 100_000, 5000, 0]))]
    return _header(*lines)[: draw(st.sampled_from([1 << 20, 1 << 20, 1 << 20, 2000]))] + data


# Running them


def errand(pipe: Connection, folder: str, memory_mb: int) -> None:
    """A child's life: read each input that comes, say what came of it."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * _MIB, memory_mb * _MIB))
    path = Path(folder, f"input-{os.getpid()}.fits")
    with suppress(EOFError):
        while True:
            content = pipe.recv_bytes()
            path.write_bytes(content)
            pipe.send((_verdict(read_facts, path), _verdict(read_frame, path)))


def _verdict(read: Callable[[Path, int, int], Any], path: Path) -> str:
    try:
        read(path, MAX_PIXELS, MAX_BYTES)
    except Unfinished:
        return "unfinished"
    except SetError as error:
        if not (error.reason.replace("\n", "").isprintable() and error.remedy and error.file):
            return f"FAILED without a good word: {error.reason!r} {error.remedy!r} {error.file!r}"
        return "refused"
    except BaseException:  # noqa: BLE001 - whatever it is, it is what we look for
        return "FAILED\n" + traceback.format_exc(limit=-6)
    return "read"


class Child:
    """A process that reads inputs, replaced when it dies or hangs."""

    def __init__(self, folder: Path, memory_mb: int) -> None:
        self._folder, self._memory_mb = folder, memory_mb
        self._process: Any = None
        self.peak_bytes = 0

    def judge(self, content: bytes) -> tuple[str, str]:
        """What came of read_facts and of read_frame."""
        if self._process is None:
            self._start()
        self._pipe.send_bytes(content)
        began_s = time.monotonic()
        if not self._pipe.poll(MOST_S):
            self.close()
            return ("FAILED: took longer than 30 s", "FAILED: took longer than 30 s")
        try:
            verdicts = self._pipe.recv()
        except EOFError:
            self._process.join()
            how = f"FAILED: the reader died, exit code {self._process.exitcode}"
            self.close()
            return (how, how)
        if time.monotonic() - began_s > MOST_S / 3:
            sys.stdout.write(f"slow: {time.monotonic() - began_s:.1f} s for {hashlib.sha256(content).hexdigest()}\n")
        return verdicts

    def measure(self) -> None:
        """Take the child's largest size."""
        with suppress(OSError, AttributeError):
            text = Path(f"/proc/{self._process.pid}/status").read_text()
            self.peak_bytes = max(self.peak_bytes, int(text.partition("VmHWM:")[2].split()[0]) * 1024)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=errand, args=(theirs, str(self._folder), self._memory_mb), daemon=True)
        self._process.start()
        theirs.close()


class Campaign:
    """Counts, keeps failures, says how it goes."""

    def __init__(self, keep: Path, child: Child, end_s: float) -> None:
        self.keep, self.child, self.end_s = keep, child, end_s
        self.began_s = self._said_s = time.monotonic()
        self.inputs = 0
        self.verdicts: dict[str, Counter[str]] = {}
        self.failures: Counter[str] = Counter()

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.end_s

    def take(self, kind: str, content: bytes) -> None:
        """One input."""
        self.inputs += 1
        facts, frame = self.child.judge(content)
        family = kind.split()[0]
        for one in (facts, frame):
            if one.startswith("FAILED"):
                self._note(kind, content, one)
        said = "FAILED" if "FAILED" in facts + frame else frame
        self.verdicts.setdefault(family, Counter())[said] += 1
        if time.monotonic() - self._said_s >= 60.0:
            self._said_s = time.monotonic()
            self.child.measure()
            self.say(f"{(time.monotonic() - self.began_s) / 60:.0f} min: {self.inputs} inputs, {self.rate:.0f}/s, "
                     f"{sum(self.failures.values())} failures")  # fmt: skip

    @property
    def rate(self) -> float:
        """Inputs a second."""
        return self.inputs / max(time.monotonic() - self.began_s, 1e-9)

    def table(self) -> str:
        """What came of which kind."""
        columns = ("read", "refused", "unfinished", "FAILED")
        lines = [f"{'kind':12}" + "".join(f"{one:>12}" for one in columns)]
        for family, counts in sorted(self.verdicts.items()):
            lines.append(f"{family:12}" + "".join(f"{counts[one]:>12}" for one in columns))
        seconds = time.monotonic() - self.began_s
        lines.append(f"{self.inputs} inputs in {seconds:.0f} s ({self.rate:.0f}/s), "
                     f"peak {self.child.peak_bytes >> 20} MB, {sum(self.failures.values())} failures")  # fmt: skip
        return "\n".join(lines)

    def say(self, words: str) -> None:
        """A line now."""
        sys.stdout.write(words + "\n")
        sys.stdout.flush()

    def _note(self, kind: str, content: bytes, what: str) -> None:
        """Keep the input once for each way to fail."""
        where = "|".join(line.strip() for line in what.splitlines() if "line" in line or "Error" in line)[-300:]
        self.failures[where] += 1
        if self.failures[where] > 3:
            return
        self.keep.mkdir(parents=True, exist_ok=True)
        path = self.keep / f"{kind.replace(' ', '-')}-{hashlib.sha256(content).hexdigest()[:12]}"
        path.write_bytes(content)
        self.say(f"{kind}: {what}\nkept as {path}")


def run(campaign: Campaign, seed: int) -> None:
    """Damage and invented headers by turns until the time is up."""
    draw = random.Random(seed)
    files = good_files()
    for kind, content in files.items():
        verdicts = campaign.child.judge(content)
        if verdicts != ("read", "read"):
            raise RuntimeError(f"the good file {kind!r} is not read: {verdicts}")
    turn = 0
    while not campaign.over:
        turn += 1
        for _ in range(BATCH):
            kind = draw.choice(list(files))
            campaign.take(kind, damaged(files[kind], draw))
            if campaign.over:
                return
        _invent(campaign, seed * 1_000_003 + turn)


def _invent(campaign: Campaign, seed: int) -> None:
    """A batch of headers as hypothesis finds them; it only draws, as failures are counted here."""

    @hypothesis_seed(seed)
    @settings(
        max_examples=BATCH, deadline=None, database=None, phases=[Phase.generate], verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(headers())
    def take(content: bytes) -> None:
        if not campaign.over:
            campaign.take("invented", content)

    take()


def main() -> int:
    """1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory-mb", type=int, default=2048)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where failing inputs go")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stackd-fuzz-") as folder:
        child = Child(Path(folder), asked.memory_mb)
        campaign = Campaign(asked.keep, child, time.monotonic() + asked.minutes * 60)
        try:
            run(campaign, asked.seed)
            child.measure()
        finally:
            child.close()
    campaign.say(campaign.table())
    return 1 if campaign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
