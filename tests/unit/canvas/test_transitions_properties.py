"""Every run of every graph: it ends, and on the way it keeps its promises (see ``checked_simulation``)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from llmteam.canvas.graph import Graph
from llmteam.canvas.routing import DEAD, FAILED, LIVE, decision_at, error_decisions
from llmteam.canvas.state import Completed, Key, RetryPolicy, SegmentStatus, StepState
from llmteam.events.models import ErrorInfo, EventType
from tests.drawing import graph
from tests.unit.canvas.checked_simulation import CheckedSimulation
from tests.unit.canvas.random_graphs import Answers, graphs, orders

Order = Callable[[int], int]

seeds = st.integers(0, 2**16)
failing = st.sampled_from((0.0, 0.1, 0.3))
retries = st.integers(0, 2)


def play(drawn: Graph, answers: Answers, order: Order, *, max_retries: int = 0) -> CheckedSimulation:
    """The run of ``drawn`` until its end."""
    run = CheckedSimulation(drawn, RetryPolicy(max_retries=max_retries))
    run.play(lambda key: answers(key, run.rows[key].attempt), order, max_moves=3_000)
    return run


@settings(max_examples=400)
@given(graphs(), seeds, orders(), failing, retries)
def test_every_run_ends_and_keeps_its_promises(
    drawn: Graph, seed: int, order: Order, rate: float, max_retries: int
) -> None:
    run = play(drawn, Answers(drawn, seed, rate), order, max_retries=max_retries)

    attempts = Counter((event.step_id, event.visit, event.attempt) for event in ended(run))
    assert max(attempts.values(), default=0) <= 1
    assert Counter(run.started) == Counter((step_id, visit) for step_id, visit, _ in attempts) + unfinished(run)


def ended(run: CheckedSimulation) -> list[object]:
    kinds = (EventType.STEP_COMPLETED, EventType.STEP_FAILED, EventType.STEP_RETRYING)
    return [event for event in run.events if event.event_type in kinds and (event.step_id, event.visit) in run.started]


def unfinished(run: CheckedSimulation) -> Counter[Key]:
    """Claims whose step was cancelled under them."""
    return Counter(key for key, row in run.rows.items() if row.state is StepState.CANCELLED and row.fence > row.attempt)


@settings(max_examples=250)
@given(graphs(early=False), seeds, orders(), orders(), failing, retries)
def test_the_order_in_which_branches_finish_changes_nothing(
    drawn: Graph, seed: int, one: Order, other: Order, rate: float, max_retries: int
) -> None:
    answers = Answers(drawn, seed, rate)

    first, second = (play(drawn, answers, order, max_retries=max_retries) for order in (one, other))

    assert first.status is second.status
    if first.status is SegmentStatus.COMPLETED:
        assert outcome(first) == outcome(second)


def outcome(run: CheckedSimulation) -> object:
    rows = {
        key: (row.state, row.decisions, row.undecided, row.live, row.failed_in, row.attempt, row.fence, row.terminal)
        for key, row in run.rows.items()
    }
    told = Counter((event.event_type, event.step_id, event.visit, event.attempt) for event in run.events)
    return rows, told


@settings(max_examples=250)
@given(graphs(loops=False), seeds, orders(), failing)
def test_without_loops_a_run_is_what_the_plain_definition_says(
    drawn: Graph, seed: int, order: Order, rate: float
) -> None:
    if any(node.strategy == "first" or (rate and node.is_join and not node.fires_early) for node in joins(drawn)):
        rate = 0.0
    answers = Answers(drawn, seed, rate)

    run = play(drawn, answers, order)

    said = plain_definition(drawn, answers)
    if said is None:
        assert run.status is SegmentStatus.FAILED
        return
    assert run.status is SegmentStatus.COMPLETED
    states = {key[0]: state for key, state in run.states().items() if state is not StepState.CANCELLED}
    assert states == {step_id: state for step_id, (state, _) in said.items() if step_id in states}
    assert set(said) - set(states) <= {
        step_id for join in joins(drawn) if join.strategy == "first" for step_id in drawn.regions[join.step_id]
    }


def joins(drawn: Graph) -> list[object]:
    return [node for node in drawn.nodes.values() if node.is_join]


#: Error edges of random graphs have conditions that hold, or not, whatever the error says.
BROKEN = ErrorInfo(error_type="", error_message="")

Said = dict[str, tuple[StepState, tuple[int, ...]]]


def plain_definition(drawn: Graph, answers: Answers) -> Said | None:
    """State and decisions of each step by recursion over what leads to it; None when the run fails."""
    said: Said = {}
    for step_id in drawn.order:
        node = drawn.nodes[step_id]
        arriving = [decision_at(said[edge.source][1], drawn.nodes[edge.source].place[edge.index]) for edge in node.ins]
        broken = FAILED in arriving
        if step_id != drawn.entry and (LIVE not in arriving or (broken and not node.fires_early)):
            if not (broken and node.fires_early):
                said[step_id] = (StepState.SKIPPED, (FAILED,) if broken else (DEAD,))
                continue
        else:
            answer = answers((step_id, 1))
            if isinstance(answer, Completed):
                said[step_id] = (StepState.COMPLETED, answer.decisions or (DEAD,))
                continue
        handled = error_decisions(node, BROKEN)
        if handled is None and not is_contained(drawn, step_id):
            return None
        said[step_id] = (StepState.FAILED, handled or (FAILED,))
    return said | dict.fromkeys(drawn.unreachable, (StepState.SKIPPED, (DEAD,)))


def is_contained(drawn: Graph, step_id: str) -> bool:
    """Whether a join that needs only one of its branches stands behind the step."""
    scope = drawn.nodes[step_id].scope
    return scope is not None and (drawn.nodes[scope].fires_early or is_contained(drawn, scope))


@settings(max_examples=200)
@given(graphs(), seeds, orders(), failing, retries, st.randoms(use_true_random=False))
def test_outcomes_that_come_twice_or_late_change_nothing(
    drawn: Graph, seed: int, order: Order, rate: float, max_retries: int, chance: random.Random
) -> None:
    answers = Answers(drawn, seed, rate)
    run = CheckedSimulation(drawn, RetryPolicy(max_retries=max_retries))
    known: list[tuple[Key, int, object]] = []

    def answer(key: Key) -> object:
        for late, fence, outcome in chance.sample(known, min(len(known), 2)):
            before = (run.run, run.states(), len(run.events))
            again = run.finish(late, outcome, fence=fence)
            assert before == (run.run, run.states(), len(run.events))
            assert again.applied == (
                run.rows[late].fence == fence and run.rows[late].state in (StepState.COMPLETED, StepState.FAILED)
            )
            assert all(run.rows[ready].state is StepState.READY for ready in again.ready)
        known.append((key, run.rows[key].fence, answers(key, run.rows[key].attempt)))
        return known[-1][2]

    run.play(answer, order, max_moves=3_000)


@settings(max_examples=200)
@given(graphs(), seeds, orders(), st.integers(0, 200))
def test_no_step_goes_on_after_the_deadline_of_its_run(drawn: Graph, seed: int, order: Order, steps: int) -> None:
    limit = steps / 100
    run = CheckedSimulation(drawn, timeout=limit)
    answers = Answers(drawn, seed)

    run.play(answers, order, max_moves=3_000)

    assert run.run.finished_at is not None
    assert run.run.started_at is not None
    lasted = run.run.finished_at - run.run.started_at
    assert (run.status is SegmentStatus.TIMEOUT) == (lasted >= timedelta(seconds=limit))


@settings(max_examples=150)
@given(graphs(), seeds, orders(), failing, st.randoms(use_true_random=False))
def test_chords_bring_the_hint_of_their_join_or_it_is_sent(
    drawn: Graph, seed: int, order: Order, rate: float, chance: random.Random
) -> None:
    run = CheckedSimulation(drawn)
    answers = Answers(drawn, seed, rate)
    headers: dict[Key, str] = {}
    run.finishing = lambda key: {
        "chord_id": f"chord-{key[0]}-{key[1]}",
        "delivered_chord": headers.pop(key, None) if chance.random() < 0.7 else None,
    }
    run.changed = lambda change: headers.update(dict.fromkeys(change.ready, change.chord) if change.chord else {})

    run.play(answers, order, max_moves=3_000)


@settings(max_examples=20)
@given(st.integers(2, 60), st.sampled_from(("all", "any")), orders())
def test_rows_read_per_step_do_not_grow_with_the_number_of_branches(branches: int, join: str, order: Order) -> None:
    lines = [f"split_1 -> b{number} -> c{number} -> {join}_1" for number in range(branches)]

    run = play(drawn := graph(*lines, f"{join}_1 -> end"), Answers(drawn, 0), order)

    assert sorted(run.rows_read)[-2:] == [2, branches + 1]
