"""The longest time in which nothing happened in a run although nothing kept it from going on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from chaos.evidence import EventRow
from llmteam.canvas.models import SegmentDefinition

#: After these, nobody works on the step.
_OVER = frozenset({"step.completed", "step.failed", "step.lost", "step.released"})


@dataclass(frozen=True)
class Stall:
    """``seconds`` in ``run_id`` between the events ``after`` and the one behind it."""

    seconds: float
    run_id: str = ""
    after: str = ""


def patience(segment: SegmentDefinition) -> dict[str, float]:
    """Seconds that an attempt of each step takes when all is well."""
    return {
        step.step_id: float(step.config.get("seconds", 0)) + float(step.config.get("hang", 0)) for step in segment.steps
    }


def longest(events: Sequence[EventRow], takes: Mapping[str, float], retry_delay: float) -> Stall:
    """The longest stall of one run. What a step takes by itself and the pause before a retry are none."""
    worst = Stall(0.0)
    busy: dict[tuple[str | None, int | None], datetime] = {}
    for before, event in pairwise(events):
        key = (before.step_id, before.visit)
        if before.event_type == "step.started":
            busy[key] = before.ts + timedelta(seconds=takes.get(before.step_id or "", 0.0))
        elif before.event_type == "step.retrying":
            busy[key] = before.ts + timedelta(seconds=retry_delay * 2 ** ((before.attempt or 1) - 1))
        elif before.event_type in _OVER:
            busy.pop(key, None)
        if before.event_type == "segment.paused":
            continue
        free = max([before.ts, *busy.values()])
        seconds = (event.ts - free).total_seconds()
        if seconds > worst.seconds:
            where = f" {before.step_id}#{before.visit}" if before.step_id else ""
            worst = Stall(seconds, before.run_id, f"{before.event_type}{where}")
    return worst


def worst_of(stalls: Iterable[Stall]) -> Stall:
    """The longest of all."""
    return max(stalls, key=lambda stall: stall.seconds, default=Stall(0.0))
