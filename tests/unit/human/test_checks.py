"""What can be asked, and which answers fit."""

from __future__ import annotations

import urllib.request
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.human.checks import MAX_DATA, MAX_DURATION, MAX_SHOWN, MAX_TEXT, check_answer, check_request
from llmteam.human.exceptions import InteractionError, InvalidRequestError, InvalidResponseError, ResponseTooLargeError
from llmteam.human.models import InteractionType
from tests.unit.human.samples import FITTING, request, response

CHOICE, INPUT, REVIEW = InteractionType.CHOICE, InteractionType.INPUT, InteractionType.REVIEW
FORM: dict[str, Any] = {
    "type": "object",
    "required": ["amount"],
    "additionalProperties": False,
    "properties": {
        "amount": {"type": "integer", "minimum": 1, "maximum": 99},
        "rate": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "code": {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^[A-Z]*$"},
        "kind": {"enum": ["a", "b"]},
        "lines": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": ["string", "null"]}},
        "even": {"multipleOf": 2},
    },
}
LOOP: dict[str, Any] = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}


# -- requests


@pytest.mark.parametrize("kind", InteractionType)
def test_a_request_of_each_type_can_be_asked(kind: InteractionType) -> None:
    check_request(request(kind))


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (CHOICE, {"title": " "}, "title"),
        (CHOICE, {"options": []}, "options"),
        (CHOICE, {"options": [{"id": "1"}, {"colour": "red"}]}, "options"),
        (CHOICE, {"options": [{"label": None}]}, "options"),
        (INPUT, {"input_schema": {"type": "form"}}, "no JSON Schema"),
        (INPUT, {"input_schema": {"$ref": "https://example.com/form.json"}}, "not in it"),
        (INPUT, {"input_schema": {"properties": {"a": {"$ref": "file:///etc/passwd"}}}}, "not in it"),
        (INPUT, {"input_schema": {"items": [], "allOf": [{"$ref": "#/$defs/missing"}]}}, "JSON Schema"),
        (INPUT, {"input_schema": {"allOf": [{"$ref": "#/$defs/missing"}]}}, "not in it"),
        (INPUT, {"input_schema": {"pattern": "("}}, "no JSON Schema"),
        (INPUT, {"input_schema": {"patternProperties": {"(": {}}}}, "no JSON Schema"),
        (INPUT, {"input_schema": {"$ref": "#"}}, "without end"),
        (INPUT, {"input_schema": LOOP}, "without end"),
        (REVIEW, {"context_data": {"a": [1, {2}]}}, r"context_data\.a\[1\]"),
        (REVIEW, {"context_data": {"a": float("nan")}}, "not JSON"),
        (REVIEW, {"description": "a\x00b"}, "not JSON"),
        (REVIEW, {"context_data": {"a": "x" * MAX_SHOWN}}, "show less"),
        (REVIEW, {"assignee_id": "a\nb"}, "cannot be shown"),
        (REVIEW, {"assignee_group": "x" * 256}, "255"),
        (REVIEW, {"approvers": [""]}, "empty"),
        (REVIEW, {"escalation_chain": ["boss", " "]}, "empty"),
        (REVIEW, {"run_id": "r\x00"}, "cannot be shown"),
        (REVIEW, {"step_name": "s" * 300}, "255"),
        *[(REVIEW, {name: timedelta()}, name) for name in ("timeout", "sla_warning", "sla_breach", "reminder")],
        (REVIEW, {"reminder": timedelta(seconds=-1)}, "reminder"),
        (REVIEW, {"timeout": timedelta.max}, "timeout"),
    ],
)
def test_what_nobody_could_see_or_answer_is_refused(kind: InteractionType, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        check_request(request(kind, **fields))


def test_the_longest_time_can_be_given() -> None:
    check_request(request(timeout=MAX_DURATION))


def test_a_schema_may_refer_to_its_own_parts() -> None:
    tree: dict[str, Any] = {
        "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }

    check_request(request(INPUT, input_schema=tree))
    check_answer(request(INPUT, input_schema=tree), response(input_data={"next": {"next": {}}}))


def test_no_schema_makes_anybody_fetch_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: opened.append(args))
    schema = {"properties": {"a": {"$ref": "http://169.254.169.254/latest"}}}

    with pytest.raises(InvalidRequestError):
        check_request(request(INPUT, input_schema=schema))
    with pytest.raises(InteractionError):
        check_answer(request(INPUT, input_schema=schema), response(input_data={"a": 1}))
    assert opened == []


# -- answers


@pytest.mark.parametrize("kind", InteractionType)
def test_an_answer_of_each_type_fits(kind: InteractionType) -> None:
    check_answer(request(kind), response(**FITTING[kind]))


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (InteractionType.APPROVAL, {}, "whether you approve"),
        (InteractionType.APPROVAL, {"comment": "fine"}, "whether you approve"),
        (CHOICE, {}, "choose one of '0', 'Yes', '1', 'No'"),
        (CHOICE, {"approved": True}, "choose one of"),
        (CHOICE, {"selected_option": "Maybe"}, "'Maybe' was not offered"),
        (CHOICE, {"selected_option": "yes"}, "not offered"),
        (CHOICE, {"selected_option": ""}, "not offered"),
        (INPUT, {}, "missing"),
        (INPUT, {"approved": True}, "missing"),
        (REVIEW, {}, "approve, reject, or say"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(kind: InteractionType, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidResponseError, match=said):
        check_answer(request(kind), response(**fields))


@pytest.mark.parametrize("chosen", ["7", "seven", "Number seven"])
def test_an_option_is_chosen_by_its_id_its_value_or_its_label(chosen: str) -> None:
    asked = request(CHOICE, options=[{"id": 7, "value": "seven", "label": "Number seven"}])

    check_answer(asked, response(selected_option=chosen))


def test_of_many_options_the_first_ten_are_named() -> None:
    asked = request(CHOICE, options=[{"id": f"o{number}"} for number in range(50)])

    with pytest.raises(InvalidResponseError) as refused:
        check_answer(asked, response())
    assert "'o9', …" in str(refused.value)
    assert "o10" not in str(refused.value)


def test_a_no_needs_neither_a_choice_nor_a_form() -> None:
    check_answer(request(CHOICE), response(approved=False))
    check_answer(request(INPUT, input_schema=FORM), response(approved=False))


@pytest.mark.parametrize(
    ("data", "path", "said"),
    [
        ({}, "$", "'amount' is missing"),
        ({"amount": "s3cret"}, "$.amount", "amount: must be of type integer"),
        ({"amount": 0}, "$.amount", "at least 1"),
        ({"amount": 100}, "$.amount", "at most 99"),
        ({"amount": 1, "rate": 0}, "$.rate", "more than 0"),
        ({"amount": 1, "rate": 1}, "$.rate", "less than 1"),
        ({"amount": 1, "code": "A"}, "$.code", "at least 2 characters"),
        ({"amount": 1, "code": "ABCD"}, "$.code", "at most 3 characters"),
        ({"amount": 1, "code": "s3c"}, "$.code", "must match"),
        ({"amount": 1, "kind": "s3cret"}, "$.kind", "one of"),
        ({"amount": 1, "lines": []}, "$.lines", "at least 1 entries"),
        ({"amount": 1, "lines": ["a", "b", "c"]}, "$.lines", "at most 2 entries"),
        ({"amount": 1, "lines": [3]}, "$.lines[0]", "of type string or null"),
        ({"amount": 1, "s3cret": 1}, "$", "not asked for"),
        ({"amount": 1, "even": 3}, "$.even", "must be a multiple of 2"),
    ],
)
def test_a_form_is_told_what_is_wrong_where_and_not_what_was_written(
    data: dict[str, Any], path: str, said: str
) -> None:
    with pytest.raises(InvalidResponseError) as refused:
        check_answer(request(INPUT, input_schema=FORM), response(input_data=data))
    assert refused.value.path == path
    assert said in str(refused.value)
    assert "s3c" not in str(refused.value)


def test_without_a_schema_any_data_fit() -> None:
    check_answer(request(INPUT, input_schema=None), response(input_data={"a": 1}))


ENDLESS: list[dict[str, Any]] = [
    {"comment": "ü" * (MAX_TEXT // 2 + 1)},
    {"reason": "x" * (MAX_TEXT + 1)},
    {"selected_option": "x" * (MAX_TEXT + 1)},
    {"input_data": {"amount": "x" * MAX_DATA}},
    {"review_changes": {"a": "x" * MAX_DATA}},
]
UNKEEPABLE: list[dict[str, Any]] = [
    {"comment": "a\x00"},
    {"reason": chr(0xD800)},
    {"selected_option": "\x00"},
    {"input_data": {"a": {1}}},
    {"review_changes": {"a": float("inf")}},
]


@pytest.mark.parametrize("kind", InteractionType)
@pytest.mark.parametrize("number", range(len(ENDLESS)))
def test_endless_answers_are_refused_by_every_type(kind: InteractionType, number: int) -> None:
    with pytest.raises(ResponseTooLargeError) as refused:
        check_answer(request(kind), response(**{**FITTING[kind], **ENDLESS[number]}))
    assert refused.value.size > refused.value.limit


@pytest.mark.parametrize("kind", InteractionType)
@pytest.mark.parametrize("number", range(len(UNKEEPABLE)))
def test_what_cannot_be_kept_is_refused_by_every_type(kind: InteractionType, number: int) -> None:
    with pytest.raises(InvalidResponseError, match="cannot be kept"):
        check_answer(request(kind), response(**{**FITTING[kind], **UNKEEPABLE[number]}))


KEYWORDS = ["$ref", "$id", "$defs", "$anchor", "$dynamicRef", "properties", "items", "type", "allOf", "not", "a", "b"]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("a$#/", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3),
    max_leaves=8,
)


@given(
    schema=st.dictionaries(st.sampled_from(KEYWORDS), JSON_VALUES, max_size=4),
    data=st.dictionaries(st.sampled_from(["a", "b"]), JSON_VALUES, max_size=2),
)
def test_any_schema_is_refused_or_can_be_answered(schema: dict[str, Any], data: dict[str, Any]) -> None:
    asked = request(INPUT, input_schema=schema)

    try:
        check_request(asked)
    except InvalidRequestError:
        return
    with suppress(InvalidResponseError):
        check_answer(asked, response(input_data=data))
