"""What was measured: kept by row and checkout, written as JSON, printed as a table beside goals and an
earlier run.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.campaigns.load.goals import BY_NAME, ROWS, Row

T = TypeVar("T")

ANSWERED: Final = "answered"
"""The detail with the share of a load's requests that succeeded."""
ENOUGH_ANSWERED: Final = 0.97
"""Below it a figure says nothing, because refusals are quick.

The sizes of gRPC's answers, which tell, differ by as much.
"""
CPU: Final = "CPU µs"
"""The detail with the CPU time for each request."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rows: frozenset[str]
    """The names of the rows that are wanted."""
    rounds: int
    seconds: float
    """How long a load takes."""
    stored: int
    """Sessions of the large list."""
    watchers: int

    @property
    def whole_seconds(self) -> int:
        """How long a load of wrk takes, which knows no shorter ones."""
        return max(1, round(self.seconds))

    def alternate(self, of: Mapping[str, T]) -> Iterator[list[tuple[str, T]]]:
        """The checkouts' own, once for each round: in their order and the other way round in turns, so that
        none is always the first.
        """
        for number in range(self.rounds):
            yield list(of.items())[:: -1 if number % 2 else 1]

    def wants(self, *names: str) -> bool:
        """Whether one of these rows is wanted."""
        return not self.rows.isdisjoint(names)


@dataclass
class Series:
    """The figures of one row and checkout, one a round, and what else was noted."""

    rounds: list[float] = field(default_factory=list)
    details: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def as_json(self) -> dict[str, Any]:
        spread = {"median": self.median, "least": min(self.rounds), "most": max(self.rounds)}
        return {**spread, "rounds": self.rounds, "details": self.details}


class Figures:
    """All series of a run."""

    def __init__(self) -> None:
        self.series: dict[str, dict[str, Series]] = defaultdict(dict)

    def add(self, row: str, subject: str, figure: float, **details: float) -> None:
        """Notes a round."""
        series = self.series[row].setdefault(subject, Series())
        series.rounds.append(figure)
        for name, value in details.items():
            series.details[name].append(value)

    def as_json(self) -> dict[str, Any]:
        """The rows by name and checkout."""
        return {
            row: {subject: one.as_json() for subject, one in of.items()} for row, of in self.series.items()
        }

    @classmethod
    def read(cls, file: Path) -> "Figures":
        """What an earlier run has written."""
        figures = cls()
        for row, of in json.loads(file.read_text())["rows"].items():
            for subject, one in of.items():
                figures.series[row][subject] = Series(one["rounds"], one["details"])
        return figures


def ratio(series: list[float], others: list[float]) -> float | None:
    """The median of the rounds' ratios."""
    found = [one / other for one, other in zip(series, others, strict=False) if other]
    return statistics.median(found) if found else None


def judge(row: Row, this: Series, other: Series | None) -> str:
    """`reached`, `MISSED`, `REFUSED` where too many requests were, or nothing where there is no goal or
    nothing to compare with.
    """
    if min(this.details.get(ANSWERED, [1])) < ENOUGH_ANSWERED:
        return "REFUSED"
    is_reached = row.is_reached(this.median, other.median if other else None)
    return "" if is_reached is None else "reached" if is_reached else "MISSED"


def table(figures: Figures, earlier: Figures | None) -> str:
    """The table: for each row what it is, a line of figures, and a line of what else was noted."""
    lines = [
        _columns(
            "", "goal", "this (spread)", "other (spread)", "this/other", "", "earlier" if earlier else ""
        )
    ]
    for row in ROWS:
        this, other = (figures.series.get(row.name, {}).get(subject) for subject in ("this", "other"))
        if this is None:
            continue
        before = earlier.series.get(row.name, {}).get("this") if earlier else None
        then = (
            f"{before.median:.3g} (now {this.median / before.median:.2f} of it)"
            if before and before.median
            else ""
        )
        compared = ratio(this.rounds, other.rounds) if other else None
        told = "" if compared is None else f"{compared:.2f}"
        lines += [
            row.what,
            _columns(
                row.name,
                row.told_goal(),
                _spread(this, row),
                _spread(other, row),
                told,
                judge(row, this, other),
                then,
            ),
            f"{'':19}{_details(this, other)}",
        ]
    return "\n".join(line.rstrip() for line in lines)


def _columns(name: str, goal: str, this: str, other: str, compared: str, verdict: str, earlier: str) -> str:
    return f"{name:18} {goal:>14}  {this:26} {other:26} {compared:>10}  {verdict:8}{earlier}"


def _spread(series: Series | None, row: Row) -> str:
    if series is None:
        return ""
    return (
        f"{_short(series.median)} {row.unit} ({_short(min(series.rounds))} to {_short(max(series.rounds))})"
    )


def _details(this: Series, other: Series | None) -> str:
    found = []
    for name, values in this.details.items():
        told = f"{name} {_short(statistics.median(values))}"
        if other and name in other.details:
            told += f" / {_short(statistics.median(other.details[name]))}"
            if name == CPU and (compared := ratio(values, other.details[name])):
                told += f" ({compared:.2f})"
        found.append(told)
    return "; ".join(found)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def missed(figures: Figures) -> list[str]:
    """The names of the rows whose goals are not reached, or whose figures say nothing."""
    found = figures.series.items()
    return [
        name
        for name, of in found
        if "this" in of and judge(BY_NAME[name], of["this"], of.get("other")) in ("MISSED", "REFUSED")
    ]
