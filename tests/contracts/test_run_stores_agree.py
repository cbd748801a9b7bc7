"""The same moves on a run in memory and on one in Postgres leave the same rows and the same events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.canvas import transitions
from llmteam.canvas.graph import Graph
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.records import NewRun, RunStore, StoredOutput
from llmteam.canvas.state import Completed, Key, RetryPolicy, SegmentStatus, StepState
from llmteam.canvas.stores import MemoryRunStore
from llmteam.db import Database
from llmteam.events import EventQuery, MemoryEventStore
from llmteam.events.models import EventDraft, EventType
from llmteam.events.postgres import PostgresEventStore
from llmteam.events.stores import EventStoreFace
from llmteam.ids import new_id
from tests.conformance.desk import TENANT, new_run
from tests.unit.canvas.random_graphs import Answers, graphs, orders

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=30)


class Mover:
    """Moves one run in one store, with a clock of its own."""

    def __init__(self, store: RunStore, events: EventStoreFace, graph: Graph, run: NewRun) -> None:
        self.store, self.events, self.graph, self.run = store, events, graph, run
        self.now = MOMENT
        assert store.create(run, transitions.start(graph, run.run_id, self.now), graph.nodes)

    def due(self) -> list[tuple[str, Key]]:
        """What could happen next, in an order that both stores share."""
        steps = sorted(self.store.steps(TENANT, self.run.run_id), key=lambda record: record.row.key)
        can = {StepState.READY: "claim", StepState.RUNNING: "finish"}
        return [(can[record.row.state], record.row.key) for record in steps if record.row.state in can]

    def move(self, kind: str, key: Key, answers: Answers, retries: int) -> object:
        self.now += timedelta(seconds=400)
        work = self.store.gather(TENANT, self.run.run_id, key)
        assert work is not None
        if kind == "finish":
            return self._finish(key, work.row.fence, answers(key, work.row.attempt), retries)
        claimed = transitions.claim(work.run, work.row, self.now, timedelta(minutes=1))
        assert claimed is not None
        event = EventDraft(EventType.STEP_STARTED, step_id=key[0], step_type="work", visit=key[1], attempt=1)
        keys = transitions.prefetch(self.graph, key)[1:]
        taken = self.store.claim(work, claimed, event, LEASE, "mover", keys)
        assert taken is not None
        self._seen = (key, taken.seen)
        return sorted((source.step_id, source.output.ports, source.superseded) for source in work.sources)

    def _finish(self, key: Key, fence: int, outcome: Any, retries: int) -> object:
        header = self.store.header(TENANT, self.run.run_id)
        assert header is not None
        change = self.store.apply(
            header,
            transitions.prefetch(self.graph, key),
            lambda moment: transitions.finish(
                self.graph, moment, key, fence, outcome, policy=RetryPolicy(max_retries=retries), chord_id="chord"
            ),
            self.graph.nodes,
            now=self.now,
            finished=key,
            output=StoredOutput(f'{{"output":"{key[0]}/{key[1]}"}}', whole=True)
            if isinstance(outcome, Completed)
            else None,
            seen=self._seen[1] if self._seen[0] == key else None,
        )
        return change.applied, change.ended, change.chord, sorted(change.ready)

    def look(self) -> object:
        """All that the store shows of the run, but for what hangs on its own clock."""
        run_id = self.run.run_id
        rows = {}
        for record in self.store.steps(TENANT, run_id):
            row = record.row
            rows[row.key] = (record, row.wake_at if row.state is not StepState.RUNNING else None)
        shown = {
            key: (
                *(getattr(record.row, name) for name in FIELDS),
                wake_at,
                record.queue,
                record.holder,
                record.output,
            )
            for key, (record, wake_at) in rows.items()
        }
        events = self.events.select(EventQuery(tenant_id=TENANT, run_id=run_id))
        told = [(event.seq, event.model_dump(exclude={"event_id", "run_id"})) for event in events]
        record = self.store.record(TENANT, run_id)
        assert record is not None
        ends = (record.status, record.steps_completed, record.steps_total, record.error, record.finished_at)
        return shown, told, ends, self.store.outputs(TENANT, run_id)


FIELDS = (
    *("state", "undecided", "live", "failed_in", "attempt", "losses", "fence", "owner", "deadline", "ready_at"),
    *("started_at", "finished_at", "decisions", "terminal", "error", "chord_id", "loop"),
)


@pytest.fixture(scope="module")
def durable(postgres: Any) -> Any:
    from tests.services import PostgresService

    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    yield database
    database.close()
    own.drop_all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), st.integers(0, 2**16), orders(), st.sampled_from((0.0, 0.2)), st.integers(0, 1))
def test_the_same_moves_lead_to_the_same_rows_and_events(
    durable: Database, drawn: Graph, seed: int, choose: Callable[[int], int], rate: float, retries: int
) -> None:
    run = new_run(drawn.definition, new_id())
    events = MemoryEventStore()
    memory = Mover(MemoryRunStore(sink=events.add, clock=lambda: MOMENT), events, drawn, run)
    postgres = Mover(PostgresRunStore(durable), PostgresEventStore(durable), drawn, run)
    answers = Answers(drawn, seed, rate)

    while due := memory.due():
        assert postgres.due() == due
        move = due[choose(len(due))]
        assert memory.move(*move, answers, retries) == postgres.move(*move, answers, retries)

    assert memory.look() == postgres.look()
    assert SegmentStatus(memory.look()[2][0]).is_terminal  # type: ignore[index]
