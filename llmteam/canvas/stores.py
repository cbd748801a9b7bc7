"""The run store in memory, for use inside one process and for tests; re-exports the one in SQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from llmteam import codec
from llmteam.canvas import transitions
from llmteam.canvas.exceptions import UnknownSegmentError
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
    shown,
    wake_of_claim,
    wake_step,
)
from llmteam.canvas.records import (
    Claimed,
    Holding,
    Link,
    NewRun,
    PinnedDefinition,
    RunHeader,
    RunRecord,
    Seal,
    Seen,
    StepRecord,
    StoredOutput,
    Taken,
    Transition,
    Work,
    outputs_payload,
    run_outputs,
)
from llmteam.canvas.routing import Source, StepOutput, failure_output
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import Change, Key, NeedRows, SegmentStatus, Slice, StepRow, StepState
from llmteam.context.runs import Contexts
from llmteam.context.sealed import process_vault
from llmteam.context.stores import MemoryContextStore
from llmteam.events.models import EventDraft, EventScope, WorktrailEvent
from llmteam.human.memory import MemoryInteractions
from llmteam.human.models import InteractionRequest
from llmteam.ids import Clock, utc_now
from llmteam.tenancy.admission import StartLimits

__all__ = ["MemoryRunStore"]


#: States in which a step's input is needed next.
_TAKES_INPUT = (StepState.READY, StepState.WAITING)


class MemoryRunStore:
    """Runs in dictionaries, one lock per run. ``sink`` is given the events of each transition under that lock.

    ``limits_of`` says what holds for the starts of a tenant; None where nothing is counted.
    """

    def __init__(
        self,
        sink: Callable[[Sequence[WorktrailEvent]], object] = lambda events: None,
        clock: Clock = utc_now,
        limits_of: Callable[[str], StartLimits | None] = lambda tenant_id: None,
    ) -> None:
        self._limits_of = limits_of
        self._sink = sink
        self._clock = clock
        self._runs: dict[tuple[str, str], MemoryRun] = {}
        self._definitions: dict[tuple[str, str], PinnedDefinition] = {}
        self._snapshots: dict[tuple[str, str], SegmentSnapshot] = {}
        self._lock = threading.Lock()
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
        kept = MemoryRun(header, run, self._clock(), change.run, dict(change.added), nodes, threading.Lock())
        kept.wake_at, kept.key = change.run.deadline, run.idempotency_key
        kept.frozen = {row.key: ("queue", None) for row in kept.rows.values() if row.owner == "pause"}
        if link is not None and link.kind != "restart":
            self._take_over(kept, link)
        with self._lock:
            if (run.tenant_id, run.run_id) in self._runs or self._of_key(run, but=run.replaces) is not None:
                return False
            check_start(self._runs, run, limits, self._clock(), queued=queued)
            if run.replaces is not None and (run.tenant_id, run.replaces) in self._runs:
                self._runs[run.tenant_id, run.replaces].key = None
            self._definitions[run.tenant_id, run.pinned.hash] = run.pinned
            self._runs[run.tenant_id, run.run_id] = kept
        with kept.lock:
            self._record(kept, change.events, change.now)
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

    def taken(self, tenant_id: str, run_id: str | None, idempotency_key: str | None) -> Taken | None:
        """As :meth:`RunStore.taken`."""
        with self._lock:
            mine = [run for (tenant, _), run in self._runs.items() if tenant == tenant_id]
        found = [run for run in mine if idempotency_key is not None and run.key == idempotency_key]
        found += [run for run in mine if run.header.run_id == run_id]
        return Taken(found[0].header.run_id, found[0].state.status, found[0].start.start_hash) if found else None

    def definition(self, tenant_id: str, definition_hash: str) -> PinnedDefinition:
        """As :meth:`RunStore.definition`."""
        found = self._definitions.get((tenant_id, definition_hash))
        if found is None:
            raise UnknownSegmentError(definition_hash)
        return found

    def gather(self, tenant_id: str, run_id: str, key: Key) -> Work | None:
        """As :meth:`RunStore.gather`."""
        run = self._runs.get((tenant_id, run_id))
        if run is None:
            return None
        with run.lock:
            row = run.rows.get(key)
            if row is None:
                return None
            given = run.given.get(key)
            own = given is not None or (row.undecided == 0 and row.live == 0)
            return Work(
                header=run.header,
                run=replace(run.state),
                row=replace(row),
                sources=self._sources(run, key[0]) if row.state in _TAKES_INPUT else (),
                input=codec.loads(given or run.start.input) if own else None,
                takes_run_input=own,
                local_state=run.local.get(key),
            )

    def _sources(self, run: MemoryRun, step_id: str) -> list[Source]:
        wanted = set(run.nodes[step_id].sources)
        begun: dict[str, int] = {}
        over: dict[str, StepRow] = {}
        for row in run.rows.values():
            if row.step_id in wanted:
                begun[row.step_id] = max(row.visit, begun.get(row.step_id, 0))
                if row.decisions is not None and row.visit >= over.get(row.step_id, row).visit:
                    over[row.step_id] = row
        return [
            Source(row.step_id, row.decisions or (), self._handed(run, row), begun[row.step_id] > row.visit)
            for row in over.values()
        ]

    def _handed(self, run: MemoryRun, row: StepRow) -> StepOutput:
        if row.state is StepState.FAILED and row.error is not None:
            return failure_output(row.error)
        return self._output(run, row.key)

    def _output(self, run: MemoryRun, key: Key) -> StepOutput:
        stored = run.outputs.get(key)
        return StepOutput({}) if stored is None else stored.parsed()

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
            if run.state.status is not SegmentStatus.RUNNING or (row.state, row.fence) != (
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
        admits: bool = False,
    ) -> Change:
        """As :meth:`RunStore.apply`."""
        run = self._runs[header.tenant_id, header.run_id]
        with self._admission(header.tenant_id, now) if admits else nullcontext(), run.lock:
            change = _attempt(run, keys, transition, now)
            if change.applied:
                if change.lacks_outputs:
                    self._fill_outputs(run, change, finished, output)
                self._write(run, change)
                if finished is not None and output is not None and finished in change.steps:
                    run.outputs[finished] = output
                if finished is not None and local_state is not None:
                    run.local[finished] = local_state
            return change

    @contextmanager
    def _admission(self, tenant_id: str, now: datetime) -> Iterator[None]:
        """One at a time, while there is room for one more."""
        with self._lock:
            check_admission(self._runs, tenant_id, self._limits_of(tenant_id) or StartLimits(), now)
            yield

    def queued(self, tenant_id: str) -> str | None:
        """As :meth:`RunStore.queued`."""
        waiting = [
            (run.created_at, run_id)
            for (tenant, run_id), run in list(self._runs.items())
            if tenant == tenant_id and run.state.status is SegmentStatus.PENDING
        ]
        return min(waiting)[1] if waiting else None

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
                self._write(run, change)
            return change

    def _sealed_record(self, run: MemoryRun, row: StepRow) -> StepRecord:
        stored = run.outputs.get(row.key)
        if stored is None or stored.digest is None:
            return self._step_record(run, row, True)
        return replace(self._step_record(run, row, False), output={"$ref": stored.digest})

    def snapshot(self, tenant_id: str, snapshot_id: str) -> SegmentSnapshot | None:
        """As :meth:`RunStore.snapshot`."""
        return self._snapshots.get((tenant_id, snapshot_id))

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

    def lost(self, holdings: Sequence[Holding]) -> set[Holding]:
        """As :meth:`RunStore.lost`."""
        return {one for one in holdings if not holds(self._runs.get((one.tenant_id, one.run_id)), one)}

    def ready(self, tenant_id: str, run_id: str) -> list[StepRow]:
        """As :meth:`RunStore.ready`."""
        run = self._runs.get((tenant_id, run_id))
        if run is None:
            return []
        with run.lock:
            rows = [row for row in run.rows.values() if row.state in _TAKES_INPUT and row.owner != "pause"]
            return [replace(row) for row in rows]

    def input(self, tenant_id: str, run_id: str) -> str | None:
        """As :meth:`RunStore.input`."""
        run = self._runs.get((tenant_id, run_id))
        return None if run is None else run.start.input

    @property
    def sweeps(self) -> MemorySweeps:
        """What a sweeper of these runs looks at."""
        return MemorySweeps(self._runs, self._snapshots, self._clock, self.contexts.store)

    def header(self, tenant_id: str, run_id: str) -> RunHeader | None:
        """As :meth:`RunStore.header`."""
        run = self._runs.get((tenant_id, run_id))
        return None if run is None else run.header

    def record(self, tenant_id: str, run_id: str) -> RunRecord | None:
        """As :meth:`RunStore.record`."""
        run = self._runs.get((tenant_id, run_id))
        return None if run is None else shown(run)

    def records(
        self,
        tenant_id: str,
        *,
        status: SegmentStatus | None = None,
        segment_id: str | None = None,
        limit: int = 50,
        before: tuple[datetime, str] | None = None,
    ) -> list[RunRecord]:
        """As :meth:`RunStore.records`."""
        found = [
            shown(run)
            for (tenant, _), run in self._runs.items()
            if tenant == tenant_id
            and status in (None, run.state.status)
            and segment_id in (None, run.header.segment_id)
        ]
        found = [one for one in found if before is None or (one.created_at, one.run_id) < before]
        return sorted(found, key=lambda record: (record.created_at, record.run_id), reverse=True)[:limit]

    def steps(self, tenant_id: str, run_id: str, *, outputs: bool = True) -> list[StepRecord]:
        """As :meth:`RunStore.steps`."""
        run = self._runs.get((tenant_id, run_id))
        if run is None:
            return []
        with run.lock:
            rows = sorted(run.rows.values(), key=beginning)
            return [self._step_record(run, row, outputs) for row in rows]

    def _step_record(self, run: MemoryRun, row: StepRow, outputs: bool) -> StepRecord:
        held = run.held.get(row.key) if row.state is StepState.RUNNING else None
        frozen = run.frozen.get(row.key, (None, None))
        return StepRecord(
            replace(row),
            run.nodes[row.step_id].facts.queue,
            None if held is None else held.holder,
            None if held is None else held.until,
            self._output(run, row.key).value if outputs and row.key in run.outputs else None,
            run.hints.get(row.key, 0),
            *frozen,
        )

    def outputs(self, tenant_id: str, run_id: str) -> dict[str, Any]:
        """As :meth:`RunStore.outputs`."""
        run = self._runs.get((tenant_id, run_id))
        if run is None:
            return {}
        with run.lock:
            return run_outputs(self._terminals(run))

    def _terminals(self, run: MemoryRun) -> dict[str, StepOutput]:
        last = {row.step_id: row for row in sorted(run.rows.values(), key=lambda r: r.visit) if row.terminal}
        return {row.step_id: self._output(run, row.key) for row in last.values()}


def _attempt(run: MemoryRun, keys: Sequence[Key], transition: Transition, now: datetime) -> Change:
    wanted = set(keys)
    while True:
        moment = Slice(run.state, [run.rows[key] for key in wanted if key in run.rows], now)
        try:
            return transition(moment)
        except NeedRows as missing:
            wanted |= transitions.ahead(run.nodes, missing.keys, wanted)
