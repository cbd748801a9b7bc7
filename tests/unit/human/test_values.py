"""Requests, answers and errors as values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmteam.human.models import (
    InteractionPriority,
    InteractionRequest,
    InteractionResponse,
    InteractionStatus,
    InteractionType,
    NotificationConfig,
)
from llmteam.human.rulings import is_asked, recipients
from tests.unit.human.samples import NOW, request, response

PEOPLE = st.sampled_from(["ann", "bob", "cat"])


def test_the_names_and_values_of_the_contract_stand() -> None:
    assert [(one.name, one.value) for one in InteractionType] == [
        (name, name.lower()) for name in ("APPROVAL", "CHOICE", "INPUT", "REVIEW", "CHAT", "TASK")
    ]
    assert [one.value for one in InteractionStatus] == [
        *("pending", "notified", "in_progress", "completed", "rejected", "timeout", "cancelled", "escalated")
    ]
    assert [one.value for one in InteractionPriority] == ["low", "normal", "high", "critical"]
    assert {status for status in InteractionStatus if status.is_open} == {
        *(InteractionStatus.PENDING, InteractionStatus.NOTIFIED),
        *(InteractionStatus.IN_PROGRESS, InteractionStatus.ESCALATED),
    }


def test_a_request_has_the_fields_and_defaults_of_the_contract() -> None:
    asked = InteractionRequest(
        request_id="r",
        interaction_type=InteractionType.APPROVAL,
        run_id="",
        pipeline_id="",
        agent_name="",
        step_name="",
        tenant_id="",
        title="t",
        description="",
    )

    assert asked.timeout == timedelta(hours=24)
    assert (asked.context_data, asked.options, asked.input_schema, asked.escalation_chain) == ({}, [], None, [])
    assert (asked.assignee_id, asked.assignee_group, asked.deadline, asked.updated_at) == (None, None, None, None)
    assert (asked.priority, asked.status) == (InteractionPriority.NORMAL, InteractionStatus.PENDING)
    assert (asked.sla_warning, asked.sla_breach, asked.current_escalation_level) == (None, None, 0)
    assert asked.created_at.tzinfo is UTC


def test_a_request_as_json_has_values_seconds_and_iso_moments() -> None:
    data = request(timeout=90, deadline=NOW.replace(tzinfo=None), sla_warning=1.5, created_at=NOW).to_dict()

    assert (data["interaction_type"], data["status"], data["priority"]) == ("approval", "pending", "normal")
    assert (data["timeout"], data["sla_warning"], data["sla_breach"]) == (90.0, 1.5, None)
    assert datetime.fromisoformat(data["deadline"]) == NOW
    assert datetime.fromisoformat(data["created_at"]) == NOW
    assert data["updated_at"] is None


def test_an_answer_comes_back_from_json() -> None:
    given = response(approved=True, input_data={"a": [1, None]}, response_time=NOW, comment="ü")

    assert InteractionResponse.from_dict(given.to_dict()) == given


@pytest.mark.parametrize(("title", "description", "message"), [("T", "D", "D"), ("T", "", "T")])
def test_the_message_is_the_description_or_else_the_title(title: str, description: str, message: str) -> None:
    assert request(title=title, description=description).message == message


WRONG: list[dict[str, Any]] = [
    {"timeout": 1e20},
    {"timeout": float("inf")},
    {"timeout": float("nan")},
    {"status": "done"},
    {"quorum": 0},
    {"colour": "red"},
    {"context_data": []},
    {"options": ["yes"]},
]


@pytest.mark.parametrize("fields", WRONG)
def test_values_that_are_none_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        request(**fields)


def test_email_is_the_only_channel_unless_others_are_named() -> None:
    config = NotificationConfig()

    assert config.email_enabled
    assert not (config.slack_enabled)
    assert not (config.teams_enabled)
    assert not (config.webhook_enabled)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "Other"),
        ("description", "Other"),
        ("context_data", {"a": 1}),
        ("options", [{"id": "1"}]),
        ("input_schema", {}),
        ("interaction_type", InteractionType.TASK),
    ],
)
def test_the_hash_changes_with_everything_that_is_decided_on(field: str, value: object) -> None:
    assert request(**{field: value}).shown_hash != request().shown_hash


def test_the_hash_stays_with_everything_else_and_with_the_order_of_keys() -> None:
    asked = request(context_data={"a": 1, "b": 2})

    assert request(context_data={"b": 2, "a": 1}, assignee_id="bob", timeout=1, quorum=1).shown_hash == asked.shown_hash
    assert InteractionRequest.from_dict(asked.to_dict()).shown_hash == asked.shown_hash


@given(
    assignee=st.none() | PEOPLE,
    group=st.none() | st.just("finance"),
    approvers=st.lists(PEOPLE, max_size=2),
    chain=st.lists(PEOPLE, max_size=2),
    level=st.integers(0, 2),
    person=PEOPLE,
    member=st.booleans(),
)
def test_a_request_is_for_whom_it_names_or_for_anybody(
    assignee: str | None,
    group: str | None,
    approvers: list[str],
    chain: list[str],
    level: int,
    person: str,
    member: bool,
) -> None:
    fields = {"assignee_id": assignee, "assignee_group": group, "approvers": approvers}
    asked = request(escalation_chain=chain, current_escalation_level=level, **fields)

    answer = is_asked(asked, person, ["finance"] if member else [])

    reached = chain[:level]
    names_nobody = assignee is None and group is None and not approvers and not reached
    by_name = person == assignee or person in approvers or person in reached
    assert answer == (names_nobody or by_name or (group is not None and member))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, ("ann",)),
        ({"assignee_id": None}, ()),
        ({"assignee_id": None, "assignee_group": "finance"}, ("finance",)),
        ({"assignee_group": "finance"}, ("ann",)),
        ({"approvers": ["bob", "ann", "bob"]}, ("ann", "bob")),
    ],
)
def test_each_who_is_asked_is_told_once(fields: dict[str, Any], told: tuple[str, ...]) -> None:
    assert recipients(request(**fields)) == told
