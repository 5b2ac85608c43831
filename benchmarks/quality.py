"""How good stackd's pictures are, against the truth, beside other ways to make a picture of the same files.

    python -m benchmarks.quality --out DIR [--seed N] [--pictures DIR] [--siril PATH] [--quick] [--publish]

Makes capture sets of all kinds of night with stackd's own camera, restores them as the daemon does, and judges
one frame, the mean, the clipped plain stack, Siril where it is installed, and stackd on the same grid. Prints the
tables and leaves them with a picture a kind in DIR; --publish rewrites docs/quality.md and docs/images too.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks import metrics, nights, pages, siril
from benchmarks.nights import CaptureSet
from stackd import logs
from stackd.daemon import Daemon
from stackd.disk import gallery
from stackd.disk.embed import encode
from stackd.disk.frame import Image
from stackd.disk.outbox import read_manifest
from stackd.disk.reader import read_frame
from stackd.errors import ConfigError, StackdError
from stackd.imaging.debayer import debayer
from stackd.imaging.panels import liveliest, side_by_side
from stackd.imaging.preview import find_stretch
from stackd.imaging.truth import matched
from stackd.imaging.warp import Transform, apply_transform
from stackd.settings import FolderSettings, SetSettings, Settings, find_config, load

SIZE_PX, QUICK_SIZE_PX = 640, 448
BORDER_PX = 10
TARGET_FWHM_PX = 2.0
LOOK_PX = 240
JPEG_QUALITY = 88
DOCS = Path(__file__).resolve().parents[1] / "docs"
WAYS = ("one frame", "mean", "plain stack", "Siril", "stackd")
MOST_PX, MOST_BYTES = 1 << 26, 1 << 30


@dataclass(frozen=True, slots=True)
class Judged:
    """One set: figures by way, |error| / sigma by bin, the pictures for people, what the daemon said."""

    name: str
    figures: dict[str, dict[str, float]]
    deviations: list[np.ndarray]
    look: np.ndarray
    manifest: dict


def main() -> None:
    """The command."""
    chosen = _arguments()
    logs.configure("WARNING")
    started_s = time.monotonic()
    try:
        sets = _make_sets(chosen)
        _restore(chosen)
    except StackdError as error:
        sys.exit(f"quality: {error}")
    program = siril.find(chosen.siril)
    judged = []
    for one in sets:
        manifest = read_manifest(chosen.out / "outbox" / one.folder.name)
        if manifest is None:
            _say(f"{one.kind.name}: was not restored; see {chosen.out / 'quarantine' / one.folder.name}")
            continue
        judged.append(judge(one, chosen.out, manifest, program))
        _say(f"judged {one.kind.name}")
    if not judged:
        sys.exit("quality: no set was restored, so there is nothing to judge")
    story = pages.Story(
        seed=chosen.seed, quick=chosen.quick, pictures=chosen.pictures is not None,
        model=judged[0].manifest["model"] or {"name": "none", "version": "restore.network = false"},
        siril=siril.version(program) if program else None, minutes=(time.monotonic() - started_s) / 60,
        kinds={one.kind.name: one.kind.says for one in sets},
    )  # fmt: skip
    _publish(judged, story, chosen)


def judge(one: CaptureSet, out: Path, manifest: dict, program: str | None) -> Judged:
    """Every way's picture of one set against the truth."""
    result = out / "outbox" / one.folder.name
    reference = one.names.index(manifest["reference"])
    frames = _frames(one)
    stackd, sigma = _planes(result / "restored.fits"), _planes(result / "sigma.fits")
    pictures = {
        "one frame": frames[reference],
        "mean": _mean(frames, one.matrices(reference)),
        "plain stack": _planes(result / "stack.fits"),
        "stackd": stackd,
    }
    truth, seen = one.truth(reference, TARGET_FWHM_PX), _seen_by_all(one, reference)
    fitted = {}
    for name, picture in pictures.items():
        fitted[name], scale = matched(picture, truth.planes)
    figures = {name: _figures(picture, truth, seen, one) for name, picture in fitted.items()}
    deviations = metrics.deviations(fitted["stackd"], sigma * np.float32(scale)[:, None, None], truth, seen)
    if program:
        theirs = _by_siril(one, out, program)
        figures["Siril"] = theirs[1] if theirs else {}
        fitted |= {"Siril": _onto(theirs[0], one, reference)} if theirs else {}
    return Judged(one.kind.name, figures, deviations, _look(fitted, truth.planes), manifest)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the sets, results, tables and pictures")
    parser.add_argument("--seed", type=int, default=2019)
    parser.add_argument("--pictures", type=Path, help="clean pictures for the nebulae; none: procedural ones")
    parser.add_argument("--siril", type=Path, help="siril-cli; default: the one on the PATH")
    parser.add_argument("--config", type=Path, help="stackd's config; its folders are not used but for models")
    parser.add_argument("--quick", action="store_true", help="five kinds, smaller frames")
    parser.add_argument("--publish", action="store_true", help="rewrite docs/quality.md and docs/images")
    return parser.parse_args()


def _make_sets(chosen: argparse.Namespace) -> list[CaptureSet]:
    """Raises ConfigError for a folder that is taken or without pictures."""
    if chosen.out.exists() and any(chosen.out.iterdir()):
        raise ConfigError(f"{chosen.out}: is there already and not empty; name another folder with --out")
    pictures = gallery.survey(gallery.find_pictures(chosen.pictures)).paths if chosen.pictures else ()
    kinds = [kind for kind in nights.KINDS if not chosen.quick or kind.name in nights.QUICK]
    size_px = QUICK_SIZE_PX if chosen.quick else SIZE_PX
    sets = []
    for kind in kinds:
        folder = chosen.out / "inbox" / kind.name.replace(" ", "-")
        sets.append(nights.make(kind, folder, size_px, chosen.seed, pictures))
        _say(f"made {kind.name}")
    return sets


def _restore(chosen: argparse.Namespace) -> None:
    """All sets in one turn of the daemon, as `stackd once` does it."""
    settings: Settings = load(find_config(chosen.config))
    out = chosen.out.absolute()
    names = {name: out / name for name in ("inbox", "outbox", "quarantine", "archive")}
    folders = FolderSettings(**names, state=out / ".stackd", models=settings.folders.models)
    house = settings.model_copy(update={"folders": folders, "set": SetSettings(settle_s=0.2, scan_interval_s=1.0)})
    daemon = Daemon(house, hear=lambda outcome: _say(f"{outcome.set_name}: {outcome.verdict}"))
    try:
        daemon.once()
    finally:
        daemon.close()


def _frames(one: CaptureSet) -> list[Image]:
    """The frames as planes, each less its own median: what anybody has before the work begins."""
    frames = []
    for name in one.names:
        pixels = read_frame(one.folder / name, MOST_PX, MOST_BYTES).pixels
        planes = debayer(pixels, one.kind.night.bayer) if one.kind.night.bayer else pixels[None]
        frames.append(planes - np.median(planes, axis=(1, 2), keepdims=True))
    return frames


def _mean(frames: Sequence[Image], matrices: Sequence[np.ndarray]) -> Image:
    """Of the frames laid on each other by their true poses, nothing rejected, nothing weighed."""
    total, count = np.zeros_like(frames[0]), np.zeros_like(frames[0])
    for planes, matrix in zip(frames, matrices):
        for band, plane in enumerate(planes):
            moved, footprint = apply_transform(plane, Transform(matrix, "stars", 0, 0.0), plane.shape)
            total[band] += np.where(footprint, moved, 0)
            count[band] += footprint
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _seen_by_all(one: CaptureSet, reference: int) -> np.ndarray:
    """(H, W): pixels of the reference that every frame sees, less a border: at edges the ways differ by rule."""
    matrices = one.matrices(reference)
    shape = one.truth(reference, TARGET_FWHM_PX).planes.shape[1:]
    inside = np.zeros(shape, np.uint8)
    inside[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = 1
    moved = [cv2.warpAffine(inside, matrix, shape[::-1], flags=cv2.INTER_NEAREST) for matrix in matrices]
    return np.min(moved, axis=0) > 0


def _figures(picture: Image, truth: metrics.Truth, seen: np.ndarray, one: CaptureSet) -> dict[str, float]:
    figures = metrics.figures(picture, truth, seen)
    if one.kind.peak == 0:
        figures["invented"] = metrics.invented_per_mpx(np.where(seen, picture.mean(0), np.nan), truth)
    return figures


def _by_siril(one: CaptureSet, out: Path, program: str) -> tuple[Image, dict[str, float]] | None:
    """(Siril's picture in the truth's unit, its figures), on the grid of the first frame; None if it gave up.

    Which way up it writes depends on its version: the way that fits is taken.
    """
    folder = out / "siril" / one.folder.name
    files = [one.folder / name for name in one.names]
    calibration = one.folder if one.kind.uneven else None
    picture = siril.stack(program, files, bool(one.kind.night.bayer), folder, calibration)
    truth, seen = one.truth(0, TARGET_FWHM_PX), _seen_by_all(one, 0)
    if picture is None or picture.shape != truth.planes.shape:
        _say(f"{one.kind.name}: Siril gave no stack; see {folder / 'siril.log'}")
        return None
    upright = max((picture, picture[:, ::-1]), key=lambda way: _likeness(way, truth.planes))
    fitted, _ = matched(upright, truth.planes)
    return fitted, _figures(fitted, truth, seen, one)


def _likeness(picture: Image, truth: Image) -> float:
    """Correlation of two pictures of any unit, stars held down."""
    shown = [np.arcsinh((v - np.median(v)) / (3 * np.std(v) + 1e-30)).ravel() for v in (picture, truth)]
    return float(np.corrcoef(*shown)[0, 1])


def _onto(picture: Image, one: CaptureSet, reference: int) -> Image:
    """A picture on the first frame's grid, moved to the reference's: for people to look at, not to be judged."""
    to_reference = Transform(one.matrices(reference)[0], "stars", 0, 0.0)
    return np.array([apply_transform(plane, to_reference, plane.shape)[0] for plane in picture])


def _look(fitted: dict[str, Image], truth: Image) -> np.ndarray:
    inner = slice(2 * BORDER_PX, -2 * BORDER_PX)
    rows, columns = liveliest(truth[:, inner, inner], LOOK_PX, LOOK_PX)
    images = {name: fitted[name] for name in WAYS if name in fitted} | {"truth": truth}
    parts = {name: image[:, inner, inner][:, rows, columns] for name, image in images.items()}
    parts = {name: part if len(part) == 3 else part[0] for name, part in parts.items()}
    stack = fitted["plain stack"]
    return side_by_side(parts, find_stretch(stack if len(stack) == 3 else stack[0]))


def _say(line: str) -> None:
    """Progress goes to stderr, the page to stdout."""
    print(line, file=sys.stderr, flush=True)


def _planes(path: Path) -> Image:
    pixels = read_frame(path, MOST_PX, MOST_BYTES).pixels
    return pixels if pixels.ndim == 3 else pixels[None]


def _publish(judged: Sequence[Judged], story: pages.Story, chosen: argparse.Namespace) -> None:
    """Tables and pictures into the out folder and, if asked for, into docs."""
    places = [chosen.out] + ([DOCS] if chosen.publish else [])
    page = pages.page(judged, story, [way for way in WAYS if any(way in one.figures for one in judged)])
    for place in places:
        (place / "images").mkdir(exist_ok=True)
        (place / "quality.md").write_text(page, "utf-8")
        for one in judged:
            content = encode(".jpg", one.look, cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
            (place / "images" / pages.image_name(one.name)).write_bytes(content)
    (chosen.out / "quality.json").write_text(json.dumps(dict(_plain(judged)), indent=1), "utf-8")
    print(page)
    _say(f"also in {', '.join(str(place / 'quality.md') for place in places)}")


def _plain(judged: Sequence[Judged]) -> Iterator[tuple[str, dict]]:
    """Figures by kind and way for machines; null for what cannot be said."""
    for one in judged:
        yield (
            one.name,
            {
                way: {key: value if np.isfinite(value) else None for key, value in figures.items()}
                for way, figures in one.figures.items()
            },
        )


if __name__ == "__main__":
    main()
