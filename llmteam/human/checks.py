"""Whether a request can be asked, and whether an answer fits it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pydantic
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from llmteam import codec
from llmteam.errors import NotJSONError
from llmteam.human.exceptions import InvalidRequestError, InvalidResponseError, ResponseTooLargeError
from llmteam.human.models import InteractionRequest, InteractionResponse, InteractionType
from llmteam.human.schemas import in_words, validator_of

#: Bytes of one text (a comment, a reason, a chat message) and of all data of an answer.
MAX_TEXT, MAX_DATA = 16 * 1024, 256 * 1024
#: Bytes of what is shown to a person.
MAX_SHOWN = 1024 * 1024
#: Characters of a name: a person's, a group's, that of a run or a step.
MAX_NAME = 255
#: The longest time that a person can be given.
MAX_DURATION = timedelta(days=3650)


def check_request(request: InteractionRequest) -> None:
    """Raise :class:`InvalidRequestError` for what nobody could answer or see, or that cannot be kept."""
    _check_names(request)
    _check_who(request)
    for name in ("timeout", "sla_warning", "sla_breach", "reminder"):
        duration = getattr(request, name)
        if duration is not None and not timedelta() < duration <= MAX_DURATION:
            raise InvalidRequestError(f"{name} must be longer than nothing, and at most {MAX_DURATION.days} days")
    check_shown(request)


def check_shown(request: InteractionRequest) -> None:
    """Raise :class:`InvalidRequestError` unless what is shown can be kept, seen and answered."""
    shown = {"context_data": request.context_data, "options": request.options, "schema": request.input_schema}
    try:
        size = len(codec.dumps({**shown, "title": request.title, "description": request.description}).encode())
    except NotJSONError as exc:
        raise InvalidRequestError(f"what is shown is not JSON: {exc}") from None
    if size > MAX_SHOWN:
        raise InvalidRequestError(f"what is shown has {size:,} bytes, and {MAX_SHOWN:,} are the most: show less")
    if not request.title.strip():
        raise InvalidRequestError("a request needs a title: it is what the person sees first")
    named = request.options and all(_names_of(option) for option in request.options)
    if request.interaction_type is InteractionType.CHOICE and not named:
        raise InvalidRequestError("a choice needs options, each with an id, a value or a label")
    if request.input_schema is not None:
        _check_schema(request.input_schema)


def fault_of_name(name: str) -> str | None:
    """What is wrong with the name of a person, a group, a run or a step; None for nothing."""
    if not name.strip():
        return "is empty"
    if len(name) > MAX_NAME:
        return f"has {len(name):,} characters, and {MAX_NAME} are the most"
    return None if name.isprintable() else "has characters that cannot be shown"


def _check_names(request: InteractionRequest) -> None:
    people = [*request.approvers, *request.escalation_chain]
    others = [request.assignee_id, request.assignee_group, request.requester_id]
    places = [request.run_id, request.pipeline_id, request.agent_name, request.step_name]
    for name in [*people, *filter(None, [*others, *places])]:
        if fault := fault_of_name(name):
            raise InvalidRequestError(f"a name {fault}: name people, groups, the run and the step, or leave them out")


def _check_who(request: InteractionRequest) -> None:
    if request.quorum > 1 and request.interaction_type is not InteractionType.APPROVAL:
        raise InvalidRequestError("a quorum is for approvals; other answers are one person's")
    if request.four_eyes and not request.requester_id:
        raise InvalidRequestError("four eyes need to know who started the run: start it with started_by")
    if request.assignee_group or not (request.assignee_id or request.approvers):
        return
    # Whom the escalation reaches counts too; whoever started the run never does, with four eyes.
    able = {request.assignee_id, *request.approvers, *request.escalation_chain} - {None, ""}
    able -= {request.requester_id} if request.four_eyes else set()
    if len(able) < request.quorum:
        raise InvalidRequestError(f"quorum is {request.quorum}, and only {len(able)} may approve")


def _offered(request: InteractionRequest) -> list[str]:
    """What may be chosen: each option by its id, its value or its label, as text."""
    return [name for option in request.options for name in _names_of(option)]


def _names_of(option: dict[str, Any]) -> list[str]:
    return [str(option[key]) for key in ("id", "value", "label") if option.get(key) is not None]


def _check_schema(schema: dict[str, Any]) -> None:
    """Raise :class:`InvalidRequestError` unless answers can be checked against ``schema``, and it alone."""
    try:
        Draft202012Validator.check_schema(schema)
        resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
        for reference in _references(schema):
            resolver.lookup(reference)
        best_match(validator_of(schema).iter_errors({}))
    except SchemaError as exc:
        raise InvalidRequestError(f"input_schema is no JSON Schema (draft 2020-12): {exc.message[:200]}") from None
    except Unresolvable as exc:
        raise InvalidRequestError(f"input_schema refers to '{exc.ref[:200]}', which is not in it") from None
    except RecursionError:
        raise InvalidRequestError("input_schema refers to itself without end") from None


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def problems_of(exc: Exception) -> str:
    """What pydantic refused, without the values: they may be confidential."""
    if not isinstance(exc, pydantic.ValidationError):
        return str(exc)
    found = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors(include_input=False)]
    return "; ".join(found)[:1000]


def check_text(request_id: str, what: str, text: str) -> None:
    """Raise :class:`ResponseTooLargeError` for a text that is too long, and for one that cannot be kept
    :class:`InvalidResponseError`.
    """
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_TEXT:
        raise ResponseTooLargeError(what, size, MAX_TEXT)
    _check_kept(request_id, what, text)


def _check_kept(request_id: str, what: str, value: Any) -> str:
    try:
        return codec.dumps(value)
    except NotJSONError as exc:
        raise InvalidResponseError(request_id, f"the {what} cannot be kept: {exc.reason}", exc.path) from None


def check_answer(request: InteractionRequest, response: InteractionResponse) -> None:
    """Raise :class:`InvalidResponseError` or :class:`ResponseTooLargeError` unless the answer fits what was asked."""
    check_text(request.request_id, "comment", response.comment)
    check_text(request.request_id, "reason", response.reason)
    check_text(request.request_id, "choice", response.selected_option or "")
    for what, data in (("input", response.input_data), ("list of changes", response.review_changes)):
        size = len(_check_kept(request.request_id, what, data).encode())
        if size > MAX_DATA:
            raise ResponseTooLargeError(what, size, MAX_DATA)
    _CHECKS.get(request.interaction_type, _check_nothing)(request, response)


def _check_approval(request: InteractionRequest, response: InteractionResponse) -> None:
    if response.approved is None:
        raise InvalidResponseError(request.request_id, "say whether you approve")


def _check_choice(request: InteractionRequest, response: InteractionResponse) -> None:
    if response.approved is False:
        return
    offered = _offered(request)
    if response.selected_option is None:
        raise InvalidResponseError(request.request_id, f"choose one of {_listed(offered)}")
    if response.selected_option not in offered:
        problem = f"'{response.selected_option[:80]}' was not offered; choose one of {_listed(offered)}"
        raise InvalidResponseError(request.request_id, problem)


def _check_input(request: InteractionRequest, response: InteractionResponse) -> None:
    if response.approved is False or request.input_schema is None:
        return
    try:
        found = best_match(validator_of(request.input_schema).iter_errors(response.input_data))
    except (RecursionError, Unresolvable):
        raise InvalidResponseError(request.request_id, "what the form must look like cannot be told") from None
    if found is not None:
        raise InvalidResponseError(request.request_id, in_words(found), found.json_path)


def _check_review(request: InteractionRequest, response: InteractionResponse) -> None:
    if response.approved is None and not response.review_changes and not response.comment:
        raise InvalidResponseError(request.request_id, "approve, reject, or say what should change")


def _check_nothing(request: InteractionRequest, response: InteractionResponse) -> None:
    """A chat is closed, a task is done: there is nothing that such an answer could lack."""


_CHECKS = {
    InteractionType.APPROVAL: _check_approval,
    InteractionType.CHOICE: _check_choice,
    InteractionType.INPUT: _check_input,
    InteractionType.REVIEW: _check_review,
}


def _listed(offered: list[str]) -> str:
    named = ", ".join(f"'{option[:40]}'" for option in dict.fromkeys(offered[:10]))
    return named + (", …" if len(offered) > 10 else "")
