"""What a rule gives, and how it is told: the values of a change, and the events and audit drafts that go with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmteam.audit.models import AuditDraft, AuditEventType, AuditSeverity
from llmteam.events.models import EventDraft, EventType
from llmteam.human.models import InteractionMessage, InteractionRequest, InteractionResponse, NotificationKind


@dataclass(frozen=True, slots=True)
class Case:
    """A request with the votes so far, its answer if it has one, and the number of its chat messages."""

    request: InteractionRequest
    votes: Sequence[InteractionResponse] = ()
    response: InteractionResponse | None = None
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """Somebody is to be told."""

    kind: NotificationKind
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ruling:
    """What changes. ``vote`` is an answer that was given, ``final`` says that it closed the request."""

    request: InteractionRequest
    vote: InteractionResponse | None = None
    final: bool = False
    message: InteractionMessage | None = None
    events: Sequence[EventDraft] = ()
    audit: Sequence[AuditDraft] = ()
    notices: Sequence[Notice] = ()
    link: tuple[str, datetime] | None = None

    @property
    def closes(self) -> bool:
        """Whether nothing more can happen to the request, so that the step that waits goes on."""
        return not self.request.status.is_open


#: Something that happens to a request. None: nothing does.
Rule = Callable[[Case], Ruling | None]
#: Why a person (with these groups) may not answer, or None.
Policy = Callable[[InteractionRequest, str, Collection[str]], str | None]


def asked_by_name(request: InteractionRequest) -> list[str]:
    """The assignee, the approvers, and whoever the escalation has reached."""
    reached = request.escalation_chain[: request.current_escalation_level]
    return [name for name in dict.fromkeys([request.assignee_id or "", *request.approvers, *reached]) if name]


def is_asked(request: InteractionRequest, person: str, groups: Collection[str] = ()) -> bool:
    """Whether a request is for ``person``: by name, through a group, or for anybody since it names none."""
    asked = asked_by_name(request)
    if not asked and not request.assignee_group:
        return True
    return person in asked or (request.assignee_group is not None and request.assignee_group in groups)


def recipients(request: InteractionRequest) -> tuple[str, ...]:
    """Whom a notification is for: the assignee, the approvers, or the group."""
    people = [request.assignee_id] if request.assignee_id else []
    people += request.approvers
    if not people and request.assignee_group:
        people = [request.assignee_group]
    return tuple(dict.fromkeys(people))


def event(kind: EventType, request: InteractionRequest, **payload: Any) -> EventDraft:
    """What the run's events say."""
    return EventDraft(
        kind,
        step_id=request.step_name,
        step_type="human_task",
        visit=request.visit if request.parked else None,
        payload={"task_id": request.request_id, **payload},
    )


def touched(request: InteractionRequest, action: str, by: str, **new: Any) -> AuditDraft:
    """The record of a change that has no type of its own."""
    return audit_draft(
        AuditEventType.DATA_UPDATED,
        request,
        actor=by,
        action=action,
        actor_type="user" if by else "system",
        resource="approval_request",
        new_value=new,
    )


def withdrawal(pipeline_id: str, run_id: str, step_id: str, request_id: str) -> AuditDraft:
    """The record of a request that ends with the run, or the step, that asked."""
    return AuditDraft(
        event_type=AuditEventType.DATA_UPDATED,
        pipeline_id=pipeline_id,
        run_id=run_id,
        agent_name=step_id,
        step_name=step_id,
        action="withdraw",
        resource_type="approval_request",
        resource_id=request_id,
        new_value={"status": "cancelled"},
    )


def audit_draft(
    kind: AuditEventType,
    request: InteractionRequest,
    *,
    actor: str,
    action: str,
    resource: str,
    actor_type: str = "system",
    severity: AuditSeverity = AuditSeverity.INFO,
    metadata: Mapping[str, Any] | None = None,
    new_value: Mapping[str, Any] | None = None,
) -> AuditDraft:
    """What the audit trail says."""
    return AuditDraft(
        event_type=kind,
        severity=severity,
        pipeline_id=request.pipeline_id,
        run_id=request.run_id,
        agent_name=request.agent_name,
        step_name=request.step_name,
        actor_type=actor_type,
        actor_id=actor,
        action=action,
        resource_type=resource,
        resource_id=request.request_id,
        new_value=new_value,
        metadata=dict(metadata or {}),
    )
