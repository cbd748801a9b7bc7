"""What happens between a run and the people that its steps ask, in memory and in Postgres alike."""

from __future__ import annotations

from typing import Any

import pytest

from llmteam.canvas.ports import Ask
from llmteam.canvas.state import SegmentStatus
from llmteam.human import rules
from llmteam.human.exceptions import InteractionClosedError
from llmteam.human.models import InteractionRequest, InteractionStatus
from llmteam.human.rulings import Ruling
from tests.conformance.desk import TENANT, at_once
from tests.conformance.ward import Ward
from tests.drawing import draw
from tests.unit.human.samples import HOUR, request, response

Status = InteractionStatus
ASKS = draw("a.approved -> b", "a.rejected -> c", work="human_task")


def ask(ward: Ward, run_id: str, step_id: str = "a", visit: int = 1, **fields: Any) -> InteractionRequest:
    """A step that has asked Ann and waits."""
    execution = ward.claim(run_id, step_id, visit)
    assert ward.engine.answered(execution, Ask(request(**{"request_id": "", **fields}))).applied
    return now(ward, run_id, step_id, visit)


def now(ward: Ward, run_id: str, step_id: str = "a", visit: int = 1) -> InteractionRequest:
    case = ward.store.interactions.case_of_step(TENANT, run_id, step_id, visit)
    assert case is not None
    return case.request


def answer(ward: Ward, asked: InteractionRequest, person: str = "ann", **fields: Any) -> Ruling:
    given = response(person, **(fields or {"approved": True})).model_copy(update={"request_id": asked.request_id})
    ruling = ward.store.interactions.apply(
        TENANT, asked.request_id, lambda case: rules.respond(case, rules.Answer(given), ward.engine.clock())
    )
    assert ruling is not None
    return ruling


def parked(ward: Ward, **fields: Any) -> tuple[str, InteractionRequest]:
    run_id = ward.start(ASKS)
    asked = ask(ward, run_id, **fields)
    ward.hinted()
    return run_id, asked


def test_a_step_that_asks_waits_for_the_person_until_the_deadline(ward: Ward) -> None:
    run_id, asked = parked(ward, timeout=HOUR)

    row = ward.row(run_id, "a")
    assert (row.state, row.owner, row.wake_at) == ("waiting", "person", asked.deadline)
    assert (asked.run_id, asked.step_name, asked.visit, asked.parked) == (run_id, "a", 1, True)
    assert asked.pipeline_id == ASKS.segment_id
    assert ward.record(run_id).running == 0
    assert "human.task_created" in ward.kinds(run_id)
    assert ward.begin(run_id, "a") is None
    assert ward.states(run_id)["a"] == "waiting"


@pytest.mark.parametrize(("approved", "next_step", "other"), [(True, "b", "c"), (False, "c", "b")])
def test_the_answer_decides_where_the_run_goes(ward: Ward, approved: bool, next_step: str, other: str) -> None:
    run_id, asked = parked(ward)

    answer(ward, asked, approved=approved, comment="said")
    assert ward.begin(run_id, "a") is None

    assert ward.states(run_id) == {"a": "completed", next_step: "ready", other: "skipped"}
    assert next_step in ward.hinted()
    kinds = ward.kinds(run_id)
    assert kinds.index("human.task_completed") < kinds.index("step.completed")


def test_an_answer_is_applied_once_however_often_it_is_hinted_at(ward: Ward) -> None:
    run_id, asked = parked(ward)
    answer(ward, asked)

    at_once([lambda: ward.begin(run_id, "a")] * 5)

    assert ward.kinds(run_id).count("step.completed") == 1
    assert ward.states(run_id)["b"] == "ready"


def test_an_answer_that_nobody_hints_at_is_found_by_the_sweep(ward: Ward) -> None:
    _, asked = parked(ward)
    answer(ward, asked)
    ward.hinted()
    ward.pass_time(1)

    ward.sweeper.sweep_all()

    assert "a" in ward.hinted()


def test_a_request_that_times_out_fails_the_step(ward: Ward) -> None:
    run_id, _ = parked(ward, timeout=HOUR)
    ward.pass_time(3601)

    ward.sweeper.sweep_all()
    assert now(ward, run_id).status is Status.TIMEOUT
    ward.begin(run_id, "a")

    assert ward.states(run_id)["a"] == "failed"
    assert ward.status(run_id) is SegmentStatus.FAILED


def test_an_escalation_keeps_the_step_waiting_until_the_new_deadline(ward: Ward) -> None:
    run_id, asked = parked(ward, timeout=HOUR, escalation_chain=["boss"])
    ward.pass_time(3601)

    ward.sweeper.sweep_all()
    ward.begin(run_id, "a")

    escalated, row = now(ward, run_id), ward.row(run_id, "a")
    assert (escalated.status, escalated.assignee_id) == (Status.ESCALATED, "boss")
    assert (row.state, row.wake_at) == ("waiting", escalated.deadline)
    assert "human.task_escalated" in ward.kinds(run_id)
    answer(ward, asked, "boss")
    ward.begin(run_id, "a")
    assert ward.states(run_id)["b"] == "ready"


def test_a_look_at_the_step_alone_notices_the_end_of_the_time(ward: Ward) -> None:
    run_id, _ = parked(ward, timeout=HOUR)
    ward.pass_time(3601)

    ward.begin(run_id, "a")

    assert now(ward, run_id).status is Status.TIMEOUT
    assert ward.states(run_id)["a"] == "failed"


def test_the_end_of_a_run_withdraws_what_it_asked(ward: Ward) -> None:
    run_id, asked = parked(ward)
    other_run, _ = parked(ward)

    ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert now(ward, run_id).status is Status.CANCELLED
    assert now(ward, other_run).status is Status.PENDING
    with pytest.raises(InteractionClosedError):
        answer(ward, asked)
    assert [one.run_id for one in ward.store.interactions.open_requests(TENANT)] == [other_run]


def test_a_failing_branch_withdraws_what_the_others_asked(ward: Ward) -> None:
    run_id = ward.start(draw("s -> split_1 -> a -> all_1", "split_1 -> b -> all_1", work="human_task"))
    ward.do(run_id, "s", "split_1")
    asked = ask(ward, run_id)

    ward.engine.failed(ward.claim(run_id, "b"), ValueError("broken"))

    assert ward.status(run_id) is SegmentStatus.FAILED
    assert now(ward, run_id).status is Status.CANCELLED
    with pytest.raises(InteractionClosedError):
        answer(ward, asked)


def test_what_was_answered_stays_answered_when_the_run_ends(ward: Ward) -> None:
    run_id, asked = parked(ward)
    answer(ward, asked)

    ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert now(ward, run_id).status is Status.COMPLETED


def test_a_cancelled_request_fails_its_step(ward: Ward) -> None:
    run_id, asked = parked(ward)
    ward.store.interactions.apply(TENANT, asked.request_id, lambda case: rules.cancel(case, ward.engine.clock()))

    ward.begin(run_id, "a")

    assert ward.states(run_id)["a"] == "failed"


# -- pauses


def pause(ward: Ward, run_id: str) -> None:
    assert ward.surgery.pause(TENANT, run_id, grace=0.0) is not None


def test_a_persons_time_does_not_run_while_the_run_is_paused(ward: Ward) -> None:
    run_id, _ = parked(ward, timeout=HOUR, reminder=HOUR / 2, sla_warning=HOUR / 2)
    pause(ward, run_id)
    ward.pass_time(10_000)

    ward.sweeper.sweep_all()
    assert (now(ward, run_id).status, now(ward, run_id).reminded, now(ward, run_id).warned) == (
        Status.PENDING,
        0,
        False,
    )
    ward.surgery.resume(TENANT, run_id)
    ward.sweeper.sweep_all()

    resumed = now(ward, run_id)
    assert (resumed.status, resumed.frozen_at, resumed.reminded) == (Status.PENDING, None, 0)
    assert resumed.deadline is not None
    assert 3500 < (resumed.deadline - ward.engine.clock()).total_seconds() <= 3600
    assert ward.row(run_id, "a").wake_at is not None
    ward.pass_time(3601)
    ward.sweeper.sweep_all()
    assert now(ward, run_id).status is Status.TIMEOUT


def test_an_answer_in_a_pause_is_applied_when_the_run_goes_on(ward: Ward) -> None:
    run_id, asked = parked(ward)
    pause(ward, run_id)

    answer(ward, asked)
    ward.begin(run_id, "a")
    assert ward.status(run_id) is SegmentStatus.PAUSED
    assert now(ward, run_id).status is Status.COMPLETED
    ward.surgery.resume(TENANT, run_id)
    ward.pass_time(1)
    ward.sweeper.sweep_all()
    ward.begin(run_id, "a")

    assert ward.states(run_id)["b"] == "ready"


def test_an_answer_after_the_deadline_counts_when_the_run_stood_still_meanwhile(ward: Ward) -> None:
    run_id, asked = parked(ward, timeout=HOUR)
    pause(ward, run_id)
    ward.pass_time(10_000)

    assert answer(ward, asked).request.status is Status.COMPLETED


def test_a_paused_run_that_is_cancelled_withdraws_what_it_asked(ward: Ward) -> None:
    run_id, _ = parked(ward)
    pause(ward, run_id)

    ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert now(ward, run_id).status is Status.CANCELLED
    assert ward.store.interactions.open_requests(TENANT) == []


def test_two_pauses_move_the_deadline_by_both(ward: Ward) -> None:
    run_id, _ = parked(ward, timeout=HOUR, sla_warning=HOUR / 2)
    for _ in range(2):
        pause(ward, run_id)
        ward.pass_time(5_000)
        ward.surgery.resume(TENANT, run_id)
        ward.pass_time(600)

    resumed = now(ward, run_id)

    assert 9_990 < resumed.stood.total_seconds() < 10_060
    assert resumed.deadline is not None
    assert 2_300 < (resumed.deadline - ward.engine.clock()).total_seconds() <= 2_400
    ward.sweeper.sweep_all()
    assert not now(ward, run_id).warned
    ward.pass_time(700)
    ward.sweeper.sweep_all()
    assert now(ward, run_id).warned


def test_what_is_asked_during_a_pause_is_not_moved_by_it(ward: Ward) -> None:
    """Its clock was never stopped: whoever asked it is no step of the run."""
    run_id, _ = parked(ward)
    pause(ward, run_id)
    fresh = request(request_id="fresh", run_id=run_id, step_name="")
    ward.store.interactions.create(rules.open_request(fresh, ward.engine.clock()))
    ward.pass_time(600)

    ward.surgery.resume(TENANT, run_id)

    case = ward.store.interactions.case(TENANT, "fresh")
    assert case is not None
    assert case.request.deadline == case.request.created_at + case.request.timeout
    assert case.request.stood.total_seconds() == 0
