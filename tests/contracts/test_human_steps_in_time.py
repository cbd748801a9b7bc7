"""What time, pauses and the end of runs do to steps that ask a person, in memory and in Postgres alike."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmteam.canvas.state import SegmentStatus
from llmteam.events.models import EventType
from llmteam.human import InteractionClosedError, InteractionStatus
from tests.conformance.desk import TENANT
from tests.conformance.office import Office
from tests.contracts.test_human_steps import ALL_PORTS, ONE, asking
from tests.contracts.test_pauses import begin_pause, pause
from tests.drawing import draw

HOUR = 3_600.0


# -- time


def test_without_an_answer_in_time_the_port_timeout_is_taken(office: Office) -> None:
    run_id = office.ward.start(asking(*ALL_PORTS, timeout_hours=2))
    office.park(run_id)
    office.ward.pass_time(2 * HOUR - 60)
    office.hint(run_id)
    assert office.ward.states(run_id)["human_1"] == "waiting"

    office.ward.pass_time(120)
    office.hint(run_id)

    assert office.request(run_id).status is InteractionStatus.TIMEOUT
    assert office.ward.states(run_id)["timeout"] == "ready"
    with pytest.raises(InteractionClosedError):
        office.answer(office.request(run_id))


def test_without_such_an_edge_the_step_fails_and_is_not_asked_again(office: Office) -> None:
    run_id = office.ward.start(asking(timeout_hours=2), max_retries=3)
    office.park(run_id)
    office.ward.pass_time(2 * HOUR + 1)

    office.hint(run_id)

    error = office.ward.row(run_id, "human_1").error
    assert error is not None
    assert (error.error_type, office.ward.status(run_id)) == ("HumanTaskTimeoutError", SegmentStatus.FAILED)
    assert len(office.requests(run_id)) == 1


def test_a_sweep_escalates_and_the_step_waits_for_as_long_again(office: Office) -> None:
    run_id = office.ward.start(asking(*ALL_PORTS, timeout_hours=2, escalation_chain=["boss", "board"]))
    first = office.park(run_id)

    for level, name in enumerate(["boss", "board"], 1):
        office.ward.pass_time(2 * HOUR + 1)
        office.ward.sweeper.sweep("people")
        office.hint(run_id)
        request = office.request(run_id)
        assert (request.status, request.assignee_id) == (InteractionStatus.ESCALATED, name)
        assert request.current_escalation_level == level
        assert request.deadline is not None
        assert request.deadline > office.ward.engine.clock() + timedelta(hours=1)
        assert office.ward.states(run_id)["human_1"] == "waiting"
    office.ward.pass_time(2 * HOUR + 1)
    office.ward.sweeper.sweep("people")
    office.hint(run_id)

    assert office.request(run_id).request_id == first.request_id
    assert office.ward.states(run_id)["timeout"] == "ready"
    assert office.ward.kinds(run_id).count(EventType.HUMAN_TASK_ESCALATED) == 2


def test_the_time_that_people_take_is_none_of_the_runs(office: Office) -> None:
    run_id = office.ward.start(asking(timeout_hours=2, escalation_chain=["boss"]), timeout_seconds=60.0)
    request = office.park(run_id)
    office.ward.pass_time(HOUR)
    office.ward.sweeper.sweep_all()
    assert office.ward.status(run_id) is SegmentStatus.RUNNING

    office.ward.pass_time(2 * HOUR)
    office.ward.sweeper.sweep_all()
    office.answer(request, by="boss")
    office.hint(run_id)

    record = office.ward.record(run_id)
    assert record.deadline is not None
    assert timedelta(seconds=30) < record.deadline - office.ward.engine.clock() <= timedelta(seconds=60)
    assert record.wake_at == record.deadline
    office.ward.pass_time(61)
    office.ward.sweeper.sweep("runs")
    assert office.ward.status(run_id) is SegmentStatus.TIMEOUT


def test_a_branch_that_is_not_waited_for_any_more_gives_the_run_no_time(office: Office) -> None:
    lines = ("split_1 -> human_1", "split_1 -> b -> first_1", "human_1.approved -> first_1", "first_1 -> z")
    run_id = office.ward.start(draw(*lines), timeout_seconds=60.0)
    before = office.ward.record(run_id).deadline
    assert before is not None
    office.ward.do(run_id, "split_1")
    office.park(run_id)
    lent = office.ward.record(run_id).deadline
    assert lent is not None
    assert lent - before > timedelta(hours=23)

    office.ward.do(run_id, "b")

    record = office.ward.record(run_id)
    assert office.ward.states(run_id)["human_1"] == "cancelled"
    assert record.deadline is not None
    assert timedelta() <= record.deadline - before < timedelta(seconds=30)
    assert record.wake_at == record.deadline


def test_a_pause_while_people_are_asked_changes_nothing_about_the_runs_time(office: Office) -> None:
    run_id = office.ward.start(ONE, timeout_seconds=60.0)
    request = office.park(run_id)
    pause(office.ward, run_id)
    office.ward.pass_time(100 * HOUR)
    office.answer(request)
    office.ward.surgery.resume(TENANT, run_id)

    office.hint(run_id)

    record = office.ward.record(run_id)
    assert record.deadline is not None
    assert timedelta(seconds=30) < record.deadline - office.ward.engine.clock() <= timedelta(seconds=60)


def test_a_run_that_waits_for_a_person_and_for_nobody_else_does_not_end_before_they_could_answer(
    office: Office,
) -> None:
    run_id = office.ward.start(asking(timeout_hours=2), timeout_seconds=60.0)
    office.park(run_id)
    office.ward.pass_time(2 * HOUR + 1)

    office.ward.sweeper.sweep("people")
    office.hint(run_id)

    error = office.ward.row(run_id, "human_1").error
    assert error is not None
    assert error.error_type == "HumanTaskTimeoutError"


# -- taking back


def test_a_run_that_is_cancelled_takes_its_requests_back(office: Office) -> None:
    run_id = office.ward.start(ONE)
    request = office.park(run_id)

    office.ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert office.request(run_id).status is InteractionStatus.CANCELLED
    with pytest.raises(InteractionClosedError):
        office.answer(request)
    office.hint(run_id)
    assert office.ward.states(run_id) == {"human_1": "cancelled", "b": "cancelled"}


def test_a_run_that_fails_elsewhere_takes_its_requests_back(office: Office) -> None:
    run_id = office.ward.start(draw("split_1 -> human_1", "split_1 -> b"))
    office.ward.do(run_id, "split_1")
    office.park(run_id)

    office.ward.engine.failed(office.ward.claim(run_id, "b"), ValueError("broken"))

    assert office.ward.status(run_id) is SegmentStatus.FAILED
    assert office.request(run_id).status is InteractionStatus.CANCELLED


def test_a_branch_that_another_was_faster_than_takes_its_request_back(office: Office) -> None:
    run_id = office.ward.start(
        draw("split_1 -> human_1", "split_1 -> b -> first_1", "human_1.approved -> first_1", "first_1 -> z")
    )
    office.ward.do(run_id, "split_1")
    request = office.park(run_id)

    office.ward.do(run_id, "b", "first_1")

    assert office.ward.states(run_id)["human_1"] == "cancelled"
    assert office.request(run_id).status is InteractionStatus.CANCELLED
    with pytest.raises(InteractionClosedError):
        office.answer(request)
    office.ward.do(run_id, "z")
    assert office.ward.status(run_id) is SegmentStatus.COMPLETED


def test_a_request_that_is_cancelled_while_the_run_goes_on_fails_its_step(office: Office) -> None:
    run_id = office.ward.start(ONE, max_retries=3)
    request = office.park(run_id)

    office.call(office.manager.cancel(request.request_id, "not needed", by="ops"))
    office.hint(run_id)

    error = office.ward.row(run_id, "human_1").error
    assert error is not None
    assert (error.error_type, office.ward.status(run_id)) == ("HumanTaskCancelledError", SegmentStatus.FAILED)


# -- pausing


def test_a_step_that_asks_while_the_run_drains_is_asked_and_stands_still(office: Office) -> None:
    run_id = office.ward.start(ONE)
    execution = office.ward.claim(run_id, "human_1")
    begin_pause(office.ward, run_id)

    assert office.asks(execution).applied
    assert office.ward.surgery.take_hold(TENANT, run_id)

    row = office.ward.row(run_id, "human_1")
    assert (row.state, row.owner, row.wake_at) == ("waiting", "pause", None)
    assert office.request(run_id).frozen_at is not None


def test_a_pause_stops_the_clock_of_the_person(office: Office) -> None:
    run_id = office.ward.start(asking(*ALL_PORTS, timeout_hours=2))
    office.park(run_id)
    office.ward.pass_time(HOUR)
    pause(office.ward, run_id)
    left = _left(office, run_id)

    office.ward.pass_time(100 * HOUR)
    assert office.ward.sweeper.sweep("people") == 0
    office.hint(run_id)
    assert office.request(run_id).status.is_open
    office.ward.surgery.resume(TENANT, run_id)

    request, row = office.request(run_id), office.ward.row(run_id, "human_1")
    assert request.frozen_at is None
    assert abs(_left(office, run_id) - left) < timedelta(minutes=1)
    assert (row.owner, row.wake_at) == ("person", request.deadline)
    office.ward.pass_time(HOUR - 120)
    office.hint(run_id)
    assert office.ward.states(run_id)["human_1"] == "waiting"
    office.ward.pass_time(240)
    office.hint(run_id)
    assert office.ward.states(run_id)["timeout"] == "ready"


def _left(office: Office, run_id: str) -> timedelta:
    request = office.request(run_id)
    assert request.deadline is not None
    return request.deadline - (request.frozen_at or office.ward.engine.clock())


def test_an_answer_to_a_paused_run_is_kept_and_applied_when_it_goes_on(office: Office) -> None:
    run_id = office.ward.start(ONE)
    request = office.park(run_id)
    snapshot_id = pause(office.ward, run_id)

    office.answer(request, comment="while it stood")
    office.hint(run_id)
    assert office.ward.states(run_id)["human_1"] == "waiting"
    office.ward.hinted()
    office.ward.surgery.resume(TENANT, snapshot_id)

    assert office.ward.hinted() == ["human_1"]
    office.hint(run_id)
    assert office.ward.claim(run_id, "b").input["input"]["comment"] == "while it stood"


def test_an_answer_while_the_run_drains_counts_and_what_it_makes_ready_waits(office: Office) -> None:
    run_id = office.ward.start(draw("split_1 -> human_1", "split_1 -> c", "human_1.approved -> b"))
    office.ward.do(run_id, "split_1")
    request = office.park(run_id)
    office.ward.claim(run_id, "c")
    begin_pause(office.ward, run_id)

    office.answer(request)
    office.hint(run_id)
    assert office.ward.surgery.take_hold(TENANT, run_id)

    rows = office.ward.rows(run_id)
    assert (rows["human_1"].row.state, rows["b"].row.state, rows["b"].row.owner) == ("completed", "ready", "pause")


def test_a_paused_run_that_is_cancelled_takes_its_requests_back(office: Office) -> None:
    run_id = office.ward.start(ONE)
    office.park(run_id)
    pause(office.ward, run_id)

    office.ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert office.request(run_id).status is InteractionStatus.CANCELLED
