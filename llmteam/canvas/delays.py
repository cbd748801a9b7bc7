"""Steps that wait for room under a limit: parked without a worker until their turn is expected. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from llmteam.canvas.state import Change, Key, SegmentStatus, Slice, StepState
from llmteam.canvas.transitions import time_out
from llmteam.events.models import EventDraft

__all__ = ["LEAD", "delay", "wake_up"]

#: A turn that lies further ahead is asked for again this much before it: then a timer is set for it, while what a sweep
#: finds comes late by as much as sweeps lie apart.
LEAD = timedelta(seconds=8)


def wake_up(turn: datetime, now: datetime) -> datetime:
    """When a step whose turn is expected at ``turn`` asks again."""
    return turn if turn - now <= LEAD else turn - LEAD


def delay(moment: Slice, key: Key, fence: int, wake_at: datetime, told: EventDraft | None) -> Change:
    """The step, which nobody holds, waits for room under a limit until ``wake_at``. No attempt is used up.

    Changes nothing (``applied`` is False) when somebody took the step meanwhile, or its run does not run.
    """
    row, change, run = moment.read(key), moment.change, moment.run
    waits = row.state is StepState.READY or (row.state is StepState.WAITING and row.owner == "limit")
    if not waits or row.fence != fence or run.status is not SegmentStatus.RUNNING:
        change.applied = False
        return change
    if run.deadline is not None and change.now >= run.deadline:
        return time_out(moment)
    row = moment.edit(key)
    row.state, row.owner, row.wake_at = StepState.WAITING, "limit", wake_at
    if told is not None:
        moment.emit(told)
    return change
