"""From an answer to ports, from ports to decided edges, from decided edges to the next step's input."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.canvas.graph import Graph
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.ports import Broadcast, Ports
from llmteam.canvas.routing import (
    DEAD,
    LIVE,
    Source,
    StepOutput,
    compact,
    decide_edges,
    decision_at,
    error_decisions,
    failure_output,
    gather_input,
    shape_output,
)
from llmteam.events.models import ErrorInfo
from tests.drawing import compiled, draw, graph

FAILURE = ErrorInfo(error_type="TimeoutError", error_message="too late")


def followed(drawn: Graph, answer: Any, step_id: str = "s") -> list[str]:
    """Where an answer leads."""
    node = drawn.nodes[step_id]
    decided = decide_edges(node, shape_output(node, answer))
    return [edge.target for place, edge in enumerate(node.outs) if decision_at(decided, place) == LIVE]


# -- answers


@pytest.mark.parametrize(
    ("answer", "ports", "whole"),
    [
        (5, {"output": 5}, True),
        (None, {"output": None}, True),
        ({}, {"output": {}}, True),
        ({"output": 5}, {"output": 5}, False),
        ({"output": 5, "error": 6}, {"output": 5, "error": 6}, False),
        ({"output": 5, "other": 6}, {"output": {"output": 5, "other": 6}}, True),
        (Ports({"other": 6}), {"other": 6}, False),
        (Ports({}), {}, False),
        (Broadcast(7), {"output": 7}, True),
    ],
)
def test_an_answer_is_a_port_map_only_when_all_its_keys_are_ports(answer: Any, ports: Any, whole: bool) -> None:
    shaped = shape_output(graph("s").nodes["s"], answer)

    assert (dict(shaped.ports), shaped.whole) == (ports, whole)


def test_a_routing_step_names_what_it_did_not_choose_with_none() -> None:
    node = graph("if_1.true -> a").nodes["if_1"]

    assert shape_output(node, {"true": 1, "false": None}).ports == {"true": 1}
    assert shape_output(node, Ports({"true": None})).ports == {"true": None}


@given(st.one_of(st.integers(), st.text(), st.lists(st.integers()), st.dictionaries(st.text(), st.integers())))
def test_what_a_handler_returned_can_be_had_back(answer: Any) -> None:
    assert shape_output(graph("s").nodes["s"], answer).value == answer


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (StepOutput({"output": 5}, whole=True), {"output": 5}),
        (StepOutput({"output": {"n": 5}}, whole=True), {"n": 5}),
        (StepOutput({"output": 5, "side": 6}), {"output": 5, "side": 6}),
    ],
)
def test_a_run_shows_an_object_as_it_is_and_anything_else_by_its_port(output: StepOutput, shown: Any) -> None:
    assert output.as_result == shown


# -- edges


def test_without_conditions_every_edge_of_a_live_port_is_followed() -> None:
    assert followed(graph("s -> a", "s -> b"), 1) == ["a", "b"]


@pytest.mark.parametrize(("n", "way"), [(1, ["a"]), (5, ["b"]), (9, ["c"])])
def test_with_conditions_the_first_that_holds_is_followed_and_no_other(n: int, way: list[str]) -> None:
    assert followed(graph("s -[n < 3]-> a", "s -[n < 7]-> b", "s -> c"), {"n": n}) == way


def test_when_no_condition_holds_nothing_is_followed() -> None:
    assert followed(graph("s -[n < 3]-> a", "s -[n < 7]-> b"), {"n": 8}) == []


def test_each_port_has_its_own_conditions() -> None:
    drawn = graph("s -[x == 1]-> a", "s -> b", "s.side -[x == 2]-> c", "s.side -> d")

    assert followed(drawn, Ports({"output": {"x": 1}, "side": {"x": 3}})) == ["a", "d"]


@pytest.mark.parametrize("condition", ["missing > 1", "n > 'text'", "1 / 0 > 1"])
def test_a_condition_that_has_no_answer_is_an_error_never_true(condition: str) -> None:
    with pytest.raises(InvalidConditionError):
        followed(graph(f"s -[{condition}]-> a"), {"n": 1})


def test_a_condition_on_a_dead_port_is_not_asked() -> None:
    assert followed(graph("if_1.true -> a", "if_1.false -[missing]-> b"), Ports({"true": {}}), "if_1") == ["a"]


@pytest.mark.parametrize(
    ("answer", "way"),
    [(Ports({"true": 1}), ["a"]), (Ports({"false": 1}), ["b"]), (Ports({}), []), ({"true": None, "false": 0}, ["b"])],
)
def test_of_a_routing_step_the_named_ports_are_live(answer: Any, way: list[str]) -> None:
    assert followed(graph("if_1.true -> a", "if_1.false -> b"), answer, "if_1") == way


def test_a_split_hands_one_value_to_every_branch() -> None:
    drawn = graph("split_1 -> a", "split_1 -> b")

    assert followed(drawn, Broadcast(1), "split_1") == ["a", "b"]
    assert followed(drawn, 1, "split_1") == ["a", "b"]
    assert followed(drawn, Ports({"branch_2": 1}), "split_1") == ["b"]


def test_the_error_port_is_live_only_when_the_handler_says_so_and_then_alone() -> None:
    drawn = graph("s -> a", "s.side -> b", "s.error -> c")

    assert followed(drawn, 1) == ["a", "b"]
    assert followed(drawn, Ports({"output": 1, "side": 2})) == ["a", "b"]
    assert followed(drawn, Ports({"error": 1})) == ["c"]


@pytest.mark.parametrize(
    ("lines", "way"),
    [
        (("s -> a", "s.error -> b"), ["b"]),
        (("s.error -> a", "s.error -> b"), ["a", "b"]),
        (("s.error -[error_type == 'TimeoutError']-> a", "s.error -> b"), ["a"]),
        (("s.error -['early' in error_message]-> a", "s.error -> b"), ["b"]),
    ],
)
def test_a_failure_goes_the_way_of_the_error_edges(lines: tuple[str, ...], way: list[str]) -> None:
    node = graph(*lines).nodes["s"]

    decided = error_decisions(node, FAILURE)

    assert decided is not None
    assert [edge.target for place, edge in enumerate(node.outs) if decision_at(decided, place) == LIVE] == way


@pytest.mark.parametrize("lines", [("s -> a",), ("s.error -[error_type == 'Other']-> a",)])
def test_a_failure_that_no_error_edge_takes_has_no_decisions(lines: tuple[str, ...]) -> None:
    assert error_decisions(graph(*lines).nodes["s"], FAILURE) is None


@given(st.lists(st.sampled_from((DEAD, LIVE)), min_size=1, max_size=5))
def test_equal_decisions_are_kept_as_one(decided: list[int]) -> None:
    kept = compact(decided)

    assert [decision_at(kept, place) for place in range(len(decided))] == decided
    assert len(kept) == (1 if len(set(decided)) == 1 else len(decided))


# -- inputs


def taken(segment: SegmentDefinition, target: str, *sources: Source) -> dict[str, Any]:
    drawn = compiled(segment)
    return gather_input(drawn.nodes[target], sources, drawn.nodes)


def source(step_id: str, value: Any, *decisions: int, superseded: bool = False) -> Source:
    return Source(step_id, decisions or (LIVE,), StepOutput({"output": value}, whole=True), superseded)


def test_an_input_has_one_value_for_each_port_that_a_live_edge_reaches() -> None:
    segment = draw("a -> all_1", "b -> all_1", "c -> all_1", entry="a")

    assert taken(segment, "all_1", source("a", 1)) == {"branch_1": 1}


def test_of_two_edges_into_one_port_the_later_wins() -> None:
    segment = draw("s -> a -> x", "s -> b -> x")

    assert taken(segment, "x", source("b", 2), source("a", 1)) == {"input": 2}
    assert taken(segment, "x", source("b", 2, DEAD), source("a", 1)) == {"input": 1}


def test_an_edge_carries_the_value_of_its_port_or_else_the_whole_answer() -> None:
    segment = draw("s.side -> a", "s.other -> b")
    output = Source("s", (LIVE,), StepOutput({"side": 1, "output": 2}))

    assert taken(segment, "a", output) == {"input": 1}
    assert taken(segment, "b", output) == {"input": {"side": 1, "output": 2}}


def test_an_error_edge_carries_the_error() -> None:
    failed = Source("s", (DEAD, LIVE), failure_output(FAILURE))

    told = taken(draw("s -> a", "s.error -> b"), "b", failed)

    assert told == {"input": {"error_type": "TimeoutError", "error_message": "too late"}}


def test_a_way_back_wins_over_the_way_in() -> None:
    segment = draw("h -> a -[x]-> h", "s -> h", entry="s")

    assert taken(segment, "h", source("s", 1)) == {"input": 1}
    assert taken(segment, "h", source("a", 2, superseded=True), source("s", 1)) == {"input": 2}


def test_what_an_earlier_iteration_gave_counts_only_on_the_way_back() -> None:
    segment = draw("h -> a -> any_1 -[x]-> h", "h -> b -> any_1", parallel_execution=True)

    assert taken(segment, "any_1", source("a", 2), source("b", 1, superseded=True)) == {"branch_1": 2}
