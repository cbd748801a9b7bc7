"""Requests and answers as rows, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmteam import codec
from llmteam.human.deadlines import next_wake
from llmteam.human.models import InteractionMessage, InteractionRequest, InteractionResponse
from llmteam.human.rulings import Case, asked_by_name

#: Fields that stand in columns of their own; all others are the document.
_COLUMNS = (
    *("request_id", "run_id", "step_name", "visit", "parked", "interaction_type", "status", "assignee_group"),
    *("document", "deadline", "frozen_at", "stood", "created_at", "updated_at"),
)
REQUEST_WIDTH = len(_COLUMNS)
_OWN = {*_COLUMNS, "tenant_id"}


def _document(request: InteractionRequest) -> str:
    return codec.dumps({name: value for name, value in request.to_dict().items() if name not in _OWN})


def _state(request: InteractionRequest) -> list[Any]:
    """What may change, in the order of UPDATE_REQUEST."""
    closed_at = None if request.status.is_open else request.updated_at or request.created_at
    changing = [request.status.value, asked_by_name(request), request.assignee_group, _document(request)]
    clocks = [request.deadline, next_wake(request), request.frozen_at, request.stood.total_seconds()]
    return [*changing, *clocks, request.updated_at, closed_at]


def new_values(request: InteractionRequest) -> list[Any]:
    """The values of INSERT_REQUEST."""
    ident = [request.tenant_id, request.request_id, request.run_id, request.step_name, request.visit, request.parked]
    state = _state(request)
    return [*ident, request.interaction_type.value, *state[:-2], request.created_at, *state[-2:]]


def changed_values(request: InteractionRequest) -> list[Any]:
    """The values of UPDATE_REQUEST."""
    return [*_state(request), request.tenant_id, request.request_id]


def response_values(tenant_id: str, response: InteractionResponse, final: bool) -> list[Any]:
    """The values of PUT_RESPONSE."""
    document = codec.dumps(response.to_dict())
    return [tenant_id, response.request_id, response.responder_id, final, document, response.response_time]


def request_of(tenant_id: str, row: Sequence[Any]) -> InteractionRequest:
    """The request in the first columns of a row."""
    fields = dict(zip(_COLUMNS, row, strict=False))
    document: dict[str, Any] = fields.pop("document")
    return InteractionRequest.model_validate({**document, **fields, "tenant_id": tenant_id})


def case_of(tenant_id: str, row: Sequence[Any]) -> Case:
    """The case in a row of READ_CASE."""
    given = row[REQUEST_WIDTH] or ()
    votes = [InteractionResponse.from_dict(document) for document, _ in given]
    final = next((InteractionResponse.from_dict(document) for document, final in given if final), None)
    return Case(request_of(tenant_id, row), votes, final, row[REQUEST_WIDTH + 1])


def message_of(row: Sequence[Any]) -> InteractionMessage:
    """The message in a row of READ_MESSAGES."""
    request_id, seq, sender_id, text, sent_at = row
    return InteractionMessage(request_id=request_id, seq=seq, sender_id=sender_id, text=text, sent_at=sent_at)
