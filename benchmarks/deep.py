"""How good stackd is on real frames, where nobody knows the truth: judged by the other frames of the same field.

    python -m benchmarks.deep --frames FOLDER [--size 8] [--model NAME or FOLDER] [--siril PATH] [--out FILE.json]

Takes at least 2 * size light frames of one field. `size` of them are a set; the plain stack of all the others is the
deep picture that the set's ways are judged by: one frame, the plain clipped stack, Siril where it is installed, and
stackd. Four splits (the first and the last frames, every other one from either), so that each frame serves on both
sides. Nothing is resampled: stars are found on each picture's own grid, and their places carried over.

Stars: all pictures are searched through one filter, as wide as the deep picture's stars. A peak is a star if the deep
picture has a peak of 2.5 sigma within 1.5 px, false if it has none where the sky is empty (judge.py's rule), and
`beside` if it has none next to a brighter star, where the deep picture's own blur may hide a companion. Counted from
the highest peak down until there are so many false ones per Mpx of empty sky (of all splits together: a split alone has
few); `strictly`: those beside stars count as false too. The share is of the stars that the deep picture shows at 5
sigma or more. A real star too faint for the deep picture counts as false, for all ways alike; a false peak passes for a
star as often as the printed chance says.

Fluxes: apertures around bright, lonely, unsaturated stars against the same in the deep picture, the offset that all
share removed. The deep picture's noise is in every way's scatter.

sigma.fits: two disjoint sets' restored pictures differ by as much as their sigmas say, or the sigmas are wrong. What
both get wrong in the same way does not show.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

from benchmarks import siril
from benchmarks.metrics import SIGMA_BINS
from stackd import logs, single
from stackd.disk import models
from stackd.disk.frame import Frame, Image
from stackd.disk.reader import read_frame
from stackd.errors import ConfigError, StackdError
from stackd.imaging import judge
from stackd.imaging.debayer import debayer
from stackd.imaging.psf import FWHM_PER_SIGMA, Psf
from stackd.imaging.quality import measure_sky, robust_scatter
from stackd.imaging.register import find_transform
from stackd.imaging.skies import Sky, blur, splat, splat_otf
from stackd.imaging.stars import Stars, find_stars
from stackd.imaging.truth import matched, star_width_px
from stackd.imaging.warp import Transform, apply_transform, invert
from stackd.jobs.runner import SerialRunner
from stackd.jobs.worker import Work
from stackd.settings import Settings, find_config, load

WAYS = ("one frame", "plain stack", "Siril", "stackd")
RATES_PER_MPX = (10.0, 30.0, 100.0)
HINT_SIGMA, CERTAIN_SIGMA, FAINT_SIGMA, VERY_BRIGHT_SIGMA = 2.5, 5.0, 10.0, 300.0  # of a peak in the deep picture
SATURATED_SHARE = 0.8
APERTURE_WIDTHS, LEAST_APERTURE_PX = 2.5, 4.0  # radius, in the deep picture's star widths
RING_APERTURES = (1.5, 2.5)
ALONE_PX, ALONE_SHARE = 3.0, 1.1  # beyond the aperture; peaks of all stars there over the star's own
QUIET_PX, QUIET_SHARE = 2.0, 1.5  # the same beyond the ring: wings there are another's in every way's picture
HALO_WIDTHS, HALO_BETA = 1.5, 2.5  # a generous star: outside of all of them the sky is empty
BORDER_PX = 15
MOST_PX, MOST_BYTES = 1 << 27, 1 << 30
COLUMNS = {
    **{f"found_{rate:g}": f"found at {rate:g} false/Mpx" for rate in RATES_PER_MPX},
    f"faint_{RATES_PER_MPX[1]:g}": f"of these 5 to {FAINT_SIGMA:g} sigma, at {RATES_PER_MPX[1]:g}",
    f"strict_{RATES_PER_MPX[2]:g}": f"strictly, at {RATES_PER_MPX[2]:g}",
    f"beside_{RATES_PER_MPX[1]:g}": f"beside stars/Mpx, at {RATES_PER_MPX[1]:g}",
    "invented": "invented/Mpx",
    "scatter": f"flux scatter, {judge.BRIGHT_SIGMA:g} to {VERY_BRIGHT_SIGMA:g} sigma, mag",
    "scatter_bright": f"over {VERY_BRIGHT_SIGMA:g} sigma, mag",
    "fwhm": "star width, px",
}


@dataclass(frozen=True, slots=True)
class Result:
    """A restored set: light planes (H, W) on the grid of its reference, and where all its frames saw the sky."""

    frames: tuple[Frame, ...]  # in order of time, as the manifest has them
    manifest: dict
    stack: Image
    restored: Image
    sigma: Image
    seen: NDArray[np.bool_]

    @property
    def reference(self) -> Frame:
        """The frame whose grid it is."""
        return next(frame for frame in self.frames if Path(frame.path).name == self.manifest["reference"])


@dataclass(frozen=True, slots=True)
class Deep:
    """What the judging picture shows. Peaks are its local maxima of HINT_SIGMA or more, highest first."""

    light: Image
    seen: NDArray[np.bool_]  # (H, W): by every frame of both sides
    empty: NDArray[np.bool_]  # (H, W): there a peak without a counterpart is false
    noise: float  # of one pixel
    peak_noise: float  # of a peak's height
    x: NDArray[np.intp]
    y: NDArray[np.intp]
    snr: NDArray[np.float64]
    width: float  # of its stars, px
    bright: Stars  # lonely, unsaturated
    bright_snr: NDArray[np.float64]

    @property
    def flux_error(self) -> float:
        """1 sigma of a star's flux, as judge.Truth has it."""
        return self.noise * float(np.sqrt(4 * np.pi)) * judge.STACK_STAR_FWHM_PX / FWHM_PER_SIGMA

    @property
    def aperture(self) -> tuple[float, tuple[float, float]]:
        """Radius and ring (px) that hold the widest way's stars."""
        return _aperture(self.width)

    @property
    def chance(self) -> float:
        """How often a place of the empty sky has a peak within reach for no reason."""
        return float(self.empty[self.y, self.x].sum() * np.pi * judge.SAME_STAR_PX**2 / max(self.empty.sum(), 1))


@dataclass(frozen=True, slots=True)
class Peaks:
    """A way's peaks within the judged sky, highest first, and what the deep picture says of each."""

    x: NDArray[np.intp]  # on the way's own grid
    y: NDArray[np.intp]
    height: NDArray[np.float64]  # in sigmas of the deep picture
    snr: NDArray[np.float64]  # of the deep picture's star there, 0 without one
    false: NDArray[np.bool_]
    stars: dict[str, int]  # that could be found, all and faint
    mpx: dict[str, float]  # empty and seen

    def found(self, rate: float) -> dict[str, float]:
        """Share of the deep picture's stars among the peaks down to the height of so many false ones per Mpx."""
        kept = np.cumsum(self.false) <= rate * self.mpx["empty"]
        strictly = np.cumsum(self.snr == 0) <= rate * self.mpx["seen"]
        certain = kept & (self.snr >= CERTAIN_SIGMA)
        beside = kept & (self.snr == 0) & ~self.false
        return {
            f"found_{rate:g}": float(certain.sum() / max(self.stars["all"], 1)),
            f"faint_{rate:g}": float((certain & (self.snr < FAINT_SIGMA)).sum() / max(self.stars["faint"], 1)),
            f"strict_{rate:g}": float((strictly & (self.snr >= CERTAIN_SIGMA)).sum() / max(self.stars["all"], 1)),
            f"beside_{rate:g}": float(beside.sum() / self.mpx["seen"]),
        }


def pooled(parts: Sequence[Peaks]) -> Peaks:
    """Several splits' peaks as those of one large picture: a split alone has few false ones."""
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "height", "snr", "false")
    }
    order = np.argsort(-columns["height"], kind="stable")
    sums = {name: {key: sum(getattr(part, name)[key] for part in parts) for key in getattr(parts[0], name)}
            for name in ("stars", "mpx")}  # fmt: skip
    return Peaks(**{name: column[order] for name, column in columns.items()}, **sums)


class House:
    """Restores sets of frames, each once, with one model."""

    def __init__(self, settings: Settings, work: Path) -> None:
        self._settings, self._folder, self._work = settings, work, Work()
        self._results: dict[tuple[Path, ...], Result] = {}

    def in_order(self, folder: Path, size: int) -> list[Path]:
        """The folder's light frames in order of time. Raises StackdError where they are too few or do not agree."""
        runner = SerialRunner(self._work, lambda digest: None, _silent)
        found = single.find_frames([folder], self._settings, runner)
        if found.problems:
            raise found.problems[0]
        if len(found.frames) < 2 * size:
            raise ConfigError(f"{folder}: {len(found.frames)} light frames; --size {size} needs {2 * size} or more")
        return [Path(sighting.path) for sighting, _ in found.frames]

    def restored(self, paths: Sequence[Path]) -> Result:
        """The set of these frames."""
        key = tuple(paths)
        if key not in self._results:
            out = self._folder / f"set{len(self._results)}"
            manifest = single.restore(paths, out, self._settings, _silent, aligned=False, work=self._work)
            self._results[key] = _read(out, manifest, paths)
        return self._results[key]


def main() -> None:
    """The command."""
    chosen = _arguments()
    logs.configure("ERROR")
    program = siril.find(chosen.siril)
    with tempfile.TemporaryDirectory(prefix="stackd-deep-") as folder:
        try:
            story = judge_field(chosen.frames, chosen.size, _settings(chosen, Path(folder)), program, Path(folder))
        except StackdError as error:
            sys.exit(f"deep: {error}")
    print(page(story))
    if chosen.out:
        chosen.out.write_text(json.dumps(_plain(story), indent=1), "utf-8")


def judge_field(frames: Path, size: int, settings: Settings, program: str | None, work: Path) -> dict:
    """{"splits": {name: {"deep": facts, way: figures}}, "sigma": deviations, "model": ...}; all splits as one too."""
    house = House(settings, work)
    paths = house.in_order(frames, size)
    sets = splits(paths, size)
    judged, peaks = {}, []
    for name, members in sets.items():
        one, other = house.restored(members), house.restored([path for path in paths if path not in members])
        judged[name], found = judge_split(one, other, members, program, work / f"siril-{name}")
        peaks.append(found)
        _say(f"judged {name}")
    halves = {name: house.restored(members) for name, members in sets.items()}
    sigma = {f"{a} and {b}": deviations(halves[a], halves[b]) for a, b in (("first", "last"), ("even", "odd"))}
    return {
        "field": frames.name, "frames": len(paths), "size": size, "model": one.manifest["model"],
        "splits": {"all splits": _together(list(judged.values()), peaks)} | judged, "sigma": sigma,
    }  # fmt: skip


def splits(paths: Sequence[Path], size: int) -> dict[str, list[Path]]:
    """The sets; what is not in one is its deep picture's."""
    even, odd = paths[::2][:size], paths[1::2][:size]
    return {"first": list(paths[:size]), "last": list(paths[-size:]), "even": list(even), "odd": list(odd)}


def judge_split(
    one: Result, other: Result, members: Sequence[Path], program: str | None, folder: Path
) -> tuple[dict, dict[str, Peaks]]:
    """({"deep": facts, way: figures}, {way: its peaks}) of one set against the others."""
    deep, onto_set = deep_of(one, other)
    pictures = {"one frame": _light(one.reference), "plain stack": one.stack, "stackd": one.restored}
    placed = {name: (picture, onto_set) for name, picture in pictures.items()}
    if program and (theirs := _by_siril(members, one, other, program, folder)):
        placed["Siril"] = theirs
    facts = {
        "stars": int((deep.snr >= CERTAIN_SIGMA).sum()), "bright": len(deep.bright), "chance": deep.chance,
        "judged_mpx": float(deep.seen.sum() / 1e6), "empty_mpx": float(deep.empty.sum() / 1e6),
        "frames": len(other.frames),
    }  # fmt: skip
    judged = {name: figures(*placed[name], deep) for name in WAYS if name in placed}
    return {"deep": facts} | {name: row for name, (row, _) in judged.items()}, {n: p for n, (_, p) in judged.items()}


def deep_of(one: Result, other: Result) -> tuple[Deep, Transform]:
    """(the others' plain stack as a judge of the set, its pixels -> the set's). Raises ConfigError."""
    onto_set = _laid(other.stack, one.stack)
    if onto_set is None:
        raise ConfigError("the two sides of a split show no common stars: not one field")
    moved = one.seen.astype(np.float32)
    back = Transform(invert(onto_set.matrix), "stars", 0, 0.0)
    moved = apply_transform(np.where(one.seen, moved, np.nan).astype(np.float32), back, other.stack.shape)[0]
    seen = other.seen & np.isfinite(moved)
    light = np.where(seen, other.stack, np.nan).astype(np.float32)
    return _catalogued(light, seen, _saturation_adu(other)), onto_set


def figures(picture: Image, onto: Transform, deep: Deep) -> tuple[dict[str, float], Peaks]:
    """(all figures of one way, its peaks). `onto`: the deep picture's pixels -> the way's."""
    sky = _bright_sky(deep, onto)
    width = star_width_px(picture, sky)
    light = _as_seen(picture, onto, deep)
    scale, scatters = _photometry(picture, sky, deep)
    peaks = compared(light, onto, deep, scale)
    found = _found(peaks)
    claims = _claims(light, peaks) * scale
    invented = (peaks.false & (claims > judge.CLAIM_SIGMA * deep.flux_error)).sum() / (deep.empty.sum() / 1e6)
    return found | {"invented": float(invented)} | scatters | {"fwhm": width or np.nan}, peaks


def compared(light: Image, onto: Transform, deep: Deep, scale: float) -> Peaks:
    """A way's peaks held against the deep picture's; of several at one star the highest is it, the rest nothing.

    `scale`: the deep picture's unit over the way's.
    """
    x, y, height = _peaks(light, deep.width)
    there = Transform(invert(onto.matrix), "stars", 0, 0.0)(x.astype(float), y.astype(float))
    column, row = np.rint(there).astype(int).T
    inside = (column >= 0) & (column < deep.seen.shape[1]) & (row >= 0) & (row < deep.seen.shape[0])
    inside[inside] = deep.seen[row[inside], column[inside]]
    near = cKDTree(np.stack([deep.x, deep.y], 1)).query_ball_point(there, judge.SAME_STAR_PX)
    snr, taken = np.zeros(len(x)), np.zeros(len(deep.x), bool)
    for k in np.flatnonzero(inside):
        free = [n for n in near[k] if not taken[n]]
        if free:
            snr[k] = deep.snr[min(free)]  # they are in order of height
            taken[min(free)] = True
        elif near[k]:
            inside[k] = False
    false = np.zeros(len(x), bool)
    false[inside] = (snr[inside] == 0) & deep.empty[row[inside], column[inside]]
    certain, faint = deep.snr >= CERTAIN_SIGMA, deep.snr < FAINT_SIGMA
    stars = {"all": int(certain.sum()), "faint": int((certain & faint).sum())}
    mpx = {"empty": float(deep.empty.sum() / 1e6), "seen": float(deep.seen.sum() / 1e6)}
    sigmas = height * (scale / deep.peak_noise)
    return Peaks(x[inside], y[inside], sigmas[inside], snr[inside], false[inside], stars, mpx)


def deviations(one: Result, other: Result) -> dict[str, dict[str, float]]:
    """|difference| of two disjoint sets' restored pictures over the sigma that both claim for it, by size of sigma."""
    onto_one = _laid(other.stack, one.stack)
    if onto_one is None:
        return {}
    moved, sigma = (apply_transform(plane, onto_one, one.restored.shape)[0] for plane in (other.restored, other.sigma))
    seen = one.seen & np.isfinite(moved) & (apply_transform(_mask(other.seen), onto_one, one.seen.shape)[0] > 0.99)
    seen = _shrunk(seen)
    fitted, scale = matched(np.where(seen, moved, np.nan)[None].astype(np.float32), np.nan_to_num(one.restored)[None])
    deviation = np.abs(fitted[0] - one.restored) / np.hypot(one.sigma, sigma * scale[0])
    relative = one.sigma / np.nanmedian(one.sigma[seen])
    bins = {}
    for low, high in pairwise(SIGMA_BINS):
        values = deviation[seen & (relative >= low) & (relative < high) & np.isfinite(deviation)]
        if values.size:
            shares = {"within_1": float((values < 1).mean()), "within_2": float((values < 2).mean())}
            beyond = float((values > 5).mean())
            bins[f"{low:g} to {high:g}"] = {"pixels": int(values.size), **shares, "beyond_5": beyond}
    return bins


def page(story: Mapping) -> str:
    """The figures as Markdown."""
    model = story["model"] or {"name": "none", "version": "no network"}
    sets = f"sets of {story['size']} of {story['frames']} frames"
    lines = [f"{story['field']}: {sets}, model {model['name']} {model['version']}", ""]
    for name, ways in story["splits"].items():
        lines += [f"**{name}**: {_facts(ways['deep'])}", "", *_table(ways), ""]
    lines += ["sigma.fits, where the claimed sigma is so many times its median (68 %, 95 % and 0 % if it is true):", ""]
    lines += ["| sets | sigma | pixels | within 1 | within 2 | beyond 5 |", "| --- | --- | --- | --- | --- | --- |"]
    for name, bins in story["sigma"].items():
        for span, row in bins.items():
            shares = " | ".join(f"{row[key]:.1%}" for key in ("within_1", "within_2", "beyond_5"))
            lines.append(f"| {name} | {span} | {row['pixels']:,} | {shares} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, required=True, help="folder of light frames of one field")
    parser.add_argument("--size", type=int, default=8, help="frames in a set; the folder holds twice as many or more")
    parser.add_argument("--model", help="NAME, NAME@VERSION, a version's folder or a store's; default: the config's")
    parser.add_argument("--siril", type=Path, help="siril-cli; default: the one on the PATH")
    parser.add_argument("--config", type=Path, help="stackd's config; its folders are not used but for models")
    parser.add_argument("--out", type=Path, help="the figures of every split go here, as JSON")
    return parser.parse_args()


def _settings(chosen: argparse.Namespace, work: Path) -> Settings:
    """The config's, with the chosen model. Raises StackdError."""
    settings = load(find_config(chosen.config))
    if not chosen.model:
        return settings
    name, store = chosen.model, settings.folders.models
    folder = Path(name)
    if (folder / "card.json").is_file():  # a version, wherever it lies
        version = models.at_path(folder.absolute())
        name, store = f"{version.name}@{version.version}", work / "models"
        (store / version.name).mkdir(parents=True)
        (store / version.name / version.version).symlink_to(folder.absolute())
    elif folder.is_dir():
        name, store = settings.restore.model, folder.absolute()
    folders = settings.folders.model_copy(update={"models": store})
    return settings.model_copy(
        update={"folders": folders, "restore": settings.restore.model_copy(update={"model": name})}
    )


def _read(out: Path, manifest: dict, paths: Sequence[Path]) -> Result:
    pictures = [read_frame(out / f"{name}.fits", MOST_PX, MOST_BYTES) for name in ("stack", "restored", "sigma")]
    stack, restored, sigma = (_light(picture) for picture in pictures)
    frames = tuple(read_frame(path, MOST_PX, MOST_BYTES) for path in paths)
    seen = np.isfinite(stack)
    for row in manifest["inputs"]:
        if row["used"]:
            whole = np.ones(stack.shape, np.float32)
            moved, _ = apply_transform(whole, Transform(np.array(row["transform"]), "stars", 0, 0.0), stack.shape)
            seen &= np.isfinite(moved)
    return Result(frames, manifest, stack, restored, sigma, _shrunk(seen))


def _light(frame: Frame) -> Image:
    """The mean of a frame's bands (H, W)."""
    if frame.facts.bayer:
        return debayer(frame.pixels, frame.facts.bayer).mean(0)
    return frame.pixels.mean(0) if frame.pixels.ndim == 3 else frame.pixels


def _mask(seen: NDArray[np.bool_]) -> Image:
    return seen.astype(np.float32)


def _shrunk(seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Less a border: at edges the ways differ by rule."""
    inside = np.zeros_like(seen)
    inside[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    return seen & inside


def _saturation_adu(result: Result) -> float:
    """Above the reference's sky, in the unit of the result's pictures."""
    return min(frame.saturation_adu for frame in result.frames) - float(np.median(result.reference.pixels))


def _stars(picture: Image, saturation: float = np.inf) -> Stars:
    """In units of the picture's own noise: Siril's pictures go from 0 to 1."""
    sky = measure_sky(picture)
    level, noise = np.float32(sky.level_adu), np.float32(max(sky.noise_adu, 1e-12))
    return find_stars((picture - level) / noise, 1.0, (saturation - sky.level_adu) / noise)


def _laid(picture: Image, onto: Image) -> Transform | None:
    return find_transform(_stars(picture), _stars(onto))


def _catalogued(light: Image, seen: NDArray[np.bool_], saturation: float) -> Deep:
    """Stars and noise of the deep picture."""
    stars = _stars(light, SATURATED_SHARE * saturation)
    width = float(np.median(stars.fwhm_px[~stars.saturated][:200]))
    smooth = _smoothed(light, width)
    peak_noise = measure_sky(smooth).noise_adu
    x, y, height = _peaks(light, width)
    clear = height > HINT_SIGMA * peak_noise
    x, y, height = x[clear], y[clear], height[clear]
    snr = (height / peak_noise).astype(np.float64)
    bright, bright_snr = _bright(stars, x, y, snr, width)
    noise = measure_sky(light).noise_adu
    empty = seen & _empty(light, x, y, snr, width, noise)
    return Deep(light, seen, empty, noise, peak_noise, x, y, snr, width, bright, bright_snr)


def _smoothed(light: Image, width: float) -> Image:
    """Above the ground and through a filter as wide as the stars, as judge.peaks does it; NaN where not judged."""
    sigma_px = float(np.clip(width / FWHM_PER_SIGMA, 0.8, 2.5))
    unseen = ~np.isfinite(light)
    smooth = gaussian_filter(np.where(unseen, 0, light - judge.ground_of(light)), sigma_px)
    return np.where(unseen, np.nan, smooth).astype(np.float32)


def _peaks(light: Image, width: float) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """x, y and height of local maxima, highest first. Of 3 px: a star on the flank of a brighter one is a star."""
    smooth = np.nan_to_num(_smoothed(light, width))
    y, x = np.nonzero((smooth == maximum_filter(smooth, 3)) & (smooth > 0))
    order = np.argsort(-smooth[y, x], kind="stable")
    return x[order], y[order], smooth[y, x][order]


def _bright(
    stars: Stars, x: NDArray[np.intp], y: NDArray[np.intp], snr: NDArray[np.float64], width: float
) -> tuple[Stars, NDArray[np.float64]]:
    """Unsaturated stars above judge.BRIGHT_SIGMA without neighbours that matter, and their signal-to-noise ratios."""
    tree, places = cKDTree(np.stack([x, y], 1)), np.stack([stars.x, stars.y], 1)

    def within(reach_px: float) -> list[NDArray[np.float64]]:
        return [snr[near] for near in tree.query_ball_point(places, reach_px)]

    radius_px, (_, ring_px) = _aperture(width)
    own = np.array([peaks.max(initial=0) for peaks in within(judge.SAME_STAR_PX)])
    alone = np.array([peaks.sum() < ALONE_SHARE * top for peaks, top in zip(within(radius_px + ALONE_PX), own)], bool)
    quiet = np.array([peaks.sum() < QUIET_SHARE * top for peaks, top in zip(within(ring_px + QUIET_PX), own)], bool)
    good = alone & quiet & (own > judge.BRIGHT_SIGMA) & ~stars.saturated
    return stars.take(good), own[good]


def _empty(
    light: Image, x: NDArray[np.intp], y: NDArray[np.intp], snr: NDArray[np.float64], width: float, noise: float
) -> NDArray[np.bool_]:
    """Where no certain star's halo stands above half the noise, as judge.Truth has it."""
    certain = snr > CERTAIN_SIGMA
    x, y, snr = x[certain].astype(float), y[certain].astype(float), snr[certain]
    flux = judge.aperture_flux(light, x, y, *_aperture(width))
    clear = np.isfinite(flux) & (snr > judge.BRIGHT_SIGMA)
    usual = float(np.median(flux[clear] / snr[clear])) if clear.any() else noise
    # an aperture holds faint stars' neighbours and noise, a peak tells nothing of a saturated star
    flux = np.where(clear, np.maximum(flux, usual * snr), usual * snr)
    halo = Psf(HALO_WIDTHS * width, HALO_BETA).otf(light.shape) / splat_otf(light.shape)
    return blur(splat(light.shape, x, y, flux), halo) < 0.5 * noise


def _aperture(width: float) -> tuple[float, tuple[float, float]]:
    radius = max(LEAST_APERTURE_PX, APERTURE_WIDTHS * width)
    return radius, (RING_APERTURES[0] * radius, RING_APERTURES[1] * radius)


def _as_seen(picture: Image, onto: Transform, deep: Deep) -> Image:
    """The picture where the deep one is judged, NaN elsewhere; on its own grid."""
    moved, _ = apply_transform(np.where(deep.seen, np.float32(1), np.float32(np.nan)), onto, picture.shape)
    return np.where(np.isfinite(moved), picture, np.nan).astype(np.float32)


def _bright_sky(deep: Deep, onto: Transform) -> Sky:
    """The bright stars alone, on the way's grid; fluxes for their order only."""
    x, y = onto(deep.bright.x, deep.bright.y).T
    return Sky(np.zeros((1, 1, 1), np.float32), x, y, deep.bright.flux[None])


def _photometry(picture: Image, sky: Sky, deep: Deep) -> tuple[float, dict[str, float]]:
    """(deep unit over the picture's unit, robust scatter in mag of two classes of brightness)."""
    wanted = judge.aperture_flux(deep.light, deep.bright.x, deep.bright.y, *deep.aperture)
    got = judge.aperture_flux(picture, sky.x, sky.y, *deep.aperture)
    good = (got > 0) & (wanted > 0)
    ratio = np.where(good, got, 1) / np.where(good, wanted, 1)
    very = deep.bright_snr > VERY_BRIGHT_SIGMA
    scatters = {"scatter": _scatter_mag(ratio[good & ~very]), "scatter_bright": _scatter_mag(ratio[good & very])}
    return (1 / float(np.median(ratio[good])) if good.any() else np.nan), scatters


def _scatter_mag(ratio: NDArray[np.float64]) -> float:
    if len(ratio) < 5:
        return np.nan
    return robust_scatter(-2.5 * np.log10(ratio))


def _found(peaks: Peaks) -> dict[str, float]:
    return {name: value for rate in RATES_PER_MPX for name, value in peaks.found(rate).items()}


def _claims(light: Image, peaks: Peaks) -> NDArray[np.float64]:
    """The light that false peaks claim, 0 for others."""
    claims = np.zeros(len(peaks.x))
    x, y = peaks.x[peaks.false].astype(float), peaks.y[peaks.false].astype(float)
    claims[peaks.false] = judge.aperture_flux(light, x, y, judge.CLAIM_RADIUS_PX, judge.CLAIM_RING_PX)
    return np.nan_to_num(claims)


def _by_siril(
    members: Sequence[Path], one: Result, other: Result, program: str, folder: Path
) -> tuple[Image, Transform] | None:
    """(Siril's picture, the deep picture's pixels -> its); None if it gave up. Which way up it writes depends on its
    version: the way on which the stars match is taken."""
    planes = siril.stack(program, members, bool(one.reference.facts.bayer), folder)
    if planes is None:
        _say("Siril gave no stack")
        return None
    light = planes.mean(0)
    light = np.where(light == 0, np.nan, light).astype(np.float32)
    for picture in (light, light[::-1]):
        onto = _laid(other.stack, picture)
        if onto is not None:
            return picture, onto
    return None


def _together(splits: Sequence[Mapping], peaks: Sequence[Mapping[str, Peaks]]) -> dict[str, dict[str, float]]:
    """All splits as one: stars found among the peaks of all, other figures averaged."""
    names = [name for name in ("deep", *WAYS) if all(name in ways for ways in splits)]
    mean = {name: {key: float(np.mean([ways[name][key] for ways in splits])) for key in splits[0][name]}
            for name in names}  # fmt: skip
    found = {name: _found(pooled([ways[name] for ways in peaks])) for name in names if name != "deep"}
    return {name: row | found.get(name, {}) for name, row in mean.items()}


def _facts(deep: Mapping[str, float]) -> str:
    return (
        f"{deep['stars']:.0f} stars in a deep picture of {deep['frames']:.0f} frames, {deep['bright']:.0f} of them "
        f"bright and lonely; {deep['judged_mpx']:.2f} Mpx judged, {deep['empty_mpx']:.2f} of it empty; a false peak "
        f"passes for a star with a chance of {deep['chance']:.0%}"
    )


def _table(ways: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["| way | " + " | ".join(COLUMNS.values()) + " |", "| --- " * (1 + len(COLUMNS)) + "|"]
    for name in WAYS:
        if name in ways:
            cells = " | ".join(_cell(key, ways[name][key]) for key in COLUMNS)
            lines.append(f"| {name} | {cells} |")
    return lines


def _cell(key: str, value: float) -> str:
    if not np.isfinite(value):
        return ""
    if key.startswith(("found", "faint", "strict")):
        return f"{value:.1%}"
    if key.startswith(("beside", "invented")):
        return f"{value:.0f}"
    return f"{value:.4f}" if key.startswith("scatter") else f"{value:.2f}"


def _plain(value):
    """Null for what cannot be said."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _silent(name: str, step: str, share: float) -> None:
    """Progress of one set: of no interest here."""


def _say(line: str) -> None:
    """Progress goes to stderr, the tables to stdout."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
