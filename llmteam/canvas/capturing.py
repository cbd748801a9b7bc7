"""Snapshots that runs take of themselves: when, and what of the rows is in them. Pure.

A run goes on from its rows. These are copies of one moment, to look at, to export and to compare, and they are small:
what a step gave stands in them while it is short, else as a reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from llmteam import codec
from llmteam.canvas.records import RunHeader, RunOptions, StepRecord
from llmteam.canvas.replay import finished_rows
from llmteam.canvas.snapshots import SegmentSnapshot, SnapshotStep
from llmteam.canvas.state import Change, RunState, SegmentStatus, StepState
from llmteam.ids import new_id
from llmteam.persistence.models import PipelinePhase, PipelineSnapshot, SnapshotType

__all__ = ["captured", "segment_snapshot", "wanted"]

#: Characters of JSON up to which a value stands in such a snapshot.
INLINE = 1_000

_FAILURES = (SegmentStatus.FAILED, SegmentStatus.TIMEOUT)


def wanted(options: RunOptions, completed_before: int, change: Change) -> SnapshotType | None:
    """Which snapshot goes with ``change``, of a run of which so many steps had completed before it; None for none."""
    if not change.applied:
        return None
    if change.ended and change.run.status in _FAILURES and options.keeps_failures:
        return SnapshotType.ERROR
    if change.checkpoint:
        return SnapshotType.CHECKPOINT
    every = options.snapshot_interval
    if every and change.run.completed // every > completed_before // every:
        return SnapshotType.AUTO
    return None


def captured(
    header: RunHeader,
    change: Change,
    kind: SnapshotType,
    given: Any,
    steps: Sequence[StepRecord],
    asked: Sequence[str] = (),
) -> PipelineSnapshot:
    """The run as ``change`` left it: its input, all its steps, and the requests that nobody has answered yet."""
    small = [replace(step, output=_short(step.output)) for step in steps]
    # Of changes that meet, a later one may have an earlier time; what it saw says that it is the later one.
    moment = max([change.now, *(step.row.finished_at for step in steps if step.row.finished_at is not None)])
    segment = segment_snapshot(header, change.run, moment, new_id(), _short(given), small)
    error = change.run.error
    told = {"status": change.run.status.value} | ({} if error is None else {"error_type": error.error_type})
    return segment.as_pipeline(asked, snapshot_type=kind, phase=_phase(change.run, steps), metadata=told)


def _short(value: Any) -> Any:
    text = codec.dumps(value)
    return value if len(text) <= INLINE else {"$ref": codec.digest(text), "bytes": len(text.encode())}


def _phase(run: RunState, steps: Sequence[StepRecord]) -> PipelinePhase:
    if run.status is SegmentStatus.COMPLETED:
        return PipelinePhase.COMPLETED
    if run.status.is_terminal:
        return PipelinePhase.FAILED
    asks = any(step.row.owner == "person" for step in steps)
    return PipelinePhase.WAITING_HUMAN if asks else PipelinePhase.RUNNING


def segment_snapshot(
    header: RunHeader,
    run: RunState,
    now: datetime,
    snapshot_id: str,
    given: Any,
    steps: Sequence[StepRecord],
) -> SegmentSnapshot:
    """All steps of a run, sealed."""
    rows = [step.row for step in steps]
    running = [row.step_id for row in rows if row.state is StepState.RUNNING]
    return SegmentSnapshot(
        snapshot_id=snapshot_id,
        run_id=header.run_id,
        segment_id=header.segment_id,
        tenant_id=header.tenant_id,
        definition_hash=header.definition_hash,
        current_step=running[0] if running else next((r.step_id for r in rows if r.state is StepState.READY), None),
        completed_steps=[row.step_id for row in finished_rows(rows)],
        step_outputs={s.row.step_id: s.output for s in steps if s.row.state is StepState.COMPLETED},
        input_data=given,
        steps=[
            SnapshotStep(
                step_id=row.step_id,
                visit=row.visit,
                state=row.state.value,
                attempt=row.attempt,
                losses=row.losses,
                decisions=row.decisions,
                waits_for=row.owner,
                wake_at=row.wake_at,
                repeats=row.state is StepState.RUNNING,
            )
            for row in rows
        ],
        created_at=now,
        original_started_at=run.started_at,
    ).sealed()
