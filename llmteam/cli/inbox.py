"""``llmteam inbox``: requests to people, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from llmteam.cli.inbox_answers import cancel, claim, delegate, reassign, respond, say_in_chat
from llmteam.cli.inbox_place import as_option, group_option, look_up, opened_inbox
from llmteam.cli.inbox_web import serve, token
from llmteam.cli.options import json_option, tenant_option
from llmteam.cli.render import json_text, moment, pairs, print_json, table
from llmteam.telemetry import printable

if TYPE_CHECKING:
    from llmteam.human.models import InteractionMessage, InteractionRequest
    from llmteam.human.rulings import Case


@click.group()
def inbox() -> None:
    """Requests to people: list, show, answer; the web inbox, and access to it."""


for _command in (respond, claim, delegate, reassign, cancel, say_in_chat, serve, token):
    inbox.add_command(_command)


@inbox.command(name="list")
@tenant_option
@as_option(required=False, help="Only what this person is asked, by name, by group, or with everybody.")
@group_option
@click.option("--run", "run_id", metavar="RUN", help="All requests of this run, those that are closed too.")
@click.option("--limit", type=click.IntRange(1, 1000), default=200, show_default=True, help="At most so many.")
@json_option
def list_requests(
    tenant: str, person: str | None, groups: tuple[str, ...], run_id: str | None, limit: int, as_json: bool
) -> None:
    """List open requests, the one whose time is over first on top."""
    from llmteam.human.rulings import is_asked

    with opened_inbox(tenant) as manager:
        core = manager.store.core
        if run_id is None:
            found = core.open_requests(tenant, person=person, groups=groups, limit=limit)
        else:
            every = core.of_run(tenant, run_id)
            found = [one for one in every if person is None or is_asked(one, person, groups)][:limit]
    if as_json:
        print_json([_summary(request) for request in found])
        return
    headings = ["REQUEST", "TYPE", "STATUS", "FOR", "UNTIL", "STEP", "TITLE"]
    table(headings, [_row(request) for request in found], _nothing(tenant, person))


def _nothing(tenant: str, person: str | None) -> str:
    return f"nothing waits for {'anybody' if person is None else person} in tenant {tenant}"


def _row(request: InteractionRequest) -> list[object]:
    from llmteam.human.words import asked_of

    frozen = request.frozen_at is not None and request.status.is_open
    return [
        request.request_id,
        request.interaction_type.value,
        request.status.value,
        asked_of(request),
        "paused" if frozen else request.deadline,
        request.step_name,
        request.title,
    ]


def _summary(request: InteractionRequest) -> dict[str, Any]:
    """All but what is shown, which may be large."""
    shown = ("context_data", "options", "input_schema", "description")
    return {name: value for name, value in request.to_dict().items() if name not in shown}


@inbox.command()
@click.argument("request_id", metavar="REQUEST")
@tenant_option
@json_option
def show(request_id: str, tenant: str, as_json: bool) -> None:
    """Show a request: what is asked, of whom, until when, what is shown, and what was said so far.

    REQUEST is its id, or the beginning of one that only one open request has.
    """
    with opened_inbox(tenant) as manager:
        case = look_up(manager, tenant, request_id)
        messages = manager.store.core.messages(tenant, case.request.request_id)
    print_json(_document(case, messages)) if as_json else _print(case, messages)


def _document(case: Case, messages: Sequence[InteractionMessage]) -> dict[str, Any]:
    return {
        **case.request.to_dict(),
        "shown_hash": case.request.shown_hash,
        "votes": [vote.to_dict() for vote in case.votes],
        "response": None if case.response is None else case.response.to_dict(),
        "messages": [message.to_dict() for message in messages],
    }


def _print(case: Case, messages: Sequence[InteractionMessage]) -> None:
    from llmteam.human.words import answer_command

    request = case.request
    pairs(_facts(case))
    if request.description:
        click.echo(f"\n{printable(request.description)}")
    options = [_option(option) for option in request.options]
    for heading, value in (("shown", request.context_data), ("form", request.input_schema), ("options", options)):
        if value:
            click.echo(f"\n{click.style(heading, bold=True)}\n{json_text(value)}")
    for title, lines in (("votes", _votes(case)), ("messages", [_line(message) for message in messages])):
        if lines:
            click.echo(f"\n{click.style(title, bold=True)}")
            for line in lines:
                click.echo(f"  {printable(line)}")
    if request.status.is_open:
        click.echo(f"\nanswer: {printable(answer_command(request))}")


def _facts(case: Case) -> dict[str, object]:
    from llmteam.human.words import agreed, asked_of, next_of

    request = case.request
    until = None if request.deadline is None else f"{moment(request.deadline)}, then {next_of(request)}"
    yes, no = agreed(case)
    quorum = f"{yes} of {request.quorum} have approved" + (f", {no} rejected" if no else "")
    return {
        "request": request.request_id,
        "title": request.title,
        "type": request.interaction_type.value,
        "status": request.status.value,
        "asked": asked_of(request),
        "claimed by": request.claimed_by,
        "quorum": quorum if request.quorum > 1 else None,
        "not": f"{request.requester_id}, who started the run" if request.four_eyes else None,
        "priority": request.priority.value,
        "since": request.created_at,
        "until": until if request.status.is_open and request.frozen_at is None else None,
        "stands still": request.frozen_at if request.status.is_open else None,
        "run": request.run_id or None,
        "step": f"{request.step_name}{'' if request.visit == 1 else f'#{request.visit}'}" or None,
        "hash": request.shown_hash,
    }


def _option(option: dict[str, Any]) -> str:
    name = next((str(option[key]) for key in ("id", "value", "label") if key in option), "")
    label = str(option.get("label", name))
    return name if label == name else f"{name}: {label}"


def _votes(case: Case) -> list[str]:
    lines = []
    for vote in case.votes:
        said = "answered" if vote.approved is None else "approved" if vote.approved else "rejected"
        words = [f"{moment(vote.response_time)} {vote.responder_id} {said}", vote.selected_option, vote.comment]
        old = "" if vote.shown_hash == case.request.shown_hash else " (what was shown then has changed)"
        lines.append(": ".join(part for part in (*words, vote.reason) if part) + old)
    return lines


def _line(message: InteractionMessage) -> str:
    return f"{moment(message.sent_at)} {message.sender_id}: {message.text}"


@inbox.command()
@click.argument("request_id", metavar="REQUEST")
@tenant_option
@click.option("--after", type=click.IntRange(0), default=0, metavar="N", help="Only those with a greater number.")
@json_option
def messages(request_id: str, tenant: str, after: int, as_json: bool) -> None:
    """Show the messages of a chat, oldest first."""
    with opened_inbox(tenant) as manager:
        case = look_up(manager, tenant, request_id)
        found = manager.store.core.messages(tenant, case.request.request_id, after)
    if as_json:
        print_json([message.to_dict() for message in found])
        return
    rows = [[message.seq, message.sent_at, message.sender_id, message.text] for message in found]
    table(["NO", "SENT", "BY", "TEXT"], rows, "no messages")
