"""Pausing a run and going on: RUNNING → PAUSING → PAUSED → RUNNING. Pure.

While a run is PAUSING, running steps may finish and nothing new is claimed; what is still running when the pause takes
hold loses its claim without having failed. All timers of the run stand still from the moment it began to pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmteam.canvas.state import Change, Hold, SegmentStatus, Slice
from llmteam.events.models import EventDraft, EventType

__all__ = ["begin_pause", "resume", "take_hold"]


def begin_pause(moment: Slice, until: datetime, by: str = "") -> Change:
    """Let the run drain, at most ``until`` then. Changes nothing (``applied`` is False) unless the run is RUNNING."""
    change, run = moment.change, moment.run
    if run.status is not SegmentStatus.RUNNING:
        change.applied = False
        return change
    run.status, run.paused_at, change.by = SegmentStatus.PAUSING, change.now, by
    change.hold = Hold(wake_at=until)
    return change


def take_hold(moment: Slice, snapshot_id: str, repeats: Sequence[str] = ()) -> Change:
    """The pause takes hold: whatever still runs is fenced, everything that waits is frozen.

    ``repeats`` are the steps that still ran and will run again. Changes nothing unless the run is PAUSING.
    """
    change, run = moment.change, moment.run
    if run.status is not SegmentStatus.PAUSING:
        change.applied = False
        return change
    run.status, run.snapshot_id, run.running = SegmentStatus.PAUSED, snapshot_id, 0
    change.hold = Hold(wake_at=None, freeze=True)
    payload = {"snapshot_id": snapshot_id, "repeats": list(repeats)}
    moment.emit(EventDraft(EventType.SEGMENT_PAUSED, payload=payload))
    return change


def resume(moment: Slice, snapshot_id: str, by: str = "") -> Change:
    """Go on from the rows; every moment that lay ahead is later by as long as the run stood still.

    Changes nothing unless the run is PAUSED by the pause that ``snapshot_id`` was taken of.
    """
    change, run = moment.change, moment.run
    if run.status is not SegmentStatus.PAUSED or run.snapshot_id != snapshot_id:
        change.applied = False
        return change
    stood, change.by = change.now - (run.paused_at or change.now), by
    run.status, run.paused_at, run.snapshot_id = SegmentStatus.RUNNING, None, None
    run.deadline = None if run.deadline is None else run.deadline + stood
    change.hold = Hold(wake_at=run.deadline, thaw=stood)
    payload = {"resumed_from": snapshot_id, "paused_seconds": round(stood.total_seconds(), 3)}
    moment.emit(EventDraft(EventType.SEGMENT_RESUMED, payload=payload))
    return change
