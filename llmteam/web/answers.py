"""What a person sends from a page, as an answer to a request of its type. Pure but for the form's text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmteam.human import InteractionRequest, InteractionType
from llmteam.web import forms
from llmteam.web.forms import Entered, Field

#: Names of what every page has beside the fields of a form.
DECISION, COMMENT, CHOICE, SHOWN = "decision", "comment", "choice", "shown_hash"

Form = Mapping[str, str]


@dataclass(slots=True)
class Filled:
    """The answer that a form gives, and what is wrong with it: by the name of the field, else by ``""``."""

    answer: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def form_for(request: InteractionRequest) -> Field | None:
    """The form that a page of this request has, if its type has one."""
    match request.interaction_type:
        case InteractionType.INPUT:
            return forms.form_of(request.input_schema)
        case InteractionType.REVIEW:
            return forms.form_of_data(request.context_data)
    return None


def offered(request: InteractionRequest) -> list[tuple[str, str, str]]:
    """(value, label, description) of each option of a choice. The value is the first of id, value and label."""
    found = []
    for option in request.options:
        value = next((str(option[key]) for key in ("id", "value", "label") if option.get(key) is not None), None)
        if value is not None:
            found.append((value, str(option.get("label") or value), str(option.get("description") or "")))
    return found


def filled(request: InteractionRequest, form: Form) -> Filled:
    """The answer that somebody sends."""
    decision = form.get(DECISION, "")
    comment = form.get(COMMENT, "").replace("\r\n", "\n").strip()
    given = Filled({"comment": comment, "shown_hash": form.get(SHOWN, "")})
    if decision == "reject":
        given.answer |= {"approved": False, "reason": comment}
        return given
    fill = _FILL.get(request.interaction_type)
    if fill is not None:
        fill(request, form, decision, given)
    return given


def _approval(request: InteractionRequest, form: Form, decision: str, given: Filled) -> None:
    if decision == "approve":
        given.answer["approved"] = True


def _choice(request: InteractionRequest, form: Form, decision: str, given: Filled) -> None:
    chosen = form.get(CHOICE)
    if chosen is None:
        given.problems[CHOICE] = "choose one"
    given.answer["selected_option"] = chosen


def _input(request: InteractionRequest, form: Form, decision: str, given: Filled) -> None:
    drawn = forms.form_of(request.input_schema)
    entered = forms.read(drawn, form)
    given.problems |= forms.problems_of(drawn, request.input_schema, entered)
    given.answer["input_data"] = entered.data


def _review(request: InteractionRequest, form: Form, decision: str, given: Filled) -> None:
    if decision == "approve":
        given.answer["approved"] = True
    elif decision == "change":
        drawn = forms.form_of_data(request.context_data)
        entered: Entered = forms.read(drawn, form)
        given.problems |= forms.problems_of(drawn, None, entered)
        if entered.data != request.context_data:
            # The whole of it as it should be: whoever reads it needs no original to make sense of it.
            given.answer["review_changes"] = entered.data


def _task(request: InteractionRequest, form: Form, decision: str, given: Filled) -> None:
    if decision == "approve":
        given.answer["approved"] = True
    else:
        given.problems[DECISION] = "say whether it is done"


_FILL: dict[InteractionType, Callable[[InteractionRequest, Form, str, Filled], None]] = {
    InteractionType.APPROVAL: _approval,
    InteractionType.CHOICE: _choice,
    InteractionType.INPUT: _input,
    InteractionType.REVIEW: _review,
    InteractionType.TASK: _task,
}
