"""Requests and messages for the tests of notifications."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from llmteam.human.models import InteractionRequest, InteractionType, NotificationKind
from llmteam.human.notifications import Message

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ADA, BOB = "ada@example.com", "bob@example.com"


def request(**fields: Any) -> InteractionRequest:
    given: dict[str, Any] = {
        "request_id": "request-1",
        "interaction_type": InteractionType.APPROVAL,
        "run_id": "run-1",
        "pipeline_id": "orders",
        "agent_name": "clerk",
        "step_name": "approve",
        "tenant_id": "acme",
        "title": "Pay 12,000?",
        "description": "Invoice A-17\nof ACME",
        "assignee_id": ADA,
        "deadline": datetime(2026, 3, 2, 12, 0, tzinfo=UTC),
        "created_at": NOW,
    }
    return InteractionRequest(**{**given, **fields})


def message(
    *recipients: str, kind: NotificationKind = NotificationKind.REQUESTED, links: bool = True, **fields: Any
) -> Message:
    """With an answer link for each recipient, ``https://inbox/answer/NAME``."""
    whom = recipients or (ADA,)
    return Message(
        request(**fields),
        whom,
        kind,
        "notification-1",
        {one: f"https://inbox/answer/{one.partition('@')[0]}" for one in whom} if links else {},
        "https://inbox/requests/request-1" if links else "",
    )
