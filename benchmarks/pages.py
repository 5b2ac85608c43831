"""Figures of the quality benchmark -> the page docs/quality.md. Text in, text out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import SIGMA_BINS
from stackd.imaging.judge import CLAIM_SIGMA, FALSE_PER_MPX, FLUX_RADIUS_PX, WORTH_FINDING_SIGMA

TABLES = {
    "psnr": ("PSNR, dB", ".1f", "on an asinh scale softened at one frame's noise; more is better"),
    "ssim": ("SSIM", ".3f", "on the same scale; 1 is perfect"),
    "found": (
        "Stars found", ".0%",
        f"share of the stars above {WORTH_FINDING_SIGMA:g} sigma of an ideal stack that stand out at "
        f"{FALSE_PER_MPX:g} false peaks per Mpx; not asked where the sky has detail of its own",
    ),
    "fwhm": ("Star width, px FWHM", ".2f", "the truth has 2.0 px Gaussians, integrated over pixels"),
    "flux_scatter": ("Flux scatter, mag", ".3f", "of bright lonely stars about their median error; 0 is perfect"),
    "flux_error": (
        "Flux error, mag", ".3f",
        f"their median; light outside of {FLUX_RADIUS_PX:g} px counts as lost, so wide stars come out too faint",
    ),
}  # fmt: skip
BIN_NAMES = ("sky", "nebula and faint stars", "stars", "bright stars")


class Judged(Protocol):
    """What is told of one set."""

    name: str
    figures: dict[str, dict[str, float]]
    deviations: list[np.ndarray]
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """How the figures came to be."""

    seed: int
    quick: bool
    pictures: bool
    model: dict[str, Any]
    siril: str | None
    minutes: float
    kinds: dict[str, str]


def page(judged: Sequence[Judged], story: Story, ways: Sequence[str]) -> str:
    """The whole page in Markdown."""
    parts = [_head(story)]
    for key, (title, form, note) in TABLES.items():
        parts.append(f"## {title}\n\n{note[0].upper() + note[1:]}.\n\n" + _table(judged, ways, key, form))
    parts += [_invented(judged, ways), _calibration(judged), _pictures(judged, story)]
    return "\n\n".join(part for part in parts if part) + "\n"


def image_name(kind: str) -> str:
    """File name of a kind's picture."""
    return f"quality-{kind.replace(' ', '-')}.jpg"


def _head(story: Story) -> str:
    siril = (
        f"Siril {story.siril} (register, then Winsorized stack; `-` where it saw too few stars to register)"
        if story.siril
        else "Siril was not installed"
    )
    sky = "cut from clean pictures" if story.pictures else "procedural"
    options = f" --seed {story.seed}" + " --quick" * story.quick + " --pictures DIR" * story.pictures
    return (
        "# How good the pictures are\n\n"
        f"Written by `python -m benchmarks.quality --out DIR{options} --publish` in {story.minutes:.0f} minutes. "
        f"Model {story.model['name']} {story.model['version']}; {siril}; nebulae {sky}.\n\n"
        "Each kind of night is one set of eight frames from stackd's own simulated camera, which the model was "
        "trained on too, with other skies: these figures tell what the network can do, not what your telescope will "
        "give. All ways get the same files. Every picture is judged on its own reference frame's grid after fitting "
        "its unit, sky level and tilt, where all frames saw the sky. *One frame* is stackd's reference, *mean* lays "
        "the frames on each other by their true poses, *plain stack* is `stack.fits` and *stackd* is "
        "`restored.fits`. Means are of the kinds for which every way has a figure, and of all for those ways that have "
        "them all."
    )


def _table(judged: Sequence[Judged], ways: Sequence[str], key: str, form: str) -> str:
    rows = [(one.name, [one.figures.get(way, {}).get(key, np.nan) for way in ways]) for one in judged]
    rows = [(name, values) for name, values in rows if np.isfinite(values).any()]
    lines = [_row(["kind", *ways]), _row(["---", *["---:"] * len(ways)])]
    lines += [_row([name, *(_number(value, form) for value in values)]) for name, values in rows]
    everything = np.array([values for _, values in rows])
    complete = everything[np.isfinite(everything).all(1)]
    if len(complete) > 1:
        lines.append(_means(complete, form))
    if 1 < len(complete) < len(everything):
        lines.append(_means(everything, form))
    return "\n".join(lines)


def _means(rows: NDArray[np.float64], form: str) -> str:
    """A line of each way's mean, of those that have a figure in every row."""
    return _row([f"**mean of {len(rows)}**", *(f"**{_number(value, form)}**" for value in rows.mean(0))])


def _invented(judged: Sequence[Judged], ways: Sequence[str]) -> str:
    found = [one.figures for one in judged if "invented" in one.figures["stackd"]]
    if not found:
        return ""
    values = [f"{found[0][way]['invented']:.1f}" if found[0].get(way) else "-" for way in ways]
    return (
        "## Invented stars per Mpx\n\n"
        f"Peaks on the empty sky that claim the flux of a star of {CLAIM_SIGMA:g} sigma or more; "
        "hot pixels and cosmic rays left in count too.\n\n"
        + "\n".join([_row(ways), _row(["---:"] * len(ways)), _row(values)])
    )


def _calibration(judged: Sequence[Judged]) -> str:
    """Whether sigma.fits is true, pooled over the kinds."""
    rows = list(_calibration_rows(judged))
    titles = ["where sigma is ... times its median", "pixels", "median error / sigma"]
    head = [_row([*titles, "within 1", "within 2", "beyond 5"]), _row(["---", *["---:"] * 5])]
    honest = _row(["*normal errors*", "", "0.67", "68%", "95%", "0.0%"])
    note = "Errors of `restored.fits` against what `sigma.fits` says of them, all kinds together."
    return f"## Is the uncertainty true\n\n{note}\n\n" + "\n".join([*head, *rows, honest])


def _calibration_rows(judged: Sequence[Judged]) -> Iterator[str]:
    for n, (name, low, high) in enumerate(zip(BIN_NAMES, SIGMA_BINS, SIGMA_BINS[1:])):
        values = np.concatenate([one.deviations[n] for one in judged])
        if values.size:
            span = f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}"
            yield _row([
                f"{span} ({name})", f"{values.size:,}", f"{np.median(values):.2f}", f"{np.mean(values < 1):.0%}",
                f"{np.mean(values < 2):.0%}", f"{np.mean(values > 5):.1%}",
            ])  # fmt: skip


def _pictures(judged: Sequence[Judged], story: Story) -> str:
    """One figure a kind, real pixels, all ways under the plain stack's stretch."""
    shown = []
    for one in judged:
        shown += [f"**{one.name}**: {story.kinds[one.name]}", f"![{one.name}](images/{image_name(one.name)})"]
    return "\n\n".join(["## To look at", "Real pixels; every way under the plain stack's stretch.", *shown])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else "-"
