"""What is measured. Each workload runs on one side and gives figures by name; both sides take turns, round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

#: Figures of one side in one round, by the name of their row.
Figures = dict[str, float]


class Side(Protocol):
    """A way of running the same work: starts it, then waits until it is done and its results are here."""

    name: str

    def start_chain(self, length: int) -> Any: ...

    def start_fan(self, width: int) -> Any: ...

    def start_wait(self, seconds: float) -> Any: ...

    def finish(self, started: Sequence[Any]) -> None: ...


@dataclass(frozen=True)
class Row:
    """One line of the table. ``target`` bounds llmteam / raw Celery: from below for rates, else from above."""

    name: str
    unit: Literal["ms", "s", "runs/s"]
    target: float | None = None

    @property
    def more_is_better(self) -> bool:
        return self.unit == "runs/s"

    def met(self, ratio: float) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return ratio >= self.target if self.more_is_better else ratio <= self.target


@dataclass(frozen=True)
class Size:
    """How much of everything: enough for stable medians, or just enough to see that it works."""

    rounds: int
    concurrency: int
    alone: int
    chains: int
    chain_length: int
    fans: int
    fan_width: int
    waits: int
    wait_seconds: float

    def rows(self) -> list[Row]:
        chain, fan = f"{self.chain_length}-step chain", f"fan-out {self.fan_width} + join"
        return [
            Row(f"{chain}, alone, p50", "ms"),
            Row(f"{chain}, alone, p95", "ms"),
            Row(f"{chain}, {self.chains} in flight", "runs/s", 1.0),
            Row(f"{fan}, alone, p50", "ms"),
            Row(f"{fan}, alone, p95", "ms"),
            Row(f"{fan}, {self.fans} in flight", "runs/s", 1.0),
            Row(f"{self.waits} waits of {self.wait_seconds:g} s at once", "s", 1.3),
        ]


FULL = Size(
    rounds=5,
    concurrency=16,
    alone=40,
    chains=150,
    chain_length=10,
    fans=50,
    fan_width=20,
    waits=500,
    wait_seconds=2.0,
)
QUICK = Size(
    rounds=1,
    concurrency=4,
    alone=3,
    chains=5,
    chain_length=10,
    fans=3,
    fan_width=20,
    waits=20,
    wait_seconds=0.2,
)

Workload = Callable[[Side, Size], Figures]


def chain(side: Side, size: Size) -> Figures:
    """Chains one at a time, then many at once."""
    names = [row.name for row in size.rows()[0:3]]
    return _alone_and_together(lambda: side.start_chain(size.chain_length), side, size.alone, size.chains, names)


def fan(side: Side, size: Size) -> Figures:
    """Fan-outs one at a time, then many at once."""
    names = [row.name for row in size.rows()[3:6]]
    return _alone_and_together(lambda: side.start_fan(size.fan_width), side, size.alone, size.fans, names)


def waits(side: Side, size: Size) -> Figures:
    """As many waits as the worker has threads, all at once."""
    return {size.rows()[6].name: _seconds(lambda: side.start_wait(size.wait_seconds), side, size.waits)}


def _alone_and_together(
    start: Callable[[], Any], side: Side, alone: int, together: int, names: Sequence[str]
) -> Figures:
    took = [_seconds(start, side, 1) * 1000 for _ in range(alone)]
    p50, p95 = statistics.median(took), percentile(took, 0.95)
    return dict(zip(names, (p50, p95, together / _seconds(start, side, together)), strict=True))


def _seconds(start: Callable[[], Any], side: Side, count: int) -> float:
    begun = time.perf_counter()
    side.finish([start() for _ in range(count)])
    return time.perf_counter() - begun


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]


def interleaved(
    sides: Sequence[Side], workload: Workload, size: Size, told: Callable[[str], None]
) -> Mapping[str, list[Figures]]:
    """The figures of each side by round. Who begins changes from round to round: neither has the warmer machine."""
    found: dict[str, list[Figures]] = {side.name: [] for side in sides}
    for number in range(size.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            told(f"{workload.__name__}, round {number + 1} of {size.rounds}: {side.name}")
            found[side.name].append(workload(side, size))
    return found
