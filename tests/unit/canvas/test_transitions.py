"""One transition at a time: readiness, dead paths, failures, retries, ends of runs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmteam.canvas import transitions
from llmteam.canvas.graph import compile_graph
from llmteam.canvas.models import StepTypeFacts
from llmteam.canvas.state import (
    HINT_AFTER,
    MAX_RETRY_DELAY,
    Failed,
    NeedRows,
    RetryPolicy,
    SegmentStatus,
    Slice,
    StepState,
)
from llmteam.events.models import ErrorInfo, EventType
from tests.drawing import draw, graph
from tests.simulation import EPOCH
from tests.unit.canvas.plays import Play

SECOND = timedelta(seconds=1)


# -- starting


def test_a_run_begins_with_its_entry_step_and_nothing_else() -> None:
    run = Play(graph("a -> b"))

    assert (run.due, run.hinted, run.run.open) == ({"a"}, [("a", 1)], 2)
    assert [event.event_type for event in run.events] == [EventType.SEGMENT_STARTED]
    assert run.rows["a", 1].wake_at == EPOCH + HINT_AFTER


def test_steps_that_nothing_reaches_are_skipped_at_once() -> None:
    run = Play(graph("a -> b", "x -> y", entry="a"))

    assert (run.state("x"), run.state("y"), run.run.open) == ("skipped", "skipped", 2)
    assert run.told(EventType.STEP_SKIPPED) == ["x", "y"]


# -- readiness and dead paths


def test_a_step_is_due_when_all_edges_are_decided_and_one_is_live() -> None:
    run = Play(graph("s -> a -> x", "s -> b -> x", parallel_execution=True))

    run.do("s")
    run.begin("a", "b")
    run.end("a")
    assert run.due == set()
    run.end("b")
    assert run.due == {"x"}


def test_a_step_that_no_edge_reaches_is_skipped_with_all_that_hangs_on_it() -> None:
    run = Play(graph("if_1.true -> a -> b -> c", "if_1.false -> d -> c"))

    run.do("if_1", if_1="d")

    assert run.told(EventType.STEP_SKIPPED) == ["a", "b"]
    assert run.due == {"d"}
    run.do("d")
    assert run.due == {"c"}


def test_a_run_ends_when_nothing_is_open() -> None:
    run = Play(graph("a -> b"))

    run.do("a", "b")

    assert (run.status, run.run.completed, run.run.terminals) == (SegmentStatus.COMPLETED, 2, 1)
    assert run.run.finished_at == run.now


def test_a_dead_end_ends_the_run_well() -> None:
    run = Play(graph("a -[x]-> b -> c"))

    run.begin("a")
    run.finish(("a", 1), transitions.Completed((0,), {}, {"output": 1}))

    assert run.status is SegmentStatus.COMPLETED
    assert run.events[-1].payload == {"output": 1}


# -- claiming


def test_a_claim_counts_up_its_fence_and_takes_its_time() -> None:
    run = Play(graph("a"))
    row = transitions.claim(run.run, run.rows["a", 1], EPOCH + SECOND, timedelta(seconds=5))

    assert row is not None
    assert (row.state, row.fence, row.owner) == (StepState.RUNNING, 1, "lease")
    assert (row.started_at, row.deadline) == (EPOCH + SECOND, EPOCH + 6 * SECOND)


def test_what_is_not_due_is_not_claimed() -> None:
    run = Play(graph("a -> b"))

    assert run.claim(("b", 1)) is None
    run.begin("a")
    assert run.claim(("a", 1)) is None


def test_an_answer_to_a_claim_that_was_lost_changes_nothing() -> None:
    run = Play(graph("a -> b"), RetryPolicy(max_retries=1))
    run.begin("a")
    run.fail("a")
    run.now += MAX_RETRY_DELAY
    run.begin("a")

    change = run.finish(("a", 1), transitions.Completed((1,)), fence=1)

    assert not change.applied
    assert run.state("a") == "running"


# -- failures


def test_a_failure_is_tried_again_later_and_later() -> None:
    run = Play(graph("a"), RetryPolicy(max_retries=3, delay=4 * SECOND))
    delays = []

    for _ in range(3):
        run.begin("a")
        run.fail("a")
        row = run.rows["a", 1]
        assert row.wake_at is not None
        delays.append((row.wake_at - run.now) / SECOND)
        assert run.claim(("a", 1)) is None, "too early"
        run.now = row.wake_at

    assert delays == [3, 6, 12], "between half and all of 4, 8, 16 seconds: the simulation's chance is one half"
    run.begin("a")
    run.fail("a")
    assert run.status is SegmentStatus.FAILED
    assert run.run.error == ErrorInfo(error_type="ValueError", error_message="a broke")


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("failures", [1, 2, 10, 1_000])
def test_the_delay_grows_up_to_a_limit_and_is_spread(failures: int, chance: float) -> None:
    full = min(2 ** min(failures - 1, 30) * SECOND, MAX_RETRY_DELAY)

    assert full / 2 <= RetryPolicy(delay=SECOND).delay_after(failures, chance) <= full


def test_an_error_may_ask_for_more_time_never_for_less() -> None:
    for asked, least in ((100 * SECOND, 100 * SECOND), (SECOND / 100, SECOND / 2)):
        run = Play(graph("a"), RetryPolicy(max_retries=1, delay=SECOND))
        run.begin("a")
        run.finish(("a", 1), Failed(ErrorInfo(error_type="E", error_message="m"), retry_after=asked))

        wake_at = run.rows["a", 1].wake_at
        assert wake_at is not None
        assert wake_at - run.now >= least


def test_what_is_permanent_is_not_tried_again() -> None:
    run = Play(graph("a"), RetryPolicy(max_retries=3))
    run.begin("a")

    run.fail("a", retryable=False)

    assert run.status is SegmentStatus.FAILED


def test_the_step_says_how_often_before_the_run_does() -> None:
    drawn = graph("a -> if_1", config={"a": {"retry_count": 5}})
    default = RetryPolicy(max_retries=2)

    assert transitions.retry_policy(drawn.nodes["a"], default).max_retries == 5
    assert transitions.retry_policy(graph("a").nodes["a"], default).max_retries == 2


def test_a_type_that_cannot_be_repeated_runs_once() -> None:
    once = StepTypeFacts(type_id="work", supports_retry=False)
    drawn = compile_graph(draw("a", config={"a": {"retry_count": 5}}), lambda type_id: once)

    assert transitions.retry_policy(drawn.nodes["a"], RetryPolicy(max_retries=2)).max_retries == 0


def test_an_error_edge_takes_up_a_failure() -> None:
    run = Play(graph("a -> b", "a.error -> c"))
    run.begin("a")

    run.fail("a")

    assert (run.state("a"), run.state("b"), run.due) == ("failed", "skipped", {"c"})
    run.do("c")
    assert (run.status, run.run.failed) == (SegmentStatus.COMPLETED, 1)


def test_a_failure_that_nobody_takes_up_ends_the_run_and_cancels_what_is_open() -> None:
    run = Play(graph("s -> a", "s -> b -> c", parallel_execution=True))
    run.do("s")
    run.begin("a", "b")

    change = run.fail("a")

    assert change.cancel_open
    assert run.shown() == {"s": "completed", "a": "failed", "b": "cancelled", "c": "cancelled"}
    assert run.claim(("b", 1)) is None


def test_a_step_cancelled_with_its_branch_lets_go_of_the_siblings_behind_it() -> None:
    """They wait for nothing but its end."""
    drawn = graph("s -> split_1 -> x -> first_1", "split_1 -> p -> a -> first_1", "p -> b -> c")
    assert drawn.nodes["a"].order_after == ("b",)
    run = Play(drawn)
    run.do("s", "split_1", "p")

    run.do("x")

    assert run.state("a") == "cancelled"
    assert "b" in run.due


# -- ending from outside


@pytest.mark.parametrize("status", [SegmentStatus.CANCELLED, SegmentStatus.FAILED])
def test_a_run_is_ended_from_outside_once(status: SegmentStatus) -> None:
    run = Play(graph("a -> b"))
    run.begin("a")

    change = transitions.end_run(Slice(run.run, (), EPOCH + SECOND), status)

    assert (change.run.status, change.run.open, change.run.running, change.cancel_open) == (status, 0, 0, True)
    assert [event.duration_ms for event in change.events] == [1000]
    assert not transitions.end_run(Slice(change.run, (), EPOCH), SegmentStatus.CANCELLED).applied


def test_an_answer_after_the_deadline_ends_the_run() -> None:
    run = Play(graph("a -> b"), timeout=2.0)
    run.begin("a")
    run.now += 2 * SECOND

    run.end("a")

    assert (run.status, run.state("a"), run.state("b")) == (SegmentStatus.TIMEOUT, "cancelled", "cancelled")
    assert run.run.error is not None
    assert run.run.error.error_message.startswith("run timed out after 2 seconds")


# -- slices


def test_a_transition_asks_for_the_rows_that_it_lacks() -> None:
    run = Play(graph("a -> b -> c"))
    run.begin("a")

    with pytest.raises(NeedRows) as asked:
        transitions.finish(
            run.graph,
            Slice(run.run, [run.rows["a", 1]], run.now),
            ("a", 1),
            1,
            transitions.Completed((1,)),
            policy=RetryPolicy(),
        )

    assert asked.value.keys == {("b", 1)}


def test_looking_ahead_loads_as_much_again_of_what_lies_behind() -> None:
    nodes = graph("a -> b -> c -> d -> e", "c -> x").nodes

    assert transitions.ahead(nodes, [("b", 1)], [("a", 1)]) == {("b", 1), ("c", 1)}
    assert transitions.ahead(nodes, [("b", 1)], [("a", 1)] * 3) == {("b", 1), ("c", 1), ("d", 1), ("x", 1)}
    assert transitions.ahead(nodes, [("e", 1)], [("a", 1)] * 3) == {("e", 1)}


def test_a_slice_leaves_the_rows_that_it_was_given_as_they_are() -> None:
    run = Play(graph("a -> b"))
    run.begin("a")
    before, moment = run.rows["b", 1], Slice(run.run, run.rows.values(), run.now)

    transitions.finish(run.graph, moment, ("a", 1), 1, transitions.Completed((1,)), policy=RetryPolicy())

    assert (before.state, before.live, run.run.completed) == (StepState.PENDING, 0, 0)
