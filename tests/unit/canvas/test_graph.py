"""Compiled graphs: loops, regions and scopes of joins, chords, order among siblings, and what makes a graph unsound."""

from __future__ import annotations

import time

import pytest

from llmteam.canvas.graph import DEFAULT_MAX_VISITS
from tests.drawing import graph


def codes(*lines: str) -> list[str]:
    return [problem.code for problem in graph(*lines).problems]


# -- shape


def test_the_first_step_begins_and_what_nothing_reaches_is_known() -> None:
    drawn = graph("a -> b", "x -> y", entry="a")

    assert drawn.entry == "a"
    assert drawn.unreachable == ("x", "y")


def test_edges_from_steps_that_are_never_reached_do_not_count() -> None:
    assert graph("a -> b", "x -> b", entry="a").nodes["b"].undecided == 1


def test_a_step_waits_for_every_edge_but_those_that_go_back() -> None:
    drawn = graph("s -> h -> a -[x]-> h", "h -> b -> a", parallel_execution=True)

    assert {step: node.undecided for step, node in drawn.nodes.items()} == {"s": 0, "h": 1, "a": 2, "b": 1}


def test_a_large_row_is_compiled_quickly() -> None:
    began = time.perf_counter()

    drawn = graph(" -> ".join(f"s{number}" for number in range(5_000)), "s4999 -[x]-> s0")

    assert len(drawn.loops["s0"].body) == 5_000
    assert time.perf_counter() - began < 20, "not quadratic"


# -- loops


def test_loops_nest_by_what_they_hold() -> None:
    drawn = graph("o -> i -> a -[x]-> i", "a -> b -[x]-> o", "b -> end")

    outer, inner = drawn.loops["o"], drawn.loops["i"]
    assert (outer.body, outer.members, outer.parent) == ({"o", "i", "a", "b"}, ("o", "b"), None)
    assert (inner.body, inner.members, inner.parent) == ({"i", "a"}, ("i", "a"), outer)
    assert outer.units == 3
    assert [(edge.source, edge.target) for edge in outer.exits] == [("b", "end")]
    assert drawn.loop_of("a") is inner
    assert drawn.loop_of("end") is None


def test_two_ways_back_to_one_step_are_one_loop() -> None:
    drawn = graph("h -> a -[x]-> h", "a -> b -[x]-> h")

    assert list(drawn.loops) == ["h"]
    assert drawn.loops["h"].body == {"h", "a", "b"}


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (("s -> a -[x]-> b", "s -> b -[x]-> a"), "IRREDUCIBLE_LOOP"),
        (("a -> b -> a",), "CYCLE_WITHOUT_EXIT"),
        (("a -> a",), "CYCLE_WITHOUT_EXIT"),
        (("h -> split_1 -> a -[x]-> h", "split_1 -> b"), "IRREDUCIBLE_LOOP"),
        (("h -> a -> all_1", "h -> b -> all_1", "a -[x]-> h", "b -[x]-> h"), "IRREDUCIBLE_LOOP"),
    ],
)
def test_a_cycle_that_is_no_sound_loop_is_a_problem(lines: tuple[str, ...], code: str) -> None:
    assert code in codes(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        ("a -[x]-> a",),
        ("a -> if_1", "if_1.true -> a"),
        ("a.error -> a", "a -> b"),
        ("h -> split_1 -> a -> all_1 -[x]-> h", "split_1 -> b -> all_1 -> end"),
        ("s -> split_1 -> h -> a -[x]-> h", "a -> all_1", "split_1 -> b -> all_1"),
    ],
)
def test_a_cycle_that_something_in_it_decides_is_sound(lines: tuple[str, ...]) -> None:
    assert codes(*lines) == []


def test_a_problem_names_its_place() -> None:
    (problem,) = graph("s -> a -> b -> a").problems

    assert problem.path == "steps[1]"
    assert "a -> b -> a" in problem.message


def test_the_limit_of_visits_is_the_segments_or_the_usual_one() -> None:
    assert graph("a").max_visits == DEFAULT_MAX_VISITS
    assert graph("a", max_visits=7).max_visits == 7


# -- joins


def test_a_region_is_what_leads_to_its_join_and_nowhere_else() -> None:
    drawn = graph("s -> split_1 -> a -> all_1 -> end", "split_1 -> b -> c -> all_1", "b -> aside")

    assert drawn.regions["all_1"] == {"a", "c"}


def test_a_failure_is_felt_by_the_nearest_join() -> None:
    drawn = graph("split_1 -> split_2 -> a -> all_2 -> c -> any_1", "split_2 -> b -> all_2", "split_1 -> d -> any_1")

    scopes = {step: node.scope for step, node in drawn.nodes.items()}
    assert scopes == {
        **dict.fromkeys(("a", "b"), "all_2"),
        **dict.fromkeys(("split_2", "all_2", "c", "d"), "any_1"),
        **dict.fromkeys(("split_1", "any_1")),
    }


@pytest.mark.parametrize(
    ("lines", "chords"),
    [
        (("split_1 -> a -> all_1", "split_1 -> b -> all_1"), {"split_1": "all_1"}),
        (("split_1 -> a -> a2 -> all_1", "split_1 -> b -> all_1", "split_1 -> all_1"), {"split_1": "all_1"}),
        (("split_1 -> a -> any_1", "split_1 -> b -> any_1"), {}),
        (("split_1 -> a -> all_1", "split_1 -> b"), {}),
        (("split_1 -> a -> all_1", "split_1 -> b -> all_1", "b -> aside"), {}),
        (("s -> split_1 -> a -> all_1", "split_1 -> b -> all_1", "s -> all_1"), {}),
        (("split_1 -> a -> all_1", "split_1 -> all_1"), {}),
        (("split_1 -> a -> all_1 -> x -[y]-> all_1", "split_1 -> b -> all_1"), {}),
        (("s -> a -> all_1", "s -> b -> all_1"), {}),
        (
            ("split_1 -> split_2 -> a -> all_2 -> all_1", "split_2 -> b -> all_2", "split_1 -> c -> all_1"),
            {"split_2": "all_2"},
        ),
        (
            ("split_1 -> h -> if_c", "if_c.true -> f -> h", "if_c.false -> all_1", "split_1 -> b -> all_1"),
            {"split_1": "all_1"},
        ),
    ],
)
def test_a_chord_is_a_split_whose_branches_all_meet_in_one_all_join(
    lines: tuple[str, ...], chords: dict[str, str]
) -> None:
    assert graph(*lines).chords == chords


# -- order


def after(*lines: str, **params: bool) -> dict[str, tuple[str, ...]]:
    return {step: node.order_after for step, node in graph(*lines, **params).nodes.items() if node.order_after}


def test_steps_behind_one_port_follow_each_other_in_the_order_of_the_edges() -> None:
    assert after("s -> c", "s -> a", "s -> b") == {"c": ("a",), "a": ("b",)}
    assert after("s -> c", "s -> a", parallel_execution=True) == {}


def test_a_step_that_needs_its_sibling_comes_after_it_whatever_the_order_of_the_edges() -> None:
    assert after("s -> b", "s -> a -> b") == {"a": ("b",)}


@pytest.mark.parametrize(
    "lines",
    [
        ("split_1 -> a", "split_1 -> b"),
        ("if_1.true -> a", "if_1.false -> b"),
        ("s -[x]-> a", "s -> b"),
        ("s -> all_1", "s -> a -> all_1"),
    ],
)
def test_branches_that_exclude_each_other_or_run_at_once_have_no_order(lines: tuple[str, ...]) -> None:
    assert after(*lines) == {}
