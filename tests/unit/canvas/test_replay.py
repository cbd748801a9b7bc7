"""A run that takes over what another one had done ends as that one did, or would have."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmteam.canvas.graph import Graph
from llmteam.canvas.replay import behind, replay, reusable_rows
from llmteam.canvas.routing import DEAD, LIVE
from llmteam.canvas.state import Completed, Failed, Key, Outcome, RetryPolicy, SegmentStatus, StepRow, StepState
from llmteam.events.models import ErrorInfo
from tests.drawing import graph
from tests.unit.canvas.checked_simulation import CheckedSimulation
from tests.unit.canvas.random_graphs import Answers, graphs, orders

Order = Callable[[int], int]

seeds = st.integers(0, 2**16)
failing = st.sampled_from((0.0, 0.1, 0.3))
ONCE = RetryPolicy(max_retries=0)


class Cut(Exception):  # noqa: N818  # the moment at which a run is left
    """The run stops here."""


def play(
    run: CheckedSimulation, answers: Callable[[Key, int], Outcome], order: Order, moves: int | None = None
) -> CheckedSimulation:
    """Move a run to its end, or so many moves."""
    left = [moves]

    def choose(count: int) -> int:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise Cut
        return order(count)

    with suppress(Cut):
        run.play(lambda key: answers(key, 0), choose, max_moves=3_000)
    return run


def taken_over(run: CheckedSimulation, finished: Iterable[StepRow]) -> CheckedSimulation:
    """A run that begins with what is finished in another one."""
    again = CheckedSimulation(run.graph, ONCE)
    change = replay(run.graph, "again", list(finished), run.now)
    assert not change.ended
    assert set(change.ready) == {key for key, row in change.added.items() if row.state is StepState.READY} != set()
    again.run, again.rows, again.now = change.run, dict(change.added), run.now
    again.events, again.hinted = list(change.events), list(change.ready)
    again._promises_hold()
    return again


def outcome(run: CheckedSimulation) -> object:
    if run.status is not SegmentStatus.COMPLETED:
        return run.status
    return {key: (row.state, row.decisions, row.terminal) for key, row in run.rows.items()}


@settings(max_examples=300)
@given(graphs(early=False), seeds, orders(), orders(), failing, st.integers(0, 60))
def test_a_run_that_is_cut_anywhere_and_replayed_ends_as_it_would_have(
    drawn: Graph, seed: int, one: Order, other: Order, rate: float, moves: int
) -> None:
    answers = Answers(drawn, seed, rate)
    whole = play(CheckedSimulation(drawn, ONCE), answers, one)
    cut = play(CheckedSimulation(drawn, ONCE), answers, one, moves)

    again = play(taken_over(cut, reusable_rows(drawn, cut.rows.values())), answers, other)

    assert outcome(again) == outcome(whole)


@settings(max_examples=300)
@given(graphs(early=False), seeds, orders(), orders(), failing, st.integers(0, 2**16))
def test_a_fork_at_any_step_with_nothing_edited_ends_as_the_run_did(
    drawn: Graph, seed: int, one: Order, other: Order, rate: float, where: int
) -> None:
    answers = Answers(drawn, seed, rate)
    whole = play(CheckedSimulation(drawn, ONCE), answers, one)
    begun = sorted(row.key for row in whole.rows.values() if row.started_at is not None)
    start = whole.rows[random.Random(where).choice(begun)]

    fork = taken_over(whole, kept(drawn, start, whole))
    assert fork.rows[start.key].state is StepState.READY, "the step that a fork is for runs first"
    again = play(fork, answers, other)

    assert outcome(again) == outcome(whole)


def kept(drawn: Graph, start: StepRow, run: CheckedSimulation) -> list[StepRow]:
    dropped = behind(drawn, start, run.rows.values())
    return [row for row in reusable_rows(drawn, run.rows.values()) if row.key not in dropped]


@settings(max_examples=300)
@given(graphs(), seeds, orders(), orders(), failing, st.integers(0, 60))
def test_whatever_is_replayed_can_be_played_to_an_end(
    drawn: Graph, seed: int, one: Order, other: Order, rate: float, moves: int
) -> None:
    answers = Answers(drawn, seed, rate)
    cut = play(CheckedSimulation(drawn, ONCE), answers, one, moves)
    done = {row.key for row in reusable_rows(drawn, cut.rows.values())}
    assume(done)

    again = taken_over(cut, reusable_rows(drawn, cut.rows.values()))
    reused = {key for key, row in again.rows.items() if row.state is StepState.COMPLETED}
    play(again, answers, other)

    assert again.status.is_terminal
    assert reused <= done
    assert not reused & set(again.started), "what is taken over does not run again"
    assert len(done - reused) <= lost_by_order(cut, done)


def lost_by_order(run: CheckedSimulation, done: set[Key]) -> int:
    """How many finished steps may have to run again: the last one of a run that was over, failures aside."""
    failures = sum(run.rows[key].state is not StepState.COMPLETED for key in done)
    return failures + run.status.is_terminal


ALONE = ("split_2 -> broken -> any_9",)
WITHIN = ("split_2 -> split_3", "split_3 -> broken -> all_4", "split_3 -> s_5 -> all_4", "all_4 -> any_9")


@pytest.mark.parametrize("branch", [ALONE, WITHIN], ids=["felt by a join", "of a branch that dies with it"])
def test_a_failure_that_a_loop_has_left_behind_undoes_nothing_that_came_after(branch: tuple[str, ...]) -> None:
    drawn = graph(
        "s_0 -> s_1 -> split_2", *branch, "split_2 -> s_6 -> any_9", "any_9 -> if_10", "if_10.true -> s_1",
        "if_10.false -> end",
    )  # fmt: skip
    error = ErrorInfo(error_type="ValueError", error_message="it broke")

    def answers(key: Key, attempt: int) -> Outcome:
        if key in {("broken", 1), ("if_10", 2)}:
            return Failed(error, retryable=False)
        return Completed((LIVE, DEAD) if key == ("if_10", 1) else (LIVE,), {"output": 1}, {"output": 1})

    failed = play(CheckedSimulation(drawn, ONCE), answers, lambda count: 0)
    assert failed.status is SegmentStatus.FAILED

    again = taken_over(failed, reusable_rows(drawn, failed.rows.values()))

    assert [key for key, row in again.rows.items() if row.state is StepState.READY] == [("if_10", 2)]
    body = [(step_id, 1) for step_id in drawn.loops["s_1"].body]
    assert came_to(again, body) == came_to(failed, body)


def came_to(run: CheckedSimulation, keys: list[Key]) -> object:
    return {key: (run.rows[key].state, run.rows[key].decisions) for key in keys}
