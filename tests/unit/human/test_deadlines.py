"""What time does to a request."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from llmteam.audit.models import AuditEventType
from llmteam.events.models import EventType
from llmteam.human import rules
from llmteam.human.deadlines import catch_up, next_wake, tick
from llmteam.human.models import InteractionStatus, InteractionType, NotificationKind
from llmteam.human.rulings import Case, Ruling
from tests.unit.human.samples import HOUR, NOW, opened, then

Status, Kind = InteractionStatus, NotificationKind
MINUTE = timedelta(minutes=1)
INSTANT = timedelta(microseconds=1)


def ticked(case: Case, now: datetime) -> tuple[Case, list[NotificationKind]]:
    """The case after all that was due, and what was told."""
    told: list[NotificationKind] = []
    while (ruling := tick(case, now)) is not None:
        told += [notice.kind for notice in ruling.notices]
        case = then(case, ruling)
    return case, told


@pytest.mark.parametrize("kind", InteractionType)
def test_every_type_times_out_at_its_deadline_and_not_before(kind: InteractionType) -> None:
    case = opened(kind, timeout=HOUR)

    assert tick(case, NOW + HOUR - INSTANT) is None
    ruling = tick(case, NOW + HOUR)

    assert ruling is not None
    assert ruling.closes
    assert not ruling.final
    assert ruling.request.status is Status.TIMEOUT
    assert [draft.event_type for draft in ruling.audit] == [AuditEventType.APPROVAL_TIMEOUT]
    assert [notice.kind for notice in ruling.notices] == [Kind.TIMED_OUT]


def test_each_escalation_goes_to_the_next_in_the_chain_with_a_full_new_deadline() -> None:
    case = opened(timeout=HOUR, escalation_chain=["boss", "ceo"])
    now, seen = NOW, []

    for _ in range(3):
        now += HOUR + MINUTE
        ruling = tick(case, now)
        assert ruling is not None
        case = then(case, ruling)
        asked = case.request
        seen.append((asked.status, asked.assignee_id, asked.current_escalation_level, asked.deadline))
        assert tick(case, now) is None

    assert seen == [
        (Status.ESCALATED, "boss", 1, NOW + HOUR + MINUTE + HOUR),
        (Status.ESCALATED, "ceo", 2, NOW + 2 * (HOUR + MINUTE) + HOUR),
        (Status.TIMEOUT, "ceo", 2, NOW + 2 * (HOUR + MINUTE) + HOUR),
    ]


def test_an_escalation_is_told_to_the_run_the_audit_trail_and_the_next_in_the_chain() -> None:
    case = opened(timeout=HOUR, escalation_chain=["boss"])
    claimed = then(case, rules.claim(case, "ann", NOW))

    ruling = tick(claimed, NOW + HOUR)

    assert ruling is not None
    assert (ruling.request.claimed_by, ruling.request.updated_at) == (None, NOW + HOUR)
    assert [(event.event_type, event.payload) for event in ruling.events] == [
        (EventType.HUMAN_TASK_ESCALATED, {"task_id": "req-1", "level": 1, "assignee": "boss"})
    ]
    (kept,) = ruling.audit
    assert (kept.event_type, kept.metadata) == (
        AuditEventType.APPROVAL_ESCALATED,
        {"assignee": "boss", "level": 1},
    )
    assert [(notice.kind, notice.recipients) for notice in ruling.notices] == [(Kind.ESCALATED, ("boss",))]


@pytest.mark.parametrize("status", [status for status in Status if status.is_open])
def test_time_moves_whatever_is_open(status: InteractionStatus) -> None:
    case = opened(timeout=HOUR)

    ruling = tick(Case(case.request.changed(status=status)), NOW + HOUR)

    assert ruling is not None
    assert ruling.request.status is Status.TIMEOUT


@pytest.mark.parametrize("status", [status for status in Status if not status.is_open])
def test_time_does_nothing_to_what_is_closed(status: InteractionStatus) -> None:
    request = opened(reminder=MINUTE, sla_warning=MINUTE).request.changed(status=status)

    assert tick(Case(request), NOW + 100 * HOUR) is None
    assert next_wake(request) is None


def test_time_does_nothing_while_the_run_stands_still() -> None:
    request = opened(timeout=HOUR, reminder=MINUTE).request.changed(frozen_at=NOW)

    assert tick(Case(request), NOW + 100 * HOUR) is None
    assert next_wake(request) is None


# -- SLA


@pytest.mark.parametrize(("name", "kind"), [("sla_warning", Kind.SLA_WARNING), ("sla_breach", Kind.SLA_BREACH)])
def test_an_sla_threshold_is_told_once_and_changes_no_status(name: str, kind: NotificationKind) -> None:
    case = opened(timeout=10 * HOUR, **{name: HOUR})

    assert tick(case, NOW + HOUR - INSTANT) is None
    after, told = ticked(case, NOW + HOUR)

    assert told == [kind]
    assert after.request.status is Status.PENDING
    assert ticked(after, NOW + 9 * HOUR)[1] == []


def test_a_warning_is_told_before_the_breach_and_not_after_it() -> None:
    case = opened(timeout=10 * HOUR, sla_warning=HOUR, sla_breach=2 * HOUR)

    warned, told = ticked(case, NOW + HOUR)
    assert told == [Kind.SLA_WARNING]
    assert ticked(warned, NOW + 2 * HOUR)[1] == [Kind.SLA_BREACH]
    assert ticked(case, NOW + 2 * HOUR)[1] == [Kind.SLA_BREACH]


def test_thresholds_count_from_the_creation_also_after_an_escalation() -> None:
    case = opened(timeout=HOUR, sla_breach=90 * MINUTE, escalation_chain=["boss"])

    escalated, _ = ticked(case, NOW + HOUR)
    assert next_wake(escalated.request) == NOW + 90 * MINUTE
    assert ticked(escalated, NOW + 90 * MINUTE)[1] == [Kind.SLA_BREACH]


# -- reminders


def test_a_reminder_goes_out_each_interval() -> None:
    case, told = opened(timeout=HOUR, reminder=10 * MINUTE), []

    for minute in range(60):
        case, now = ticked(case, NOW + minute * MINUTE)
        told += [(minute, kind) for kind in now]

    assert told == [(minute, Kind.REMINDER) for minute in (10, 20, 30, 40, 50)]
    assert case.request.reminded == 5


def test_reminders_that_were_missed_are_told_as_one() -> None:
    case, told = ticked(opened(timeout=HOUR, reminder=10 * MINUTE), NOW + 35 * MINUTE)

    assert told == [Kind.REMINDER]
    assert case.request.reminded == 3
    assert next_wake(case.request) == NOW + 40 * MINUTE


def test_a_reminder_of_any_length_comes_to_an_end() -> None:
    third = timedelta(microseconds=333_333)

    case, told = ticked(opened(timeout=3650 * 24 * HOUR, reminder=third), NOW + 3 * third)

    assert (case.request.reminded, told) == (3, [Kind.REMINDER])


def test_a_pause_moves_thresholds_and_reminders() -> None:
    stood = opened(timeout=9 * HOUR, sla_warning=HOUR, reminder=HOUR).request.changed(stood=timedelta(hours=2))

    assert next_wake(stood) == NOW + 3 * HOUR
    assert tick(Case(stood), NOW + 3 * HOUR - INSTANT) is None


@pytest.mark.parametrize(
    ("fields", "due"),
    [
        ({}, 10 * HOUR),
        ({"reminder": HOUR}, HOUR),
        ({"sla_warning": 2 * HOUR, "sla_breach": 3 * HOUR}, 2 * HOUR),
        ({"sla_breach": 3 * HOUR}, 3 * HOUR),
        ({"sla_breach": 30 * HOUR, "reminder": 20 * HOUR}, 10 * HOUR),
    ],
)
def test_the_next_look_is_at_what_is_due_first(fields: dict[str, Any], due: timedelta) -> None:
    assert next_wake(opened(timeout=10 * HOUR, **fields).request) == NOW + due


def test_all_that_is_due_is_one_change() -> None:
    case = opened(timeout=HOUR, sla_breach=HOUR, reminder=HOUR, escalation_chain=["boss"])

    ruling = catch_up(case, NOW + HOUR)

    assert [notice.kind for notice in ruling.notices] == [Kind.ESCALATED, Kind.SLA_BREACH, Kind.REMINDER]
    assert (ruling.request.assignee_id, ruling.request.breached, ruling.request.reminded) == ("boss", True, 1)
    assert len(ruling.events) == 1
    assert len(ruling.audit) == 3
    assert catch_up(then(case, ruling), NOW + HOUR) == Ruling(ruling.request)
