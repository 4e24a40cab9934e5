"""The figures as a plot."""

import math
from html import escape
from typing import Final

from tests.campaigns.load.figures import Figures, Series
from tests.campaigns.load.goals import ROWS, Row

LEFT: Final = 560
WIDTH: Final = 420
LINE: Final = 34
TOP: Final = 76
DECADES: Final = 1.0
"""How far the scale goes to each side of the goal: a tenth of it to ten times as much."""
COLOURS: Final = {"this": "#1565c0", "other": "#9e9e9e"}


def svg(figures: Figures, title: str) -> str:
    """A bar for each checkout from the goal: to the right where it is better than wanted, to the left where
    it is worse.
    """
    rows = [row for row in ROWS if row.goal is not None and row.name in figures.series]
    bottom, middle = TOP + LINE * len(rows), LEFT + WIDTH / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 130}" height="{bottom + 40}" '
        'font-family="sans-serif" '
        'font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        *(
            f'<text x="10" y="{18 + 16 * n}">{escape(line)}</text>'
            for n, line in enumerate(title.splitlines())
        ),
        f'<line x1="{middle}" y1="{TOP - 6}" x2="{middle}" y2="{bottom}" stroke="#2e7d32" stroke-width="2"/>',
        f'<text x="{middle}" y="{TOP - 10}" text-anchor="middle" fill="#2e7d32">the goal</text>',
    ]
    for power in (-1, -0.5, 0.5, 1):
        x = middle + power / DECADES * WIDTH / 2
        parts.append(f'<line x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{bottom}" stroke="#ddd"/>')
        side = "better" if power > 0 else "worse"
        parts.append(
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle" fill="#666">{10 ** abs(power):.0f} × '
            f"{side}</text>"
        )
    for number, row in enumerate(rows):
        y, found = TOP + LINE * number, figures.series[row.name]
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(row.what)} {row.told_goal()}</text>'
        )
        for place, (subject, colour) in enumerate(COLOURS.items()):
            if subject in found and (length := _length(row, found, subject)) is not None:
                begin, top = min(middle, middle + length), y + 2 + 12 * place
                parts.append(
                    f'<rect x="{begin:.1f}" y="{top}" width="{abs(length):.1f}" height="10" fill="{colour}"/>'
                )
                told = f"{found[subject].median:.3g} {row.unit}"
                parts.append(
                    f'<text x="{LEFT + WIDTH + 8}" y="{top + 9}" fill="{colour}">{subject}: {told}</text>'
                )
    return "\n".join([*parts, "</svg>\n"])


def _length(row: Row, found: dict[str, Series], subject: str) -> float | None:
    """How far a bar goes, in pixels: to the left where it is negative."""
    goal = row.goal or 0
    if row.of_other:
        if "other" not in found:
            return None
        goal *= found["other"].median
    figure = found[subject].median
    if not (goal and figure):
        return None
    decades = math.log10(figure / goal) * (1 if row.better == "more" else -1)
    return max(-DECADES, min(DECADES, decades)) / DECADES * WIDTH / 2
