"""What people do to a request, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from llmteam.audit.models import AuditEventType
from llmteam.events.models import EventType
from llmteam.human import rules
from llmteam.human.exceptions import (
    InteractionChangedError,
    InteractionClosedError,
    InteractionError,
    InvalidRequestError,
    InvalidResponseError,
    ResponderNotAllowedError,
    ResponseTooLargeError,
)
from llmteam.human.models import InteractionStatus, InteractionType, NotificationKind
from llmteam.human.rulings import Case, Ruling
from tests.unit.human.samples import FITTING, HOUR, NOW, answer, opened, request, then

LATER = NOW + HOUR
Status = InteractionStatus
OPEN = [status for status in Status if status.is_open]
FINAL = [status for status in Status if not status.is_open]


def at(case: Case, status: InteractionStatus) -> Case:
    """The same case, standing elsewhere."""
    return Case(case.request.changed(status=status), case.votes, case.response, case.messages)


# -- asking


@pytest.mark.parametrize("kind", InteractionType)
def test_every_type_opens_pending_with_a_deadline_and_tells_who_is_asked(kind: InteractionType) -> None:
    ruling = rules.open_request(request(kind, timeout=HOUR), NOW)

    asked = ruling.request
    assert (asked.status, asked.created_at, asked.deadline) == (Status.PENDING, NOW, LATER)
    assert [(notice.kind, notice.recipients) for notice in ruling.notices] == [(NotificationKind.REQUESTED, ("ann",))]
    (told,) = ruling.events
    assert told.event_type is EventType.HUMAN_TASK_CREATED
    assert told.payload == {"task_id": "req-1", "task_type": kind.value, "assignee": "ann"}
    (kept,) = ruling.audit
    assert (kept.event_type, kept.actor_id, kept.resource_type) == (
        AuditEventType.APPROVAL_REQUESTED,
        "sorter",
        "approval_request",
    )
    assert kept.metadata is not None
    assert (kept.metadata["title"], kept.metadata["assignee"]) == ("Large invoice", "ann")


def test_a_deadline_that_was_given_stays() -> None:
    assert opened(deadline=LATER + HOUR, timeout=HOUR).request.deadline == LATER + HOUR


def test_a_request_opens_as_if_nothing_had_happened_to_it() -> None:
    used = request(status=Status.COMPLETED, current_escalation_level=2, reminded=3, warned=True, claimed_by="eve")

    asked = rules.open_request(used, NOW).request

    assert (asked.status, asked.current_escalation_level, asked.reminded) == (Status.PENDING, 0, 0)
    assert (asked.warned, asked.claimed_by) == (False, None)


# -- answering


@pytest.mark.parametrize("kind", InteractionType)
def test_a_fitting_answer_completes_every_type(kind: InteractionType) -> None:
    ruling = rules.respond(opened(kind), answer(**(FITTING[kind] or {"comment": "done"})), LATER)

    assert ruling.request.status is Status.COMPLETED
    assert ruling.closes
    assert ruling.final
    assert ruling.vote is not None
    assert (ruling.vote.response_time, ruling.vote.shown_hash) == (LATER, ruling.request.shown_hash)


@pytest.mark.parametrize("kind", InteractionType)
def test_a_no_rejects_every_type(kind: InteractionType) -> None:
    ruling = rules.respond(opened(kind), answer(approved=False, reason="too much"), LATER)

    assert ruling.request.status is Status.REJECTED
    (kept,) = ruling.audit
    assert (kept.event_type, kept.actor_id) == (AuditEventType.APPROVAL_REJECTED, "ann")


def test_the_answer_is_told_with_who_gave_it_and_how_long_it_took() -> None:
    ruling = rules.respond(opened(), answer(), LATER)

    (told,) = ruling.events
    assert told.event_type is EventType.HUMAN_TASK_COMPLETED
    assert (told.payload["completed_by"], told.payload["status"]) == ("ann", "completed")
    assert told.duration_ms == 3_600_000
    (kept,) = ruling.audit
    assert (kept.event_type, kept.resource_type) == (AuditEventType.APPROVAL_GRANTED, "approval_response")
    assert kept.metadata is not None
    assert kept.metadata["approved"] is True


def test_no_record_of_an_answer_carries_what_was_written() -> None:
    ruling = rules.respond(opened(), answer(approved=True, comment="s3cret", input_data={"s3cret": 1}), LATER)

    assert "s3cret" not in repr([ruling.events, ruling.audit, ruling.notices])


def test_an_answer_counts_up_to_the_deadline_and_not_at_it() -> None:
    case = opened(timeout=HOUR)

    assert rules.respond(case, answer(), LATER - HOUR / 3600).closes
    with pytest.raises(InteractionClosedError) as refused:
        rules.respond(case, answer(), LATER)
    assert refused.value.status == "timeout"


def test_an_answer_counts_after_the_deadline_while_the_chain_is_not_used_up() -> None:
    assert rules.respond(opened(timeout=HOUR, escalation_chain=["boss"]), answer(), LATER).closes


def test_an_answer_counts_after_the_deadline_while_the_run_stands_still() -> None:
    case = opened(timeout=HOUR)
    frozen = Case(case.request.changed(frozen_at=NOW))

    assert rules.respond(frozen, answer(), LATER + HOUR).closes


def test_an_answer_about_what_was_shown_before_is_refused() -> None:
    before = opened()
    after = then(before, rules.amend(before, NOW, title="Larger invoice"))

    with pytest.raises(InteractionChangedError):
        rules.respond(after, answer(approved=True, shown_hash=before.request.shown_hash), LATER)
    assert rules.respond(after, answer(approved=True, shown_hash=after.request.shown_hash), LATER).closes


def test_the_link_that_was_followed_is_used_up_with_the_answer() -> None:
    followed = rules.Answer(answer().response, link=("link-1", LATER))

    assert rules.respond(opened(), followed, NOW).link == ("link-1", LATER)


# -- who may


@pytest.mark.parametrize(
    ("fields", "person", "groups"),
    [
        ({}, "ann", ()),
        ({"assignee_group": "finance"}, "bob", ("finance",)),
        ({"approvers": ["bob"]}, "bob", ()),
        ({"assignee_id": None}, "anybody", ()),
        ({"assignee_id": ""}, "anybody", ()),
    ],
)
def test_who_is_asked_may_answer(fields: dict[str, Any], person: str, groups: tuple[str, ...]) -> None:
    assert rules.respond(opened(**fields), answer(person, groups=groups), LATER).closes


@pytest.mark.parametrize(
    ("fields", "person", "groups"),
    [
        ({}, "eve", ()),
        ({}, "ANN", ()),
        ({}, "eve", ("ann", "")),
        ({"assignee_id": None, "assignee_group": "finance"}, "finance", ()),
        ({"escalation_chain": ["boss"]}, "boss", ()),
        ({"approvers": ["bob"], "assignee_id": None}, "eve", ("bob",)),
        ({"four_eyes": True, "requester_id": "ann", "approvers": ["bob"]}, "ann", ()),
        ({"four_eyes": True, "requester_id": "eve", "assignee_group": "g"}, "eve", ("g",)),
        ({"four_eyes": True, "requester_id": "eve", "assignee_id": None}, "eve", ()),
    ],
)
def test_whoever_is_not_asked_can_do_nothing(fields: dict[str, Any], person: str, groups: tuple[str, ...]) -> None:
    case = opened(**fields)
    chat = opened(InteractionType.CHAT, **fields)

    for attempt in (
        lambda: rules.respond(case, answer(person, groups=groups), NOW),
        lambda: rules.claim(case, person, NOW, groups),
        lambda: rules.delegate(case, person, "friend", NOW, groups),
        lambda: rules.send_message(chat, person, "hello", NOW, groups),
    ):
        with pytest.raises(ResponderNotAllowedError):
            attempt()


@pytest.mark.parametrize("name", ["", " ", "a\x00b", "a\nb", "\ud800", "x" * 256])
def test_nobody_acts_without_a_name_that_can_be_kept(name: str) -> None:
    case, chat = opened(assignee_id=None), opened(InteractionType.CHAT, assignee_id=None, agent_name="")

    for attempt in (
        lambda: rules.respond(case, answer(name), NOW),
        lambda: rules.claim(case, name, NOW),
        lambda: rules.delegate(case, name, "bob", NOW),
        lambda: rules.send_message(chat, name, "hello", NOW),
    ):
        with pytest.raises(InvalidResponseError):
            attempt()
    for hand_on in (lambda: rules.delegate(case, "ann", name, NOW), lambda: rules.reassign(case, name, NOW)):
        with pytest.raises(InvalidRequestError):
            hand_on()


def test_another_policy_decides_instead() -> None:
    case = opened()

    def only_eve(request: object, person: str, groups: object) -> str | None:
        return None if person == "eve" else "only Eve"

    assert rules.respond(case, answer("eve"), NOW, only_eve).closes
    with pytest.raises(ResponderNotAllowedError, match="only Eve"):
        rules.respond(case, answer("ann"), NOW, only_eve)


# -- working on it


@pytest.mark.parametrize("status", OPEN)
def test_a_claim_begins_the_work(status: InteractionStatus) -> None:
    ruling = rules.claim(at(opened(), status), "ann", LATER)

    assert (ruling.request.status, ruling.request.claimed_by) == (Status.IN_PROGRESS, "ann")
    (told,) = ruling.events
    assert (told.event_type, told.payload["assignee"]) == (EventType.HUMAN_TASK_ASSIGNED, "ann")


def test_a_claim_again_changes_and_tells_nothing() -> None:
    claimed = then(opened(), rules.claim(opened(), "ann", NOW))

    assert rules.claim(claimed, "ann", LATER) == Ruling(claimed.request)


def test_somebody_else_who_is_asked_takes_a_claim_over() -> None:
    case = opened(assignee_id=None, assignee_group="g")
    claimed = then(case, rules.claim(case, "ann", NOW, ["g"]))

    assert rules.claim(claimed, "bob", NOW, ["g"]).request.claimed_by == "bob"


@pytest.mark.parametrize("how", ["delegate", "reassign"])
def test_who_it_is_handed_to_is_asked_instead(how: str) -> None:
    case = opened()
    case = then(case, rules.claim(case, "ann", NOW))

    ruling = rules.delegate(case, "ann", "bob", LATER) if how == "delegate" else rules.reassign(case, "bob", LATER)

    assert (ruling.request.assignee_id, ruling.request.claimed_by) == ("bob", None)
    assert [(notice.kind, notice.recipients) for notice in ruling.notices] == [(NotificationKind.ASSIGNED, ("bob",))]
    with pytest.raises(ResponderNotAllowedError):
        rules.respond(then(case, ruling), answer("ann"), LATER)
    assert rules.respond(then(case, ruling), answer("bob"), LATER).closes


@pytest.mark.parametrize("how", ["delegate", "reassign"])
def test_nothing_is_handed_to_whoever_started_the_run_when_four_eyes_decide(how: str) -> None:
    case = opened(four_eyes=True, requester_id="eve")

    with pytest.raises(ResponderNotAllowedError):
        rules.delegate(case, "ann", "eve", NOW) if how == "delegate" else rules.reassign(case, "eve", NOW)


def test_a_message_begins_the_work_and_the_next_gets_the_next_number() -> None:
    case = opened(InteractionType.CHAT)

    first = rules.send_message(case, "ann", "hello", NOW)
    second = rules.send_message(then(case, first), "sorter", "what now?", LATER)

    assert (first.request.status, second.request.status) == (Status.IN_PROGRESS, Status.IN_PROGRESS)
    assert first.message is not None
    assert second.message is not None
    assert (first.message.seq, first.message.sender_id, first.message.sent_at) == (1, "ann", NOW)
    assert (second.message.seq, second.message.sender_id) == (2, "sorter")
    assert "hello" not in repr([first.audit, first.events])


@pytest.mark.parametrize(
    ("text", "error"),
    [("", InvalidResponseError), (" \n", InvalidResponseError), ("x" * 16_385, ResponseTooLargeError)],
)
def test_an_empty_or_endless_message_is_refused(text: str, error: type[InteractionError]) -> None:
    with pytest.raises(error):
        rules.send_message(opened(InteractionType.CHAT), "ann", text, NOW)


def test_what_is_no_chat_takes_no_messages() -> None:
    with pytest.raises(InvalidResponseError, match="asks for an approval"):
        rules.send_message(opened(), "ann", "hello", NOW)


# -- changing it


def test_amending_tells_who_is_asked_and_keeps_everything_else() -> None:
    case = opened()

    ruling = rules.amend(case, LATER, "ops", description="18,000 EUR", context_data={"n": 1})

    assert ruling.request == case.request.changed(description="18,000 EUR", context_data={"n": 1}, updated_at=LATER)
    assert [notice.kind for notice in ruling.notices] == [NotificationKind.CHANGED]


def test_amending_to_the_same_changes_and_tells_nothing() -> None:
    case = opened()

    assert rules.amend(case, LATER, title=case.request.title) == Ruling(case.request)


AMISS: list[dict[str, Any]] = [
    {"status": "completed"},
    {"assignee_id": "eve"},
    {"tenant_id": "globex"},
    {"nothing": 1},
    {"title": None},
    {"title": " "},
    {"context_data": "s3cret"},
    {"options": [1]},
    {"context_data": {"a": {1, 2}}},
]


@pytest.mark.parametrize("shown", AMISS)
def test_only_what_is_shown_can_be_amended_and_only_to_what_can_be_shown(shown: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        rules.amend(opened(), LATER, **{"title": "Another", **shown})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("status", OPEN)
def test_whatever_is_open_can_be_cancelled_also_when_it_is_late(status: InteractionStatus) -> None:
    ruling = rules.cancel(at(opened(timeout=HOUR), status), LATER + HOUR, "no longer needed", "ops")

    assert ruling.request.status is Status.CANCELLED
    assert ruling.closes


@pytest.mark.parametrize("status", Status)
def test_only_a_pending_request_becomes_notified(status: InteractionStatus) -> None:
    ruling = rules.notified(at(opened(), status), LATER)

    assert (ruling.request.status if ruling else None) == (Status.NOTIFIED if status is Status.PENDING else None)


DEEDS: dict[str, Callable[[Case, datetime], object]] = {
    "respond": lambda case, now: rules.respond(case, answer(), now),
    "claim": lambda case, now: rules.claim(case, "ann", now),
    "delegate": lambda case, now: rules.delegate(case, "ann", "bob", now),
    "reassign": lambda case, now: rules.reassign(case, "bob", now),
    "amend": lambda case, now: rules.amend(case, now, title="Another"),
    "send_message": lambda case, now: rules.send_message(case, "ann", "hello", now),
    "cancel": rules.cancel,
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("status", FINAL)
def test_nothing_happens_to_a_closed_request(deed: str, status: InteractionStatus) -> None:
    with pytest.raises(InteractionClosedError) as refused:
        DEEDS[deed](at(opened(InteractionType.CHAT), status), NOW)
    assert refused.value.status == status.value


@pytest.mark.parametrize("deed", sorted(DEEDS.keys() - {"cancel"}))
def test_nothing_but_cancelling_happens_after_the_deadline_whether_or_not_a_sweep_has_noticed(deed: str) -> None:
    with pytest.raises(InteractionClosedError) as refused:
        DEEDS[deed](opened(InteractionType.CHAT, timeout=HOUR), LATER)
    assert refused.value.status == "timeout"
