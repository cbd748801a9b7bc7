"""Runs that wait until their tenant has room for them: PENDING → RUNNING. Pure.

A queued run is written whole, with what it would begin with held as by a pause; being admitted is the end of that
pause. Its time begins to count only then.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from llmteam.canvas.state import Change, Hold, SegmentStatus, Slice, StepState
from llmteam.events.models import EventDraft, EventType

__all__ = ["admit", "queue_up"]


def queue_up(change: Change) -> None:
    """Have a run that was about to begin wait for its turn instead."""
    run = change.run
    run.status, run.started_at, run.deadline = SegmentStatus.PENDING, None, None
    for row in change.added.values():
        if row.state is StepState.READY:
            row.owner, row.wake_at = "pause", None
    change.ready.clear()
    change.events[0] = replace(change.events[0], event_type=EventType.SEGMENT_QUEUED)


def admit(moment: Slice, queued_at: datetime, deadline: datetime | None) -> Change:
    """Let a queued run begin. Changes nothing (``applied`` is False) when it does not wait any more."""
    change, run = moment.change, moment.run
    if run.status is not SegmentStatus.PENDING:
        change.applied = False
        return change
    run.status, run.started_at, run.deadline = SegmentStatus.RUNNING, change.now, deadline
    change.hold = Hold(wake_at=deadline, thaw=timedelta(0))
    waited = max(0.0, (change.now - queued_at).total_seconds())
    moment.emit(EventDraft(EventType.SEGMENT_STARTED, payload={"queued_seconds": round(waited, 3)}))
    return change
