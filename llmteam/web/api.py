"""The JSON API of the inbox. Every refusal is problem+json (RFC 9457), and then nothing has changed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from llmteam.human import InteractionMessage, InteractionRequest, InteractionResponse
from llmteam.human.interactions import LISTED
from llmteam.human.rulings import Case
from llmteam.web import inbox
from llmteam.web.identity import ApiIdentity, Identity
from llmteam.web.models import (
    AnswerBody,
    CancelBody,
    DelegateBody,
    IdentityView,
    MessageBody,
    MessageList,
    MessagesQuery,
    ProblemView,
    RequestList,
    RequestSummary,
    RequestView,
    Scope,
)
from llmteam.web.parts import Parts, parts_of
from llmteam.web.problems import MEDIA_TYPE


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How the OpenAPI document describes refusals."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}
    return {status: {"model": ProblemView, "content": content} for status in statuses}


_LOOKING = refusals(401, 403, 404, 422, 503)
_CHANGING = refusals(401, 403, 404, 409, 413, 422, 503)

router = APIRouter(prefix="/api", tags=["inbox"])

PartsHere = Annotated[Parts, Depends(parts_of)]
RequestId = Annotated[str, Path(description="The request's id.")]


class ListQuery(BaseModel):
    """Which requests are listed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Scope = Field(Scope.MINE, description="`all` is for members of the group `operators`.")
    limit: int = Field(LISTED, ge=1, le=LISTED)


async def _view(parts: Parts, identity: Identity, case: Case) -> RequestView:
    return RequestView(
        request=case.request,
        shown_hash=case.request.shown_hash,
        refusal=inbox.refusal_of(case, identity.person, identity.groups),
        votes=list(case.votes),
        response=case.response,
        messages=await inbox.messages_of(parts, case),
    )


@router.get("/me", responses=refusals(401, 503))
async def whoami(identity: ApiIdentity) -> IdentityView:
    """Who the token says you are."""
    return IdentityView(tenant_id=identity.tenant_id, person=identity.person, groups=sorted(identity.groups))


@router.get("/requests", responses=refusals(401, 403, 422, 503))
async def list_requests(parts: PartsHere, identity: ApiIdentity, query: Annotated[ListQuery, Query()]) -> RequestList:
    """Open requests, oldest deadline first: those that you are asked, or all."""
    found = await inbox.open_requests(parts, identity, everybodys=query.scope is Scope.ALL, limit=query.limit)
    return RequestList(requests=[RequestSummary.of(request) for request in found])


@router.get("/requests/{request_id}", responses=_LOOKING)
async def show_request(parts: PartsHere, identity: ApiIdentity, request_id: RequestId) -> RequestView:
    """One request with what it shows, its `shown_hash`, the votes so far, its answer, and its messages."""
    return await _view(parts, identity, await inbox.seen_case(parts, identity, request_id))


@router.post("/requests/{request_id}/response", responses=_CHANGING)
async def respond(
    parts: PartsHere, identity: ApiIdentity, request_id: RequestId, body: AnswerBody
) -> InteractionResponse:
    """Answer it. The first valid answer wins; one about what was shown before is refused with 409."""
    await inbox.seen_case(parts, identity, request_id)
    return await parts.manager.respond(request_id, identity.person, groups=identity.groups, **body.model_dump())


@router.post("/requests/{request_id}/claim", responses=_CHANGING)
async def claim(parts: PartsHere, identity: ApiIdentity, request_id: RequestId) -> InteractionRequest:
    """Say that you work on it."""
    await inbox.seen_case(parts, identity, request_id)
    return await parts.manager.claim(request_id, identity.person, groups=identity.groups)


@router.post("/requests/{request_id}/delegate", responses=_CHANGING)
async def delegate(
    parts: PartsHere, identity: ApiIdentity, request_id: RequestId, body: DelegateBody
) -> InteractionRequest:
    """Hand it to somebody else, who is then the one that is asked."""
    await inbox.seen_case(parts, identity, request_id)
    return await parts.manager.delegate(request_id, identity.person, body.to, groups=identity.groups)


@router.get("/requests/{request_id}/messages", responses=_LOOKING)
async def list_messages(
    parts: PartsHere, identity: ApiIdentity, request_id: RequestId, query: Annotated[MessagesQuery, Query()]
) -> MessageList:
    """The messages of a chat, in order."""
    case = await inbox.seen_case(parts, identity, request_id)
    return MessageList(messages=await inbox.messages_of(parts, case, query.after))


@router.post("/requests/{request_id}/messages", status_code=201, responses=_CHANGING)
async def send_message(
    parts: PartsHere, identity: ApiIdentity, request_id: RequestId, body: MessageBody
) -> InteractionMessage:
    """Write into a chat."""
    await inbox.seen_case(parts, identity, request_id)
    return await parts.manager.send_message(request_id, identity.person, body.text, groups=identity.groups)


@router.post("/requests/{request_id}/close", responses=_CHANGING)
async def close_chat(
    parts: PartsHere, identity: ApiIdentity, request_id: RequestId, body: AnswerBody
) -> InteractionResponse:
    """End a chat; what is sent is what came of it."""
    case = await inbox.seen_case(parts, identity, request_id)
    inbox.check_chat(case)
    return await parts.manager.close_chat(request_id, identity.person, groups=identity.groups, **body.model_dump())


@router.post("/requests/{request_id}/cancel", responses=_CHANGING)
async def cancel(
    parts: PartsHere, identity: ApiIdentity, request_id: RequestId, body: CancelBody
) -> InteractionRequest:
    """Withdraw it, as an operator: nobody needs to answer any more."""
    await inbox.seen_case(parts, identity, request_id)
    inbox.check_operator(identity, "cancel requests")
    return await parts.manager.cancel(request_id, body.reason, by=identity.person)
