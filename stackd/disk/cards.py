"""What a model's card says of its worth, in lines that people read: its figures, and the model it was held against.

Takes a card as JSON has it, of any age: what it does not say is not shown.
"""

from typing import Any

from stackd.disk.figures import number

# Of the golden set that figures come from: raised whenever its skies, or the way from them to a figure, become others.
GOLDEN_EDITION = 3


def summary_of(card: dict[str, Any]) -> str:
    """One line for a list of models: "PSNR 38.10 dB, stars found 0.74, flux error 0.012 mag, invented 0 per Mpx"."""
    golden = card.get("figures", {}).get("golden set", {})
    parts = [
        (golden.get("psnr"), "PSNR {} dB", 4), (golden.get("found"), "stars found {}", 3),
        (golden.get("flux_error"), "flux error {} mag", 2), (golden.get("invented"), "invented {} per Mpx", 2),
    ]  # fmt: skip
    known = [words.format(number(value, digits)) for value, words, digits in parts if value is not None]
    if known:
        older = card.get("golden_edition", 1) != GOLDEN_EDITION
        return ", ".join(known) + (" (on an older golden set: not comparable)" if older else "")
    held_out = card.get("scores", {}).get("psnr")
    return f"PSNR {number(held_out, 4)} dB on held-out skies" if held_out is not None else ""


def comparison_lines(card: dict[str, Any]) -> list[str]:
    """The table of a candidate beside the model that was current then; empty for a card without one."""
    comparison = card.get("comparison")
    if not comparison or not comparison.get("rows"):
        return []
    against = comparison["against"] or "no current model"
    verdict = "promoted" if comparison["promoted"] else "not promoted"
    lines = [f"against {against}: {verdict}", f"  {'':<32}{'this':>10}{'that':>10}"]
    for row in comparison["rows"]:
        name = f"{row['figure'].replace('_', ' ')}, {row['judged_on']}"
        unit = f" {row['unit']}" if row["unit"] else ""
        asked = "must be better" if row["must_improve"] else f"tolerance {number(row['tolerance'], 2)}"
        mark = "" if row["passed"] else "  fell short"
        this, that = number(row["candidate"], 4), number(row["current"], 4)
        lines.append(f"  {name:<32}{this:>10}{that:>10}{unit} ({asked}){mark}")
    return lines
