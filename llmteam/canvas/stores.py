"""The run store in memory, for use inside one process and for tests; re-exports the one in SQL."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from llmteam.audit.stores import MemoryAuditStore
from llmteam.canvas import auditing, transitions
from llmteam.canvas.capturing import captured, wanted
from llmteam.canvas.graph import Node
from llmteam.canvas.memory import (
    Held,
    MemoryRun,
    MemorySweeps,
    apply_hold,
    beginning,
    check_admission,
    check_start,
    holds,
    sealed_input,
    wake_of_claim,
    wake_step,
)
from llmteam.canvas.memory_reads import MemoryReads
from llmteam.canvas.records import (
    Claimed,
    Door,
    Holding,
    Link,
    NewRun,
    RunHeader,
    Seal,
    Seen,
    StoredOutput,
    Transition,
    Work,
)
from llmteam.canvas.routing import outputs_payload
from llmteam.canvas.state import Change, Key, NeedRows, SegmentStatus, Slice, StepRow, StepState
from llmteam.context.runs import Contexts
from llmteam.context.sealed import process_vault
from llmteam.context.stores import MemoryContextStore
from llmteam.events.models import EventDraft, EventScope, WorktrailEvent
from llmteam.human.memory import MemoryInteractions
from llmteam.human.models import InteractionRequest
from llmteam.ids import Clock, utc_now
from llmteam.persistence.exceptions import SnapshotTooLargeError
from llmteam.persistence.models import PipelineSnapshot, SnapshotType
from llmteam.persistence.stores import MemorySnapshotStore
from llmteam.regions import DEFAULT_REGION, check_region
from llmteam.tenancy.admission import StartLimits, standing

__all__ = ["MemoryRunStore"]

logger = logging.getLogger(__name__)


class MemoryRunStore(MemoryReads):
    """Runs in dictionaries, one lock per run. ``sink`` is given the events of each transition under that lock.

    ``limits_of`` says what holds for the starts of a tenant; None where nothing is counted. ``audit`` keeps what the
    audit trail says of runs, by default a store of its own; so do ``snapshots`` with what is taken of them.
    """

    def __init__(
        self,
        sink: Callable[[Sequence[WorktrailEvent]], object] = lambda events: None,
        clock: Clock = utc_now,
        limits_of: Callable[[str], StartLimits | None] = lambda tenant_id: None,
        region: str = DEFAULT_REGION,
        audit: MemoryAuditStore | None = None,
        snapshots: MemorySnapshotStore | None = None,
    ) -> None:
        self.audit = MemoryAuditStore(clock=clock) if audit is None else audit
        self._limits_of = limits_of
        super().__init__(check_region("region", region), snapshots)
        self._sink = sink
        self._clock = clock
        self.contexts = Contexts(MemoryContextStore(), lambda tenant_id: process_vault())
        self.use_interactions(MemoryInteractions(clock))

    def use_interactions(self, interactions: MemoryInteractions) -> None:
        """Keep what steps ask people there; before the first run."""
        self.interactions = interactions
        interactions.tell, interactions.goes_on, interactions.wake = self._tell, self._goes_on, self._wake

    def _wake(self, request: InteractionRequest, moment: datetime | None) -> str | None:
        run = self._runs.get((request.tenant_id, request.run_id))
        if run is None:
            return None
        with run.lock:
            return wake_step(run, (request.step_name, request.visit), moment, self._clock())

    def _goes_on(self, tenant_id: str, run_id: str) -> bool:
        run = self._runs.get((tenant_id, run_id))
        return run is not None and not run.state.status.is_terminal

    def _tell(self, tenant_id: str, run_id: str, events: Sequence[EventDraft], now: datetime) -> None:
        run = self._runs.get((tenant_id, run_id))
        if run is not None:
            with run.lock:
                self._record(run, events, now)

    def create(self, run: NewRun, change: Change, nodes: Mapping[str, Node]) -> bool:
        """As :meth:`RunStore.create`."""
        link, limits = run.link, self._limits_of(run.tenant_id) or StartLimits()
        header = RunHeader(
            tenant_id=run.tenant_id,
            run_id=run.run_id,
            instance_id=run.instance_id,
            segment_id=run.pinned.definition.segment_id,
            definition_hash=run.pinned.hash,
            options=run.options,
            context=dict(run.context),
            root_run_id=run.run_id if link is None else link.root_run_id,
            link=None if link is None else link.kind,
            queues=limits.queues,
        )
        queued = change.run.status is SegmentStatus.PENDING
        change.run.region = limits.region
        kept = MemoryRun(header, run, self._clock(), change.run, dict(change.added), nodes, threading.Lock())
        kept.wake_at, kept.key = change.run.deadline, run.idempotency_key
        kept.frozen = {row.key: ("queue", None) for row in kept.rows.values() if row.owner == "pause"}
        if link is not None and link.kind != "restart":
            self._take_over(kept, link)
        with self._lock:
            if (run.tenant_id, run.run_id) in self._runs or self._of_key(run, but=run.replaces) is not None:
                return False
            check_start(self._runs, run, nodes, limits, self._clock(), queued=queued)
            if run.replaces is not None and (run.tenant_id, run.replaces) in self._runs:
                self._runs[run.tenant_id, run.replaces].key = None
            self._definitions[run.tenant_id, run.pinned.hash] = run.pinned
            self._runs[run.tenant_id, run.run_id] = kept
        with kept.lock:
            self._record(kept, change.events, change.now)
            self.audit.add(run.tenant_id, auditing.start_of(run, change))
        return True

    def _take_over(self, kept: MemoryRun, link: Link) -> None:
        parent = self._runs[kept.header.tenant_id, link.parent_run_id]
        for key, row in kept.rows.items():
            if row.state in (StepState.COMPLETED, StepState.FAILED):
                if key in parent.outputs:
                    kept.outputs[key] = parent.outputs[key]
                if key in parent.local:
                    kept.local[key] = parent.local[key]
        kept.outputs.update(link.outputs)
        kept.given = {**(parent.given if link.kind == "retry" else {}), **link.given}

    def _of_key(self, run: NewRun, but: str | None) -> MemoryRun | None:
        """The run that has the idempotency key of ``run``, unless it is ``but``."""
        if run.idempotency_key is None:
            return None
        same = (
            known
            for (tenant_id, run_id), known in self._runs.items()
            if tenant_id == run.tenant_id and known.key == run.idempotency_key and run_id != but
        )
        return next(same, None)

    def claim(
        self,
        work: Work,
        claimed: StepRow,
        event: EventDraft,
        lease: timedelta,
        holder: str,
        keys: Sequence[Key] | None = None,
    ) -> Claimed | None:
        """As :meth:`RunStore.claim`."""
        run = self._runs[work.header.tenant_id, work.header.run_id]
        with run.lock:
            row = run.rows[claimed.key]
            there = run.state.status is SegmentStatus.RUNNING and run.state.region == self.region
            if not there or (row.state, row.fence) != (
                work.row.state,
                work.row.fence,
            ):
                return None
            now = self._clock()
            run.rows[claimed.key] = replace(claimed, wake_at=wake_of_claim(claimed, now + lease))
            run.held[claimed.key] = Held(holder, now + lease)
            run.hints.pop(claimed.key, None)
            run.state.running += 1
            self._record(run, [event], claimed.started_at or now)
            return Claimed()

    def apply(
        self,
        header: RunHeader,
        keys: Sequence[Key],
        transition: Transition,
        nodes: Mapping[str, Node],
        *,
        now: datetime,
        finished: Key | None = None,
        output: StoredOutput | None = None,
        local_state: Mapping[str, Any] | None = None,
        seen: Seen | None = None,
        door: Door | None = None,
    ) -> Change:
        """As :meth:`RunStore.apply`."""
        run = self._runs[header.tenant_id, header.run_id]
        with self._admission(header.tenant_id, now, door), run.lock:
            completed = run.state.completed
            change = _attempt(run, keys, transition, now)
            if change.applied:
                if change.lacks_outputs:
                    self._fill_outputs(run, change, finished, output)
                self._write(run, change)
                if finished is not None and output is not None and finished in change.steps:
                    run.outputs[finished] = output
                if finished is not None and local_state is not None:
                    run.local[finished] = local_state
                kind = wanted(header.options, completed, change)
                if kind is not None:
                    self._capture(run, change, kind)
            return change

    def _capture(self, run: MemoryRun, change: Change, kind: SnapshotType) -> None:
        header = run.header
        steps = [self._sealed_record(run, row) for row in sorted(run.rows.values(), key=beginning)]
        self._keep(captured(header, change, kind, sealed_input(run.start), steps, self._asked(header)))

    def _asked(self, header: RunHeader) -> list[str]:
        """The requests of the run that nobody has answered."""
        requests = self.interactions.of_run(header.tenant_id, header.run_id)
        return sorted(request.request_id for request in requests if request.status.is_open)

    def _keep(self, snapshot: PipelineSnapshot) -> None:
        try:
            self.snapshots.take(snapshot)
        except SnapshotTooLargeError as exc:
            logger.warning("run %s: no snapshot is kept: %s", snapshot.run_id, exc)

    @contextmanager
    def _admission(self, tenant_id: str, now: datetime, door: Door | None) -> Iterator[None]:
        """What ``door`` asks for; where there has to be room for one more, one at a time."""
        limits = (self._limits_of(tenant_id) if door is not None else None) or StartLimits()
        if door == "standing" and (refused := standing(tenant_id, limits)) is not None:
            raise refused
        with self._lock if door == "admit" else nullcontext():
            if door == "admit":
                check_admission(self._runs, tenant_id, limits, now)
            yield

    def _fill_outputs(self, run: MemoryRun, change: Change, finished: Key | None, output: StoredOutput | None) -> None:
        outputs = self._terminals(run)
        if finished is not None and output is not None and change.steps[finished].terminal:
            outputs[finished[0]] = output.parsed()
        change.events[-1].payload.update(outputs_payload(outputs))

    def _write(self, run: MemoryRun, change: Change) -> None:
        run.state = change.run
        run.rows.update(change.steps)
        run.rows.update(change.added)
        for key in change.steps:
            run.hints.pop(key, None)
            run.held.pop(key, None)
        if change.moves_deadline and change.run.status is SegmentStatus.RUNNING:
            run.wake_at = change.run.deadline
        if change.run.status.is_terminal:
            run.wake_at = None
        if change.cancel_open:
            for key, row in run.rows.items():
                if row.state.is_open:
                    run.rows[key] = replace(
                        row, state=StepState.CANCELLED, owner=None, wake_at=None, deadline=None, finished_at=change.now
                    )
        if change.hold is not None:
            apply_hold(run, change.hold, change.now)
        self._ask(run, change)
        self._record(run, change.events, change.now)
        self.audit.add(run.header.tenant_id, auditing.change_of(run.header, change))

    def _ask(self, run: MemoryRun, change: Change) -> None:
        """What the change means for the people who are asked."""
        ident = (run.header.tenant_id, run.header.run_id)
        if change.asks is not None:
            self.interactions.create(change.asks)
        if change.cancel_open or change.withdrawn:
            self.interactions.withdraw(*ident, None if change.cancel_open else change.withdrawn, change.now)
        if change.hold is not None and change.hold.freeze:
            self.interactions.freeze(*ident, change.now)
        if change.hold is not None and change.hold.thaw is not None:
            self.interactions.thaw(*ident, change.hold.thaw)

    def _record(self, run: MemoryRun, drafts: Sequence[EventDraft], now: datetime) -> None:
        header = run.header
        scope = EventScope(
            tenant_id=header.tenant_id,
            run_id=header.run_id,
            instance_id=header.instance_id,
            segment_id=header.segment_id,
        )
        events = [draft.stamp(scope, now, run.next_seq + offset) for offset, draft in enumerate(drafts)]
        run.next_seq += len(drafts)
        if events:
            self._sink(events)

    def take_hold(self, header: RunHeader, seal: Seal, *, now: datetime) -> Change:
        """As :meth:`RunStore.take_hold`."""
        run = self._runs[header.tenant_id, header.run_id]
        with run.lock:
            steps = [self._sealed_record(run, row) for row in sorted(run.rows.values(), key=beginning)]
            change, snapshot = seal(Slice(run.state, (), now), sealed_input(run.start), steps)
            if change.applied and snapshot is not None:
                self._snapshots[header.tenant_id, snapshot.snapshot_id] = snapshot
                self._keep(snapshot.as_pipeline(self._asked(header)))
                self._write(run, change)
            return change

    def renew(self, holdings: Sequence[Holding], lease: timedelta) -> set[Holding]:
        """As :meth:`RunStore.renew`."""
        lost = self.lost(holdings)
        for holding in set(holdings) - lost:
            run = self._runs[holding.tenant_id, holding.run_id]
            with run.lock:
                if holds(run, holding):
                    until = self._clock() + lease
                    row = run.rows[holding.key]
                    run.held[holding.key] = replace(run.held[holding.key], until=until)
                    run.rows[holding.key] = replace(row, wake_at=wake_of_claim(row, until))
        return lost

    @property
    def sweeps(self) -> MemorySweeps:
        """What a sweeper of these runs looks at."""
        return MemorySweeps(self._runs, self._snapshots, self._clock, self.contexts.store, self.snapshots)


def _attempt(run: MemoryRun, keys: Sequence[Key], transition: Transition, now: datetime) -> Change:
    wanted = set(keys)
    while True:
        moment = Slice(run.state, [run.rows[key] for key in wanted if key in run.rows], now)
        try:
            return transition(moment)
        except NeedRows as missing:
            wanted |= transitions.ahead(run.nodes, missing.keys, wanted)
