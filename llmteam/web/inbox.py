"""What a person does at the inbox, whichever way they come: look, answer, write, hand on."""

from __future__ import annotations

import re
from collections.abc import Collection

from llmteam.human import (
    InteractionNotFoundError,
    InteractionRequest,
    InvalidResponseError,
    ResponderNotAllowedError,
)
from llmteam.human.models import InteractionMessage, InteractionType
from llmteam.human.rules import may_answer
from llmteam.human.rulings import Case
from llmteam.web.exceptions import OperatorsOnlyError
from llmteam.web.identity import Identity
from llmteam.web.parts import Parts

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


async def case_of(parts: Parts, request_id: str) -> Case:
    """The request with its answers. Raises :class:`InteractionNotFoundError`, also for another tenant's."""
    if _REQUEST_ID.fullmatch(request_id) is None:
        raise InteractionNotFoundError(request_id)
    store = parts.manager.store
    case = await store.call(store.core.case, store.tenant(), request_id)
    if case is None:
        raise InteractionNotFoundError(request_id)
    return case


async def seen_case(parts: Parts, identity: Identity, request_id: str) -> Case:
    """The request, for somebody it concerns. Raises :class:`ResponderNotAllowedError` for others."""
    case = await case_of(parts, request_id)
    if not identity.may_see(case):
        raise ResponderNotAllowedError(request_id, identity.person, "somebody else was asked")
    return case


async def messages_of(parts: Parts, case: Case, after: int = 0) -> list[InteractionMessage]:
    """The messages of a chat; none of anything else."""
    if case.request.interaction_type is not InteractionType.CHAT:
        return []
    return await parts.manager.get_messages(case.request.request_id, after)


async def open_requests(parts: Parts, identity: Identity, *, everybodys: bool, limit: int) -> list[InteractionRequest]:
    """Open requests, oldest deadline first: those that the person is asked, or ``everybodys``.

    Raises :class:`OperatorsOnlyError` for everybody's.
    """
    store = parts.manager.store
    if not everybodys:
        return await store.call(
            store.core.open_requests, store.tenant(), person=identity.person, groups=identity.groups, limit=limit
        )
    check_operator(identity, "see everybody's requests")
    return await store.call(store.core.open_requests, store.tenant(), limit=limit)


def check_operator(identity: Identity, what: str) -> None:
    """Raise :class:`OperatorsOnlyError` for somebody who is none."""
    if not identity.is_operator:
        raise OperatorsOnlyError(identity.person, what)


def check_chat(case: Case) -> None:
    """Raise :class:`InvalidResponseError` for what is no chat."""
    kind = case.request.interaction_type
    if kind is not InteractionType.CHAT:
        raise InvalidResponseError(case.request.request_id, f"it is no chat but of type {kind.value}")


def refusal_of(case: Case, person: str, groups: Collection[str]) -> str | None:
    """Why a person cannot answer, as far as it is known before they try; None when they can."""
    request = case.request
    if not request.status.is_open:
        return "it is closed"
    if request.quorum > 1 and any(
        vote.responder_id == person and vote.shown_hash == request.shown_hash for vote in case.votes
    ):
        return "you have answered already, and others have yet to"
    return may_answer(request, person, groups)
