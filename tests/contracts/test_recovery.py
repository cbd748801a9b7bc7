"""What becomes of steps whose worker does not finish them, in memory and in Postgres alike."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from llmteam.canvas.execution import Execution
from llmteam.canvas.keeper import Keeper
from llmteam.canvas.state import DEADLINE_GRACE, SegmentStatus, StepRow
from llmteam.dispatch import DEFAULT_QUEUE, QUARANTINE_QUEUE, Hint
from llmteam.events.models import EventType
from tests.conformance.desk import TENANT
from tests.conformance.ward import Ward, held
from tests.drawing import draw

ROW = draw("a -> b")
LEASE = timedelta(seconds=30)


def lose_again_and_again(ward: Ward, run_id: str, times: int) -> Execution:
    """Claim and lose step ``a`` so often."""
    for _ in range(times):
        execution = ward.claim(run_id, "a")
        assert ward.lose(execution)
    return execution


def counted(row: StepRow) -> tuple[str, int, int, int]:
    return (row.state, row.attempt, row.losses, row.fence)


# -- lost


def test_a_lost_step_is_due_again_and_no_attempt_is_used_up(ward: Ward) -> None:
    run_id = ward.start(ROW, max_retries=0)
    execution = ward.claim(run_id, "a")
    ward.hinted()

    assert ward.lose(execution)

    row = ward.row(run_id, "a")
    assert counted(row) == ("ready", 0, 1, 1)
    assert (row.owner, row.deadline) == ("queue", None)
    assert ward.hinted() == ["a"]
    told = ward.last(run_id)
    assert (told.event_type, told.step_id, told.severity) == (EventType.STEP_LOST, "a", "warning")
    assert told.payload == {"losses": 1, "quarantined": False}
    assert ward.record(run_id).running == 0
    again = ward.claim(run_id, "a")
    assert (again.fence, again.ctx.attempt) == (2, 1)


def test_a_loss_is_told_of_the_claim_that_holds_the_step_and_of_no_other(ward: Ward) -> None:
    run_id = ward.start(ROW)
    first = ward.claim(run_id, "a")
    ward.lose(first)
    second = ward.claim(run_id, "a")
    before = ward.all_rows(run_id), ward.kinds(run_id)

    assert not ward.lose(first)
    assert not ward.lose(second, fence=3)
    assert not ward.recovery.lose(TENANT, "unknown", ("a", 1), 1)

    assert (ward.all_rows(run_id), ward.kinds(run_id)) == before


def test_the_answer_of_a_worker_that_was_lost_does_not_count(ward: Ward) -> None:
    run_id = ward.start(ROW)
    lost = ward.claim(run_id, "a")
    ward.lose(lost)
    again = ward.claim(run_id, "a")

    assert not ward.engine.answered(lost, "late").applied
    assert not ward.engine.failed(lost, ValueError("late")).applied

    assert ward.engine.answered(again, "in time").applied
    assert ward.rows(run_id)["a"].output == "in time"


def test_an_answer_that_came_first_leaves_nothing_to_lose(ward: Ward) -> None:
    run_id = ward.start(ROW)
    execution = ward.claim(run_id, "a")
    ward.engine.answered(execution, 1)

    assert not ward.lose(execution)
    assert not ward.recovery.hand_back(execution)
    assert not ward.overdue(execution)

    assert counted(ward.row(run_id, "a")) == ("completed", 0, 0, 1)


@pytest.mark.parametrize("how", ["cancelled", "paused"])
def test_nothing_is_lost_in_a_run_that_stands(ward: Ward, how: str) -> None:
    run_id = ward.start(ROW)
    execution = ward.claim(run_id, "a")
    if how == "cancelled":
        ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)
    else:
        ward.surgery.pause(TENANT, run_id, grace=0.0)
    before = ward.kinds(run_id)

    assert not ward.lose(execution)
    assert not ward.recovery.hand_back(execution)
    assert not ward.overdue(execution)

    assert ward.kinds(run_id) == before
    assert ward.row(run_id, "a").losses == 0


def test_from_the_second_loss_on_a_step_goes_to_the_quarantine(ward: Ward) -> None:
    run_id = ward.start(ROW)
    lose_again_and_again(ward, run_id, 1)
    assert {hint.queue for hint in ward.outbox.hints} == {DEFAULT_QUEUE}
    ward.hinted()

    lose_again_and_again(ward, run_id, 1)

    assert [hint.queue for hint in ward.outbox.hints] == [QUARANTINE_QUEUE]
    assert ward.last(run_id).payload == {"losses": 2, "quarantined": True}


def test_a_hint_from_another_queue_sends_a_quarantined_step_to_its_own(ward: Ward) -> None:
    run_id = ward.start(ROW)
    lose_again_and_again(ward, run_id, 2)
    ward.hinted()

    assert ward.engine.begin(Hint(TENANT, run_id, "a", 1, DEFAULT_QUEUE)) is None

    assert [hint.queue for hint in ward.outbox.hints] == [QUARANTINE_QUEUE]
    assert ward.engine.begin(Hint(TENANT, run_id, "a", 1, QUARANTINE_QUEUE)) is not None


def test_a_sweep_hints_at_a_quarantined_step_where_it_belongs(ward: Ward) -> None:
    run_id = ward.start(ROW)
    lose_again_and_again(ward, run_id, 2)
    ward.pass_time(11)

    assert ward.sweeps.take_due(10) == [Hint(TENANT, run_id, "a", 1, QUARANTINE_QUEUE)]


def test_after_five_losses_a_step_has_failed(ward: Ward) -> None:
    run_id = ward.start(ROW, max_retries=9)

    lose_again_and_again(ward, run_id, 5)

    record, row = ward.record(run_id), ward.row(run_id, "a")
    assert record.status is SegmentStatus.FAILED
    assert record.error is not None
    assert (record.error.error_type, record.error.error_code) == ("WorkerLostError", "worker_lost")
    assert counted(row) == ("failed", 0, 5, 5)
    assert ward.kinds(run_id)[-3:] == [EventType.STEP_LOST, EventType.STEP_FAILED, EventType.SEGMENT_FAILED]


def test_an_error_edge_takes_up_that_a_step_was_lost(ward: Ward) -> None:
    run_id = ward.start(draw("a -> b", "a.error -> c"))

    lose_again_and_again(ward, run_id, 5)

    assert ward.states(run_id) == {"a": "failed", "b": "skipped", "c": "ready"}
    assert ward.claim(run_id, "c").input["input"]["error_type"] == "WorkerLostError"


def test_losses_and_failures_of_one_step_are_counted_apart(ward: Ward) -> None:
    run_id = ward.start(ROW, max_retries=2, retry_delay=0.0)

    for number in range(2):
        lose_again_and_again(ward, run_id, 1)
        ward.recovery.hand_back(ward.claim(run_id, "a"))
        ward.engine.failed(ward.claim(run_id, "a"), ValueError("broken"))
        assert counted(ward.row(run_id, "a")) == ("ready", number + 1, number + 1, 3 * (number + 1))

    assert ward.claim(run_id, "a").ctx.attempt == 3


# -- handed back


def test_a_step_that_is_handed_back_goes_on_elsewhere_at_once(ward: Ward) -> None:
    run_id = ward.start(ROW)
    execution = ward.claim(run_id, "a")
    ward.hinted()

    assert ward.recovery.hand_back(execution)

    assert counted(ward.row(run_id, "a")) == ("ready", 0, 0, 1)
    assert ward.hinted() == ["a"]
    assert ward.last(run_id).event_type is EventType.STEP_RELEASED
    assert execution.ctx.cancelled.is_set()
    assert not ward.recovery.hand_back(execution)
    assert not ward.engine.answered(execution, "late").applied
    assert ward.claim(run_id, "a").fence == 2


# -- overdue


def test_a_step_whose_deadline_passed_unnoticed_has_timed_out(ward: Ward) -> None:
    run_id = ward.start(ROW, max_retries=1, retry_delay=0.0, step_timeout=60.0)
    execution = ward.claim(run_id, "a")
    assert not ward.overdue(execution), "its time is not over"
    ward.pass_time(61)

    assert ward.overdue(execution)

    row = ward.row(run_id, "a")
    assert counted(row) == ("ready", 1, 0, 1)
    assert row.error is not None
    assert (row.error.error_type, row.owner) == ("StepTimeoutError", "timer")
    assert not ward.engine.answered(execution, "late").applied
    assert not ward.overdue(execution)


def test_a_step_that_times_out_once_too_often_has_failed(ward: Ward) -> None:
    run_id = ward.start(ROW, max_retries=0, step_timeout=60.0)
    execution = ward.claim(run_id, "a")
    ward.pass_time(61)

    assert ward.overdue(execution)

    assert counted(ward.row(run_id, "a")) == ("failed", 1, 0, 1)
    assert ward.status(run_id) is SegmentStatus.FAILED


# -- leases


def test_a_renewed_lease_is_longer_and_nothing_else_changes(ward: Ward) -> None:
    run_id = ward.start(draw("split_1 -> b", "split_1 -> c"))
    ward.do(run_id, "split_1")
    kept, other = ward.claim(run_id, "b"), ward.claim(run_id, "c")
    ward.pass_time(20)
    before = ward.rows(run_id)

    assert ward.store.renew(held(kept), LEASE) == set()

    after = ward.rows(run_id)
    assert after["c"] == before["c"]
    until, later = before["b"].lease_until, after["b"].lease_until
    assert until is not None
    assert later is not None
    assert timedelta(seconds=19) < later - until < timedelta(seconds=60)
    assert after["b"].row.wake_at == after["b"].lease_until
    assert changed(before["b"].row, after["b"].row) == {"wake_at"}
    assert ward.store.lost(held(kept, other)) == set()


def changed(one: StepRow, other: StepRow) -> set[str]:
    return {name for name in StepRow.__slots__ if getattr(one, name) != getattr(other, name)}


def test_a_sweep_looks_at_a_renewed_step_no_later_than_its_deadline_says(ward: Ward) -> None:
    run_id = ward.start(ROW, step_timeout=10.0)
    execution = ward.claim(run_id, "a")

    ward.store.renew(held(execution), LEASE)

    row = ward.row(run_id, "a")
    assert row.deadline is not None
    assert row.wake_at == row.deadline + DEADLINE_GRACE


@pytest.mark.parametrize("why", ["answered", "claimed by another", "cancelled", "paused", "taken", "unknown"])
def test_a_claim_that_does_not_hold_its_step_is_refused(ward: Ward, why: str) -> None:
    run_id = ward.start(ROW)
    execution = ward.claim(run_id, "a")
    (holding,) = held(execution)
    if why == "answered":
        ward.engine.answered(execution, 1)
    elif why == "claimed by another":
        ward.lose(execution)
        ward.claim(run_id, "a")
    elif why == "cancelled":
        ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)
    elif why == "paused":
        ward.surgery.pause(TENANT, run_id, grace=0.0)
    elif why == "taken":
        ward.pass_time(31)
        assert len(ward.sweeps.take_expired(10)) == 1
    else:
        (holding,) = [type(holding)(TENANT, "unknown", holding.key, holding.fence)]
    before = ward.all_rows(run_id)

    assert ward.store.lost([holding]) == {holding}
    assert ward.store.renew([holding], LEASE) == {holding}

    assert ward.all_rows(run_id) == before


def test_claims_of_several_tenants_are_renewed_at_once(ward: Ward) -> None:
    run_id = ward.start(ROW)
    mine = held(ward.claim(run_id, "a"))
    strange = [type(mine[0])("globex", run_id, mine[0].key, mine[0].fence)]

    assert ward.store.renew([*mine, *strange], LEASE) == set(strange)


def test_a_handler_that_stops_because_its_lease_was_taken_has_not_failed(ward: Ward) -> None:
    run_id = ward.start(ROW, max_retries=0)
    execution = ward.claim(run_id, "a")
    stopped: list[Any] = []
    keeper = Keeper(ward.store, LEASE, stopped=stopped.append)
    with keeper.holding(execution):
        ward.pass_time(31)
        (found,) = ward.sweeps.take_expired(10)
        keeper.look()

        assert not ward.engine.failed(execution, RuntimeError("stopped")).applied

    assert stopped == [execution]
    assert execution.ctx.cancelled.is_set()
    assert ward.recovery.lose(found.tenant_id, found.run_id, found.key, found.fence)
    assert counted(ward.row(run_id, "a")) == ("ready", 0, 1, 1)
