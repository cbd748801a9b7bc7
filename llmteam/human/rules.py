"""What may happen to a request, as pure functions: the request as it is and what somebody does, in; what changes, out.

Stores apply a :class:`Ruling` in one transaction: the request, the answer, events, audit, notifications, and the step
that goes on. No clock, no SQL, no network.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from llmteam.audit.models import AuditEventType, AuditSeverity
from llmteam.events.models import EventDraft, EventType
from llmteam.human.checks import check_answer, check_request, check_shown, check_text, fault_of_name, problems_of
from llmteam.human.exceptions import (
    InteractionChangedError,
    InteractionClosedError,
    InvalidRequestError,
    InvalidResponseError,
    ResponderNotAllowedError,
)
from llmteam.human.models import (
    InteractionMessage,
    InteractionRequest,
    InteractionResponse,
    InteractionStatus,
    InteractionType,
    NotificationKind,
)
from llmteam.human.rulings import (
    Case,
    Notice,
    Policy,
    Ruling,
    asked_by_name,
    audit_draft,
    event,
    is_asked,
    recipients,
    touched,
)

__all__ = [
    "SHOWN",
    "Answer",
    "amend",
    "cancel",
    "claim",
    "delegate",
    "may_answer",
    "notified",
    "open_request",
    "reassign",
    "respond",
    "send_message",
]

#: The fields that a person decides on, and that can be amended.
SHOWN = ("title", "description", "context_data", "options", "input_schema")


def may_answer(request: InteractionRequest, person: str, groups: Collection[str] = ()) -> str | None:
    """Why ``person`` may not answer, or None: the policy unless a manager is given another one.

    The assignee may, the members of the group, the approvers, and whoever the escalation has reached; a request that
    names nobody is anybody's. With four eyes the one who started the run may not, whatever else they are.
    """
    if _is_barred(request, person):
        return "whoever started the run may not decide in it (four eyes)"
    if is_asked(request, person, groups):
        return None
    return "somebody else was asked"


def open_request(request: InteractionRequest, now: datetime) -> Ruling:
    """Ask. What time and people did to a request so far is forgotten: it is a fresh one.

    Raises :class:`InvalidRequestError` for a request that nobody could answer.
    """
    check_request(request)
    deadline = request.deadline or now + request.timeout
    # An empty name is nobody's, as in a segment that leaves it out.
    whom = {"assignee_id": request.assignee_id or None, "assignee_group": request.assignee_group or None}
    fresh = {"current_escalation_level": 0, "reminded": 0, "warned": False, "breached": False, "claimed_by": None}
    asked = request.changed(status=InteractionStatus.PENDING, created_at=now, deadline=deadline, **fresh, **whom)
    events = [event(EventType.HUMAN_TASK_CREATED, asked, task_type=asked.interaction_type.value, **_whom(asked))]
    audit = audit_draft(
        AuditEventType.APPROVAL_REQUESTED,
        asked,
        actor=asked.agent_name,
        action="request",
        actor_type="agent",
        resource="approval_request",
        metadata={"title": asked.title, "assignee": asked.assignee_id, "shown": asked.shown_hash},
    )
    return Ruling(asked, events=events, audit=[audit], notices=[Notice(NotificationKind.REQUESTED, recipients(asked))])


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody answers, and how they came to it: ``groups`` they are in, the one-use ``link`` they followed.

    ``checked`` is the digest of what was shown that the answer was found to fit: a schema may take long to check, and
    the rule holds locks.
    """

    response: InteractionResponse
    groups: Collection[str] = ()
    link: tuple[str, datetime] | None = None
    checked: str | None = None


def respond(case: Case, answer: Answer, now: datetime, policy: Policy = may_answer) -> Ruling:
    """Take an answer. The first that is valid closes the request, or the one that makes up the quorum.

    Raises:
        InteractionClosedError: it takes no answer any more, also because its deadline has passed.
        ResponderNotAllowedError: somebody else was asked.
        InteractionChangedError: the answer is about what was shown before.
        InvalidResponseError, ResponseTooLargeError: it does not fit what was asked.
    """
    request, given = case.request, answer.response
    _open_now(request, now)
    _allowed(request, given.responder_id, answer.groups, policy)
    if given.shown_hash is not None and given.shown_hash != request.shown_hash:
        raise InteractionChangedError(request.request_id)
    if answer.checked != request.shown_hash:
        check_answer(request, given)
    given = given.model_copy(update={"response_time": now, "shown_hash": request.shown_hash})
    status = _outcome(case, given)
    changed = request.changed(status=status or _begun(request.status), updated_at=now)
    events: list[EventDraft] = []
    if status is not None:
        took = round((now - request.created_at).total_seconds() * 1000)
        done = event(EventType.HUMAN_TASK_COMPLETED, request, completed_by=given.responder_id, status=status.value)
        events.append(replace(done, duration_ms=max(0, took)))
    granted = given.approved is not False
    audit = audit_draft(
        AuditEventType.APPROVAL_GRANTED if granted else AuditEventType.APPROVAL_REJECTED,
        request,
        actor=given.responder_id,
        action="approve" if granted else "reject",
        actor_type="user",
        resource="approval_response",
        severity=AuditSeverity.INFO if granted else AuditSeverity.WARNING,
        metadata={"approved": given.approved, "final": status is not None, "shown": request.shown_hash},
    )
    return Ruling(changed, vote=given, final=status is not None, events=events, audit=[audit], link=answer.link)


def _outcome(case: Case, given: InteractionResponse) -> InteractionStatus | None:
    """How the request ends with this answer; None while more have to agree. Votes on what has changed do not count.

    With approvers it is rejected once too few of those who are asked by name are left; else by the first rejection.
    """
    request = case.request
    rejected = given.approved is False
    if request.quorum == 1:
        return InteractionStatus.REJECTED if rejected else InteractionStatus.COMPLETED
    cast = {vote.responder_id: vote for vote in case.votes if vote.shown_hash == request.shown_hash}
    if given.responder_id in cast:
        raise InvalidResponseError(request.request_id, "you have answered already, and others have yet to")
    cast[given.responder_id] = given
    granted = sum(vote.approved is not False for vote in cast.values())
    if granted >= request.quorum:
        return InteractionStatus.COMPLETED
    if not request.approvers:
        return InteractionStatus.REJECTED if rejected else None
    left = {person for person in asked_by_name(request) if not _is_barred(request, person)} - cast.keys()
    return InteractionStatus.REJECTED if granted + len(left) < request.quorum else None


def claim(case: Case, person: str, now: datetime, groups: Collection[str] = (), policy: Policy = may_answer) -> Ruling:
    """``person`` works on it from now on; somebody who may answer can take it over. Again is no change."""
    request = case.request
    _open_now(request, now)
    _allowed(request, person, groups, policy)
    if request.claimed_by == person:
        return Ruling(request)
    changed = request.changed(status=_begun(request.status), claimed_by=person, updated_at=now)
    events = [event(EventType.HUMAN_TASK_ASSIGNED, request, assignee=person, claimed=True)]
    return Ruling(changed, events=events, audit=[touched(request, "claim", person, claimed_by=person)])


def delegate(
    case: Case, person: str, to: str, now: datetime, groups: Collection[str] = (), policy: Policy = may_answer
) -> Ruling:
    """``person`` hands it to somebody else, who is then the one that is asked."""
    _open_now(case.request, now)
    _allowed(case.request, person, groups, policy)
    return _assign(case.request, person, to, "delegate", now)


def reassign(case: Case, to: str, now: datetime, by: str = "") -> Ruling:
    """An operator gives it to somebody else."""
    _open_now(case.request, now)
    return _assign(case.request, by, to, "reassign", now)


def _assign(request: InteractionRequest, by: str, to: str, action: str, now: datetime) -> Ruling:
    if fault := fault_of_name(to):
        raise InvalidRequestError(f"a request cannot be given to somebody whose name {fault}")
    if _is_barred(request, to):
        raise ResponderNotAllowedError(request.request_id, to, "whoever started the run may not decide in it")
    changed = request.changed(assignee_id=to, claimed_by=None, updated_at=now)
    told = event(EventType.HUMAN_TASK_ASSIGNED, request, assignee=to)
    audit = touched(request, action, by, assignee=to)
    return Ruling(changed, events=[told], audit=[audit], notices=[Notice(NotificationKind.ASSIGNED, (to,))])


def amend(case: Case, now: datetime, by: str = "", **shown: Any) -> Ruling:
    """Change what is shown (title, description, context_data, options, input_schema).

    Answers that were given about what was shown before do not count any more, and who is asked is told. Raises
    :class:`InvalidRequestError` for any other field, and for what nobody could answer.
    """
    request = case.request
    _open_now(request, now)
    if others := sorted(shown.keys() - SHOWN):
        raise InvalidRequestError(f"{', '.join(others)} cannot be amended: {', '.join(SHOWN)} can")
    try:
        changed = type(request).model_validate({**dict(request), **shown, "updated_at": now})
    except ValidationError as exc:
        raise InvalidRequestError(f"a request cannot be amended like this: {problems_of(exc)}") from None
    check_shown(changed)
    if changed.shown_hash == request.shown_hash:
        return Ruling(request)
    audit = touched(request, "amend", by, shown=changed.shown_hash)
    return Ruling(changed, audit=[audit], notices=[Notice(NotificationKind.CHANGED, recipients(changed))])


def send_message(
    case: Case,
    sender: str,
    text: str,
    now: datetime,
    groups: Collection[str] = (),
    policy: Policy = may_answer,
) -> Ruling:
    """A message in a chat. Who is asked may write, and the agent that asks."""
    request = case.request
    _open_now(request, now)
    if request.interaction_type is not InteractionType.CHAT:
        raise InvalidResponseError(request.request_id, f"it asks for {_said(request)}, and is no chat")
    if not sender or sender != request.agent_name:
        _allowed(request, sender, groups, policy)
    check_text(request.request_id, "message", text)
    if not text.strip():
        raise InvalidResponseError(request.request_id, "the message is empty")
    message = InteractionMessage(
        request_id=request.request_id, seq=case.messages + 1, sender_id=sender, text=text, sent_at=now
    )
    changed = request.changed(status=_begun(request.status), updated_at=now)
    return Ruling(changed, message=message, audit=[touched(request, "message", sender, seq=message.seq)])


def cancel(case: Case, now: datetime, reason: str = "", by: str = "") -> Ruling:
    """Nobody needs to answer any more. Raises :class:`InteractionClosedError` when it is closed."""
    request = case.request
    if not request.status.is_open:
        raise InteractionClosedError(request.request_id, request.status.value)
    check_text(request.request_id, "reason", reason)
    changed = request.changed(status=InteractionStatus.CANCELLED, updated_at=now)
    return Ruling(changed, audit=[touched(request, "cancel", by, reason=reason)])


def notified(case: Case, now: datetime) -> Ruling | None:
    """A channel took the first notification."""
    if case.request.status is not InteractionStatus.PENDING:
        return None
    return Ruling(case.request.changed(status=InteractionStatus.NOTIFIED, updated_at=now))


def _open_now(request: InteractionRequest, now: datetime) -> None:
    if not request.status.is_open:
        raise InteractionClosedError(request.request_id, request.status.value)
    late = request.deadline is not None and request.deadline <= now and request.frozen_at is None
    if late and request.current_escalation_level >= len(request.escalation_chain):
        # Whether a sweep has noticed yet must not decide who wins.
        raise InteractionClosedError(request.request_id, InteractionStatus.TIMEOUT.value)


def _allowed(request: InteractionRequest, person: str, groups: Collection[str], policy: Policy) -> None:
    if fault := fault_of_name(person):
        raise InvalidResponseError(request.request_id, f"the name of the person {fault}")
    reason = policy(request, person, groups)
    if reason is not None:
        raise ResponderNotAllowedError(request.request_id, person, reason)


def _is_barred(request: InteractionRequest, person: str) -> bool:
    return request.four_eyes and person == request.requester_id


def _begun(status: InteractionStatus) -> InteractionStatus:
    return InteractionStatus.IN_PROGRESS if status.is_open else status


def _said(request: InteractionRequest) -> str:
    article = "an" if request.interaction_type.value[0] in "aeiou" else "a"
    return f"{article} {request.interaction_type.value}"


def _whom(request: InteractionRequest) -> dict[str, Any]:
    whom: dict[str, Any] = {"assignee": request.assignee_id}
    if request.assignee_group is not None:
        whom["group"] = request.assignee_group
    return whom
