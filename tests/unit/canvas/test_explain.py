"""What is said of a run and its open steps: for every owner and state, and for every run that can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmteam.canvas.explain import FleetView, Picture, RunExplained, StepsExplained, explain, name_of
from llmteam.canvas.graph import Graph
from llmteam.canvas.records import RunOptions, RunRecord, StepRecord
from llmteam.canvas.state import Key, RetryPolicy, SegmentStatus, StepRow, StepState
from llmteam.dispatch import QUARANTINE_QUEUE
from llmteam.events.models import ErrorInfo
from tests.drawing import graph
from tests.simulation import EPOCH, Simulation
from tests.unit.canvas.checked_simulation import CheckedSimulation
from tests.unit.canvas.plays import Play
from tests.unit.canvas.random_graphs import Answers, graphs, orders

QUEUE = "llmteam.default"
#: Sweeps that ended just now, wherever nothing else is said.
SWEPT = dict.fromkeys(("due", "expired", "runs"), EPOCH)
CALM = FleetView(workers={QUEUE: 2}, depths={QUEUE: 7}, swept=SWEPT)
ROW = graph("a -> b")


def record(run: Simulation, **fields: Any) -> RunRecord:
    state = run.run
    return replace(
        RunRecord("acme", "r-1", "", "drawn", "h", state.status, state.completed, len(run.graph.nodes), state.error,
                  EPOCH, state.started_at, state.finished_at, state.deadline),
        **fields,
    )  # fmt: skip


def held(run: Simulation, row: StepRow) -> StepRecord:
    running = row.state is StepState.RUNNING
    until = None if row.started_at is None else row.started_at + timedelta(seconds=30)
    return StepRecord(row, QUEUE, "host:7" if running else None, until if running else None)


def explained(
    run: Simulation,
    *,
    after: float = 0.0,
    fleet: FleetView = CALM,
    hints: int = 0,
    rows: Callable[[StepRow], StepRow] = lambda row: row,
    **fields: Any,
) -> RunExplained:
    """The run ``after`` seconds; ``rows`` changes its rows, ``fields`` its record."""
    steps = [replace(held(run, rows(row)), hints=hints) for row in run.rows.values()]
    now = run.now + timedelta(seconds=after)
    options = RunOptions(max_retries=run.policy.max_retries)
    fleet = replace(fleet, swept=dict.fromkeys(fleet.swept, now))
    return explain(Picture(record(run, **fields), steps, run.graph, now, options, fleet))


def of(found: RunExplained, step_id: str) -> StepsExplained:
    """The one group that the step is told in."""
    (group,) = (group for group in found.steps if step_id in [name_of(key) for key in group.steps])
    return group


def only(step_id: str, **fields: Any) -> Callable[[StepRow], StepRow]:
    """Changes one step's row."""
    return lambda row: replace(row, **fields) if row.step_id == step_id else row


def text(says: tuple[str, ...]) -> str:
    return "\n".join(says)


# -- inputs


def test_a_pending_step_names_what_it_waits_for_and_in_which_state_that_is() -> None:
    run = Play(ROW)

    found = of(explained(run), "b")

    assert (found.state, found.owner, found.queue, found.since, found.until) == ("pending", "inputs", None, EPOCH, None)
    assert found.says == (
        "Waiting for a (ready).",
        "Then: ready when all edges into it are decided and one is followed, skipped when none is.",
    )


def test_a_wide_join_names_a_few_of_its_branches_and_counts_the_others_what_moves_first() -> None:
    run = Play(graph("s -> split_1", *(f"split_1 -> b{number} -> all_1" for number in range(1_200))))
    run.do("s", "split_1", "b7")
    run.begin("b9", "b8")

    found = of(explained(run), "all_1")

    assert found.says[0] == (
        "Waiting for 1,199 steps (2 running, 1,197 ready): b8 (running), b9 (running), b0 (ready) and 1,196 more."
    )


def test_branches_of_one_state_are_told_in_one_word() -> None:
    run = Play(graph("s -> split_1", *(f"split_1 -> b{number} -> all_1" for number in range(3))))
    run.do("s", "split_1")

    assert of(explained(run), "all_1").says[0] == "Waiting for 3 ready steps: b0, b1 and b2."


@pytest.mark.parametrize("join", ["any_1", "first_1"])
def test_a_join_that_needs_one_branch_says_so(join: str) -> None:
    run = Play(graph("split_1 -> a", "split_1 -> b", f"a -> {join}", f"b -> {join}"))

    assert of(explained(run), join).says[1] == "Then: ready as soon as one branch arrives, skipped when none does."


def test_a_step_behind_a_loop_waits_for_it_and_one_in_it_for_its_own_round() -> None:
    run = Play(graph("a -> work -> if_1", "if_1.true -> a", "if_1.false -> z"))
    run.do("a", "work", "if_1", if_1="a")
    run.begin("a")

    found = explained(run, after=5)

    assert of(found, "z").says[0] == "Waiting for a#2 (running)."
    assert of(found, "work#2").says[0] == "Waiting for a#2 (running)."
    assert of(found, "work#2").since == EPOCH


def test_a_step_that_only_waits_for_its_turn_names_the_one_before_it() -> None:
    run = Play(graph("a -> b", "a -> c", parallel_execution=False))
    run.do("a")

    assert of(explained(run), "c").says[0] == "Waiting for b (ready)."


def test_a_join_with_nothing_left_to_wait_for_is_told_as_what_it_is() -> None:
    run = Play(ROW)
    run.do("a")

    found = of(explained(run, rows=only("b", state=StepState.PENDING, owner="inputs")), "b")

    assert found.says == (
        "Nothing is left to wait for, and yet not ready: `llmteam explain --check` looks for what is wrong.",
    )


# -- a queue


def test_a_ready_step_tells_its_queue_who_consumes_it_and_when_it_is_hinted_at_again() -> None:
    found = of(explained(Play(ROW), after=4), "a")

    assert (found.state, found.owner, found.queue) == ("ready", "queue", QUEUE)
    assert (found.since, found.until) == (EPOCH, EPOCH + timedelta(seconds=10))
    assert found.says == (
        "In the queue llmteam.default since 00:00:00Z (4 s ago).",
        "2 workers consume it, and 7 messages lie in it.",
        "A message was sent for it then.",
        "Until a worker takes it up, sweeps send others, the next at 00:00:10Z (in 6 s).",
    )


def test_a_queue_that_nobody_consumes_is_told_with_what_to_do() -> None:
    found = of(explained(Play(ROW), fleet=FleetView(workers={}, depths={QUEUE: 1}, swept=SWEPT), hints=3), "a")

    assert found.says[1] == "No worker consumes it, and 1 message lies in it: start one with `llmteam worker`."
    assert found.says[2] == "A message was sent for it then, and 3 more by sweeps."


def test_a_broker_that_is_away_leaves_the_rest_of_the_explanation() -> None:
    found = of(explained(Play(ROW), fleet=FleetView(fault="the broker cannot be reached", swept=SWEPT)), "a")

    assert found.says[1] == "Whether any worker consumes llmteam.default is not known: the broker cannot be reached."
    assert len(found.says) == 4


def test_where_nobody_was_asked_nothing_is_said_of_workers() -> None:
    assert "worker consumes" not in text(of(explained(Play(ROW), fleet=FleetView(swept=SWEPT)), "a").says)


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        (None, ["No such sweep has ended yet: start `llmteam worker` and `llmteam beat`."]),
        (50.0, ["The last such sweep ended at 00:00:10Z (50 s ago): start `llmteam worker` and `llmteam beat`."]),
        (10.0, []),
    ],
)
def test_a_hint_that_is_overdue_is_told_with_whether_sweeps_come(swept: float | None, said: list[str]) -> None:
    run = Play(ROW)
    now = EPOCH + timedelta(seconds=60)
    view = FleetView(swept={} if swept is None else {"due": now - timedelta(seconds=swept), "runs": now})
    steps = [held(run, row) for row in run.rows.values()]

    found = of(explain(Picture(record(run), steps, ROW, now, fleet=view)), "a")

    assert list(found.says[2:]) == ["A sweep was to send another at 00:00:10Z (50 s ago).", *said]


@pytest.mark.parametrize(
    ("workers", "said"), [(1, "Sweeps send no more while over 1,000 messages lie there"), (0, "A sweep")]
)
def test_a_deep_queue_that_is_worked_off_gets_no_more_messages(workers: int, said: str) -> None:
    view = FleetView(workers={QUEUE: workers}, depths={QUEUE: 1_001}, swept=SWEPT)

    assert of(explained(Play(ROW), after=20, fleet=view), "a").says[3].startswith(said)


def test_a_step_that_lost_two_workers_lies_in_quarantine() -> None:
    assert of(explained(Play(ROW), rows=only("a", losses=2)), "a").queue == QUARANTINE_QUEUE


# -- the next attempt


def test_a_retry_tells_the_error_the_attempts_and_when_the_next_one_comes() -> None:
    run = Play(ROW, RetryPolicy(max_retries=3, delay=timedelta(seconds=8)))
    run.begin("a")
    run.fail("a")

    found = of(explained(run, after=2), "a")

    assert (found.state, found.owner, found.until) == ("ready", "timer", EPOCH + timedelta(seconds=6))
    assert found.says == (
        "Attempt 1 of 4 failed with ValueError. The next one is due at 00:00:06Z (in 4 s).",
        "Then: into the queue llmteam.default; when no attempt is left, the step fails.",
        "2 workers consume it, and 7 messages lie in it.",
    )
    assert "a broke" not in text(found.says)


def test_a_step_whose_own_number_of_retries_differs_is_told_with_that() -> None:
    run = Play(graph("a -> b", config={"a": {"retry_count": 7}}), RetryPolicy(max_retries=1))
    run.begin("a")
    run.fail("a")

    assert of(explained(run), "a").says[0].startswith("Attempt 1 of 8 failed")


def test_a_delay_after_a_lost_worker_is_told_without_an_error() -> None:
    found = of(explained(Play(ROW), rows=only("a", owner="timer", losses=1)), "a")

    assert found.says[:2] == (
        "Waiting for its time, 00:00:10Z (in 10 s).",
        "Its worker was lost once; at 5 it fails with WorkerLostError.",
    )


# -- a lease


def test_a_running_step_tells_who_holds_it_how_long_and_what_then() -> None:
    run = Play(ROW)
    run.begin("a")

    found = of(explained(run, after=12, rows=only("a", deadline=EPOCH + timedelta(minutes=10))), "a")

    assert (found.state, found.owner, found.since) == ("running", "lease", EPOCH)
    assert found.says == (
        "Attempt 1 of 1 runs on host:7 since 00:00:00Z (12 s ago).",
        "The lease lasts until 00:00:30Z (in 18 s); a living worker renews it.",
        "If none does, the step starts again in the queue llmteam.default; no attempt is used up.",
        "The attempt has time until 00:10:00Z (in 9 min 48 s); then it counts as failed with StepTimeoutError.",
    )


def test_a_step_whose_lease_a_sweep_has_taken_away_is_about_to_be_taken_back() -> None:
    run = Play(ROW)
    run.begin("a")
    step = replace(held(run, run.rows["a", 1]), lease_until=None)

    found = explain(Picture(record(run), [step], ROW, EPOCH, fleet=CALM)).steps[0]

    assert found.says[1] == "The lease ran out: the worker is gone or cut off."


def test_a_lease_that_ran_out_tells_that_the_worker_is_gone() -> None:
    run = Play(ROW)
    run.begin("a")

    found = of(explained(run, after=42), "a")

    assert found.says[1:] == (
        "The lease ran out at 00:00:30Z (12 s ago): the worker is gone or cut off.",
        "A sweep takes it back, and the step starts again in the queue llmteam.default; no attempt is used up.",
    )


@pytest.mark.parametrize(
    ("losses", "then"),
    [
        (1, "starts again in the queue llmteam.quarantine; no attempt is used up"),
        (4, "fails with WorkerLostError, since that is loss 5"),
    ],
)
def test_a_step_that_takes_its_workers_down_is_told_where_that_leads(losses: int, then: str) -> None:
    run = Play(ROW)
    run.begin("a")

    found = text(of(explained(run, rows=only("a", losses=losses)), "a").says)

    assert f"Its worker was lost {'once' if losses == 1 else '4 times'}; at 5 it fails with WorkerLostError." in found
    assert f"If none does, the step {then}." in found


# -- people, limits, timers, pauses


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        ("limit", "Waiting for room under a limit since 00:00:00Z (now)."),
        ("timer", "Waiting for its timer since 00:00:00Z (now)."),
    ],
)
@pytest.mark.parametrize("wake_at", [None, EPOCH + timedelta(hours=30)])
def test_a_waiting_step_tells_for_whom_and_until_when(owner: Any, said: str, wake_at: datetime | None) -> None:
    run = Play(ROW)
    run.begin("a")

    found = of(explained(run, rows=only("a", state=StepState.WAITING, owner=owner, wake_at=wake_at)), "a")

    assert found.says[0] == said
    assert text(found.says[1:]).startswith("" if wake_at is None else "At 2026-01-02 06:00:00Z (in 30 h 00 min)")


@pytest.mark.parametrize(
    ("state", "owner", "said"),
    [
        (StepState.READY, "queue", "it was ready, or ran and begins again."),
        (StepState.READY, "timer", "it waited for its time, with 40 s left."),
        (StepState.WAITING, "person", "it waited for a person's answer, with 40 s left."),
        (StepState.WAITING, "limit", "it waited for room under a limit, with 40 s left."),
        (StepState.WAITING, "timer", "it waited for its time, with 40 s left."),
    ],
)
def test_a_step_of_a_paused_run_tells_what_it_goes_back_to(state: StepState, owner: str, said: str) -> None:
    run = Play(ROW)
    paused = record(run, status=SegmentStatus.PAUSED, paused_at=EPOCH, snapshot_id="s-1")
    frozen = replace(run.rows["a", 1], state=state, owner="pause", wake_at=None)
    step = replace(held(run, frozen), held_owner=owner, held_wake_at=EPOCH + timedelta(seconds=40))

    (found,) = explain(Picture(paused, [step], ROW, EPOCH + timedelta(hours=9), fleet=CALM)).steps

    assert (found.owner, found.since, found.until) == ("pause", EPOCH, None)
    assert found.says == (
        "Held by the pause of its run: its time stands still and nothing wakes it.",
        f"Before, {said} Then: `llmteam runs resume r-1` lets it go on there.",
    )


def test_what_no_rule_allows_is_told_as_such() -> None:
    found = of(explained(Play(ROW), rows=only("a", owner=None)), "a")

    assert found.says == ("No rule lets a step that is ready wait for nobody: `llmteam explain --check`.",)


# -- many


def test_a_fan_out_is_told_in_a_few_groups() -> None:
    run = Play(graph("s -> split_1", *(f"split_1 -> b{n} -> c{n} -> all_1" for n in range(400)), "all_1 -> end"))
    run.do("s", "split_1", *(f"b{number}" for number in range(50)))
    run.begin(*(f"b{number}" for number in range(50, 90)))
    steps = [replace(held(run, row), holder=f"host:{row.step_id}") for row in run.rows.values()]

    found = explain(Picture(record(run), steps, run.graph, run.now, fleet=CALM))

    assert [(len(group.steps), group.state.value) for group in found.steps] == [
        *((40, "running"), (360, "ready"), (1, "pending"), (40, "pending"), (310, "pending"), (1, "pending"))
    ]
    assert found.steps[0].says[0].startswith("Attempt 1 of 4 runs on host:b50, host:b51, host:b52 and 37 more since")
    assert found.steps[3].says[0] == (
        "Each waits for others: c50 for b50 (running), c51 for b51 (running), c52 for b52 (running), and so on."
    )


def test_steps_of_several_queues_that_are_told_together_have_no_queue_in_common() -> None:
    run = Play(graph("s -> split_1", *(f"split_1 -> b{number}" for number in range(12))))
    run.do("s", "split_1")
    run.begin(*(f"b{number}" for number in range(12)))
    steps = [
        replace(held(run, row), queue=f"q{number % 2}", holder=str(number))
        for number, row in enumerate(run.rows.values())
        if row.state is StepState.RUNNING
    ]

    (found,) = explain(Picture(record(run), steps, run.graph, run.now, fleet=CALM)).steps

    assert (len(found.steps), found.queue) == (12, None)
    assert found.says[2] == "If none does, the step starts again in the queue q0 and q1; no attempt is used up."


def test_steps_that_fare_differently_stand_apart_as_long_as_they_are_few() -> None:
    run = Play(graph("split_1 -> a", "split_1 -> b", "split_1 -> c"), RetryPolicy(max_retries=3))
    run.do("split_1")
    run.begin("a", "b")
    run.fail("a")

    assert [group.says[0].partition(" ")[0] for group in explained(run).steps] == ["Attempt", "Attempt", "In"]


# -- the run itself


def test_a_running_run_tells_since_when_and_what_its_deadline_does() -> None:
    assert explained(Play(ROW, timeout=90), after=30).says == (
        "Running since 00:00:00Z (30 s ago): 1 pending, 1 ready.",
        "It has until 00:01:30Z (in 1 min 00 s); then it ends with the status timeout, open steps cancelled.",
    )
    assert explained(Play(ROW, timeout=90), after=93).says[1] == (
        "Its deadline was 00:01:30Z (3 s ago): the next sweep ends it with the status timeout."
    )
    assert explained(Play(ROW)).says[1] == "It has no deadline."


def test_a_pausing_run_tells_when_the_pause_takes_hold_and_begins_nothing() -> None:
    run = Play(graph("split_1 -> a -> c", "split_1 -> b -> c"))
    run.do("split_1")
    run.begin("a")
    pausing = {"status": SegmentStatus.PAUSING, "paused_at": EPOCH, "wake_at": EPOCH + timedelta(seconds=30)}

    found = explained(run, after=10, **pausing)

    assert found.says == (
        "Pausing since 00:00:00Z (10 s ago): 1 pending, 1 ready, 1 running, 1 completed.",
        "Running steps may finish, no other is begun; then it is paused.",
        "What still runs at 00:00:30Z (in 20 s) begins again after the pause; no attempt is used up.",
    )
    assert of(found, "b").says[-1] == "The run is pausing, so that nothing more of it is begun."
    late = explained(run, after=60, fleet=FleetView(), **pausing)
    assert late.says[-1] == "No such sweep has ended yet: start `llmteam worker` and `llmteam beat`."


def test_a_paused_run_tells_its_snapshot_what_resumes_it_and_what_time_it_has_left() -> None:
    found = explained(
        Play(ROW, timeout=100), after=3_600, status=SegmentStatus.PAUSED, paused_at=EPOCH, snapshot_id="s-1"
    )

    assert found.says == (
        "Paused since 00:00:00Z (1 h 00 min ago) by the snapshot s-1: 1 pending, 1 ready.",
        "Nothing of it moves until `llmteam runs resume r-1`; its timers stand still until then.",
        "From then on it has 1 min 40 s left before it ends with the status timeout.",
    )


def test_a_run_that_ended_well_tells_when_and_how_many_steps_it_took() -> None:
    run = Play(ROW)
    run.do("a", "b")

    found = explained(run, after=60)

    assert found.says == ("Completed at 00:00:00Z (1 min 00 s ago), after less than a second: 2 completed.",)
    assert found.steps == ()


def test_a_failed_run_names_the_step_its_attempts_its_losses_and_what_can_be_done() -> None:
    run = Play(ROW)
    run.begin("a")
    run.fail("a")

    assert explained(run, rows=only("a", losses=1)).says == (
        "Failed at 00:00:00Z (now), after less than a second: 1 failed, 1 cancelled.",
        "The error: ValueError: a broke",
        "The step a failed for good at attempt 1 of 1, and its worker was lost once.",
        "`llmteam runs retry r-1` makes a new run of it that keeps what finished steps gave.",
    )


def test_a_run_whose_step_took_its_workers_with_it_says_that_it_was_no_attempt() -> None:
    run = Play(ROW)
    run.begin("a")
    run.fail("a")
    error = ErrorInfo(error_type="WorkerLostError", error_message="vanished", error_code="worker_lost")

    found = explained(run, rows=only("a", error=error, attempt=0, losses=5), error=error)

    assert found.says[2] == "The step a failed for good at loss 5 of its worker, with 0 failed attempts."


def test_a_run_that_failed_by_itself_blames_no_step() -> None:
    run = Play(ROW)
    run.do("a", "b")
    error = ErrorInfo(error_type="LoopLimitError", error_message="the loop at 'a' went round 3 times")

    found = explained(run, status=SegmentStatus.FAILED, error=error)

    assert found.says[1] == "The error: LoopLimitError: the loop at 'a' went round 3 times"
    assert "failed for good" not in text(found.says)


@pytest.mark.parametrize(
    ("status", "begins"), [(SegmentStatus.CANCELLED, "Cancelled at"), (SegmentStatus.TIMEOUT, "Its time was up at")]
)
def test_a_run_that_was_ended_names_the_steps_that_had_begun(status: SegmentStatus, begins: str) -> None:
    run = Play(ROW)
    run.begin("a")
    over = EPOCH + timedelta(seconds=3)

    def cancelled(row: StepRow) -> StepRow:
        return replace(row, state=StepState.CANCELLED, owner=None, wake_at=None, finished_at=over)

    found = explained(run, rows=cancelled, status=status, finished_at=over, after=5)

    assert found.says[0] == f"{begins} 00:00:03Z (2 s ago), after 3 s: 2 cancelled."
    assert found.says[1] == "1 step had begun and was not over: a."
    assert found.steps == ()


def test_a_run_without_open_steps_that_goes_on_is_told_as_a_riddle() -> None:
    run = Play(ROW)
    run.do("a", "b")

    assert explained(run, status=SegmentStatus.RUNNING).says[1].startswith("No step is open")


def test_a_run_that_was_made_from_another_one_says_so() -> None:
    assert explained(Play(ROW), link="retry", parent_run_id="r-0").says[-1] == "It was made as a retry of the run r-0."


# -- every run


class Explained(CheckedSimulation):
    """Explains the run after every move."""

    def _promises_hold(self) -> None:
        super()._promises_hold()
        steps = [held(self, row) for row in self.rows.values()]
        picture = Picture(record(self), steps, self.graph, self.now, fleet=CALM)
        found = explain(picture)
        told = [key for group in found.steps for key in group.steps]
        assert sorted(told) == sorted(row.key for row in self.rows.values() if row.state.is_open)
        assert found.says
        assert all(all(group.says) for group in found.steps)
        assert "explain --check" not in text(tuple(line for group in found.steps for line in group.says))
        for row in self.rows.values():
            if row.state is StepState.PENDING and not self.run.status.is_terminal:
                assert len(picture.awaited.of(row)) == row.undecided, row.key


@settings(max_examples=300)
@given(graphs(), st.integers(0, 2**16), orders(), st.sampled_from((0.0, 0.1, 0.3)), st.integers(0, 2))
def test_no_state_that_a_run_can_be_in_lacks_an_explanation(
    drawn: Graph, seed: int, order: Callable[[int], int], rate: float, max_retries: int
) -> None:
    run = Explained(drawn, RetryPolicy(max_retries=max_retries))
    answers = Answers(drawn, seed, rate)

    run.play(lambda key: answers(key, run.rows[key].attempt), order, max_moves=3_000)


@settings(max_examples=300)
@given(
    st.sampled_from(StepState),
    st.sampled_from(("inputs", "queue", "lease", "timer", "person", "limit", "pause", None)),
    st.sampled_from(("pending", "running", "pausing", "paused", "completed", "failed", "cancelled", "timeout")),
    st.integers(0, 6),
    st.none() | st.integers(-100_000, 100_000).map(lambda seconds: EPOCH + timedelta(seconds=seconds)),
    st.sampled_from((FleetView(), CALM, FleetView(fault="away"))),
)
def test_even_a_row_that_no_rule_allows_is_explained(
    state: StepState, owner: Any, status: str, losses: int, moment: datetime | None, fleet: FleetView
) -> None:
    rows: dict[Key, StepRow] = {key: replace(row) for key, row in Play(ROW).rows.items()}
    rows["a", 1] = StepRow("a", state=state, owner=owner, wake_at=moment, losses=losses, deadline=moment)
    steps = [StepRecord(row, QUEUE, None, moment) for row in rows.values()]
    known = [one for one in SegmentStatus if one.value == status]
    shown = replace(record(Play(ROW)), status=known[0] if known else SegmentStatus.RUNNING, deadline=moment)

    found = explain(Picture(shown, steps, ROW, EPOCH, fleet=fleet))

    assert found.says
    assert all(group.says for group in found.steps)
