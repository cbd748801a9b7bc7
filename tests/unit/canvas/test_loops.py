"""Natural loops in motion: visits, exits that wait, nesting, limits, conflicts, cancelling."""

from __future__ import annotations

from llmteam.canvas.state import SegmentStatus, StepState
from llmteam.events.models import EventType
from tests.drawing import graph
from tests.unit.canvas.plays import Play


def test_following_the_way_back_makes_a_new_visit_of_the_body_only() -> None:
    run = Play(graph("s -> h -> a -[x]-> h", "a -> end"))

    run.do("s", "h", "a", a="h")

    assert set(run.rows) == {("s", 1), ("h", 1), ("h", 2), ("a", 1), ("a", 2), ("end", 1)}
    assert run.ready == [("h", 2)]
    assert (run.state("end"), run.run.open) == ("pending", 3)


def test_what_leaves_a_loop_is_decided_by_its_last_iteration() -> None:
    run = Play(graph("h -> a -[x]-> h", "a -> end"))

    run.do("h", "a", a="h")
    assert run.state("end") == "pending"
    run.do("h", "a", a="end")
    assert run.due == {"end"}


def test_an_edge_out_of_the_middle_waits_for_the_end_of_the_iteration() -> None:
    run = Play(graph("h -[x]-> out", "h -> a -[y]-> h", "a -> end"))

    run.do("h", h="out")
    assert run.shown() == {"h": "completed", "a": "skipped", "out": "ready", "end": "skipped"}


def test_a_branch_that_leaves_while_another_works_waits_for_it() -> None:
    run = Play(graph("h -> a -[x]-> h", "h -> b -[y]-> h", "b -> out", "a -> end", parallel_execution=True))
    run.do("h")
    run.begin("a", "b")

    run.end("b", "out")
    assert run.state("out") == "pending"
    run.end("a", "end")
    assert run.due == {"out", "end"}


def test_a_loop_whose_entry_dies_is_skipped_as_a_whole() -> None:
    run = Play(graph("if_1.true -> h -> a -[x]-> h", "a -> end", "if_1.false -> other"))

    run.do("if_1", "other", if_1="other")

    assert run.status is SegmentStatus.COMPLETED
    assert run.told(EventType.STEP_SKIPPED) == ["h", "a", "end"]


def test_going_back_and_leaving_at_once_fails_the_run() -> None:
    run = Play(graph("h -> a -[x]-> h", "h -> b -[y]-> h", "b -> out", parallel_execution=True))
    run.do("h")
    run.begin("a", "b")
    run.end("b", "out")

    run.end("a", "h")

    assert run.run.error is not None
    assert run.run.error.error_type == "LoopConflictError"
    assert "b -> out" in run.run.error.error_message


def test_the_limit_counts_iterations() -> None:
    run = Play(graph("h -[x]-> h", "h -> end", max_visits=3))

    run.do("h", "h", "h", h="h")

    assert (run.status, run.latest("h")) == (SegmentStatus.FAILED, 3)
    assert run.run.error is not None
    assert "3 times" in run.run.error.error_message


def test_the_limit_counts_anew_at_each_entry() -> None:
    run = Play(graph("o -> i -[x]-> i", "i -> b -[y]-> o", "b -> end", max_visits=2))

    run.do("o", "i", i="i")
    run.do("i", "b", i="b", b="o")
    run.do("o", "i", i="i")
    run.do("i", "b", "end", i="b", b="end")

    assert (run.status, run.latest("i"), run.latest("o")) == (SegmentStatus.COMPLETED, 4, 2)


def test_an_inner_loop_belongs_to_the_iteration_around_it() -> None:
    run = Play(graph("o -> i -[x]-> i", "i -> b -[y]-> o", "b -> end"))
    run.do("o", "i", i="i")
    run.do("i", "b", i="b", b="o")

    inner = run.rows["i", 3].loop
    assert inner is not None
    assert (inner.parent, inner.iteration) == (2, 1)
    assert run.ready == [("o", 2)]


def test_an_inner_loop_may_go_back_to_the_outer_header() -> None:
    run = Play(graph("o -> i -[x]-> i", "i -[y]-> o", "i -> end"))

    run.do("o", "i", i="o")

    assert run.ready == [("o", 2)]
    assert run.state("i", 2) is StepState.PENDING


def test_an_inner_loop_may_leave_both_loops_at_once() -> None:
    run = Play(graph("o -> i -[x]-> i", "i -[y]-> end", "i -> b -[z]-> o", "b -> end"))

    run.do("o", "i", i="end")

    assert run.shown() == {"o": "completed", "i": "completed", "b": "skipped", "end": "ready"}


def test_branches_in_a_loop_are_joined_in_each_visit() -> None:
    run = Play(graph("h -> split_1 -> a -> all_1 -[x]-> h", "split_1 -> b -> all_1 -> end"))

    for target in ("h", "end"):
        run.do("h", "split_1")
        run.begin("a", "b")
        run.end("a")
        assert "all_1" not in run.due
        run.end("b")
        run.do("all_1", all_1=target)

    assert run.due == {"end"}


def test_a_failure_in_a_loop_goes_to_its_error_edge_in_that_visit() -> None:
    run = Play(graph("h -> a -[x]-> h", "a.error -> mend -[y]-> h", "a -> end", "mend -> end"))
    run.do("h")
    run.begin("a")

    run.fail("a")
    run.do("mend", mend="h")

    assert run.ready == [("h", 2)]


def test_a_loop_in_a_branch_that_is_cancelled_ends_with_it() -> None:
    drawn = graph("s -> split_1 -> h -> a -[x]-> h", "a -> first_1 -> end", "split_1 -> b -> first_1")
    run = Play(drawn)
    run.do("s", "split_1")
    run.do("h", "a", a="h")
    run.begin("h")

    run.do("b")

    assert (run.state("h", 2), run.state("a", 2), run.due) == ("cancelled", "cancelled", {"first_1"})
    run.do("first_1", "end")
    assert run.status is SegmentStatus.COMPLETED


def test_a_loop_in_a_branch_that_fails_dies_with_it() -> None:
    run = Play(graph("s -> split_1 -> h -> a -[x]-> h", "a -> any_1 -> end", "split_1 -> b -> any_1"))
    run.do("s", "split_1")
    run.begin("h", "b")

    run.fail("h")
    assert run.shown()["a"] == "skipped"
    run.end("b")

    run.do("any_1", "end")
    assert run.status is SegmentStatus.COMPLETED


# -- cancelling and dying inside the iteration of a loop around


def test_a_join_that_dies_in_a_later_iteration_is_the_one_of_that_iteration() -> None:
    run = Play(
        graph(
            "o -> split_1 -> split_2 -> i -[x]-> i",
            "i -> all_2 -> any_1 -> back -[y]-> o",
            "split_2 -> b -> all_2",
            "split_1 -> c -> any_1",
            "back -> end",
        )
    )
    run.do("o", "split_1", "split_2", "i", "b", "all_2", "c", "any_1", "back", i="all_2", back="o")
    run.do("o", "split_1", "split_2", "i", i="i")
    run.begin("i", "c")

    run.fail("i")

    assert (run.state("all_2", 1), run.state("all_2", 2), run.state("b", 2)) == ("completed", "cancelled", "cancelled")
    run.end("c")
    run.do("any_1", "back", "end", back="end")
    assert run.status is SegmentStatus.COMPLETED


def test_an_iteration_ends_also_when_a_join_in_it_died() -> None:
    run = Play(
        graph(
            "o -> split_1 -> split_2 -> a -> all_2 -> any_1 -> back -[y]-> o",
            "split_2 -> b -> all_2",
            "split_1 -> c -> any_1",
            "back -> end",
        )
    )
    run.do("o", "split_1", "split_2")
    run.begin("a")
    run.fail("a")

    run.do("c", "any_1", "back", back="o")

    assert run.ready == [("o", 2)]


def test_an_iteration_ends_also_when_a_loop_in_it_was_cancelled() -> None:
    branches = ("split_1 -> i -> j -[x]-> i", "j -> first_1", "split_1 -> c -> first_1")
    run = Play(graph("o -> split_1", *branches, "first_1 -> back -[y]-> o", "back -> end"))
    run.do("o", "split_1", "i", "j", j="i")
    run.begin("i")

    run.do("c", "first_1", "back", back="o")

    assert run.state("i", 2) == "cancelled"
    assert run.ready == [("o", 2)]


def test_a_loop_that_was_over_when_its_branch_was_cancelled_counts_once() -> None:
    run = Play(
        graph(
            "o -> split_1 -> i -[x]-> i",
            "i -> k -> first_1 -> back -[y]-> o",
            "split_1 -> c -> first_1",
            "o -> slow -> back",
            "back -> end",
            parallel_execution=True,
        )
    )
    run.do("o", "split_1", "i", i="k")
    run.begin("k", "slow")
    run.do("c", "first_1")

    assert run.state("k") == "cancelled"
    run.end("slow")
    assert (run.due, run.state("end")) == ({"back"}, "pending")
    run.do("back", back="o")
    assert run.ready == [("o", 2)]
