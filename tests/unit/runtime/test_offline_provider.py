from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from llmteam.runtime import CompletionRequest, ModelRequestError, OfflineProvider, Usage
from llmteam.runtime.providers.offline import MARK


def text_of(prompt: str, **options: Any) -> str:
    return asyncio.run(OfflineProvider().complete(prompt, **options))


def instance(schema: dict[str, Any], prompt: str = "p") -> Any:
    return json.loads(text_of(prompt, output_schema=schema))


def test_it_says_that_it_is_no_model_and_quotes_the_beginning_of_what_it_was_asked():
    text = text_of("Summarise   this\nticket: " + "the printer is on fire " * 40)
    assert text.startswith("[offline stand-in, no model] ")
    assert "Summarise this ticket: the printer" in text
    assert text.endswith("…")
    assert len(text) < 250


def test_equal_requests_get_equal_answers_and_others_get_others():
    assert text_of("a") == text_of("a")
    assert len({text_of("a"), text_of("b"), text_of("a", system_prompt="s"), text_of("a", model="m")}) == 4


def test_it_used_no_token_and_calls_itself_offline():
    answer = asyncio.run(OfflineProvider().chat(CompletionRequest.of("a")))
    assert (answer.usage, answer.model, answer.finish_reason) == (Usage(0, 0), "offline", "stop")


def test_a_schema_gets_a_small_instance_whose_texts_carry_the_mark():
    schema = {
        "type": "object",
        "required": ["category", "urgent", "score", "summary", "tags"],
        "properties": {
            "category": {"enum": ["billing", "bug", "question"]},
            "urgent": {"type": "boolean"},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
            "summary": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 2},
            "not_required": {"type": "string"},
        },
    }
    value = instance(schema)
    assert set(value) == {"category", "urgent", "score", "summary", "tags"}
    assert value["summary"].startswith(MARK)
    assert {instance(schema, str(n))["category"] for n in range(50)} == {"billing", "bug", "question"}
    assert {instance(schema, str(n))["score"] for n in range(100)} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"const": {"a": 1}},
        {"type": ["null", "integer"]},
        {"type": "null"},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "integer", "exclusiveMinimum": 3, "maximum": 4},
        {"type": "integer", "maximum": -7},
        {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 30},
        {"type": "string", "minLength": 300},
        {"type": "string", "maxLength": 3},
        {"type": "string", "format": "date-time"},
        {"type": "string", "pattern": "^x+$", "default": "xx"},
        {"type": "object", "minProperties": 1, "properties": {"a": {"type": "integer"}}},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "boolean"}}}], "type": "object"},
        {
            "$defs": {"n": {"type": "integer"}},
            "type": "object",
            "required": ["n"],
            "properties": {"n": {"$ref": "#/$defs/n"}},
        },
        {"$defs": {"t": {"type": "object", "properties": {"next": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"},
        {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
            "minItems": 3,
            "items": {"type": "null"},
        },
        {"type": "array", "contains": {"const": 4}},
    ],
)
def test_the_instance_fits_its_schema(schema: dict[str, Any]):
    Draft202012Validator(schema).validate(instance(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^x+$"},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"const": 1}},
        {"not": {}},
        {
            "$defs": {"t": {"type": "object", "required": ["n"], "properties": {"n": {"$ref": "#/$defs/t"}}}},
            "$ref": "#/$defs/t",
        },
        {"$ref": "#"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"type": "nonsense"},
    ],
)
def test_a_schema_beyond_its_reach_is_a_permanent_error_and_no_wrong_answer(schema: dict[str, Any]):
    with pytest.raises(ModelRequestError, match="stand-in finds no instance") as caught:
        instance(schema)
    assert caught.value.retryable is False


#: Text as a stored document can have it: the codec refuses the rest.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))

LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-99, 99),
        st.integers(0, 9),
    ),
    st.builds(lambda least: {"type": "string", "minLength": least, "maxLength": least + 40}, st.integers(0, 50)),
    st.builds(lambda choices: {"enum": choices}, st.lists(TEXT, min_size=1, max_size=4)),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from("abcd")
    objects = st.dictionaries(names, inner, max_size=3).flatmap(
        lambda parts: st.builds(
            lambda required: {"type": "object", "properties": parts, "required": required},
            st.lists(st.sampled_from(sorted(parts)), unique=True) if parts else st.just([]),
        )
    )
    arrays = st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)
    )
    return objects | arrays | st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3))


@given(st.recursive(LEAVES, _nested, max_leaves=8), TEXT)
def test_every_plain_schema_gets_an_instance(schema: dict[str, Any], prompt: str):
    Draft202012Validator(schema).validate(instance(schema, prompt))
