"""Requests and answers that tests begin with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from llmteam.human import rules
from llmteam.human.models import InteractionRequest, InteractionResponse, InteractionType
from llmteam.human.rulings import Case, Ruling

NOW = datetime(2026, 1, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)

#: What each type needs beside the common fields.
NEEDED: dict[InteractionType, dict[str, Any]] = {
    InteractionType.CHOICE: {"options": [{"id": "0", "label": "Yes"}, {"id": "1", "label": "No"}]},
    InteractionType.INPUT: {"input_schema": {"type": "object", "required": ["amount"]}},
    InteractionType.REVIEW: {"context_data": {"total": 17}},
}
#: A valid answer to each of them.
FITTING: dict[InteractionType, dict[str, Any]] = {
    InteractionType.APPROVAL: {"approved": True},
    InteractionType.CHOICE: {"selected_option": "1"},
    InteractionType.INPUT: {"input_data": {"amount": 3}},
    InteractionType.REVIEW: {"review_changes": {"total": 18}},
    InteractionType.CHAT: {},
    InteractionType.TASK: {},
}


def request(kind: InteractionType = InteractionType.APPROVAL, **fields: Any) -> InteractionRequest:
    """A request as it is before it is opened."""
    return InteractionRequest(
        **{
            "request_id": "req-1",
            "interaction_type": kind,
            "run_id": "run-1",
            "pipeline_id": "triage",
            "agent_name": "sorter",
            "step_name": "approval",
            "tenant_id": "acme",
            "title": "Large invoice",
            "description": "17,000 EUR to Initech",
            "assignee_id": "ann",
            **NEEDED.get(kind, {}),
            **fields,
        }
    )


def opened(kind: InteractionType = InteractionType.APPROVAL, now: datetime = NOW, **fields: Any) -> Case:
    """An open request."""
    return Case(rules.open_request(request(kind, **fields), now).request)


def response(person: str = "ann", **fields: Any) -> InteractionResponse:
    return InteractionResponse(request_id="req-1", responder_id=person, **fields)


def answer(person: str = "ann", *, groups: tuple[str, ...] = (), **fields: Any) -> rules.Answer:
    """What ``person`` answers; an approval unless something else is said."""
    return rules.Answer(response(person, **(fields or {"approved": True})), groups)


def then(case: Case, ruling: Ruling | None) -> Case:
    """The case after a ruling, as every store makes it."""
    if ruling is None:
        return case
    votes, final = tuple(case.votes), case.response
    if ruling.vote is not None:
        votes = (*(vote for vote in votes if vote.responder_id != ruling.vote.responder_id), ruling.vote)
        final = ruling.vote if ruling.final else final
    return Case(ruling.request, votes, final, case.messages + (ruling.message is not None))
