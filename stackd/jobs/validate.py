"""Here is everything wrong with this set: pure, from what the frames' headers say.

Takes names and FrameFacts, gives one plain sentence a problem, all at once. What the headers do not
say is no problem here; the pixels are judged later, frame by frame.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from stackd.jobs.grouping import same_word
from stackd.records import FrameFacts

NamedFacts = tuple[str, FrameFacts]

_MOST_NAMES = 3  # named in one sentence; the rest is counted


def problems_of(frames: Sequence[NamedFacts], *, exposure_tolerance: float) -> list[str]:
    """Every reason why these frames cannot be restored as one set; empty if there is none.

    `exposure_tolerance`: accepted relative difference of exposure to the frames' median one.
    """
    problems = []
    if not frames:
        problems.append("there is no frame")
    for title, (value_of, words_of) in COMPARED.items():
        problems += _disagreement(frames, title, value_of, words_of)
    problems += _exposure_problem(frames, exposure_tolerance)
    strays = [(name, facts.image_type) for name, facts in frames if not facts.is_light]
    problems += [f"{_names([name for name, _ in strays])}: {_kinds(strays)}, not lights"] if strays else []
    return problems


# What is compared, and how it is told.
COMPARED: dict[str, tuple[Callable[[FrameFacts], Hashable], Callable[[FrameFacts], str]]] = {
    "size": (lambda f: (f.width_px, f.height_px), lambda f: f"{f.width_px}x{f.height_px} px"),
    "colour": (lambda f: (f.bands, f.bayer), lambda f: f.bayer or ("mono", "colour")[f.bands == 3]),
    "sample type": (lambda f: f.sample_type, lambda f: f.sample_type),
    "row order": (lambda f: f.bottom_up, lambda f: "BOTTOM-UP" if f.bottom_up else "TOP-DOWN"),
    "target": (lambda f: same_word(f.target), lambda f: str(f.target)),
    "filter": (lambda f: same_word(f.filter), lambda f: str(f.filter)),
    "gain": (lambda f: f.gain, lambda f: f"{f.gain:g}"),
    "binning": (lambda f: f.binning, lambda f: str(f.binning)),
    "camera": (lambda f: same_word(f.camera), lambda f: str(f.camera)),
    "calibration": (lambda f: f.calibrated, lambda f: f"CALSTAT {f.calibrated}" if f.calibrated else "none"),
}


def _disagreement(
    frames: Sequence[NamedFacts],
    title: str,
    value_of: Callable[[FrameFacts], Hashable],
    words_of: Callable[[FrameFacts], str],
) -> list[str]:
    """Who differs from the most common value, in one sentence; a value that is not said agrees with any."""
    said = [(name, facts) for name, facts in frames if value_of(facts) is not None]
    counts = Counter(value_of(facts) for _, facts in said)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    usual_words = next(words_of(facts) for _, facts in said if value_of(facts) == usual)
    others: dict[str, list[str]] = {}
    for name, facts in said:
        if value_of(facts) != usual:
            others.setdefault(words_of(facts), []).append(name)
    odd = "; ".join(f"{_names(names)} {_have(names)} {words}" for words, names in others.items())
    return [f"{title} differs: {odd}, where {counts[usual]} of {len(frames)} frames have {usual_words}"]


def _exposure_problem(frames: Sequence[NamedFacts], tolerance: float) -> list[str]:
    exposures_s = sorted(facts.exposure_s for _, facts in frames if facts.exposure_s is not None)
    if not exposures_s:
        return []
    middle_s = exposures_s[len(exposures_s) // 2]
    odd = [
        (name, facts.exposure_s)
        for name, facts in frames
        if facts.exposure_s is not None and abs(facts.exposure_s - middle_s) > tolerance * middle_s
    ]
    if not odd:
        return []
    each = ", ".join(f"{name} {exposure_s:g} s" for name, exposure_s in odd[:_MOST_NAMES])
    more = f" and {len(odd) - _MOST_NAMES} more" if len(odd) > _MOST_NAMES else ""
    return [f"exposure differs by more than {tolerance:.0%} from {middle_s:g} s: {each}{more}"]


def _kinds(strays: Sequence[tuple[str, str]]) -> str:
    return " and ".join(f"{kind} frames" for kind in dict.fromkeys(kind for _, kind in strays))


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"
