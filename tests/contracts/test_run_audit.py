"""What the audit trail says of runs: the same in memory and in Postgres, once for each fact, with it or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from llmteam.audit import AuditRecord
from llmteam.canvas.runs import Start, StartRules
from llmteam.canvas.state import SegmentStatus
from llmteam.errors import LLMTeamError
from tests.conformance.desk import TENANT, Desk, at_once, new_run
from tests.conformance.ward import Ward
from tests.drawing import draw

ROW = draw("a -> b")
WIDE = draw("split_1 -> b -> all_1", "split_1 -> c -> all_1", "all_1 -> e")
TWO_ENDS = draw("split_1 -> b", "split_1 -> c")
SECRET = "gold-4711"


class OwnError(LLMTeamError):
    retryable = False


def told(desk: Desk, run_id: str = "") -> list[AuditRecord]:
    """The records of a run, or of all, in order; the chain holds."""
    assert desk.store.audit.check(TENANT).valid
    found = [one for one in desk.store.audit.links(TENANT, 1, 10_000) if isinstance(one, AuditRecord)]
    return [one for one in found if run_id in {"", one.run_id}]


def facts(desk: Desk, run_id: str = "") -> list[tuple[str, str, str]]:
    """Type, action and person of each record."""
    return [(one.event_type.value, one.action, one.actor_id) for one in told(desk, run_id)]


def test_a_start_tells_who_started_what_and_nothing_of_the_input(ward: Ward) -> None:
    text = f'{{"customer": "{SECRET}"}}'

    ward.engine.submit(new_run(ROW, "r1", input_text=text, started_by="ann"))

    (record,) = told(ward)
    assert facts(ward) == [("pipeline.started", "start", "ann")]
    assert (record.actor_type, record.run_id, record.success) == ("user", "r1", True)
    assert (record.resource_type, record.resource_id, record.pipeline_id) == ("pipeline", *[ROW.segment_id] * 2)
    assert record.new_value is not None
    assert record.new_value["input_summary"]["bytes"] == len(text)
    assert len(record.new_value["input_summary"]["sha256"]) == 64
    assert SECRET not in str(record.to_dict())


def test_a_start_that_nobody_signed_is_the_systems(ward: Ward) -> None:
    run_id = ward.start(ROW)

    (record,) = told(ward, run_id)
    assert (record.actor_type, record.actor_id) == ("system", "")


def test_a_second_start_of_the_same_run_tells_nothing(ward: Ward) -> None:
    run = new_run(ROW, "r1")

    made = at_once([lambda: ward.engine.submit(run)] * 6)

    assert made.count(True) == 1
    assert facts(ward) == [("pipeline.started", "start", "")]


@pytest.mark.parametrize("segment", [ROW, WIDE, TWO_ENDS], ids=["row", "join", "two ends"])
def test_a_run_that_completes_is_told_once_however_often_the_answer_comes(ward: Ward, segment: Any) -> None:
    run_id = ward.start(segment)
    while (ready := ward.store.ready(TENANT, run_id)) and ward.status(run_id) is SegmentStatus.RUNNING:
        executions = [ward.claim(run_id, row.step_id) for row in ready]
        for execution in executions:
            ward.engine.answered(execution, {"out": SECRET})
            ward.engine.answered(execution, {"out": SECRET})

    assert ward.status(run_id) is SegmentStatus.COMPLETED
    assert facts(ward) == [("pipeline.started", "start", ""), ("pipeline.completed", "complete", "")]
    record = told(ward)[-1]
    assert record.new_value == {"status": "completed", "steps_completed": len(ward.rows(run_id))}
    assert SECRET not in str(record.to_dict())


@pytest.mark.parametrize("also_open", [False, True])
def test_a_run_that_fails_is_told_with_code_and_step_and_no_message(ward: Ward, also_open: bool) -> None:
    run_id = ward.start(TWO_ENDS if also_open else ROW)
    if also_open:
        ward.do(run_id, "split_1")
    step_id = "b" if also_open else "a"

    ward.engine.failed(ward.claim(run_id, step_id), OwnError(f"the card {SECRET} is refused"))

    record = told(ward)[-1]
    assert facts(ward)[1:] == [("pipeline.failed", "fail", "")]
    assert (record.success, record.severity, record.step_name) == (False, "error", step_id)
    assert record.error_message == (record.new_value or {})["error_type"] == "OwnError"
    assert SECRET not in str(record.to_dict())


def test_a_run_that_takes_too_long_is_told(ward: Ward) -> None:
    run_id = ward.start(ROW, timeout_seconds=60)
    ward.pass_time(61)

    ward.sweeper.sweep_all()
    ward.sweeper.sweep_all()

    assert facts(ward, run_id)[1:] == [("pipeline.failed", "time_out", "")]


def test_who_cancels_is_told_and_cancelling_again_is_not(ward: Ward) -> None:
    run_id = ward.start(ROW)

    cancelled = at_once([lambda: ward.runs.cancel(TENANT, run_id, by="bob")] * 4)

    assert cancelled.count(True) == 1
    assert facts(ward)[1:] == [("pipeline.cancelled", "cancel", "bob")]


def test_who_pauses_and_who_goes_on_is_told_once(ward: Ward) -> None:
    run_id = ward.start(ROW)
    ward.do(run_id, "a")

    snapshot = ward.surgery.pause(TENANT, run_id, 0.0, by="ann")
    assert ward.surgery.pause(TENANT, run_id, 0.0, by="eve") == snapshot
    ward.surgery.resume(TENANT, run_id, by="bob")
    ward.do(run_id, "b")

    assert facts(ward)[1:] == [
        ("pipeline.paused", "pause", "ann"),
        ("pipeline.resumed", "resume", "bob"),
        ("pipeline.completed", "complete", ""),
    ]
    assert told(ward)[2].new_value == {"resumed_from": snapshot}


def test_a_retry_and_a_fork_tell_of_whom_and_by_whom(ward: Ward) -> None:
    old = ward.start(ROW, started_by="ann")
    ward.engine.failed(ward.claim(old, "a"), OwnError("broken"))

    retried = ward.surgery.retry(TENANT, old, by="bob")
    forked = ward.surgery.fork(TENANT, old, "a")

    assert facts(ward, retried) == [("pipeline.started", "retry", "bob")]
    assert facts(ward, forked) == [("pipeline.started", "fork", "")]
    for made in (retried, forked):
        assert (told(ward, made)[0].new_value or {})["parent_run_id"] == old


def test_a_restart_tells_of_the_end_of_the_one_that_makes_way(ward: Ward) -> None:
    def start() -> str:
        rules = StartRules(if_open="restart")
        return ward.runs.start(Start(TENANT, ROW, 1, idempotency_key="order-17", rules=rules))

    first, second = start(), start()

    assert [fact[:2] for fact in facts(ward, first)] == [
        ("pipeline.started", "start"),
        ("pipeline.cancelled", "cancel"),
    ]
    assert [fact[:2] for fact in facts(ward, second)] == [("pipeline.started", "restart")]
    assert (told(ward, second)[0].new_value or {})["parent_run_id"] == first


def test_the_steps_of_a_run_are_not_in_the_trail(ward: Ward) -> None:
    run_id = ward.start(WIDE)
    ward.do(run_id, "split_1", "b", "c")

    assert facts(ward) == [("pipeline.started", "start", "")]


def test_of_many_who_end_a_run_one_is_told(ward: Ward) -> None:
    run_id = ward.start(draw("a"))
    execution = ward.claim(run_id, "a")

    at_once(
        [
            lambda: ward.engine.answered(execution, 1),
            lambda: ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED),
            lambda: ward.engine.end(TENANT, run_id, SegmentStatus.CANCELLED),
            lambda: ward.engine.failed(execution, OwnError("broken")),
        ]
    )

    assert len(facts(ward)) == 2
