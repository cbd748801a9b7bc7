"""What the audit trail says of runs: one record for each fact, written with it. Pure.

No record has what a run carries: an input stands as digest and size, an error as its type and code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmteam import codec
from llmteam.audit.models import AuditDraft, AuditEventType, AuditSeverity
from llmteam.canvas.records import NewRun, RunHeader
from llmteam.canvas.state import Change, SegmentStatus
from llmteam.events.models import EventType
from llmteam.tenancy.exceptions import TenantError, TenantLimitExceededError

__all__ = ["change_of", "resume_refusal", "start_of", "start_refusal"]

_ENDS = {
    SegmentStatus.COMPLETED: (AuditEventType.PIPELINE_COMPLETED, AuditSeverity.INFO, "complete"),
    SegmentStatus.FAILED: (AuditEventType.PIPELINE_FAILED, AuditSeverity.ERROR, "fail"),
    SegmentStatus.TIMEOUT: (AuditEventType.PIPELINE_FAILED, AuditSeverity.ERROR, "time_out"),
    SegmentStatus.CANCELLED: (AuditEventType.PIPELINE_CANCELLED, AuditSeverity.WARNING, "cancel"),
}


def start_of(run: NewRun, change: Change) -> list[AuditDraft]:
    """Who started which run with what; of one that waits for its turn, that it was created."""
    kind = None if run.link is None else run.link.kind
    person = run.by if kind in {"retry", "fork"} else run.options.started_by
    told: dict[str, Any] = {
        "definition_hash": run.pinned.hash,
        "input_summary": {"sha256": codec.digest(run.input), "bytes": len(run.input.encode())},
    }
    if run.link is not None:
        told["parent_run_id"] = run.link.parent_run_id
    queued = change.run.status is SegmentStatus.PENDING
    event_type = AuditEventType.PIPELINE_CREATED if queued else AuditEventType.PIPELINE_STARTED
    segment_id = run.pinned.definition.segment_id
    return [_draft(event_type, (segment_id, run.run_id), kind or "start", person, told, timestamp=change.now)]


def change_of(header: RunHeader, change: Change) -> list[AuditDraft]:
    """What happened to the run as a whole, if anything did: its end, a pause, going on, its turn."""
    if change.ended:
        return [_end(header, change)]
    if change.hold is None:
        return []
    events = {event.event_type: event.payload for event in change.events}
    told: dict[str, Any] | None = None
    if change.run.status is SegmentStatus.PAUSING:
        event_type, action = AuditEventType.PIPELINE_PAUSED, "pause"
    elif EventType.SEGMENT_RESUMED in events:
        event_type, action = AuditEventType.PIPELINE_RESUMED, "resume"
        told = {"resumed_from": events[EventType.SEGMENT_RESUMED]["resumed_from"]}
    elif EventType.SEGMENT_STARTED in events:
        event_type, action = AuditEventType.PIPELINE_STARTED, "admit"
    else:
        return []
    return [_draft(event_type, (header.segment_id, header.run_id), action, change.by, told, timestamp=change.now)]


def start_refusal(run: NewRun, reason: TenantError) -> AuditDraft:
    """That the run was not started, and which rule of its tenant did not allow it."""
    kind = None if run.link is None else run.link.kind
    person = run.by if kind in {"retry", "fork"} else run.options.started_by
    ident = (run.pinned.definition.segment_id, run.run_id)
    return _refusal(ident, kind or "start", person, reason)


def resume_refusal(header: RunHeader, person: str, reason: TenantError) -> AuditDraft:
    """That a paused run does not go on, and which rule of its tenant did not allow it."""
    return _refusal((header.segment_id, header.run_id), "resume", person, reason)


def _refusal(ident: tuple[str, str], action: str, person: str, reason: TenantError) -> AuditDraft:
    name = f"limit: {reason.limit_type}" if isinstance(reason, TenantLimitExceededError) else type(reason).__name__
    return _draft(
        AuditEventType.ACCESS_DENIED,
        ident,
        action,
        person,
        None,
        severity=AuditSeverity.WARNING,
        success=False,
        error_message=name,
    )


def _end(header: RunHeader, change: Change) -> AuditDraft:
    event_type, severity, action = _ENDS[change.run.status]
    error, failed = change.run.error, event_type is AuditEventType.PIPELINE_FAILED
    told: dict[str, Any] = {"status": change.run.status.value, "steps_completed": change.run.completed}
    if error is not None:
        told |= {"error_type": error.error_type, "error_code": error.error_code}
    steps = [event.step_id or "" for event in change.events if event.event_type is EventType.STEP_FAILED]
    return _draft(
        event_type,
        (header.segment_id, header.run_id),
        action,
        change.by,
        told,
        timestamp=change.now,
        severity=severity,
        success=not failed,
        step_name=steps[-1] if failed and steps else "",
        error_message="" if error is None else error.error_code or error.error_type,
    )


def _draft(
    event_type: AuditEventType,
    ident: tuple[str, str],
    action: str,
    person: str,
    new_value: Mapping[str, Any] | None,
    **fields: Any,
) -> AuditDraft:
    return AuditDraft(
        event_type=event_type,
        pipeline_id=ident[0],
        run_id=ident[1],
        actor_type="user" if person else "system",
        actor_id=person,
        action=action,
        resource_type="pipeline",
        resource_id=ident[0],
        new_value=new_value,
        **fields,
    )
