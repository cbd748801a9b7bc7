"""From what was found to one table and one JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from hosts.network import Kind

if TYPE_CHECKING:
    from hosts.trial import Size

_SHOWN = 10


@dataclass(frozen=True)
class Row:
    """One cut: ``lost`` leases ran out, ``late`` results came after that, ``back`` is in seconds after the joining."""

    kind: Kind
    victim: str
    lost: int
    late: int
    back: float | None
    settled: float


@dataclass(frozen=True)
class Report:
    """One trial."""

    network: str
    size: Size
    seed: int
    rows: Sequence[Row]
    found: Mapping[str, Sequence[str]]
    figures: Mapping[str, int]
    logs: Mapping[str, Sequence[str]]

    @property
    def passed(self) -> bool:
        return not any(self.found.values())

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "network": self.network,
            "seed": self.seed,
            "passed": self.passed,
            "cut_seconds": self.size.cut,
            "lease_seconds": self.size.lease,
            "cuts": [{**asdict(row), "kind": row.kind.word} for row in self.rows],
            "figures": dict(self.figures),
            "must_be_zero": {name: len(lines) for name, lines in self.found.items()},
            "details": {name: list(lines) for name, lines in self.found.items() if lines},
            "events": {run_id: list(lines) for run_id, lines in self.logs.items()},
        }


def show(console: Console, report: Report) -> None:
    """Print both tables, and what the checks found."""
    size = report.size
    title = f"{size.hosts} hosts ({report.network}), cut off for {size.cut:g} s each, leases of {size.lease:g} s"
    cuts = Table(title=title)
    for name in ("cut off", "how", "leases that ran out", "late results, refused", "back after", "all runs over after"):
        cuts.add_column(name, justify="left" if name in ("cut off", "how") else "right")
    for row in report.rows:
        back = "never" if row.back is None else f"{row.back:.1f} s"
        cuts.add_row(row.victim, row.kind.value, str(row.lost), str(row.late), back, f"{row.settled:.1f} s")
    console.print(cuts)
    table = Table()
    for name in ("", "found", "must be"):
        table.add_column(name, justify="left" if not name else "right")
    for name, number in report.figures.items():
        wanted = str(report.figures["runs started"]) if name == "ended as expected" else ""
        table.add_row(name, str(number), wanted)
    for name, lines in report.found.items():
        table.add_row(name, str(len(lines)), "0" if not lines else "0 MISSED")
    console.print(table)
    for name, lines in report.found.items():
        for line in lines[:_SHOWN]:
            console.print(f"{name}: {line}", markup=False, highlight=False)
