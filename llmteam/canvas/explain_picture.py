"""What an explanation looks at: a run with all its steps at one moment, and what is known of those who work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from llmteam.canvas.awaited import Awaited
from llmteam.canvas.graph import Graph
from llmteam.canvas.phrases import moment
from llmteam.canvas.records import RunOptions, RunRecord, StepRecord
from llmteam.canvas.state import Key, RetryPolicy, StepRow
from llmteam.canvas.transitions import retry_policy
from llmteam.human.rulings import Case
from llmteam.regions import queue_in, region_of

if TYPE_CHECKING:
    from llmteam.canvas.explain_limits import Delay

#: Sweeps that may be missing before it is said that nobody sweeps.
LATE_SWEEPS = 3

#: Where steps are run that took their workers with them.
QUARANTINE = "llmteam.quarantine"


@dataclass(frozen=True, slots=True)
class FleetView:
    """What is known of those who work.

    ``workers`` and ``depths`` (messages) are by queue, None when nobody was asked; ``fault`` says why the broker could
    not tell. From ``hint_depth`` on, sweeps leave a queue that is worked off alone. ``swept`` is when each sweep last
    ended, by its name, ``sweep_seconds`` how often they should.
    """

    workers: Mapping[str, int] | None = None
    depths: Mapping[str, int] | None = None
    fault: str | None = None
    hint_depth: int = 1000
    swept: Mapping[str, datetime] = field(default_factory=dict)
    sweep_seconds: float = 5.0


@dataclass(frozen=True)
class Picture:
    """A run with all its steps, and what they ask people or limits, at one moment. ``now`` is the database's clock."""

    record: RunRecord
    steps: Sequence[StepRecord]
    graph: Graph
    now: datetime
    options: RunOptions = field(default_factory=RunOptions)
    fleet: FleetView = field(default_factory=FleetView)
    cases: Mapping[Key, Case] = field(default_factory=dict)
    delays: Mapping[Key, Delay] = field(default_factory=dict)

    @cached_property
    def awaited(self) -> Awaited:
        return Awaited(self.graph, (step.row for step in self.steps))

    @cached_property
    def rows(self) -> Mapping[Key, StepRow]:
        return {step.row.key: step.row for step in self.steps}

    def attempts(self, row: StepRow) -> int:
        """How often a step may be tried."""
        return retry_policy(self.graph.nodes[row.step_id], RetryPolicy(self.options.max_retries)).max_retries + 1

    def at(self, when: datetime) -> str:
        """A moment as a sentence says it."""
        return moment(when, self.now)


Steps = Sequence[StepRecord]


def name_of(key: Key) -> str:
    """A step as people call it: ``ask``, and ``ask#2`` on its second visit."""
    return key[0] if key[1] == 1 else f"{key[0]}#{key[1]}"


def queue_of(step: StepRecord) -> str:
    """Where a step is run: apart from others once it has lost too many workers."""
    return quarantine_of(step) if step.row.quarantined else step.queue


def quarantine_of(step: StepRecord) -> str:
    """The quarantine of the region that the step runs in."""
    return queue_in(QUARANTINE, region_of(step.queue))


def first_of(moments: Iterable[datetime | None]) -> datetime | None:
    """The earliest of those that are known."""
    return min((found for found in moments if found is not None), default=None)


def says_late_sweep(picture: Picture, name: str) -> Iterator[str]:
    """That nobody makes the sweep of this name, if so."""
    fleet, advice = picture.fleet, "start `llmteam worker` and `llmteam beat`"
    swept = fleet.swept.get(name)
    if swept is None:
        yield f"No such sweep has ended yet: {advice}."
    elif (picture.now - swept).total_seconds() > LATE_SWEEPS * fleet.sweep_seconds:
        yield f"The last such sweep ended at {picture.at(swept)}: {advice}."
