"""Answer links: whoever has one may answer one request, once, without signing in. Looking uses nothing up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from llmteam.human.links import AnswerLink
from llmteam.tenancy import TenantContext
from llmteam.web import inbox, sessions
from llmteam.web.csrf import check_form, form_token
from llmteam.web.pages import take_answer, take_message
from llmteam.web.parts import parts_of
from llmteam.web.view import NOTHING_SAID, Said, Visitor, request_page

router = APIRouter(prefix="/answer", include_in_schema=False, default_response_class=HTMLResponse)

_CHANGED = "It has changed since the message with this link was sent. This is what it says now."
_TAKEN = "Thank you, your answer was taken."


async def answer_link(request: Request, token: str) -> AsyncIterator[AnswerLink]:
    """The link that was followed; its tenant is the current one until the answer is sent.

    Raises :class:`~llmteam.human.AnswerLinkError`.
    """
    parts = parts_of(request)
    link = parts.signer.read_link(token, parts.now())
    with TenantContext(link.tenant_id):
        yield link


Link = Annotated[AnswerLink, Depends(answer_link)]


@router.get("/{token}")
async def show(request: Request, link: Link, token: str) -> Response:
    """The request and the form."""
    case = await inbox.case_of(parts_of(request), link.request_id)
    changed = case.request.status.is_open and case.request.shown_hash != link.shown_hash
    return await request_page(
        request, case, _visitor(request, link, token), Said(_CHANGED) if changed else NOTHING_SAID
    )


@router.post("/{token}")
@router.post("/{token}/answer")
async def answer(request: Request, link: Link, token: str) -> Response:
    """Answer it. The link works once."""
    form, parts = await sessions.form_of(request), parts_of(request)
    check_form(parts, token, form)
    visitor = _visitor(request, link, token)
    used = (link.link_id, link.expires_at)
    refused = await take_answer(request, link.request_id, visitor, form, link=used)
    if refused is not None:
        return refused
    answered = await inbox.case_of(parts, link.request_id)
    return await request_page(request, answered, visitor, Said(_TAKEN))


@router.post("/{token}/messages")
async def send_message(request: Request, link: Link, token: str) -> Response:
    """Write into a chat; the link goes on working until the chat is closed with it."""
    form, parts = await sessions.form_of(request), parts_of(request)
    check_form(parts, token, form)
    refused = await take_message(request, link.request_id, _visitor(request, link, token), form)
    return refused or RedirectResponse(f"{parts.base}/answer/{token}#messages", 303)


def _visitor(request: Request, link: AnswerLink, token: str) -> Visitor:
    parts = parts_of(request)
    # The groups that a person is in are not known from a link; it is made for those who are asked by name.
    return Visitor(link.person, (), f"{parts.base}/answer/{token}", form_token(parts, token))
