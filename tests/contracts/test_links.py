"""Runs that are made of others by retrying and forking them, in memory and in Postgres alike."""

from __future__ import annotations

from typing import Any

import pytest

from llmteam.canvas.exceptions import AlreadyRunningError, RunNotFoundError, RunStateError
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.ports import Ports
from llmteam.canvas.state import SegmentStatus
from llmteam.errors import NotJSONError
from llmteam.events.models import EventType
from tests.conformance.desk import TENANT
from tests.conformance.ward import Ward
from tests.drawing import draw

ROW = draw("a -> b -> c")
JOIN = draw("split_1 -> b -> all_1", "split_1 -> c -> all_1", "all_1 -> e")
LOOP = draw("a -> if_1", "if_1.true -> a", "if_1.false -> e", max_visits=9)


def fail(ward: Ward, run_id: str, step_id: str, visit: int = 1) -> None:
    ward.engine.failed(ward.claim(run_id, step_id, visit), ValueError("broken"))


def failed(ward: Ward, segment: SegmentDefinition, *done: str, at: str) -> str:
    """A run that failed at one step."""
    run_id = ward.start(segment)
    for step_id in done:
        ward.do(run_id, step_id, answer={"by": step_id})
    fail(ward, run_id, at)
    assert ward.status(run_id) is SegmentStatus.FAILED
    ward.hinted()
    return run_id


def completed(ward: Ward) -> str:
    run_id = ward.start(ROW)
    for step_id in ("a", "b", "c"):
        ward.do(run_id, step_id, answer={"by": step_id})
    ward.hinted()
    return run_id


def keys(ward: Ward, run_id: str, step_id: str) -> str:
    return ward.claim(run_id, step_id).ctx.idempotency_key


# -- retry


def test_a_retry_takes_over_what_was_done_and_goes_on_from_what_failed(ward: Ward) -> None:
    old = failed(ward, ROW, "a", at="b")

    new = ward.surgery.retry(TENANT, old)

    assert ward.states(new) == {"a": "completed", "b": "ready", "c": "pending"}
    assert ward.hinted() == ["b"]
    record = ward.record(new)
    assert (record.link, record.parent_run_id, record.root_run_id) == ("retry", old, old)
    assert (record.steps_completed, record.status) == (1, SegmentStatus.RUNNING)
    begun = ward.told(new)[0]
    assert (begun.event_type, begun.payload["parent_run_id"], begun.payload["reused_steps"]) == (
        *(EventType.SEGMENT_STARTED, old),
        1,
    )
    execution = ward.claim(new, "b")
    assert (execution.input, execution.ctx.attempt) == ({"input": {"by": "a"}}, 1)
    ward.engine.answered(execution, 2)
    ward.do(new, "c", answer={"well": True})
    assert (ward.status(new), ward.store.outputs(TENANT, new)) == (SegmentStatus.COMPLETED, {"well": True})
    assert (ward.status(old), ward.states(old)["b"]) == (SegmentStatus.FAILED, "failed")


def test_steps_of_a_retry_have_the_keys_that_they_had_unless_new_ones_are_asked_for(ward: Ward) -> None:
    run_id = ward.start(ROW)
    ward.do(run_id, "a")
    had = ward.claim(run_id, "b")
    ward.engine.failed(had, ValueError("broken"))

    same = ward.surgery.retry(TENANT, run_id)
    fresh = ward.surgery.retry(TENANT, run_id, new_keys=True)

    again = ward.claim(same, "b")
    assert again.ctx.idempotency_key == had.ctx.idempotency_key
    other = ward.claim(fresh, "b")
    assert other.ctx.idempotency_key != had.ctx.idempotency_key
    ward.engine.failed(again, ValueError("broken"))
    third = ward.surgery.retry(TENANT, same)
    assert keys(ward, third, "b") == had.ctx.idempotency_key, "a retry of a retry is the same work still"


def test_branches_that_were_done_are_not_run_again_and_the_join_gets_all_of_them(ward: Ward) -> None:
    old = failed(ward, JOIN, "split_1", "b", at="c")

    new = ward.surgery.retry(TENANT, old)

    states = ward.states(new)
    assert {step_id for step_id, state in states.items() if state == "completed"} == {"split_1", "b"}
    assert (states["c"], states["all_1"], states["e"]) == ("ready", "pending", "pending")
    assert ward.hinted() == ["c"]
    ward.do(new, "c", answer={"by": "c again"})
    assert ward.claim(new, "all_1").input == {"branch_1": {"by": "b"}, "branch_2": {"by": "c again"}}


def test_a_step_that_was_cancelled_with_the_run_runs_in_its_retry(ward: Ward) -> None:
    old = ward.start(JOIN)
    ward.do(old, "split_1")
    running = ward.claim(old, "b")
    fail(ward, old, "c")

    new = ward.surgery.retry(TENANT, old)

    assert not ward.engine.answered(running, 1).applied
    assert {ward.states(new)["b"], ward.states(new)["c"]} == {"ready"}


def test_a_loop_goes_on_in_the_iteration_in_which_it_failed(ward: Ward) -> None:
    old = ward.start(LOOP)
    for visit in (1, 2):
        ward.engine.answered(ward.claim(old, "a", visit), {"n": visit})
        ward.engine.answered(ward.claim(old, "if_1", visit), Ports({"true": {"n": visit}}))
    fail(ward, old, "a", 3)

    new = ward.surgery.retry(TENANT, old)

    rows = {key: record.row.state for key, record in ward.all_rows(new).items()}
    assert rows["a", 3] == "ready"
    assert {rows[key] for key in (("a", 1), ("if_1", 1), ("a", 2), ("if_1", 2))} == {"completed"}
    execution = ward.claim(new, "a", 3)
    assert execution.input == {"input": {"n": 2}}
    ward.engine.answered(execution, {"n": 3})
    ward.engine.answered(ward.claim(new, "if_1", 3), Ports({"false": {"n": 3}}))
    ward.do(new, "e", answer={"done": 3})
    assert ward.store.outputs(TENANT, new) == {"done": 3}


def test_a_failure_that_an_error_edge_took_up_stays_as_it_is(ward: Ward) -> None:
    segment = draw("a -> b", "a.error -> c -> d")
    old = ward.start(segment)
    fail(ward, old, "a")
    ward.do(old, "c", answer={"saved": True})
    fail(ward, old, "d")

    new = ward.surgery.retry(TENANT, old)

    assert ward.states(new) == {"a": "failed", "b": "skipped", "c": "completed", "d": "ready"}
    row = ward.row(new, "a")
    assert row.error is not None
    assert (row.error.error_type, row.attempt) == ("ValueError", 1)
    assert ward.claim(new, "d").input == {"input": {"saved": True}}


def test_a_failure_that_a_loop_has_left_behind_stays_as_it_is(ward: Ward) -> None:
    lines = ("split_1", "split_1 -> b -> any_1", "split_1 -> c -> any_1", "any_1 -> if_1")
    old = ward.start(draw(*lines, "if_1.true -> split_1", "if_1.false -> e", max_visits=9))
    ward.do(old, "split_1", "c")
    fail(ward, old, "b")
    ward.do(old, "any_1")
    ward.do(old, "if_1", answer=Ports({"true": 1}))
    ward.engine.answered(ward.claim(old, "split_1", 2), 1)
    fail(ward, old, "b", 2)
    fail(ward, old, "c", 2)
    assert ward.status(old) is SegmentStatus.FAILED
    ward.hinted()

    new = ward.surgery.retry(TENANT, old)

    assert sorted(ward.hinted()) == ["b", "c"]
    for step_id in ("b", "c", "any_1"):
        ward.engine.answered(ward.claim(new, step_id, 2), 1)
    ward.engine.answered(ward.claim(new, "if_1", 2), Ports({"false": 1}))
    ward.do(new, "e")
    assert ward.status(new) is SegmentStatus.COMPLETED


def test_large_outputs_and_what_handlers_kept_go_over_into_a_retry(ward: Ward) -> None:
    old = ward.start(ROW)
    ward.do(old, "a", answer="x" * 20_000)
    fail(ward, old, "b")

    new = ward.surgery.retry(TENANT, old)

    assert ward.claim(new, "b").input == {"input": "x" * 20_000}
    assert ward.rows(new)["a"].output == "x" * 20_000


@pytest.mark.parametrize("status", ["running", "paused", "completed"])
def test_only_a_run_that_failed_can_be_retried(ward: Ward, status: str) -> None:
    run_id = completed(ward) if status == "completed" else ward.start(ROW)
    if status == "paused":
        ward.surgery.pause(TENANT, run_id, grace=0.0)

    with pytest.raises(RunStateError):
        ward.surgery.retry(TENANT, run_id)

    assert len(ward.store.records(TENANT)) == 1


@pytest.mark.parametrize("how", [SegmentStatus.CANCELLED, SegmentStatus.TIMEOUT])
def test_a_run_that_was_ended_from_outside_goes_on_in_its_retry(ward: Ward, how: SegmentStatus) -> None:
    old = ward.start(ROW)
    ward.do(old, "a")
    ward.engine.end(TENANT, old, how)

    new = ward.surgery.retry(TENANT, old)

    ward.do(new, "b", "c")
    assert ward.status(new) is SegmentStatus.COMPLETED


def test_a_run_that_is_not_there_cannot_be_made_another_of(ward: Ward) -> None:
    old = failed(ward, ROW, at="a")

    for tenant_id, run_id in ((TENANT, "unknown"), ("globex", old)):
        with pytest.raises(RunNotFoundError):
            ward.surgery.retry(tenant_id, run_id)
        with pytest.raises(RunNotFoundError):
            ward.surgery.fork(tenant_id, run_id, "a")


def test_a_retry_under_an_id_that_is_taken_is_refused(ward: Ward) -> None:
    old = failed(ward, ROW, at="a")
    ward.surgery.retry(TENANT, old, new_run_id="again")

    with pytest.raises(AlreadyRunningError):
        ward.surgery.retry(TENANT, old, new_run_id="again")


def test_a_plan_says_what_would_be_reused_run_again_and_repeated_outside(ward: Ward) -> None:
    old = failed(ward, ROW, "a", at="b")

    plan = ward.surgery.plan_retry(TENANT, old)

    assert [row.step_id for row in plan.reused] == ["a"]
    assert [row.step_id for row in plan.again] == ["b"]
    assert [(effect.step_id, effect.same_key) for effect in plan.effects] == [("b", True)]
    assert [effect.same_key for effect in ward.surgery.plan_retry(TENANT, old, new_keys=True).effects] == [False]
    assert len(ward.store.records(TENANT)) == 1, "a plan changes nothing"


# -- fork


@pytest.mark.parametrize(("step", "reused"), [("a", set()), ("b", {"a"}), ("c", {"a", "b"})])
def test_a_fork_runs_one_step_again_and_all_that_follows(ward: Ward, step: str, reused: set[str]) -> None:
    old = completed(ward)

    new = ward.surgery.fork(TENANT, old, step)

    states = ward.states(new)
    assert {step_id for step_id, state in states.items() if state == "completed"} == reused
    assert (states[step], ward.hinted()) == ("ready", [step])
    record = ward.record(new)
    assert (record.link, record.parent_run_id, record.root_run_id) == ("fork", old, new)
    for again in ("a", "b", "c")[len(reused) :]:
        ward.do(new, again, answer={"again": again})
    assert ward.store.outputs(TENANT, new) == {"again": "c"}
    assert ward.store.outputs(TENANT, old) == {"by": "c"}


def test_steps_of_a_fork_have_keys_of_their_own(ward: Ward) -> None:
    old = ward.start(ROW)
    ward.do(old, "a")
    had = ward.claim(old, "b")
    ward.engine.answered(had, 1)
    ward.do(old, "c")

    new = ward.surgery.fork(TENANT, old, "b")

    assert keys(ward, new, "b") != had.ctx.idempotency_key


@pytest.mark.parametrize("given", [{"other": 1}, [], 0, "x" * 20_000])
def test_a_fork_gives_its_first_step_another_input(ward: Ward, given: Any) -> None:
    old = completed(ward)

    new = ward.surgery.fork(TENANT, old, "b", given=given)

    execution = ward.claim(new, "b")
    assert execution.input == given
    ward.engine.answered(execution, 1)
    assert ward.claim(new, "c").input == {"input": 1}


def test_an_edited_answer_is_seen_by_what_depends_on_it(ward: Ward) -> None:
    old = completed(ward)

    new = ward.surgery.fork(TENANT, old, "c", state={"a": {"edited": True}})

    assert ward.states(new) == {"a": "completed", "b": "ready", "c": "pending"}
    assert ward.rows(new)["a"].output == {"edited": True}
    assert ward.claim(new, "b").input == {"input": {"edited": True}}
    assert ward.rows(old)["a"].output == {"by": "a"}


def test_an_edited_answer_may_lead_another_way(ward: Ward) -> None:
    segment = draw("a -[x > 1]-> b", "a -> c")
    old = ward.start(segment)
    ward.do(old, "a", answer={"x": 0})
    ward.do(old, "c")
    assert ward.states(old)["b"] == "skipped"

    new = ward.surgery.fork(TENANT, old, "c", state={"a": {"x": 2}})

    assert ward.states(new) == {"a": "completed", "b": "ready", "c": "skipped"}


def test_a_fork_begins_at_the_visit_that_it_names_or_at_the_last(ward: Ward) -> None:
    old = ward.start(LOOP)
    for visit, port in ((1, "true"), (2, "true"), (3, "false")):
        ward.engine.answered(ward.claim(old, "a", visit), {"n": visit})
        ward.engine.answered(ward.claim(old, "if_1", visit), Ports({port: {"n": visit}}))
    ward.do(old, "e")

    second, last = ward.surgery.fork(TENANT, old, "a", 2), ward.surgery.fork(TENANT, old, "a")

    assert sorted(ready(ward, second)) == [("a", 2)]
    assert sorted(ready(ward, last)) == [("a", 3)]
    assert ward.claim(second, "a", 2).input == {"input": {"n": 1}}


def ready(ward: Ward, run_id: str) -> list[tuple[str, int]]:
    return [key for key, record in ward.all_rows(run_id).items() if record.row.state == "ready"]


def test_a_fork_at_one_branch_keeps_what_the_other_gave(ward: Ward) -> None:
    old = ward.start(JOIN)
    for step_id in ("split_1", "b", "c", "all_1", "e"):
        ward.do(old, step_id, answer={"by": step_id})

    new = ward.surgery.fork(TENANT, old, "b")

    assert (ward.states(new)["c"], ready(ward, new)) == ("completed", [("b", 1)])
    ward.do(new, "b", answer={"by": "b again"})
    assert ward.claim(new, "all_1").input == {"branch_1": {"by": "b again"}, "branch_2": {"by": "c"}}


def test_a_fork_from_where_a_run_never_was_is_refused(ward: Ward) -> None:
    old = failed(ward, ROW, "a", at="b")

    for step, visit in (("nowhere", None), ("c", None), ("a", 2)):
        with pytest.raises(RunStateError):
            ward.surgery.fork(TENANT, old, step, visit)
    with pytest.raises(RunStateError):
        ward.surgery.fork(TENANT, old, "b", state={"c": 1})
    with pytest.raises(NotJSONError):
        ward.surgery.fork(TENANT, old, "b", given={"a": object()})

    assert len(ward.store.records(TENANT)) == 1


def test_an_open_run_cannot_be_forked(ward: Ward) -> None:
    run_id = ward.start(ROW)
    ward.do(run_id, "a")

    with pytest.raises(RunStateError):
        ward.surgery.fork(TENANT, run_id, "a")


def test_the_retry_of_a_fork_keeps_what_the_fork_was_given_and_edited(ward: Ward) -> None:
    old = completed(ward)
    fork = ward.surgery.fork(TENANT, old, "b", given={"other": 1}, state={"a": {"edited": True}})
    fail(ward, fork, "b")

    new = ward.surgery.retry(TENANT, fork)

    assert ward.rows(new)["a"].output == {"edited": True}
    assert ward.claim(new, "b").input == {"other": 1}


def test_a_run_made_of_another_has_a_deadline_of_its_own(ward: Ward) -> None:
    old = ward.start(ROW, timeout_seconds=60.0)
    ward.do(old, "a")
    ward.pass_time(61)
    assert ward.engine.expire(TENANT, old)

    new = ward.surgery.retry(TENANT, old)

    deadline, started = ward.record(new).deadline, ward.record(new).started_at
    assert deadline is not None
    assert started is not None
    assert (deadline - started).total_seconds() == 60.0
    ward.do(new, "b", "c")
    assert ward.status(new) is SegmentStatus.COMPLETED
