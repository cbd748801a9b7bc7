"""What commits of the engine count as. Costs one comparison while nobody counts."""

from __future__ import annotations

from datetime import datetime

from llmteam import metrics
from llmteam.canvas.state import Change, StepRow
from llmteam.canvas.tellings import duration_ms
from llmteam.events.models import TERMINAL_TYPES, EventDraft, EventType
from llmteam.regions import plain

_UNKNOWN = "unknown"
_OUTCOMES = {
    EventType.STEP_COMPLETED: "completed",
    EventType.STEP_FAILED: "failed",
    EventType.STEP_SKIPPED: "skipped",
}
_HAPPENED = {
    EventType.STEP_RETRYING: metrics.STEP_RETRIES,
    EventType.STEP_LOST: metrics.STEPS_LOST,
    EventType.STEP_RELEASED: metrics.STEPS_RELEASED,
}
#: After these, an attempt is over.
_TIMED = (EventType.STEP_COMPLETED, EventType.STEP_FAILED, EventType.STEP_RETRYING)

__all__ = ["changed", "claim_refused", "claimed", "result_refused"]


def changed(change: Change) -> None:
    """A change was committed."""
    if not metrics.is_on():
        return
    for event in change.events:
        kind = event.event_type
        if kind is EventType.SEGMENT_STARTED:
            metrics.RUNS_STARTED.add()
        elif kind in TERMINAL_TYPES:
            metrics.RUNS_ENDED.add(change.run.status.value)
        elif kind is EventType.STEP_DELAYED:
            metrics.STEPS_DELAYED.add("circuit" if event.payload.get("limited_by") == "circuit" else "limit")
        else:
            _count_step(change, event)


def _count_step(change: Change, event: EventDraft) -> None:
    step_type = event.step_type or _UNKNOWN
    if (outcome := _OUTCOMES.get(event.event_type)) is not None:
        metrics.STEPS.add(step_type, outcome)
    elif (happened := _HAPPENED.get(event.event_type)) is not None:
        happened.add(step_type)
    if event.event_type in _TIMED:
        row = change.steps.get((event.step_id or "", event.visit or 1))
        took = duration_ms(row, change.now) if event.duration_ms is None and row is not None else event.duration_ms
        if took is not None:
            metrics.STEP_SECONDS.observe(took / 1000, step_type)


def claimed(step_type: str, queue: str, row: StepRow, now: datetime) -> None:
    """The step was claimed that was due as ``row`` says."""
    if not metrics.is_on():
        return
    metrics.STEP_ATTEMPTS.add(step_type)
    due = _due_at(row, now)
    if due is not None:
        metrics.CLAIM_DELAY.observe((now - due).total_seconds(), plain(queue))


def _due_at(row: StepRow, now: datetime) -> datetime | None:
    """When the step was due, where that is still to be seen: sweeps put off the moment at which they look again."""
    if row.owner in ("timer", "limit"):
        return row.wake_at if row.wake_at is not None and row.wake_at <= now else None
    return row.ready_at if row.owner == "queue" and not row.attempt and not row.losses else None


def claim_refused() -> None:
    """Another worker had claimed the step first."""
    metrics.CLAIMS_REFUSED.add()


def result_refused() -> None:
    """The claim that a result was for holds its step no more."""
    metrics.RESULTS_REFUSED.add()
