"""What a scenario found out, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Facts: TypeAlias = "Mapping[str, str | int | float]"


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
