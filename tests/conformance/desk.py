"""Runs moved by hand: a test takes a step, answers it, and looks at what the store made of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from llmteam.canvas import SegmentDefinition
from llmteam.canvas.engine import Engine
from llmteam.canvas.execution import Execution, Limits
from llmteam.canvas.records import NewRun, PinnedDefinition, RunOptions, RunStore, StepRecord
from llmteam.canvas.state import Change, SegmentStatus
from llmteam.dispatch import Chord, Hint
from llmteam.events.models import EventQuery, WorktrailEvent
from llmteam.events.stores import EventStoreFace
from llmteam.ids import new_id
from llmteam.ratelimit.gate import Gate
from llmteam.runtime import RuntimeContext
from tests.drawing import compiled

T = TypeVar("T")

TENANT = "acme"


@dataclass
class Outbox:
    """A dispatcher that sends nothing and remembers everything."""

    hints: list[Hint] = field(default_factory=list)
    chords: list[Chord] = field(default_factory=list)

    def send(self, hints: Sequence[Hint]) -> None:
        self.hints += hints

    def send_chord(self, chord: Chord) -> None:
        self.chords.append(chord)


class Desk:
    """One store with an engine whose steps are run by the test."""

    def __init__(
        self, store: RunStore, events: EventStoreFace, outbox: Outbox | None = None, gate: Gate | None = None
    ) -> None:
        self.store = store
        self.gate = gate
        self.alarms: list[tuple[datetime, Hint]] = []
        self.events = events
        self.outbox = outbox or Outbox()
        self.engine = self.another_engine()

    def another_engine(self) -> Engine:
        """As in another process over the same store."""
        return Engine(
            self.store,
            handler_of=lambda type_id: None,
            runtime_of=lambda header: RuntimeContext(header.tenant_id, "", header.run_id, header.segment_id),
            dispatcher=self.outbox,
            alarm=lambda moment, hint: self.alarms.append((moment, hint)),
            limits=Limits(),
            gate=self.gate,
            holder="desk",
            chance=lambda: 0.0,
        )

    def start(self, segment: SegmentDefinition, *, run_id: str | None = None, **options: Any) -> str:
        """A run, written and hinted at."""
        run_id = run_id or new_id()
        assert self.engine.submit(new_run(segment, run_id, **options))
        return run_id

    def begin(self, run_id: str, step_id: str, visit: int = 1, **how: Any) -> Execution | None:
        """Claim a step."""
        return self.engine.begin(Hint(TENANT, run_id, step_id, visit, ""), **how)

    def claim(self, run_id: str, step_id: str, visit: int = 1, **how: Any) -> Execution:
        """Claim a step that is due."""
        execution = self.begin(run_id, step_id, visit, **how)
        assert execution is not None, f"{step_id} is not due"
        return execution

    def do(self, run_id: str, *steps: str, answer: Any = 1) -> Change:
        """Claim and answer one step after the other."""
        for step_id in steps:
            change = self.engine.answered(self.claim(run_id, step_id), answer)
        return change

    def rows(self, run_id: str) -> dict[str, StepRecord]:
        return {record.row.step_id: record for record in self.store.steps(TENANT, run_id)}

    def states(self, run_id: str) -> dict[str, str]:
        return {step_id: str(record.row.state) for step_id, record in self.rows(run_id).items()}

    def status(self, run_id: str) -> SegmentStatus:
        record = self.store.record(TENANT, run_id)
        assert record is not None
        return record.status

    def told(self, run_id: str) -> list[WorktrailEvent]:
        return self.events.select(EventQuery(tenant_id=TENANT, run_id=run_id))

    def hinted(self) -> list[str]:
        """Steps that were hinted at since the last look, chords' heads included."""
        hints = [*self.outbox.hints, *(head for chord in self.outbox.chords for head in chord.heads)]
        self.outbox.hints.clear()
        self.outbox.chords.clear()
        return [hint.step_id for hint in hints]


def new_run(segment: SegmentDefinition, run_id: str, *, input_text: str = "null", **options: Any) -> NewRun:
    """A run of ``segment`` about to be created."""
    types = {node.facts.type_id: node.facts for node in compiled(segment).nodes.values()}
    pinned = PinnedDefinition(segment.content_hash, segment, types)
    return NewRun(TENANT, run_id, pinned, input_text, RunOptions(**{"max_retries": 0, **options}))


def at_once(work: Sequence[Callable[[], T]]) -> list[T]:
    """Call all of ``work`` in threads that begin at the same moment."""
    barrier = threading.Barrier(len(work))

    def call(function: Callable[[], T]) -> T:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(call, work))
