"""What the memory store does about leases, pauses and sweeps; one installation in one process has no other sweeper."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from llmteam import codec
from llmteam.canvas.features import features_needed
from llmteam.canvas.graph import Node
from llmteam.canvas.records import INLINE_INPUT, Holding, NewRun, RunHeader, RunRecord, StoredOutput
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import (
    DEADLINE_GRACE,
    HINT_AFTER,
    Hold,
    Key,
    Owner,
    RunState,
    SegmentStatus,
    StepRow,
    StepState,
)
from llmteam.canvas.sweeping import Expired, LateRun
from llmteam.context.stores import ContextStore
from llmteam.dispatch import Hint, quarantine_beside
from llmteam.ids import Clock
from llmteam.persistence.stores import MemorySnapshotStore
from llmteam.regions import queue_in
from llmteam.tenancy.admission import StartCounts, StartLimits, refusal, wait

#: The longest pause between two hints at a step.
_MOST = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Held:
    """Who works on a step, until when."""

    holder: str
    until: datetime


@dataclass(slots=True)
class MemoryRun:
    """A run with all that is kept of it. ``lock`` guards everything here."""

    header: RunHeader
    start: NewRun
    created_at: datetime
    state: RunState
    rows: dict[Key, StepRow]
    nodes: Mapping[str, Node]
    lock: AbstractContextManager[Any]
    next_seq: int = 1
    key: str | None = None
    wake_at: datetime | None = None
    outputs: dict[Key, StoredOutput] = field(default_factory=dict)
    local: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    held: dict[Key, Held] = field(default_factory=dict)
    hints: dict[Key, int] = field(default_factory=dict)
    frozen: dict[Key, tuple[Owner, datetime | None]] = field(default_factory=dict)
    given: dict[Key, str] = field(default_factory=dict)


def queue_of(run: MemoryRun, step_id: str) -> str:
    """Where the run's hints of a step go."""
    return queue_in(run.nodes[step_id].facts.queue, run.state.region)


def check_start(
    runs: Mapping[tuple[str, str], MemoryRun],
    run: NewRun,
    nodes: Mapping[str, Node],
    limits: StartLimits,
    now: datetime,
    *,
    queued: bool,
) -> None:
    """Raise :class:`TenantError` kinds unless the tenant may start one more run, to begin at once unless ``queued``."""
    counts = _count(runs, run.tenant_id, limits, now)
    refused = refusal(run.tenant_id, limits, counts, run.agents, features_needed(nodes.values()))
    if refused is None and not queued:
        refused = wait(run.tenant_id, limits, counts, behind_queue=True)
    if refused is not None:
        raise refused


def check_admission(
    runs: Mapping[tuple[str, str], MemoryRun], tenant_id: str, limits: StartLimits, now: datetime
) -> None:
    """Raise :class:`TenantError` kinds unless one of the tenant's queued runs may begin."""
    counts = _count(runs, tenant_id, limits, now)
    one_too_many = replace(limits, per_day=None, per_minute=None, storage=None)
    refused = refusal(tenant_id, one_too_many, counts, 0) or wait(tenant_id, limits, counts, behind_queue=False)
    if refused is not None:
        raise refused


def _count(
    runs: Mapping[tuple[str, str], MemoryRun], tenant_id: str, limits: StartLimits, now: datetime
) -> StartCounts:
    if not limits.counts:
        return StartCounts()
    mine = [run for (tenant, _), run in list(runs.items()) if tenant == tenant_id]
    queued = sum(run.state.status is SegmentStatus.PENDING for run in mine)
    return StartCounts(
        open=sum(not run.state.status.is_terminal for run in mine) - queued,
        queued=queued,
        today=sum(run.created_at.date() == now.date() for run in mine),
        last_minute=sum(run.created_at > now - timedelta(minutes=1) for run in mine),
    )


def apply_hold(run: MemoryRun, hold: Hold, now: datetime) -> None:
    """What a pause, or its end, does to all steps of a run."""
    run.wake_at = hold.wake_at
    if hold.freeze:
        for key, row in run.rows.items():
            if row.state in (StepState.READY, StepState.RUNNING, StepState.WAITING):
                running = row.state is StepState.RUNNING
                run.frozen[key] = ("queue", None) if running else (row.owner or "queue", row.wake_at)
                deadline = None if running else row.deadline
                state = StepState.READY if running else row.state
                run.rows[key] = replace(row, state=state, owner="pause", wake_at=None, deadline=deadline)
                run.hints.pop(key, None)
    if hold.thaw is not None:
        for key, (owner, wake_at) in run.frozen.items():
            row = run.rows[key]
            moment = now + HINT_AFTER if owner == "queue" or wake_at is None else wake_at + hold.thaw
            deadline = None if row.deadline is None else row.deadline + hold.thaw
            run.rows[key] = replace(row, owner=owner, wake_at=moment, deadline=deadline)
        run.frozen.clear()


def wake_step(run: MemoryRun, key: Key, moment: datetime | None, now: datetime) -> str | None:
    """As :data:`llmteam.db.waking.WAKE_STEP`."""
    row, paused_at = run.rows[key], run.state.paused_at
    at = moment or (now if paused_at is None else min(now, paused_at))
    if row.state is not StepState.WAITING:
        return None
    run.hints.pop(key, None)
    if row.owner == "pause":
        run.frozen[key] = (run.frozen[key][0], moment or paused_at)
    else:
        run.rows[key] = replace(row, wake_at=at)
    return queue_of(run, key[0]) if run.state.status is SegmentStatus.RUNNING else None


def wake_of_claim(claimed: StepRow, until: datetime) -> datetime:
    """When a sweep looks at a running step: when its lease ends, or its deadline has passed unnoticed."""
    return until if claimed.deadline is None else min(until, claimed.deadline + DEADLINE_GRACE)


def holds(run: MemoryRun | None, holding: Holding) -> bool:
    """Whether the claim still holds its step."""
    row = None if run is None else run.rows.get(holding.key)
    if run is None or row is None or holding.key not in run.held:
        return False
    return row.state is StepState.RUNNING and row.fence == holding.fence


def sealed_input(start: NewRun) -> Any:
    """The input as a snapshot has it: a large one, as in SQL, as a reference."""
    if len(start.input) <= INLINE_INPUT:
        return codec.loads(start.input)
    return {"$ref": codec.digest(start.input)}


def beginning(row: StepRow) -> tuple[bool, float, str, int]:
    """By what steps are sorted that are shown: those that began first, then those that did not."""
    began = 0.0 if row.started_at is None else row.started_at.timestamp()
    return (row.started_at is None, began, row.step_id, row.visit)


def shown(run: MemoryRun) -> RunRecord:
    """A run as it is shown."""
    header, state, link = run.header, run.state, run.start.link
    return RunRecord(
        tenant_id=header.tenant_id,
        run_id=header.run_id,
        instance_id=header.instance_id,
        segment_id=header.segment_id,
        definition_hash=header.definition_hash,
        status=state.status,
        steps_completed=state.completed,
        steps_total=len(run.nodes),
        error=state.error,
        created_at=run.created_at,
        started_at=state.started_at,
        finished_at=state.finished_at,
        deadline=state.deadline,
        running=state.running,
        paused_at=state.paused_at,
        snapshot_id=state.snapshot_id,
        parent_run_id=None if link is None else link.parent_run_id,
        root_run_id=header.root_run_id,
        link=header.link,
        idempotency_key=run.key,
        wake_at=run.wake_at,
        region=state.region,
    )


class MemorySweeps:
    """The :class:`~llmteam.canvas.records.Sweeps` of runs in memory."""

    def __init__(
        self,
        runs: MutableMapping[tuple[str, str], MemoryRun],
        snapshots: MutableMapping[tuple[str, str], SegmentSnapshot],
        clock: Clock,
        contexts: ContextStore,
        taken: MemorySnapshotStore | None = None,
    ) -> None:
        self._taken = taken
        self._runs = runs
        self._contexts = contexts
        self._snapshots = snapshots
        self._clock = clock
        self.recorded: dict[str, tuple[datetime, int]] = {}

    def _due(
        self, states: tuple[StepState, ...], limit: int, skip_queues: Sequence[str] = ()
    ) -> list[tuple[MemoryRun, StepRow]]:
        """Rows in these states whose moment has come, those first that have waited longest."""
        now = self._clock()
        found: list[tuple[datetime, int, MemoryRun, StepRow]] = []
        for run in list(self._runs.values()):
            with run.lock:
                for row in run.rows.values():
                    due = row.state in states and row.wake_at is not None and row.wake_at <= now
                    if due and row.wake_at is not None and queue_of(run, row.step_id) not in skip_queues:
                        found.append((row.wake_at, len(found), run, row))
        return [(run, row) for _, _, run, row in heapq.nsmallest(limit, found)]

    def take_due(self, limit: int, skip_queues: Sequence[str] = ()) -> list[Hint]:
        """As :meth:`Sweeps.take_due`. A timer that ran out is none any more."""
        hints = []
        for run, found in self._due((StepState.READY, StepState.WAITING), limit, skip_queues):
            with run.lock:
                row = run.rows[found.key]
                if row is not found:
                    continue  # it has moved meanwhile
                sent = run.hints.get(row.key, 0)
                wake_at = self._clock() + min(HINT_AFTER * 2 ** min(sent, 10), _MOST)
                owner = "queue" if row.state is StepState.READY else row.owner
                run.rows[row.key] = replace(row, owner=owner, wake_at=wake_at)
                run.hints[row.key] = sent + 1
            ident = (run.header.tenant_id, run.header.run_id)
            queue = queue_of(run, row.step_id)
            hints.append(Hint(*ident, *row.key, quarantine_beside(queue) if row.quarantined else queue))
        return hints

    def take_expired(self, limit: int) -> list[Expired]:
        """As :meth:`Sweeps.take_expired`."""
        expired = []
        for run, found in self._due((StepState.RUNNING,), limit):
            with run.lock:
                row = run.rows[found.key]
                if row is not found:
                    continue
                held = run.held.get(row.key)
                lost = held is None or held.until <= self._clock()
                if lost:
                    run.held.pop(row.key, None)
                run.rows[row.key] = replace(row, wake_at=self._clock() + DEADLINE_GRACE)
            expired.append(Expired(run.header.tenant_id, run.header.run_id, row.key, row.fence, lost))
        return expired

    def late_runs(self, limit: int) -> list[LateRun]:
        """As :meth:`Sweeps.late_runs`."""
        now = self._clock()
        late = []
        for run in list(self._runs.values()):
            status = run.state.status
            if status.accepts_results and run.wake_at is not None and run.wake_at <= now:
                late.append(LateRun(run.header.tenant_id, run.header.run_id, status is SegmentStatus.PAUSING))
        return late[:limit]

    def queued_tenants(self, limit: int) -> list[str]:
        """As :meth:`Sweeps.queued_tenants`."""
        waiting = {ident[0] for ident, run in list(self._runs.items()) if run.state.status is SegmentStatus.PENDING}
        return sorted(waiting)[:limit]

    def purge(self, older_than: timedelta, limit: int) -> int:
        """As :meth:`Sweeps.purge`."""
        before = self._clock() - older_than
        ended = [(run.state.finished_at, key) for key, run in self._runs.items() if run.state.finished_at is not None]
        gone = {key for finished_at, key in heapq.nsmallest(limit, ended) if finished_at < before}
        for key in gone:
            del self._runs[key]
            self._contexts.delete(*key)
        for snapshot in list(self._snapshots.values()):
            if (snapshot.tenant_id, snapshot.run_id) in gone:
                del self._snapshots[snapshot.tenant_id, snapshot.snapshot_id]
        if self._taken is not None:
            self._taken.forget_runs(gone)
        return len(gone)

    def record(self, name: str, found: int) -> None:
        """As :meth:`Sweeps.record`."""
        self.recorded[name] = (self._clock(), found)
