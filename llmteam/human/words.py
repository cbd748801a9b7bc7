"""A request in a person's words: whom it asks, how far it is, what comes next, how to answer it. Pure."""

from __future__ import annotations

import shlex
from datetime import UTC

from llmteam.human.models import InteractionRequest, InteractionType
from llmteam.human.rulings import Case
from llmteam.tenancy.context import DEFAULT_TENANT

__all__ = ["agreed", "answer_command", "answer_in_words", "asked_of", "next_of", "question_in_words"]

#: What a command says that answers a request of this type.
_ANSWERS = {
    InteractionType.APPROVAL: "--approve|--reject",
    InteractionType.CHOICE: "--choose {options}",
    InteractionType.INPUT: "--input JSON",
    InteractionType.REVIEW: "--approve|--reject|--changes JSON",
}


def asked_of(request: InteractionRequest) -> str:
    """Whom a request asks: ``alice``, ``alice, bob or the group finance``, ``anybody``."""
    names = dict.fromkeys([request.assignee_id or "", *request.approvers])
    people = ", ".join(name for name in names if name)
    group = f"the group {request.assignee_group}" if request.assignee_group else ""
    return " or ".join(part for part in (people, group) if part) or "anybody"


def agreed(case: Case) -> tuple[int, int]:
    """How many have approved, and how many have rejected, what is shown now."""
    votes = [vote for vote in case.votes if vote.shown_hash == case.request.shown_hash]
    against = sum(vote.approved is False for vote in votes)
    return len(votes) - against, against


def question_in_words(request: InteractionRequest) -> str:
    """``approval of ann until 2026-03-01 12:00:00Z: Pay 700?``; of one whose time stands still without its end."""
    still = request.deadline is None or request.frozen_at is not None
    until = "" if still or request.deadline is None else f" until {request.deadline.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    return f"{request.interaction_type.value} of {asked_of(request)}{until}: {request.title}"


def answer_in_words(case: Case) -> str:
    """``approved by ann: fine``; empty while there is no answer."""
    response = case.response
    if response is None:
        return ""
    said = "answered" if response.approved is None else "approved" if response.approved else "rejected"
    words = [f"{said} by {response.responder_id}", response.selected_option, response.comment or response.reason]
    return ": ".join(word for word in words if word)


def next_of(request: InteractionRequest) -> str:
    """What happens when nobody has answered at the deadline."""
    level = request.current_escalation_level
    if level < len(request.escalation_chain):
        return f"it is escalated to {request.escalation_chain[level]}"
    return "its time is over"


def answer_command(request: InteractionRequest, person: str = "YOU") -> str:
    """The command with which ``person`` answers."""
    verb, how = "respond", _ANSWERS.get(request.interaction_type, "")
    if request.interaction_type is InteractionType.CHOICE:
        how = how.format(options="|".join(_shell_names(request)))
    if request.interaction_type is InteractionType.CHAT:
        verb, how = "say", "TEXT"
    tenant = "" if request.tenant_id == DEFAULT_TENANT else f" --tenant {request.tenant_id}"
    return f"llmteam inbox {verb} {request.request_id} --as {shlex.quote(person)} {how}".rstrip() + tenant


def _shell_names(request: InteractionRequest) -> list[str]:
    """Each option by the first name that it has."""
    keys = ("id", "value", "label")
    found = (next((str(option[key]) for key in keys if key in option), "") for option in request.options)
    return [shlex.quote(name) for name in found]
