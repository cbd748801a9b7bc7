"""``llmteam inbox respond|claim|delegate|reassign|cancel|say``: what people do with requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from llmteam.cli import documents
from llmteam.cli.inbox_place import as_option, group_option, look_up, opened_inbox
from llmteam.cli.options import json_option, tenant_option
from llmteam.cli.render import print_json
from llmteam.telemetry import printable

if TYPE_CHECKING:
    from llmteam.human.models import InteractionRequest
    from llmteam.human.rulings import Case

_request_argument = click.argument("request_id", metavar="REQUEST")
_person_option = as_option(help="Who does it. Whoever can reach the database can say any name.")


@click.command()
@_request_argument
@tenant_option
@_person_option
@group_option
@click.option("--approve/--reject", "approved", default=None, help="Approve it, or reject it.")
@click.option("--choose", metavar="OPTION", help="Choose an option, by its id, value or label.")
@click.option("--input", "input_text", metavar="JSON|@FILE|-", help="What the form asks for, an object.")
@click.option("--changes", metavar="JSON|@FILE|-", help="What a review changes, an object.")
@click.option("--comment", default="", metavar="TEXT", help="Goes with the answer to the next steps.")
@click.option("--reason", default="", metavar="TEXT", help="Why it is rejected.")
@click.option("--shown", metavar="HASH", help="What you decide on: refused if something else is shown by now.")
@json_option
def respond(
    request_id: str,
    tenant: str,
    person: str,
    groups: tuple[str, ...],
    approved: bool | None,
    choose: str | None,
    input_text: str | None,
    changes: str | None,
    comment: str,
    reason: str,
    shown: str | None,
    as_json: bool,
) -> None:
    """Answer REQUEST. The first answer that fits closes it, and the step that waits goes on.

    An approval that more than one has to agree to stays open until enough have.
    """
    given: dict[str, Any] = {
        "approved": approved,
        "selected_option": choose,
        "input_data": _object(input_text, "--input"),
        "review_changes": _object(changes, "--changes"),
        "comment": comment,
        "reason": reason,
        "shown_hash": shown,
    }
    with opened_inbox(tenant) as manager:
        case = look_up(manager, tenant, request_id)
        _check_is_answer(case.request, given)
        found = case.request.request_id
        response = asyncio.run(manager.respond(found, person, groups=groups, **given))
        case = look_up(manager, tenant, found)
    if as_json:
        print_json({**response.to_dict(), "status": case.request.status.value})
    else:
        click.echo(_outcome(case))


def _object(text: str | None, option: str) -> dict[str, Any] | None:
    if text is None:
        return None
    value = documents.read_input(text, option)
    if not isinstance(value, dict):
        raise click.UsageError(f"{option}: an object is needed: '{{\"field\": …}}'")
    return value


def _check_is_answer(request: InteractionRequest, given: dict[str, Any]) -> None:
    """An answer that says nothing is a slip, but for what needs no words. A wrong one is refused by the rules."""
    from llmteam.human.models import InteractionType
    from llmteam.human.words import answer_command

    wordless = request.interaction_type in (InteractionType.CHAT, InteractionType.TASK)
    if request.status.is_open and not wordless and all(value in (None, "") for value in given.values()):
        raise click.UsageError(f"say what you answer: {printable(answer_command(request))}")


def _outcome(case: Case) -> str:
    from llmteam.human.words import agreed

    request = case.request
    if request.status.is_open:
        yes, no = agreed(case)
        so_far = f"{yes} of {request.quorum} have approved" + (f", {no} rejected" if no else "")
        return printable(f"request {request.request_id}: your vote counts; {so_far}")
    return printable(f"request {request.request_id} is {request.status.value}") + _consequence(request)


def _consequence(request: InteractionRequest) -> str:
    if not request.parked:
        return ""
    if request.frozen_at is not None:
        return f"; run {request.run_id} is paused, and takes it up when it goes on"
    return f"; run {request.run_id} goes on"


@click.command()
@_request_argument
@tenant_option
@_person_option
@group_option
@json_option
def claim(request_id: str, tenant: str, person: str, groups: tuple[str, ...], as_json: bool) -> None:
    """Say that you work on REQUEST, so that others need not."""
    with opened_inbox(tenant) as manager:
        found = look_up(manager, tenant, request_id).request.request_id
        request = asyncio.run(manager.claim(found, person, groups=groups))
    _tell(request, f"is claimed by {person}", as_json)


@click.command()
@_request_argument
@tenant_option
@_person_option
@group_option
@click.option("--to", required=True, metavar="USER", help="Who is asked from now on.")
@json_option
def delegate(request_id: str, tenant: str, person: str, groups: tuple[str, ...], to: str, as_json: bool) -> None:
    """Hand REQUEST to somebody else, as one who is asked."""
    with opened_inbox(tenant) as manager:
        found = look_up(manager, tenant, request_id).request.request_id
        request = asyncio.run(manager.delegate(found, person, to, groups=groups))
    _tell(request, f"is now for {to}", as_json)


@click.command()
@_request_argument
@tenant_option
@_person_option
@click.option("--to", required=True, metavar="USER", help="Who is asked from now on.")
@json_option
def reassign(request_id: str, tenant: str, person: str, to: str, as_json: bool) -> None:
    """Give REQUEST to somebody else, as an operator who need not be asked."""
    with opened_inbox(tenant) as manager:
        found = look_up(manager, tenant, request_id).request.request_id
        request = asyncio.run(manager.reassign(found, to, by=person))
    _tell(request, f"is now for {to}", as_json)


@click.command()
@_request_argument
@tenant_option
@_person_option
@click.option("--reason", default="", metavar="TEXT", help="Why; the audit trail keeps it.")
@json_option
def cancel(request_id: str, tenant: str, person: str, reason: str, as_json: bool) -> None:
    """Cancel REQUEST, as an operator. A step that waits for it fails with HumanTaskCancelledError."""
    with opened_inbox(tenant) as manager:
        found = look_up(manager, tenant, request_id).request.request_id
        request = asyncio.run(manager.cancel(found, reason, by=person))
    _tell(request, f"is {request.status.value}", as_json)


@click.command(name="say")
@_request_argument
@click.argument("text")
@tenant_option
@_person_option
@group_option
@json_option
def say_in_chat(request_id: str, text: str, tenant: str, person: str, groups: tuple[str, ...], as_json: bool) -> None:
    """Write TEXT into the chat REQUEST; `respond` without options ends a chat."""
    with opened_inbox(tenant) as manager:
        found = look_up(manager, tenant, request_id).request.request_id
        message = asyncio.run(manager.send_message(found, person, text, groups=groups))
    if as_json:
        print_json(message.to_dict())
    else:
        click.echo(f"message {message.seq} of request {found}")


def _tell(request: InteractionRequest, what: str, as_json: bool) -> None:
    if as_json:
        print_json(_brief(request))
    else:
        click.echo(printable(f"request {request.request_id} {what}"))


def _brief(request: InteractionRequest) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "status": request.status.value,
        "assignee_id": request.assignee_id,
        "claimed_by": request.claimed_by,
    }
