"""Joins in motion: when they fire, once, and what becomes of the branches that are left."""

from __future__ import annotations

import pytest

from llmteam.canvas.state import SegmentStatus
from llmteam.events.models import EventType
from tests.drawing import graph
from tests.unit.canvas.plays import Play


def split(join: str, *more: str, branches: str = "abc") -> Play:
    """A run in which all branches before ``join`` are at work."""
    lines = [f"split_1 -> {name} -> {join}" for name in branches]
    run = Play(graph("s -> split_1", *lines, f"{join} -> end", *more))
    run.do("s", "split_1")
    run.begin(*branches)
    return run


def test_all_waits_for_every_branch() -> None:
    run = split("all_1")

    run.end("a")
    run.end("b")
    assert run.due == set()
    run.end("c")
    assert run.due == {"all_1"}


def test_all_goes_on_with_the_branches_that_are_live() -> None:
    run = Play(graph("s -> split_1 -> if_a", "if_a.true -> all_1", "if_a.false -> x", "split_1 -> b -> all_1 -> end"))
    run.do("s", "split_1", "b", "if_a", if_a="x")

    assert run.due == {"x", "all_1"}


@pytest.mark.parametrize("join", ["any_1", "first_1"])
def test_an_early_join_fires_at_the_first_branch_and_once(join: str) -> None:
    run = split(join)

    run.end("b")
    assert join in run.due
    run.do(join, "end")

    assert run.told(EventType.STEP_COMPLETED).count(join) == 1


def test_any_lets_the_other_branches_end() -> None:
    run = split("any_1")
    run.end("b")
    run.do("any_1", "end")

    assert run.status is SegmentStatus.RUNNING
    run.end("a")
    run.end("c")
    assert run.status is SegmentStatus.COMPLETED
    assert run.told(EventType.STEP_COMPLETED).count("any_1") == 1


def test_first_cancels_the_other_branches() -> None:
    run = split("first_1")

    run.end("b")

    assert (run.state("a"), run.state("c")) == ("cancelled", "cancelled")
    assert run.run.running == 0
    run.do("first_1", "end")
    assert run.status is SegmentStatus.COMPLETED


def test_first_leaves_alone_what_leads_elsewhere_too() -> None:
    run = split("first_1", "a -> aside")

    run.end("b")

    assert (run.state("a"), run.state("c")) == ("running", "cancelled")
    run.end("a")
    assert run.due == {"first_1", "aside"}


def test_an_answer_of_a_branch_that_was_cancelled_changes_nothing() -> None:
    run = split("first_1")
    run.end("b")

    assert not run.end("a").applied


def test_a_join_that_no_branch_can_reach_is_skipped() -> None:
    run = Play(graph("if_1.true -> a -> any_1 -> end", "if_1.true -> b -> any_1", "if_1.false -> c"))

    run.do("if_1", "c", if_1="c")

    assert run.told(EventType.STEP_SKIPPED) == ["a", "b", "any_1", "end"]
    assert run.status is SegmentStatus.COMPLETED


# -- failures


def test_a_failing_branch_fails_the_run_and_cancels_the_others_under_all() -> None:
    run = split("all_1")

    run.fail("b")

    assert run.status is SegmentStatus.FAILED
    assert [run.shown()[step] for step in ("a", "c", "all_1", "end")] == ["cancelled"] * 4


def test_a_failing_branch_is_left_out_under_any() -> None:
    run = split("any_1")

    run.fail("b")
    assert run.status is SegmentStatus.RUNNING
    run.end("a")

    assert run.due == {"any_1"}


@pytest.mark.parametrize("join", ["any_1", "first_1"])
def test_when_every_branch_failed_the_join_fails(join: str) -> None:
    run = split(join)

    for step_id in "abc":
        run.fail(step_id)

    assert run.status is SegmentStatus.FAILED
    assert run.run.error is not None
    assert run.run.error.error_type == "BranchesFailedError"
    assert run.told(EventType.STEP_FAILED) == ["a", "b", "c", join]


def test_a_join_that_fails_may_have_an_error_edge() -> None:
    run = split("any_1", "any_1.error -> mend")

    for step_id in "abc":
        run.fail(step_id)

    assert run.due == {"mend"}


def test_a_failure_inside_an_all_join_is_felt_by_the_early_join_around_it() -> None:
    lines = ("split_1 -> split_2 -> a -> all_2 -> x -> any_1 -> end", "split_2 -> b -> all_2", "split_1 -> c -> any_1")
    run = Play(graph("s -> split_1", *lines))
    run.do("s", "split_1", "split_2")
    run.begin("a", "b", "c")

    run.fail("a")

    assert run.shown() == {
        **dict.fromkeys(("s", "split_1", "split_2"), "completed"),
        "a": "failed",
        "b": "cancelled",
        "all_2": "cancelled",
        "x": "skipped",
        "c": "running",
        "any_1": "pending",
        "end": "pending",
    }
    run.end("c")
    assert run.due == {"any_1"}


def test_what_needs_a_failed_step_dies_with_it_although_another_edge_is_live() -> None:
    run = Play(graph("s -> split_1 -> h -> p -> m -> any_1", "h -> q -> m", "split_1 -> b -> any_1"))
    run.do("s", "split_1", "h")
    run.begin("p")
    run.fail("p")

    run.do("q")

    assert run.state("m") == "skipped"
    run.do("b", "any_1")
    assert run.status is SegmentStatus.COMPLETED


def test_a_branch_that_fails_after_the_join_went_on_changes_nothing() -> None:
    run = split("any_1")
    run.end("a")
    run.do("any_1", "end")

    run.fail("b")
    run.fail("c")

    assert (run.status, run.run.failed) == (SegmentStatus.COMPLETED, 2)


def test_a_branch_fails_also_when_a_step_behind_the_failed_one_stands_before_the_join() -> None:
    run = Play(graph("s -> split_1 -> a -> a2 -> any_1 -> end", "split_1 -> b -> b2 -> any_1"))
    run.do("s", "split_1")
    run.begin("a", "b")

    run.fail("a")
    run.fail("b")

    assert run.status is SegmentStatus.FAILED
    assert run.told(EventType.STEP_SKIPPED) == ["a2", "b2"]


def test_a_failed_step_lets_go_of_the_siblings_behind_it_when_its_join_dies() -> None:
    drawn = graph("s -> split_1 -> p -> d -> all_1 -> any_1", "p -> a -> all_1", "p -> b -> c", "split_1 -> q -> any_1")
    assert drawn.nodes["a"].order_after == ("b",)
    run = Play(drawn)
    run.do("s", "split_1", "p", "d")
    run.begin("a")

    run.fail("a")

    assert run.state("all_1") == "cancelled"
    assert "b" in run.due
    run.do("b", "c", "q", "any_1")
    assert run.status is SegmentStatus.COMPLETED


def test_of_several_last_steps_none_alone_is_the_result() -> None:
    run = Play(graph("s -> a", "s -> b", parallel_execution=True))
    run.do("s", "a", "b")

    assert run.run.terminals == 2
    assert run.events[-1].payload == {}
