"""From what was found to one table and one JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos.checks import Account
from chaos.schedule import Kind
from chaos.stalls import Stall

#: Lines of details that are printed for each check that found something.
_SHOWN = 10


@dataclass(frozen=True)
class Report:
    """One trial: how it can be had again, what was done, and what came of it."""

    seed: int
    runs: int
    seconds: float
    settled: float
    found: Mapping[str, Sequence[str]]
    done: Sequence[tuple[float, Kind, str]]
    figures: Mapping[str, int]
    stall: Stall
    shapes: Mapping[str, int]
    logs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not any(self.found.values())

    @property
    def faults(self) -> dict[str, int]:
        """How often each kind came."""
        kinds = [kind for _, kind, _ in self.done]
        return {kind.value: kinds.count(kind) for kind in Kind}

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "settled_seconds": round(self.settled, 1),
            "passed": self.passed,
            "runs": self.runs,
            "shapes": dict(self.shapes),
            "figures": dict(self.figures),
            "must_be_zero": {name: len(lines) for name, lines in self.found.items()},
            "details": {name: list(lines) for name, lines in self.found.items() if lines},
            "events": {run_id: list(lines) for run_id, lines in self.logs.items()},
            "longest_stall": asdict(self.stall),
            "faults": self.faults,
            "schedule": [{"at": at, "kind": kind.word, "victim": victim} for at, kind, victim in self.done],
        }


def figures(accounts: Sequence[Account], found: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """What may be any number, by the name of its row."""
    bad = {line.partition(":")[0] for name in ("lost", "ended otherwise") for line in found[name]}
    keys = [key for run in accounts for name, counts in run.effects.items() for key in counts.items()]
    steps = [step for run in accounts for step in run.steps]
    return {
        "runs started": len(accounts),
        "ended as expected": sum(run.run_id not in bad for run in accounts),
        "steps": len(steps),
        "leases that ran out": sum(step.losses for step in steps),
        "effects after deduplication": len(keys),
        "effects delivered again (allowed)": sum(count - 1 for _, count in keys),
    }


def logs(accounts: Sequence[Account], found: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The events and step rows of the runs that are named in ``found``, a line each."""
    named = {line.partition(":")[0] for lines in found.values() for line in lines}
    return {
        run.run_id: [
            *(f"{one.seq} {one.ts:%H:%M:%S.%f} {one.event_type} {one.step_id}#{one.visit}" for one in run.events),
            *(str(step) for step in run.steps),
        ]
        for run in accounts
        if run.run_id in named
    }


def show(console: Console, report: Report) -> None:
    """Print the table, and what the checks found."""
    table = Table(title=f"{report.runs} runs, {report.seconds:g} s of faults, seed {report.seed}")
    table.add_column("")
    table.add_column("found", justify="right", no_wrap=True)
    table.add_column("must be", justify="right", no_wrap=True)
    for name, number in report.figures.items():
        table.add_row(name, str(number), str(report.runs) if name == "ended as expected" else "")
    for name, lines in report.found.items():
        table.add_row(name, str(len(lines)), "0" if not lines else "0 MISSED")
    stall = report.stall
    table.add_row(f"longest stall ({stall.run_id}, after {stall.after})", f"{stall.seconds:.1f} s", "")
    table.add_row("all runs over after the last fault", f"{report.settled:.1f} s", "", end_section=True)
    for kind, times in report.faults.items():
        table.add_row(kind, str(times), "")
    console.print(table)
    for name, lines in report.found.items():
        for line in lines[:_SHOWN]:
            console.print(f"{name}: {line}", markup=False, highlight=False)
        if len(lines) > _SHOWN:
            console.print(f"{name}: and {len(lines) - _SHOWN} more", markup=False, highlight=False)
