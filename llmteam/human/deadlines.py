"""What time does to a request: reminders, SLA thresholds, escalation, the end. Pure."""

from __future__ import annotations

from datetime import datetime

from llmteam.audit.models import AuditEventType, AuditSeverity
from llmteam.events.models import EventDraft, EventType
from llmteam.human.models import InteractionRequest, InteractionStatus, NotificationKind
from llmteam.human.rulings import Case, Notice, Ruling, audit_draft, event, recipients, touched

__all__ = ["catch_up", "next_wake", "tick"]


def next_wake(request: InteractionRequest) -> datetime | None:
    """When something is due next: the deadline, a reminder, an SLA threshold. None while frozen or closed."""
    if not request.status.is_open or request.frozen_at is not None:
        return None
    start = request.created_at + request.stood
    moments = [request.deadline] if request.deadline is not None else []
    if request.reminder is not None:
        moments.append(start + request.reminder * (request.reminded + 1))
    if request.sla_warning is not None and not request.warned:
        moments.append(start + request.sla_warning)
    if request.sla_breach is not None and not request.breached:
        moments.append(start + request.sla_breach)
    return min(moments, default=None)


def tick(case: Case, now: datetime) -> Ruling | None:
    """The one thing that is due first: the deadline, an SLA threshold, a reminder. None when nothing is.

    Call it until it gives None. Escalation ``k`` (from 0) hands the request to ``escalation_chain[k]`` with a full new
    deadline; with no one left in the chain it times out. Thresholds count from the creation, without pauses.
    """
    request = case.request
    if not request.status.is_open or request.frozen_at is not None:
        return None
    if request.deadline is not None and request.deadline <= now:
        return _expire(request, now)
    start = request.created_at + request.stood
    if request.sla_breach is not None and not request.breached and start + request.sla_breach <= now:
        return _threshold(request, NotificationKind.SLA_BREACH, now, breached=True, warned=True)
    if request.sla_warning is not None and not request.warned and start + request.sla_warning <= now:
        return _threshold(request, NotificationKind.SLA_WARNING, now, warned=True)
    if request.reminder is not None and start + request.reminder * (request.reminded + 1) <= now:
        # Those that were missed, while nobody looked, are told as one.
        due = (now - start) // request.reminder
        changed = request.changed(reminded=due, updated_at=now)
        notice = Notice(NotificationKind.REMINDER, recipients(request))
        return Ruling(changed, notices=[notice], audit=[touched(request, "remind", "", reminders=due)])
    return None


def catch_up(case: Case, now: datetime) -> Ruling:
    """All that is due, as one change; the request as it is when nothing is."""
    ruling = Ruling(case.request)
    while (step := tick(Case(ruling.request, case.votes, case.response, case.messages), now)) is not None:
        ruling = Ruling(
            step.request,
            events=[*ruling.events, *step.events],
            audit=[*ruling.audit, *step.audit],
            notices=[*ruling.notices, *step.notices],
        )
    return ruling


def _expire(request: InteractionRequest, now: datetime) -> Ruling:
    level = request.current_escalation_level
    if level < len(request.escalation_chain):
        to = request.escalation_chain[level]
        changed = request.changed(
            status=InteractionStatus.ESCALATED,
            assignee_id=to,
            claimed_by=None,
            current_escalation_level=level + 1,
            deadline=now + request.timeout,
            updated_at=now,
        )
        kind, notice, said = AuditEventType.APPROVAL_ESCALATED, NotificationKind.ESCALATED, "escalate"
        events: list[EventDraft] = [event(EventType.HUMAN_TASK_ESCALATED, request, level=level + 1, assignee=to)]
    else:
        changed = request.changed(status=InteractionStatus.TIMEOUT, updated_at=now)
        kind, notice, said = AuditEventType.APPROVAL_TIMEOUT, NotificationKind.TIMED_OUT, "time_out"
        events = []
    audit = audit_draft(
        kind,
        request,
        actor="",
        action=said,
        resource="approval_request",
        severity=AuditSeverity.WARNING,
        metadata={"assignee": changed.assignee_id, "level": changed.current_escalation_level},
    )
    return Ruling(changed, events=events, audit=[audit], notices=[Notice(notice, recipients(changed))])


def _threshold(request: InteractionRequest, kind: NotificationKind, now: datetime, **marks: bool) -> Ruling:
    changed = request.changed(**marks, updated_at=now)
    audit = touched(request, kind.value, "", assignee=request.assignee_id)
    return Ruling(changed, audit=[audit], notices=[Notice(kind, recipients(request))])
