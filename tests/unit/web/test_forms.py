"""Forms from schemas: what is drawn, and that what was entered comes back as what it means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam import codec
from llmteam.human.models import InteractionRequest, InteractionType
from llmteam.web import forms
from llmteam.web.answers import filled, form_for, offered
from llmteam.web.forms import Field, form_of, form_of_data, leaves, problems_of, read

#: Text that browsers send as it is; line ends are theirs to choose.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=30)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=15,
)


def entered(form: Field, data: Any) -> dict[str, str]:
    """What a person types so that a form says ``data``."""
    if form.kind != "group":
        return {form.name: forms.written(form.kind, data)}
    return {
        name: text
        for inner in form.fields
        if inner.key in data
        for name, text in entered(inner, data[inner.key]).items()
    }


@st.composite
def schemas(draw: st.DrawFn, depth: int = 0) -> tuple[dict[str, Any], Any]:
    """A schema that can be drawn, and data that satisfies it."""
    lines = TEXTS.filter(lambda text: text == text.strip() != "" and len(text.splitlines()) == 1)
    kinds = ["string", "number", "integer", "boolean", "enum", "lines", "date", "any"]
    match draw(st.sampled_from(kinds if depth > 2 else [*kinds, "object"])):
        case "string":
            return {"type": "string"}, draw(TEXTS.filter(str.strip))
        case "number":
            return {"type": "number"}, draw(st.floats(allow_nan=False, allow_infinity=False))
        case "integer":
            return {"type": "integer"}, draw(st.integers(-(10**30), 10**30))
        case "boolean":
            return {"type": "boolean"}, draw(st.booleans())
        case "enum":
            values = draw(st.lists(JSON, min_size=1, max_size=4))
            return {"enum": values}, draw(st.sampled_from(values))
        case "lines":
            return {"type": "array", "items": {"type": "string"}}, draw(st.lists(lines, min_size=1, max_size=4))
        case "date":
            return {"type": "string", "format": "date"}, draw(st.dates().map(str))
        case "any":
            return {}, draw(JSON)
    return draw(objects(depth + 1))


@st.composite
def objects(draw: st.DrawFn, depth: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    parts = draw(st.dictionaries(TEXTS, schemas(depth), min_size=1, max_size=4))
    schema = {"type": "object", "properties": {key: part for key, (part, _) in parts.items()}, "required": list(parts)}
    return schema, {key: data for key, (_, data) in parts.items()}


@given(objects())
def test_what_satisfies_a_schema_can_be_entered_in_its_form(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    schema, data = case
    form = form_of(schema)

    said = read(form, entered(form, data))

    assert codec.canonical(said.data) == codec.canonical(data)
    assert problems_of(form, schema, said) == {}


@given(st.dictionaries(TEXTS, JSON, max_size=5))
def test_a_form_of_data_that_nobody_touches_gives_the_data(data: dict[str, Any]) -> None:
    form = form_of_data(data)

    said = read(form, forms.defaults(form))

    assert codec.canonical(said.data) == codec.canonical(data)
    assert said.problems == []


@given(JSON.filter(lambda value: isinstance(value, dict)), st.dictionaries(TEXTS, TEXTS, max_size=5))
def test_whatever_is_sent_is_read_without_an_accident(data: dict[str, Any], sent: dict[str, str]) -> None:
    form = form_of_data(data)
    names = [leaf.name for leaf in leaves(form)]

    said = read(form, {**dict(zip(names, sent.values(), strict=False)), **sent})

    assert isinstance(said.data, dict)


@given(objects(), st.lists(TEXTS, max_size=8))
def test_every_problem_has_a_field_or_a_place_and_is_told_once(
    case: tuple[dict[str, Any], dict[str, Any]], texts: list[str]
) -> None:
    schema, _ = case
    form = form_of(schema)
    names = [leaf.name for leaf in leaves(form)]

    problems = problems_of(form, schema, read(form, dict(zip(names, texts, strict=False))))

    assert problems.keys() <= {*names, ""}


@given(objects())
def test_fields_have_names_and_ids_of_their_own(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    form = form_of(case[0])
    names = [leaf.name for leaf in leaves(form)]

    assert len(set(names)) == len(names) == len(forms.ids_of(form))


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "maxLength": 500}, "long"),
        ({"type": "string", "format": "date"}, "date"),
        ({"type": "string", "format": "email"}, "email"),
        ({"type": ["string", "null"]}, "text"),
        ({"type": "number"}, "number"),
        ({"type": "integer"}, "integer"),
        ({"type": "boolean"}, "boolean"),
        ({"enum": [1, "a", None]}, "enum"),
        ({"type": "array", "items": {"type": "string"}}, "lines"),
        ({"type": "object", "properties": {"x": {"type": "string"}}}, "group"),
        ({"properties": {"x": {"type": "string"}}}, "group"),
        ({"$ref": "#/$defs/address"}, "group"),
        ({"type": "array", "items": {"type": "number"}}, "json"),
        ({"type": "object"}, "json"),
        ({"anyOf": [{"type": "string"}, {"type": "number"}]}, "json"),
        ({"type": ["string", "number"]}, "json"),
        ({"$ref": "#/$defs/loop"}, "json"),
        ({"$ref": "https://example.com/schema"}, "json"),
        (True, "json"),
    ],
)
def test_what_a_part_is_entered_in(schema: Any, kind: str) -> None:
    definitions = {
        "address": {"type": "object", "properties": {"street": {"type": "string"}}},
        "loop": {"$ref": "#/$defs/loop"},
    }
    form = form_of({"type": "object", "properties": {"part": schema}, "$defs": definitions})

    assert form.fields[0].kind == kind


@pytest.mark.parametrize("schema", [None, {}, True, {"type": "object"}, {"oneOf": [{"type": "object"}]}])
def test_what_cannot_be_drawn_is_entered_as_json(schema: Any) -> None:
    form = form_of(schema)

    assert form.kind == "json"
    assert read(form, {form.name: '{"a": 1}'}).data == {"a": 1}
    assert problems_of(form, None, read(form, {form.name: "[1]"})) == {"data": "must be a JSON object"}
    assert problems_of(form, None, read(form, {form.name: "{"})) == {"data": "is no JSON"}


def test_objects_without_end_are_drawn_to_a_depth_and_then_entered_as_json() -> None:
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}

    form = form_of({"$defs": {"node": node}, **node})

    (leaf,) = leaves(form)
    assert leaf.kind == "json"
    assert len(leaf.where) == forms.DEPTH


def test_a_schema_with_very_many_fields_is_drawn_in_part() -> None:
    wide = {"type": "object", "properties": {str(number): {"type": "string"} for number in range(150)}}

    form = form_of({"type": "object", "properties": {"a": wide, "b": wide}})

    assert len(list(leaves(form))) <= forms.FIELDS
    assert {one.kind for one in form.fields} == {"group", "json"}


def test_what_is_left_empty_is_left_out_and_an_optional_group_with_it() -> None:
    schema = {
        "type": "object",
        "required": ["note"],
        "properties": {
            "note": {"type": ["string", "null"]},
            "amount": {"type": "number"},
            "address": {
                "type": "object",
                "required": ["street"],
                "properties": {"street": {"type": "string"}, "private": {"type": "boolean"}},
            },
        },
    }
    form = form_of(schema)

    said = read(form, {"f/note": " ", "f/amount": "", "f/address/street": ""})

    assert said.data == {"note": None}
    assert problems_of(form, schema, said) == {}


@pytest.mark.parametrize("text", ["1,5", "one", "1_000", "0x10", "NaN", "Infinity", "1e999", "--1", "1" * 5000, "١"])
def test_text_that_is_no_number_stays_text_so_that_the_schema_says_what_it_must_be(text: str) -> None:
    schema = {"type": "object", "properties": {"amount": {"type": "number"}}}
    form = form_of(schema)

    said = read(form, {"f/amount": text})

    assert said.data == {"amount": text}
    assert problems_of(form, schema, said) == {"f/amount": "must be of type number"}


def test_problems_stand_in_the_order_of_the_form_and_others_are_placed() -> None:
    schema = {
        "type": "object",
        "minProperties": 9,
        "required": ["b", "a"],
        "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "string", "minLength": 3}}},
    }
    form = form_of(schema)

    problems = problems_of(form, schema, read(form, {"f/b": "long enough\nno"}))

    assert list(problems.items()) == [
        ("f/a", "is missing"),
        ("f/b", "entry 2: must have at least 3 characters"),
        ("", "does not satisfy minProperties"),
    ]


def request(kind: InteractionType, **fields: Any) -> InteractionRequest:
    return InteractionRequest(
        request_id="r",
        interaction_type=kind,
        run_id="",
        pipeline_id="",
        agent_name="",
        step_name="",
        tenant_id="acme",
        title="t",
        description="",
        **fields,
    )


@pytest.mark.parametrize("kind", InteractionType)
def test_a_rejection_needs_nothing_else_whatever_was_asked(kind: InteractionType) -> None:
    asked = request(kind, input_schema={"type": "object", "required": ["a"]}, options=[{"id": "a"}])

    given = filled(asked, {"decision": "reject", "comment": "no", "shown_hash": "h"})

    assert given.problems == {}
    assert given.answer == {"approved": False, "comment": "no", "reason": "no", "shown_hash": "h"}


@pytest.mark.parametrize("kind", [InteractionType.APPROVAL, InteractionType.REVIEW, InteractionType.TASK])
def test_without_a_decision_nothing_is_approved(kind: InteractionType) -> None:
    for decision in ("", "aprove", "send"):
        assert "approved" not in filled(request(kind), {"decision": decision}).answer


def test_an_option_is_chosen_by_the_first_of_its_id_value_and_label() -> None:
    options = [{"id": 0, "label": "none"}, {"value": "b", "description": "second"}, {"label": "C"}, {"colour": "red"}]

    assert offered(request(InteractionType.CHOICE, options=options)) == [
        ("0", "none", ""),
        ("b", "b", "second"),
        ("C", "C", ""),
    ]


def test_only_inputs_and_reviews_have_forms() -> None:
    drawn = {kind for kind in InteractionType if form_for(request(kind)) is not None}

    assert drawn == {InteractionType.INPUT, InteractionType.REVIEW}
