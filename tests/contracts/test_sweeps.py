"""What sweeps find and when, in memory and in Postgres alike."""

from __future__ import annotations

from datetime import timedelta

from llmteam.canvas import pauses
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.sweeping import Expired, LateRun
from llmteam.dispatch import DEFAULT_QUEUE, IO_QUEUE, Hint
from tests.conformance.desk import TENANT, at_once
from tests.conformance.ward import Ward
from tests.drawing import draw

ONE = draw("a")
WIDE = draw("s -> split_1", *(f"split_1 -> b{number} -> all_1" for number in range(20)))


def until_next(ward: Ward, run_id: str) -> float:
    """Seconds until a sweep looks at step ``a`` again."""
    wake_at = ward.row(run_id, "a").wake_at
    assert wake_at is not None
    return round((wake_at - ward.engine.clock()).total_seconds())


def test_a_step_that_is_ready_is_hinted_at_again_after_ten_seconds_and_not_before(ward: Ward) -> None:
    run_id = ward.start(ONE)
    ward.pass_time(8)
    assert ward.sweeps.take_due(10) == []
    ward.pass_time(3)

    assert ward.sweeps.take_due(10) == [Hint(TENANT, run_id, "a", 1, DEFAULT_QUEUE)]

    assert ward.sweeps.take_due(10) == []


def test_hints_become_ever_rarer_until_they_come_every_five_minutes(ward: Ward) -> None:
    run_id = ward.start(ONE)
    pauses = []

    for _ in range(8):
        ward.pass_time(301)
        assert len(ward.sweeps.take_due(10)) == 1
        pauses.append(until_next(ward, run_id))

    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    assert ward.rows(run_id)["a"].hints == 8


def test_hints_begin_anew_with_each_claim(ward: Ward) -> None:
    run_id = ward.start(ONE)
    for _ in range(4):
        ward.pass_time(301)
        ward.sweeps.take_due(10)

    ward.lose(ward.claim(run_id, "a"))

    assert (ward.rows(run_id)["a"].hints, until_next(ward, run_id)) == (0, 10)


def test_a_sweep_takes_no_more_than_it_is_told_and_first_what_has_waited_longest(ward: Ward) -> None:
    names = []
    for _ in range(6):
        names.append(ward.start(ONE))
        ward.pass_time(5)
    ward.pass_time(20)

    batches = [[hint.run_id for hint in ward.sweeps.take_due(2)] for _ in range(4)]

    assert [set(batch) for batch in batches] == [set(names[:2]), set(names[2:4]), set(names[4:]), set()]


def test_queues_that_are_busy_are_left_out_and_keep_nobody_else_from_hints(ward: Ward) -> None:
    busy = [ward.start(ONE) for _ in range(5)]
    ward.pass_time(1)
    other = ward.start(draw("all_1"))
    ward.pass_time(11)

    found = ward.sweeps.take_due(2, [DEFAULT_QUEUE])

    assert [(hint.run_id, hint.queue) for hint in found] == [(other, IO_QUEUE)]
    assert {hint.run_id for hint in ward.sweeps.take_due(10)} == set(busy)


def test_sweeps_at_once_share_what_is_due(ward: Ward) -> None:
    run_id = ward.start(WIDE)
    ward.do(run_id, "s", "split_1")
    ward.pass_time(11)

    found = at_once([lambda: ward.sweeps.take_due(500) for _ in range(4)])

    steps = [hint.step_id for hints in found for hint in hints]
    assert sorted(steps) == sorted({f"b{number}" for number in range(20)})


def test_a_retry_whose_hint_was_lost_can_be_claimed_whenever_a_sweep_hinted_at_it(ward: Ward) -> None:
    run_id = ward.start(ONE, max_retries=1, retry_delay=60.0)
    ward.engine.failed(ward.claim(run_id, "a"), ValueError("broken"))
    ward.pass_time(20)
    assert ward.sweeps.take_due(10) == [], "its time has not come"
    assert ward.begin(run_id, "a") is None

    for _ in range(3):
        ward.pass_time(301)
        assert len(ward.sweeps.take_due(10)) == 1

    assert ward.claim(run_id, "a").ctx.attempt == 2


def test_a_step_that_runs_pauses_or_is_over_is_not_hinted_at(ward: Ward) -> None:
    running, paused, over = (ward.start(ONE) for _ in range(3))
    ward.claim(running, "a")
    ward.surgery.pause(TENANT, paused, grace=0.0)
    ward.do(over, "a")
    ward.pass_time(1000)

    assert ward.sweeps.take_due(10) == []


# -- leases and deadlines


def test_a_lease_that_ran_out_is_found_and_taken(ward: Ward) -> None:
    run_id = ward.start(ONE)
    ward.claim(run_id, "a")
    ward.pass_time(28)
    assert ward.sweeps.take_expired(10) == []
    ward.pass_time(3)

    assert ward.sweeps.take_expired(10) == [Expired(TENANT, run_id, ("a", 1), 1, lost=True)]

    assert ward.sweeps.take_expired(10) == []
    ward.pass_time(6)
    assert ward.sweeps.take_expired(10) == [Expired(TENANT, run_id, ("a", 1), 1, lost=True)], "a sweep died in between"


def test_a_deadline_that_passed_is_found_while_the_lease_is_kept(ward: Ward) -> None:
    run_id = ward.start(ONE, step_timeout=10.0)
    ward.claim(run_id, "a")
    ward.pass_time(16)

    assert ward.sweeps.take_expired(10) == [Expired(TENANT, run_id, ("a", 1), 1, lost=False)]


def test_sweeps_at_once_share_the_leases_that_ran_out(ward: Ward) -> None:
    run_id = ward.start(WIDE)
    ward.do(run_id, "s", "split_1")
    for number in range(20):
        ward.claim(run_id, f"b{number}")
    ward.pass_time(31)

    found = at_once([lambda: ward.sweeps.take_expired(500) for _ in range(4)])

    steps = [one.key[0] for several in found for one in several]
    assert sorted(steps) == sorted({f"b{number}" for number in range(20)})


def test_leases_are_taken_in_batches(ward: Ward) -> None:
    for _ in range(5):
        ward.claim(ward.start(ONE), "a")
    ward.pass_time(31)

    assert [len(ward.sweeps.take_expired(2)) for _ in range(4)] == [2, 2, 1, 0]


# -- whole runs


def test_a_run_over_time_is_found_until_it_is_ended(ward: Ward) -> None:
    run_id = ward.start(ONE, timeout_seconds=60.0)
    assert ward.sweeps.late_runs(10) == []
    ward.pass_time(61)

    assert ward.sweeps.late_runs(10) == [LateRun(TENANT, run_id)]

    assert ward.sweeper.sweep("runs") == 1
    assert ward.status(run_id) is SegmentStatus.TIMEOUT
    assert ward.sweeps.late_runs(10) == []


def test_a_pause_whose_drain_took_too_long_takes_hold(ward: Ward) -> None:
    run_id = ward.start(ONE)
    execution = ward.claim(run_id, "a")
    until = ward.engine.clock() + timedelta(seconds=30)
    ward.store.apply(
        execution.header, [], lambda moment: pauses.begin_pause(moment, until), {}, now=ward.engine.clock()
    )
    assert ward.sweeps.late_runs(10) == []
    ward.pass_time(31)

    assert ward.sweeps.late_runs(10) == [LateRun(TENANT, run_id, pausing=True)]

    ward.sweeper.sweep("runs")
    assert ward.status(run_id) is SegmentStatus.PAUSED
    assert not ward.engine.answered(execution, "late").applied


def test_a_sweep_moves_all_that_it_finds(ward: Ward) -> None:
    lost, overdue = ward.start(ONE), ward.start(ONE, step_timeout=10.0, max_retries=0)
    ward.claim(lost, "a")
    ward.claim(overdue, "a")
    ward.pass_time(20)
    assert ward.sweeper.sweep("expired") == 1
    ward.pass_time(11)

    assert ward.sweeper.sweep_all() == 1

    assert ward.row(lost, "a").losses == 1
    assert ward.status(overdue) is SegmentStatus.FAILED
    assert ward.row(overdue, "a").losses == 0
