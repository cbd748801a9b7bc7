"""A request in a person's words: whom it asks, how far it is, what comes next, how to answer it. Pure."""

from __future__ import annotations

import shlex

from llmteam.human.models import InteractionRequest, InteractionType
from llmteam.human.rulings import Case
from llmteam.tenancy.context import DEFAULT_TENANT

__all__ = ["agreed", "answer_command", "asked_of", "next_of"]

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
