"""What happens between a run and the people that its steps ask, in memory and in Postgres alike."""

from __future__ import annotations

from typing import Any

from llmteam.canvas.ports import Ask
from llmteam.canvas.state import SegmentStatus
from llmteam.human import rules
from llmteam.human.models import InteractionRequest, InteractionStatus
from llmteam.human.rulings import Ruling
from tests.conformance.desk import TENANT
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


def test_an_answer_that_nobody_hints_at_is_found_by_the_sweep(ward: Ward) -> None:
    _, asked = parked(ward)
    answer(ward, asked)
    ward.hinted()
    ward.pass_time(1)

    ward.sweeper.sweep_all()

    assert "a" in ward.hinted()


def test_a_look_at_the_step_alone_notices_the_end_of_the_time(ward: Ward) -> None:
    run_id, _ = parked(ward, timeout=HOUR)
    ward.pass_time(3601)

    ward.begin(run_id, "a")

    assert now(ward, run_id).status is Status.TIMEOUT
    assert ward.states(run_id)["a"] == "failed"


def test_what_was_answered_stays_answered_when_the_run_ends(ward: Ward) -> None:
    run_id, asked = parked(ward)
    answer(ward, asked)

    ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED)

    assert now(ward, run_id).status is Status.COMPLETED


# -- pauses


def pause(ward: Ward, run_id: str) -> None:
    assert ward.surgery.pause(TENANT, run_id, grace=0.0) is not None


def test_an_answer_after_the_deadline_counts_when_the_run_stood_still_meanwhile(ward: Ward) -> None:
    run_id, asked = parked(ward, timeout=HOUR)
    pause(ward, run_id)
    ward.pass_time(10_000)

    assert answer(ward, asked).request.status is Status.COMPLETED


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
