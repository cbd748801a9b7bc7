"""The page of one request: what it shows, the form that fits its type, and how it ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse

from llmteam.human import InteractionResponse, InteractionStatus
from llmteam.human.rulings import Case
from llmteam.web import answers, forms, inbox
from llmteam.web.identity import Identity
from llmteam.web.parts import parts_of
from llmteam.web.render import moment, page


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks at a request, and how they came: ``action`` is where its forms lead, ``token`` what they carry.

    ``identity`` is set for somebody who is signed in; who came by a link is known to this request only.
    """

    person: str
    groups: Collection[str]
    action: str
    token: str
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a page says beside the request: a notice, and what was entered with what is wrong with it."""

    notice: str = ""
    is_problem: bool = False
    entered: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    ended: str = ""


NOTHING_SAID = Said()
#: What fields are called that pages have beside those of a form; their ids are their names.
_LABELS = {"choice": "Your choice", "comment": "Comment", "text": "Your message", "to": "Hand it on to"}


async def request_page(
    request: Request, case: Case, visitor: Visitor, said: Said = NOTHING_SAID, status: int = 200
) -> HTMLResponse:
    """The page of a request."""
    asked = case.request
    drawn = answers.form_for(asked)
    leaves = {} if drawn is None else forms.ids_of(drawn)
    values = dict(said.entered)
    if drawn is not None and answers.DECISION not in values:
        values = {**forms.defaults(drawn), **values}
    ended = said.ended or how_it_ended(case)
    refusal = inbox.refusal_of(case, visitor.person, visitor.groups)
    return page(
        request,
        "request.html",
        status,
        identity=visitor.identity,
        visitor=visitor,
        asked=asked,
        votes=[vote for vote in case.votes if vote != case.response],
        form=drawn,
        offered=answers.offered(asked),
        values=values,
        problems=said.problems,
        labels={**_LABELS, **{leaf.name: leaf.label for leaf in leaves.values()}},
        ids={**{name: name for name in _LABELS}, **{leaf.name: place for place, leaf in leaves.items()}},
        lines=[] if case.response is None else answer_lines(case.response),
        said=said,
        ended=ended,
        can_answer=not ended and refusal is None,
        refusal="" if ended else refusal or "",
        messages=await inbox.messages_of(parts_of(request), case),
    )


def how_it_ended(case: Case) -> str:
    """How a closed request ended, in a sentence; empty for an open one."""
    asked, response = case.request, case.response
    if asked.status.is_open:
        return ""
    said: dict[InteractionStatus, str] = {
        InteractionStatus.TIMEOUT: "Nobody answered in time.",
        InteractionStatus.CANCELLED: "It was cancelled: no answer is needed any more.",
    }
    if response is None:
        return said.get(asked.status, f"It is {asked.status.value}.")
    verb = "rejected" if asked.status is InteractionStatus.REJECTED else "answered"
    return f"It was {verb} by {response.responder_id} on {moment(response.response_time)}."


def answer_lines(response: InteractionResponse) -> list[tuple[str, Any]]:
    """What an answer says, line by line; what it does not say is left out."""
    lines: list[tuple[str, Any]] = []
    if response.approved is not None:
        lines.append(("Approved", response.approved))
    for label, value in (
        ("Choice", response.selected_option),
        ("Data", response.input_data),
        ("Changes", response.review_changes),
        ("Comment", response.comment),
        ("Reason", response.reason if response.reason != response.comment else ""),
    ):
        if value:
            lines.append((label, value))
    return lines
