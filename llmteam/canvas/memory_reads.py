"""Looking at runs in memory: the part of the store that changes none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from llmteam import codec
from llmteam.canvas.exceptions import UnknownSegmentError
from llmteam.canvas.memory import (
    MemoryRun,
    beginning,
    holds,
    queue_of,
    shown,
)
from llmteam.canvas.records import Holding, PinnedDefinition, RunHeader, RunRecord, StepRecord, Taken, Work
from llmteam.canvas.routing import Source, StepOutput, failure_output, run_outputs
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import Key, SegmentStatus, StepRow, StepState
from llmteam.persistence.stores import MemorySnapshotStore

#: States in which a step's input is needed next.
_TAKES_INPUT = (StepState.READY, StepState.WAITING)


class MemoryReads:
    """The part of :class:`~llmteam.canvas.records.RunStore` that changes no run."""

    def __init__(self, region: str, snapshots: MemorySnapshotStore | None = None) -> None:
        self.region = region
        self.snapshots = snapshots or MemorySnapshotStore()
        self._runs: dict[tuple[str, str], MemoryRun] = {}
        self._definitions: dict[tuple[str, str], PinnedDefinition] = {}
        self._snapshots: dict[tuple[str, str], SegmentSnapshot] = {}
        self._lock = threading.Lock()

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
        if run is None or run.state.region != self.region:
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

    def queued(self, tenant_id: str) -> str | None:
        """As :meth:`RunStore.queued`."""
        waiting = [
            (run.created_at, run_id)
            for (tenant, run_id), run in list(self._runs.items())
            if tenant == tenant_id and run.state.status is SegmentStatus.PENDING
        ]
        return min(waiting)[1] if waiting else None

    def _sealed_record(self, run: MemoryRun, row: StepRow) -> StepRecord:
        stored = run.outputs.get(row.key)
        if stored is None or stored.digest is None:
            return self._step_record(run, row, True)
        return replace(self._step_record(run, row, False), output={"$ref": stored.digest})

    def snapshot(self, tenant_id: str, snapshot_id: str) -> SegmentSnapshot | None:
        """As :meth:`RunStore.snapshot`."""
        found = self._snapshots.get((tenant_id, snapshot_id))
        taken = None if found is not None else self.snapshots.find(tenant_id, snapshot_id)
        return found if taken is None else SegmentSnapshot.of_pipeline(taken)

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
            queue_of(run, row.step_id),
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
