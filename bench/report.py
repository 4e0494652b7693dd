"""What a scenario found out, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Facts: TypeAlias = "Mapping[str, str | int | float]"


class Printable(Protocol):
    """What a scenario returns."""

    @property
    def scenario(self) -> str: ...

    def dump_markdown(self) -> str: ...

    def dump_json(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Row:
    """Two ways under the same load, in alternating rounds; lower is better."""

    load: Facts
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Theirs to ours, round by round: noise that lasts longer than a round cancels out."""
        return [
            round(theirs / ours, 2) for ours, theirs in zip(self.ours, self.theirs, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of one scenario and what their columns mean."""

    scenario: str
    unit: str
    ours: str
    theirs: str
    rows: Sequence[Row]
    where: Facts = field(
        default_factory=lambda: {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        }
    )

    def dump_markdown(self) -> str:
        """Return a heading and a table: medians, and the range of the ratio over the rounds."""
        lines = [
            f"## {self.scenario}",
            "",
            f"{self.unit}; {', '.join(str(fact) for fact in self.where.values())}",
            "",
            f"| load | {self.ours} | {self.theirs} | ratio (min - max) |",
            "|---|--:|--:|--:|",
        ]
        for row in self.rows:
            load = ", ".join(f"{value} {name}" for name, value in row.load.items())
            ratios = row.ratios
            lines.append(
                f"| {load} | {median(row.ours):.2f} | {median(row.theirs):.2f} "
                f"| {median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f}) |"
            )
        return "\n".join(lines)

    def dump_json(self) -> str:
        """Return everything measured, every round of it, on one line."""
        rows = [{**asdict(row), "ratios": row.ratios} for row in self.rows]
        return msgspec.json.encode({**asdict(self), "rows": rows}).decode()


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured of several ways at once: cells that are already words, and all the data."""

    scenario: str
    method: Sequence[str]
    """Sentences: what a number is, and how it came about."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    """What has to be said about single cells: failures, outliers, what was left running."""
    where: Facts
    data: Any
    """Every single measurement, as JSON takes it."""

    def dump_markdown(self) -> str:
        """Return a heading, the machine, the method, the table and the notes."""
        lines = [
            f"## {self.scenario}",
            "",
            f"Measured on: {', '.join(map(str, self.where.values()))}.",
            "",
            *self.method,
            "",
            f"| {' | '.join(self.columns)} |",
            "|---|" + "--:|" * (len(self.columns) - 1),
            *(f"| {' | '.join(row)} |" for row in self.rows),
        ]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines)

    def dump_json(self) -> str:
        """Return everything measured on one line."""
        return msgspec.json.encode(asdict(self)).decode()


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent are not above."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def dump_fault(error: BaseException) -> str:
    """Return an error as a note has it; of a group, its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)
