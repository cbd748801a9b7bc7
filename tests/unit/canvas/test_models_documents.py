"""Segment documents: both spellings read, one written, faults with their place, never a bare library error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from llmteam.canvas.exceptions import SegmentSyntaxError, SegmentValidationError
from llmteam.canvas.models import EdgeDefinition, PortDefinition, SegmentDefinition, StepDefinition
from tests.strategies import segments

OURS: dict[str, Any] = {
    "version": "1.0.0",
    "segment_id": "triage",
    "name": "Triage",
    "description": "",
    "entrypoint": "load",
    "params": {"max_retries": 2, "timeout_seconds": 120, "parallel_execution": True, "max_visits": 7},
    "steps": [
        {
            "step_id": "load",
            "step_type": "http_action",
            "name": "Load",
            "config": {"url": "https://billing.example/17", "nothing": None},
            "inputs": [{"port_id": "input", "data_type": "any", "required": True, "description": ""}],
            "outputs": [{"port_id": "output", "data_type": "object", "required": True, "description": ""}],
            "position": {"x": 1, "y": 2.5},
            "ui": {"icon": "globe", "collapsed": False},
        },
        {
            "step_id": "book",
            "step_type": "transform",
            "name": "",
            "config": {},
            "inputs": [{"port_id": "input", "data_type": "any", "required": True, "description": ""}],
            "outputs": [{"port_id": "output", "data_type": "any", "required": True, "description": ""}],
        },
    ],
    "edges": [
        {
            "source_step": "load",
            "source_port": "output",
            "target_step": "book",
            "target_port": "input",
            "condition": "x > 1",
        }
    ],
    "metadata": {"owner": "finance"},
}

THEIRS: dict[str, Any] = {
    **OURS,
    "steps": [
        {
            "step_id": "load",
            "type": "http_action",
            "name": "Load",
            "config": {"url": "https://billing.example/17", "nothing": None},
            "ports": {"input": ["input"], "output": [{"name": "output", "type": "object"}]},
            "position": {"x": 1.0, "y": 2.5},
            "ui": {"icon": "globe", "color": None},
        },
        {"step_id": "book", "type": "transform", "input_ports": ["input"]},
    ],
    "edges": [{"from": "load", "from_port": "output", "to": "book", "to_port": "input", "condition": "x > 1"}],
}


def test_a_document_in_our_keys_is_written_as_it_was_read() -> None:
    assert SegmentDefinition.from_dict(OURS).to_dict() == OURS


def test_a_document_in_the_keys_of_llmteam_ai_is_written_in_ours() -> None:
    assert SegmentDefinition.from_dict(THEIRS).to_dict() == OURS


def test_reading_leaves_the_document_alone() -> None:
    before = json.dumps(THEIRS)

    SegmentDefinition.from_dict(THEIRS)

    assert json.dumps(THEIRS) == before


@pytest.mark.parametrize("keys", [("from", "to"), ("from_step", "to_step")])
def test_edges_are_read_in_both_older_spellings(keys: tuple[str, str]) -> None:
    assert EdgeDefinition.from_dict({keys[0]: "a", keys[1]: "b"}) == EdgeDefinition(source_step="a", target_step="b")


def test_our_own_key_wins_over_an_older_one() -> None:
    assert StepDefinition.from_dict({"step_id": "a", "type": "old", "step_type": "new"}).step_type == "new"


def test_ports_that_are_null_are_the_default_ones_and_no_ports_are_none() -> None:
    made = StepDefinition.from_dict({"step_id": "a", "type": "t", "inputs": None, "outputs": []})

    assert made.inputs == [PortDefinition(port_id="input")]
    assert made.outputs == []


def test_unknown_keys_are_kept_everywhere_and_written_back() -> None:
    document = json.loads(json.dumps(OURS))
    for part in (document, document["params"], *document["steps"], *document["edges"], document["steps"][0]["ui"]):
        part["x_extra"] = {"deep": [1, None]}

    assert SegmentDefinition.from_dict(document).to_dict() == document


def test_numbers_are_written_as_their_author_wrote_them() -> None:
    text = SegmentDefinition.from_dict(OURS).to_json()

    assert '"timeout_seconds": 120,' in text
    assert '"y": 2.5' in text


@given(segments())
def test_any_segment_survives_its_json_text(made: SegmentDefinition) -> None:
    again = SegmentDefinition.from_json(made.to_json())

    assert again == made
    assert again.content_hash == made.content_hash


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"a":\n [1,}', 2, 5),
        ("", 1, 1),
        ('{"x": 1}\n{"y": 2}', 2, 1),
        ('{"a": "NaN", "b":\n NaN}', 2, 2),
        ('{"a": "Infinity \\" NaN",\n  "b": -Infinity}', 2, 8),
        (b'{"a": "\xff"}', 1, 8),
        ("[" * 100_000, 1, 101),
        ('{"a":' * 100_000, 1, 501),
    ],
)
def test_text_that_is_not_json_is_refused_with_line_and_column(text: str | bytes, line: int, column: int) -> None:
    with pytest.raises(SegmentSyntaxError) as caught:
        SegmentDefinition.from_json(text)

    assert (caught.value.line, caught.value.column) == (line, column)
    assert f"line {line}, column {column}" in str(caught.value)


def test_a_byte_order_mark_is_no_fault() -> None:
    assert SegmentDefinition.from_json("\ufeff" + json.dumps(OURS)).segment_id == "triage"
    assert SegmentDefinition.from_json(json.dumps(OURS).encode("utf-8-sig")).segment_id == "triage"


def test_every_fault_of_a_document_is_listed_with_its_place() -> None:
    document = {
        "segment_id": 3,
        "params": {"max_retries": -1, "timeout_seconds": "soon", "parallel_execution": "yes"},
        "steps": [{"step_id": "a"}, "b", {"step_id": "c", "type": "t", "outputs": [{"port_id": 1}]}],
        "edges": [{"from": "a"}],
    }

    with pytest.raises(SegmentValidationError) as caught:
        SegmentDefinition.from_dict(document)

    assert caught.value.errors == [
        "segment_id: should be a string",
        "name: required key is missing",
        "params.max_retries: should be greater than or equal to 0",
        "params.timeout_seconds: should be a number",
        "params.parallel_execution: should be a boolean",
        "steps[0].step_type: required key is missing",
        "steps[1]: should be an object",
        "steps[2].outputs[0].port_id: should be a string",
        "edges[0].target_step: required key is missing",
    ]


def test_faults_do_not_show_the_values() -> None:
    with pytest.raises(SegmentValidationError) as caught:
        SegmentDefinition.from_dict({**OURS, "version": ["hunter2"]})

    assert "hunter2" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*OURS, *THEIRS["steps"][0], *THEIRS["edges"][0], "inputs"]), inner, max_size=6
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_whatever_is_read_gives_a_segment_or_our_own_error(data: Any) -> None:
    try:
        made = SegmentDefinition.from_dict(data)
    except SegmentValidationError:
        return
    assert made.to_dict()
    made.validate()


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_whatever_text_is_read_gives_our_own_error(text: str | bytes) -> None:
    with pytest.raises(SegmentValidationError):
        SegmentDefinition.from_json(text)


def test_the_json_schema_accepts_what_is_written_and_refuses_what_is_not_read() -> None:
    validator = Draft202012Validator(SegmentDefinition.json_schema())

    assert validator.is_valid(OURS)
    assert validator.is_valid({**OURS, "x_extra": 1, "steps": [{**OURS["steps"][0], "inputs": ["a"]}]})
    assert not validator.is_valid({**OURS, "steps": [{"step_id": "a"}]})
    assert not validator.is_valid({**OURS, "params": {"max_retries": -1}})


@given(segments())
def test_the_json_schema_accepts_every_segment(made: SegmentDefinition) -> None:
    assert Draft202012Validator(SegmentDefinition.json_schema()).is_valid(made.to_dict())


@pytest.mark.timeout(20)
def test_five_thousand_steps_are_read_checked_and_written() -> None:
    steps = [{"step_id": f"s{number}", "type": "transform"} for number in range(5000)]
    edges = [{"from": f"s{number}", "to": f"s{number + 1}"} for number in range(4999)]
    text = json.dumps({"segment_id": "s", "name": "", "steps": steps, "edges": edges})

    made = SegmentDefinition.from_json(text)

    assert made.validate() == []
    assert len(made.to_json()) > len(text)
