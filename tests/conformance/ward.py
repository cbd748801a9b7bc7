"""A desk with all that looks after runs: recovery, pauses and sweeps, and time that passes when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from llmteam.canvas.execution import Execution
from llmteam.canvas.keeper import holding_of
from llmteam.canvas.records import Holding, RunRecord, RunStore
from llmteam.canvas.recovery import Recovery
from llmteam.canvas.runs import Runs
from llmteam.canvas.state import Key, StepRow
from llmteam.canvas.stores import MemoryRunStore
from llmteam.canvas.surgery import Surgery
from llmteam.canvas.sweeper import Sweeper
from llmteam.canvas.sweeping import Sweeps
from llmteam.db import Database
from llmteam.events.models import WorktrailEvent
from llmteam.events.stores import EventStoreFace
from llmteam.wakeup import MemoryWakeup
from tests.conformance.desk import TENANT, Desk, Outbox

TENANTS = (TENANT, "globex")


class Ward(Desk):
    """``pass_time`` moves everything that was written back by that many seconds."""

    def __init__(
        self,
        store: RunStore,
        events: EventStoreFace,
        sweeps: Sweeps,
        pass_time: Callable[[float], None],
        outbox: Outbox | None = None,
    ) -> None:
        super().__init__(store, events, outbox)
        self.sweeps = sweeps
        self.pass_time = pass_time
        self.wakeup = MemoryWakeup()
        self.recovery = Recovery(self.engine)
        self.surgery = Surgery(self.engine, self.wakeup)
        self.sweeper = Sweeper(self.engine, sweeps, self.outbox, self.surgery)
        self.runs = Runs(self.engine, events, self.wakeup, known_types=lambda: ["work"])

    def record(self, run_id: str) -> RunRecord:
        record = self.store.record(TENANT, run_id)
        assert record is not None
        return record

    def row(self, run_id: str, step_id: str, visit: int = 1) -> StepRow:
        rows = {record.row.key: record.row for record in self.store.steps(TENANT, run_id)}
        return rows[step_id, visit]

    def lose(self, execution: Execution, fence: int | None = None) -> bool:
        """The lease of a claim has run out."""
        fence = execution.fence if fence is None else fence
        return self.recovery.lose(TENANT, execution.header.run_id, execution.key, fence)

    def overdue(self, execution: Execution) -> bool:
        return self.recovery.overdue(TENANT, execution.header.run_id, execution.key, execution.fence)

    def kinds(self, run_id: str) -> list[str]:
        """Types of all events of a run, in order."""
        return [event.event_type for event in self.told(run_id)]

    def last(self, run_id: str) -> WorktrailEvent:
        return self.told(run_id)[-1]

    def all_rows(self, run_id: str) -> dict[Key, Any]:
        return {record.row.key: record for record in self.store.steps(TENANT, run_id)}


def held(*executions: Execution) -> list[Holding]:
    """The claims behind executions."""
    return [holding_of(execution) for execution in executions]


def in_memory_passes(store: MemoryRunStore) -> Callable[[float], None]:
    """``pass_time`` of runs in memory."""

    def pass_time(seconds: float) -> None:
        by = timedelta(seconds=seconds)
        for run in store._runs.values():
            run.state = _earlier(run.state, by)
            run.rows = {key: _earlier(row, by) for key, row in run.rows.items()}
            run.held = {key: replace(one, until=one.until - by) for key, one in run.held.items()}
            run.frozen = {key: (owner, at and at - by) for key, (owner, at) in run.frozen.items()}
            run.wake_at = run.wake_at and run.wake_at - by
            run.created_at -= by
        cases = store.interactions._cases
        for ident, case in cases.items():
            moments = [getattr(case.request, one) for one in _REQUEST_MOMENTS]
            earlier = {one: at and at - by for one, at in zip(_REQUEST_MOMENTS, moments, strict=True)}
            cases[ident] = replace(case, request=case.request.changed(**earlier))
        store.interactions._looked.clear()

    return pass_time


def _earlier(value: Any, by: timedelta) -> Any:
    moments = {one.name: getattr(value, one.name) for one in fields(value)}
    return replace(value, **{name: at - by for name, at in moments.items() if isinstance(at, datetime)})


_REQUEST_MOMENTS = ("deadline", "frozen_at", "created_at", "updated_at")
_RUN_MOMENTS = ("deadline", "wake_at", "created_at", "started_at", "finished_at", "paused_at")
_STEP_MOMENTS = ("wake_at", "deadline", "ready_at", "started_at", "finished_at", "lease_until", "held_wake_at")


def in_postgres_passes(database: Database, tenants: Iterable[str] = TENANTS) -> Callable[[float], None]:
    """``pass_time`` of runs in Postgres."""

    def update(table: str, moments: Iterable[str]) -> str:
        return f"UPDATE llmteam.{table} SET {', '.join(f'{one} = {one} - %(by)s' for one in moments)};"

    script = update("runs", _RUN_MOMENTS) + update("run_steps", _STEP_MOMENTS) + update("payloads", ["created_at"])
    script += update("interactions", (*_REQUEST_MOMENTS, "wake_at", "closed_at"))

    def pass_time(seconds: float) -> None:
        for tenant in tenants:
            with database.hot(tenant) as connection:
                connection.script(script, {"by": timedelta(seconds=seconds)})

    return pass_time
