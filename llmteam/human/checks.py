"""Whether a request can be asked, and whether an answer fits it. Pure."""

from __future__ import annotations

from llmteam import codec
from llmteam.human.exceptions import InvalidRequestError, InvalidResponseError, ResponseTooLargeError
from llmteam.human.models import InteractionRequest, InteractionResponse, InteractionType
from llmteam.human.schemas import first_problem, schema_fault

#: Bytes of one text (a comment, a reason, a chat message) and of all data of an answer.
MAX_TEXT, MAX_DATA = 16 * 1024, 256 * 1024
#: Bytes of what is shown to a person.
MAX_SHOWN = 1024 * 1024


def check_request(request: InteractionRequest) -> None:
    """Raise :class:`InvalidRequestError` for what nobody could answer or see."""
    if not request.title.strip():
        raise InvalidRequestError("a request needs a title: it is what the person sees first")
    if request.interaction_type is InteractionType.CHOICE and not _offered(request):
        raise InvalidRequestError("a choice needs options, each with an id, a value or a label")
    if request.input_schema is not None:
        fault = schema_fault(request.input_schema)
        if fault is not None:
            raise InvalidRequestError(f"input_schema {fault}")
    if request.approvers and request.quorum > len(request.approvers):
        raise InvalidRequestError(f"quorum is {request.quorum}, and only {len(request.approvers)} may approve")
    if request.quorum > 1 and request.interaction_type is not InteractionType.APPROVAL:
        raise InvalidRequestError("a quorum is for approvals; other answers are one person's")
    if request.four_eyes and not request.requester_id:
        raise InvalidRequestError("four eyes need to know who started the run: start it with started_by")
    for name in ("timeout", "sla_warning", "sla_breach", "reminder"):
        duration = getattr(request, name)
        if duration is not None and duration.total_seconds() <= 0:
            raise InvalidRequestError(f"{name} must be longer than nothing")
    shown = {"context_data": request.context_data, "options": request.options, "schema": request.input_schema}
    size = len(codec.dumps({**shown, "title": request.title, "description": request.description}).encode())
    if size > MAX_SHOWN:
        raise InvalidRequestError(f"what is shown has {size:,} bytes, and {MAX_SHOWN:,} are the most: show less")


def _offered(request: InteractionRequest) -> list[str]:
    """What may be chosen: each option by the first of its id, value and label, as text."""
    return [str(option[key]) for option in request.options for key in ("id", "value", "label") if key in option]


def check_text(what: str, text: str) -> None:
    """Raise :class:`ResponseTooLargeError` for a text that is too long."""
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_TEXT:
        raise ResponseTooLargeError(what, size, MAX_TEXT)


def check_answer(request: InteractionRequest, response: InteractionResponse) -> None:
    """Raise :class:`InvalidResponseError` or :class:`ResponseTooLargeError` unless the answer fits what was asked."""
    check_text("comment", response.comment)
    check_text("reason", response.reason)
    for what, data in (("input", response.input_data), ("list of changes", response.review_changes)):
        size = len(codec.dumps(data).encode())
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
    found = first_problem(request.input_schema, response.input_data)
    if found is not None:
        raise InvalidResponseError(request.request_id, *found)


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
