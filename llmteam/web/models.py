"""What the JSON API takes and gives. Bodies are read strictly: ``"yes"`` is no boolean, unknown fields are refused."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from llmteam import codec
from llmteam.errors import NotJSONError
from llmteam.human.models import (
    InteractionMessage,
    InteractionPriority,
    InteractionRequest,
    InteractionResponse,
    InteractionStatus,
    InteractionType,
)


def _carried(value: Any) -> Any:
    """Refuse what cannot be kept: NUL characters, NaN, lone surrogates, very deep nesting."""
    try:
        codec.check(value)
    except NotJSONError as exc:
        inside = exc.path.removeprefix("$")
        raise ValueError(f"{exc.reason} (at {inside})" if inside else exc.reason) from None
    return value


Value = Annotated[Any, AfterValidator(_carried)]
Text = Annotated[str, AfterValidator(_carried)]
Data = Annotated[dict[str, Any], AfterValidator(_carried)]
Person = Annotated[str, Field(min_length=1, max_length=255, pattern=r"\S"), AfterValidator(_carried)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="`shown_hash` of the request as it was shown.")]


class Body(BaseModel):
    """What is sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AnswerBody(Body):
    """An answer. Which fields count depends on the request's type."""

    shown_hash: Hash
    approved: bool | None = None
    selected_option: Text | None = None
    input_data: Data = Field(default_factory=dict)
    review_changes: Data = Field(default_factory=dict)
    comment: Text = ""
    reason: Text = ""


class DelegateBody(Body):
    """To whom a request is handed."""

    to: Person


class MessageBody(Body):
    """What is written into a chat."""

    text: Text


class CancelBody(Body):
    """Why nobody needs to answer any more."""

    reason: Text = ""


class Scope(StrEnum):
    """Whose requests."""

    MINE = "mine"
    ALL = "all"


class MessagesQuery(BaseModel):
    """Which messages are listed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: int = Field(0, ge=0, le=2**31 - 1, description="Only messages with a greater `seq`.")


class View(BaseModel):
    """What is given."""

    model_config = ConfigDict(frozen=True)


class IdentityView(View):
    """Who the token says you are."""

    tenant_id: str
    person: str
    groups: list[str]


class RequestSummary(View):
    """A request in a list."""

    request_id: str
    interaction_type: InteractionType
    title: str
    status: InteractionStatus
    priority: InteractionPriority
    assignee_id: str | None
    assignee_group: str | None
    claimed_by: str | None
    run_id: str
    pipeline_id: str
    step_name: str
    created_at: datetime
    deadline: datetime | None
    shown_hash: str

    @classmethod
    def of(cls, request: InteractionRequest) -> RequestSummary:
        """What a list says of a request."""
        return cls.model_validate(request, from_attributes=True)


class RequestList(View):
    """Open requests, oldest deadline first."""

    requests: list[RequestSummary]


class RequestView(View):
    """A request with all that belongs to it. ``refusal`` says why you may not answer; null when you may."""

    request: InteractionRequest
    shown_hash: str
    refusal: str | None
    votes: list[InteractionResponse]
    response: InteractionResponse | None
    messages: list[InteractionMessage]


class MessageList(View):
    """Messages of a chat, in order."""

    messages: list[InteractionMessage]


class FieldProblem(View):
    """What is wrong with one part of a body, without its value."""

    path: str = Field(description="JSON path, such as `$.input_data.amount`.")
    detail: str


class ProblemView(View):
    """Why nothing was done (RFC 9457)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = Field(default_factory=list)
