"""Segments as values: the seed's constructors, structural problems, look-ups, content hash."""

from __future__ import annotations

import pickle

import pytest
from pydantic import ValidationError

from llmteam.canvas.models import (
    EdgeDefinition,
    PortDefinition,
    SegmentDefinition,
    SegmentParams,
    StepDefinition,
    StepPosition,
    StepTypeFacts,
    StepUIMetadata,
)


def step(step_id: str, **more: object) -> StepDefinition:
    return StepDefinition(step_id=step_id, step_type="transform", **more)  # type: ignore[arg-type]


def edge(source: str, target: str, **more: object) -> EdgeDefinition:
    return EdgeDefinition(source_step=source, target_step=target, **more)  # type: ignore[arg-type]


def segment(*steps: StepDefinition, edges: tuple[EdgeDefinition, ...] = (), **more: object) -> SegmentDefinition:
    return SegmentDefinition(segment_id="s", name="S", steps=list(steps), edges=list(edges), **more)  # type: ignore[arg-type]


def test_what_is_not_said_has_a_default() -> None:
    one = step("a")

    assert [port.port_id for port in one.inputs] == ["input"]
    assert [port.port_id for port in one.outputs] == ["output"]
    assert (one.config, one.name, one.position, one.ui) == ({}, "", None, None)
    assert edge("a", "b") == EdgeDefinition(source_step="a", source_port="output", target_step="b", target_port="input")
    assert segment(one).params == SegmentParams(max_retries=3, timeout_seconds=300, parallel_execution=False)
    assert segment(one).version == "1.0"


def test_steps_do_not_share_their_defaults() -> None:
    one, other = step("a"), step("b")

    one.config["x"] = 1
    one.inputs.append(PortDefinition(port_id="more"))

    assert other.config == {}
    assert len(other.inputs) == 1


def test_a_constructor_refuses_a_keyword_that_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="tpye"):
        StepDefinition(step_id="a", step_type="transform", tpye="x")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "values", [{"max_retries": -1}, {"max_retries": True}, {"max_visits": 0}, {"max_retries": "3"}]
)
def test_parameters_are_numbers_in_range(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SegmentParams(**values)  # type: ignore[arg-type]


def test_a_sound_segment_has_no_problems() -> None:
    assert segment(step("a"), step("b"), edges=(edge("a", "b"),)).validate() == []


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (segment(), ["steps: Segment has no steps"]),
        (segment(step("a"), entrypoint="gone"), ["entrypoint: Entrypoint 'gone' not found"]),
        (segment(step("a"), edges=(edge("a", "ghost"),)), ["edges[0].target_step: Unknown step 'ghost'"]),
        (segment(step("a"), edges=(edge("ghost", "a"),)), ["edges[0].source_step: Unknown step 'ghost'"]),
        (segment(step("a"), step("a"), step("a")), ["steps[0].step_id: Duplicate step_id 'a' (3 steps)"]),
        (
            segment(step("a", config={"retry_count": -1})),
            ["steps[0].config.retry_count: should be a whole number, 0 or more"],
        ),
        (
            segment(step("a", config={"timeout_seconds": "1"})),
            ["steps[0].config.timeout_seconds: should be a number of seconds, more than 0"],
        ),
        (
            segment(step("a"), params=SegmentParams(timeout_seconds=0)),
            ["params.timeout_seconds: should be more than 0, or null for no limit"],
        ),
        (
            segment(step("a", inputs=[PortDefinition(port_id="p"), PortDefinition(port_id="p")])),
            ["steps[0].inputs[1].port_id: Duplicate port_id 'p'"],
        ),
        (segment(step("a", config={"x": [float("nan")]})), ["steps[0].config.x[0]: nan is not a JSON number"]),
        (segment(step("a", config={"x": {1}})), ["steps[0].config.x: a set is not JSON"]),
        (segment(step("a", name="nul \x00")), ["steps[0].name: text with a NUL character"]),
    ],
)
def test_each_structural_problem_is_named_with_its_place(made: SegmentDefinition, expected: list[str]) -> None:
    assert made.validate() == expected


@pytest.mark.parametrize("bad", ["A", "1a", "a-b", "", "a b", "a\n", "ä", "a" * 256])
def test_ids_are_lower_case_words(bad: str) -> None:
    in_step = segment(step(bad)).validate()
    in_segment = SegmentDefinition(segment_id=bad, name="", steps=[step("a")]).validate()

    assert any("Invalid step_id format" in message for message in in_step)
    assert any("Invalid segment_id format" in message for message in in_segment)


def test_a_configuration_that_holds_itself_is_a_problem_and_no_endless_loop() -> None:
    config: dict[str, object] = {}
    config["self"] = config

    assert "nested deeper" in segment(step("a", config=config)).validate()[0]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (segment(step("a"), step("b"), edges=(edge("b", "a"),)), "b"),
        (segment(step("a"), step("b")), "a"),
        (segment(step("a"), step("b"), entrypoint="b"), "b"),
        (segment(step("a"), step("b"), edges=(edge("a", "b"), edge("b", "a"))), "a"),
        (segment(), None),
    ],
)
def test_the_entrypoint_is_the_declared_else_the_only_head_else_the_first_step(
    made: SegmentDefinition, expected: str | None
) -> None:
    assert made.resolve_entrypoint() == expected


def test_neighbours_are_found_once_each_in_order() -> None:
    made = segment(
        step("a"),
        step("b"),
        step("c"),
        edges=(edge("a", "c"), edge("a", "b"), edge("a", "c", target_port="second"), edge("b", "c")),
    )

    assert made.get_next_steps("a") == ["c", "b"]
    assert made.get_previous_steps("c") == ["a", "b"]
    assert [found.target_port for found in made.get_outgoing_edges("a")] == ["input", "input", "second"]
    assert len(made.get_incoming_edges("c")) == 3
    assert made.get_step("b") == step("b")
    assert made.get_step("ghost") is None


def test_retry_count_and_timeout_are_read_from_the_configuration() -> None:
    told = step("a", config={"retry_count": 2, "timeout_seconds": 5})

    assert (told.retry_count, told.timeout_seconds) == (2, 5.0)
    assert (step("a").retry_count, step("a").timeout_seconds) == (None, None)
    assert step("a", config={"retry_count": True, "timeout_seconds": 0}).retry_count is None


def test_equal_content_has_an_equal_hash_and_any_change_another() -> None:
    made = segment(step("a", config={"x": 1, "y": 2}), params=SegmentParams(timeout_seconds=60))
    same = segment(step("a", config={"y": 2, "x": 1}), params=SegmentParams(timeout_seconds=60.0))
    other = segment(step("a", config={"x": 1, "y": 3}), params=SegmentParams(timeout_seconds=60))

    assert made.content_hash == same.content_hash
    assert made.content_hash != other.content_hash
    assert len(made.content_hash) == 64


def test_definitions_survive_pickling() -> None:
    made = segment(step("a", position=StepPosition(x=1, y=2.5), ui=StepUIMetadata(icon="box")))

    assert pickle.loads(pickle.dumps(made)) == made


def test_facts_of_a_step_type_cannot_be_changed() -> None:
    facts = StepTypeFacts(type_id="t")

    with pytest.raises(ValidationError):
        facts.queue = "other"
    assert StepTypeFacts(**facts.model_dump(mode="json")) == facts
