"""From the figures of all rounds to one table and one JSON document."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.scale import Finding
from bench.servers import Site
from bench.workloads import Figures, Row, Size

_PACKAGES = ("llmteam", "celery", "kombu", "redis", "psycopg2-binary", "sqlalchemy")


@dataclass(frozen=True)
class Line:
    """One row with the medians of both sides. ``ratio`` is the median of llmteam / raw Celery round by round."""

    row: Row
    raw: float
    llmteam: float
    ratio: float
    ratios: tuple[float, ...]


def lines(rows: Sequence[Row], raw: Sequence[Figures], llmteam: Sequence[Figures]) -> list[Line]:
    """Medians over the rounds. Rounds stand in pairs, so the ratio is theirs: a slow minute hits both sides."""
    found = []
    for row in rows:
        theirs, ours = [figures[row.name] for figures in raw], [figures[row.name] for figures in llmteam]
        ratios = tuple(mine / other for mine, other in zip(ours, theirs, strict=True))
        found.append(Line(row, statistics.median(theirs), statistics.median(ours), statistics.median(ratios), ratios))
    return found


def show(console: Console, found: Sequence[Line], size: Size) -> None:
    """Print the table."""
    rounds = f"medians of {size.rounds} rounds" if size.rounds > 1 else "one round"
    table = Table(title=f"{rounds}; threads pool of {size.concurrency}, for the waits of {size.waits}")
    table.add_column("")
    for heading in ("raw Celery", "llmteam", "llmteam / raw", "of each round", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in found:
        unit = line.row.unit
        spread = f"{min(line.ratios):.2f} - {max(line.ratios):.2f}"
        values = (f"{_short(value)} {unit}" for value in (line.raw, line.llmteam))
        table.add_row(line.row.name, *values, f"{line.ratio:.2f}", spread, _verdict(line))
    console.print(table)


def _verdict(line: Line) -> str:
    met = line.row.met(line.ratio)
    if met is None:
        return ""
    sign = ">=" if line.row.more_is_better else "<="
    return f"{sign} {line.row.target:g} {'met' if met else 'MISSED'}"


def show_findings(console: Console, found: Sequence[Finding]) -> None:
    """Print what happens at size."""
    table = Table(title="at size: one round; what trust costs: medians of its rounds")
    table.add_column("")
    for heading in ("llmteam", "beside", "", "budget"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found:
        beside = "" if one.beside is None else f"{_short(one.beside)} {one.unit}"
        budget = "" if one.budget is None else f"<= {one.budget:g} {one.unit} {'met' if one.met else 'MISSED'}"
        table.add_row(one.name, f"{_short(one.ours)} {one.unit}", beside, one.beside_name, budget)
    console.print(table)


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def document(
    place: Site,
    size: Size,
    found: Sequence[Line],
    rounds: Mapping[str, Mapping[str, Sequence[Figures]]],
    acks: bool,
    findings: Sequence[Finding] = (),
) -> dict[str, Any]:
    """Everything that was measured, and where."""
    return {
        "machine": {
            "processors": os.cpu_count(),
            "architecture": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": {**place.versions, **{name: version(name) for name in _PACKAGES}},
        "durability": dict(place.durability),
        "raw_celery_acknowledges": acks,
        "size": asdict(size),
        "rows": [
            {
                "name": line.row.name,
                "unit": line.row.unit,
                "raw": line.raw,
                "llmteam": line.llmteam,
                "ratio": line.ratio,
                "ratios": list(line.ratios),
                "target": line.row.target,
                "met": line.row.met(line.ratio),
            }
            for line in found
        ],
        "at_size": [{**asdict(one), "met": one.met} for one in findings],
        "rounds": {name: {side: list(figures) for side, figures in sides.items()} for name, sides in rounds.items()},
    }
