"""What goes wrong in a run, and what comes of it, wherever the run is: failures, retries, timeouts, cancelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmteam.canvas import RunConfig
from tests.conformance.fleets import Fleet, Ran, eventually
from tests.conformance.steps import NOT_JSON
from tests.drawing import draw

#: Attempts follow each other at once.
SOON = {"retry_delay": 0.001}


def failed(ran: Ran, error_type: str, *said: str) -> None:
    """The run failed with this error, whose message says all of ``said``."""
    assert (ran.status, ran.error_type) == ("failed", error_type)
    assert ran.result.error is not None
    assert all(text in ran.result.error.error_message for text in said), ran.result.error.error_message
    assert ran.events[-1].event_type == "segment.failed"
    assert ran.events[-1].error == ran.result.error


def once(**more: Any) -> RunConfig:
    return RunConfig(max_retries=0, **more)


def test_a_failure_that_nobody_takes_up_fails_the_run(fleet: Fleet) -> None:
    ran = fleet.run(draw("a -> b -> c", config={"b": {"fail": 1}}), config=once())

    failed(ran, "ValueError", "attempt 1 failed")
    assert ran.states == {"a": "completed", "b": "failed", "c": "cancelled"}
    assert ran.outputs == {}


def test_an_error_edge_takes_up_a_failure(fleet: Fleet) -> None:
    segment = draw("a -> b", "a.error -> mend -> b", config={"a": {"fail": 1, "message": "no paper"}})

    ran = fleet.run(segment, config=once())

    assert ran.outputs == {"output": 'b(mend({"error_message": "no paper", "error_type": "ValueError"}))'}


@pytest.mark.parametrize(("how", "way"), [("permanent", "bad"), ("timeout", "late"), ("", "other")])
def test_conditions_of_error_edges_choose_among_them(fleet: Fleet, how: str, way: str) -> None:
    segment = draw(
        "a -> b",
        "a.error -[error_type == 'PermanentError']-> bad",
        "a.error -[error_type == 'TimeoutError']-> late",
        "a.error -> other",
        config={"a": {"fail": 1, "how": how}},
    )

    ran = fleet.run(segment, config=once())

    assert {step for step, state in ran.states.items() if state == "completed"} == {way}


def test_an_error_edge_whose_condition_does_not_hold_takes_nothing_up(fleet: Fleet) -> None:
    segment = draw("a -> b", "a.error -[error_type == 'Other']-> c", config={"a": {"fail": 1}})

    failed(fleet.run(segment, config=once()), "ValueError")


def test_a_handler_may_send_to_its_error_port_by_itself(fleet: Fleet) -> None:
    ran = fleet.run(draw("a -> b", "a.error -> c", config={"a": {"ports": {"error": "lost"}}}))

    assert (ran.outputs, ran.states["b"]) == ({"output": "c(lost)"}, "skipped")


def test_a_failing_branch_fails_the_run_and_cancels_the_others(fleet: Fleet, gate: Path) -> None:
    segment = draw(
        "s -> split_1 -> a -> all_1",
        "split_1 -> b -> all_1",
        config={"a": {"fail": 1}, "b": {"gate": str(gate)}},
    )

    ran = fleet.run(segment, config=once())

    failed(ran, "ValueError")
    assert ran.states["b"] == ran.states["all_1"] == "cancelled"


def test_any_goes_on_without_the_branches_that_failed(fleet: Fleet) -> None:
    segment = draw("s -> split_1 -> a -> a2 -> any_1 -> end", "split_1 -> b -> any_1", config={"a": {"fail": 1}})

    ran = fleet.run(segment, config=once())

    assert ran.outputs == {"output": "end([b(s)])"}
    assert (ran.states["a"], ran.states["a2"]) == ("failed", "skipped")


def test_any_fails_when_every_branch_failed(fleet: Fleet) -> None:
    segment = draw(
        "s -> split_1 -> a -> any_1 -> end", "split_1 -> b -> any_1", config={"a": {"fail": 1}, "b": {"fail": 1}}
    )

    failed(fleet.run(segment, config=once()), "BranchesFailedError", "any_1")


def test_the_nearest_any_join_feels_a_failure_inside_an_all_join(fleet: Fleet) -> None:
    segment = draw(
        "s -> split_1 -> split_2 -> a -> all_2 -> c -> any_1 -> end",
        "split_2 -> b -> all_2",
        "split_1 -> d -> any_1",
        config={"a": {"fail": 1}},
    )

    ran = fleet.run(segment, config=once())

    assert ran.outputs == {"output": "end([d(s)])"}
    assert ran.of("all_2") == []


def test_what_failed_is_tried_again_until_it_works(fleet: Fleet) -> None:
    ran = fleet.run(draw("a -> b", config={"a": {"fail": 2, "show": "state", "state": True}}), config=RunConfig(**SOON))

    assert ran.of("a") == ["step.started", "step.retrying"] * 2 + ["step.started", "step.completed"]
    retrying = [event for event in ran.events if event.event_type == "step.retrying"]
    assert [event.payload for event in retrying] == [{"attempt": n, "max_attempts": 4} for n in (1, 2)]
    assert ran.outputs == {"output": 'b({"attempt": 3, "attempts": [1, 2, 3]})'}


def test_a_step_fails_for_good_after_its_last_attempt(fleet: Fleet) -> None:
    ran = fleet.run(draw("a", config={"a": {"fail": 9}}), config=RunConfig(max_retries=2, **SOON))

    failed(ran, "ValueError", "attempt 3 failed")
    assert ran.of("a").count("step.started") == 3


def test_a_step_may_say_how_often_it_is_tried_again(fleet: Fleet) -> None:
    ran = fleet.run(draw("a", config={"a": {"fail": 9, "retry_count": 1}}), config=RunConfig(**SOON))

    assert ran.of("a").count("step.started") == 2


def test_a_segment_says_how_often_its_steps_are_tried_again(fleet: Fleet) -> None:
    failed(fleet.run(draw("a", max_retries=0, config={"a": {"fail": 1}})), "ValueError", "attempt 1")


def test_what_is_permanent_is_not_tried_again(fleet: Fleet) -> None:
    ran = fleet.run(draw("a", config={"a": {"fail": 9, "how": "permanent"}}), config=RunConfig(**SOON))

    failed(ran, "PermanentError")
    assert ran.of("a") == ["step.started", "step.failed"]


def test_an_error_may_ask_for_time_before_the_next_attempt(fleet: Fleet) -> None:
    ran = fleet.run(draw("a", config={"a": {"fail": 1, "how": "busy", "after": 0.3}}), config=RunConfig(**SOON))

    first, second = (event.timestamp for event in ran.events if event.event_type == "step.started")
    assert (second - first).total_seconds() >= 0.3


def test_a_time_to_wait_that_no_clock_has_is_cut(fleet: Fleet) -> None:
    run_id = fleet.start(draw("a", config={"a": {"fail": 1, "how": "busy", "after": "inf"}}))

    eventually(lambda: [r for r in fleet.store.steps("default", run_id) if r.row.owner == "timer"], "the retry")
    assert fleet.cancel(run_id)


@pytest.mark.parametrize(
    ("how", "error_type"),
    [("exit", "SystemExit"), ("memory", "StepOutOfMemoryError"), ("timeout", "TimeoutError"), ("mute", "MuteError")],
)
@pytest.mark.parametrize("step", ["a", "plain_a"])
def test_whatever_a_handler_raises_is_the_failure_of_its_step(
    fleet: Fleet, step: str, how: str, error_type: str
) -> None:
    failed(fleet.run(draw(step, config={step: {"fail": 9, "how": how}}), config=once()), error_type)


def test_an_error_text_is_cleaned_before_it_is_kept(fleet: Fleet) -> None:
    ran = fleet.run(draw("a", config={"a": {"fail": 1, "how": "text"}}), config=once())

    failed(ran, "ValueError", "nul")
    assert ran.result.error is not None
    assert not {"\x00", "\ud800", "secret"} & set(ran.result.error.error_message.replace("secret", "\x00"))


@pytest.mark.parametrize("kind", NOT_JSON)
def test_an_answer_that_is_no_json_fails_its_step_and_says_where(fleet: Fleet, kind: str) -> None:
    ran = fleet.run(draw("a", config={"a": {"not_json": kind}}), config=RunConfig(**SOON))

    failed(ran, "InvalidOutputError", "'a'", "value")
    assert ran.of("a") == ["step.started", "step.failed"]


def test_an_answer_over_the_limit_fails_its_step(fleet: Fleet) -> None:
    ran = fleet.run(draw("a", config={"a": {"size": 70_000}}), config=RunConfig(**SOON))

    failed(ran, "PayloadTooLargeError", "step 'a'", "65,536")
    assert ran.of("a") == ["step.started", "step.failed"]


def test_a_condition_that_cannot_be_evaluated_fails_its_step(fleet: Fleet) -> None:
    failed(fleet.run(draw("a -[nothing > 1]-> b", config={"a": {"answer": {}}})), "InvalidConditionError", "nothing")


def test_a_step_without_a_handler_fails_and_says_what_to_do(fleet: Fleet) -> None:
    ran = fleet.run(draw("a -> ghost_b"), config=RunConfig(**SOON))

    failed(ran, "NoHandlerError", "No handler", "'ghost'", "--import")
    assert ran.of("ghost_b") == ["step.started", "step.failed"]


@pytest.mark.parametrize("step", ["a", "plain_a"])
def test_a_step_that_is_not_done_in_time_fails(fleet: Fleet, step: str, gate: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    config = {"gate": str(gate), "timeout_seconds": 0.2, "told": str(told)}

    ran = fleet.run(draw(step, config={step: config}), config=once())

    failed(ran, "StepTimeoutError", f"'{step}'", "0.2 s")
    if step == "plain_a":
        eventually(told.exists, "the handler to be told")


def test_a_step_that_was_not_done_in_time_is_tried_again(fleet: Fleet, gate: Path) -> None:
    config = {"gate": str(gate), "timeout_seconds": 0.1, "retry_count": 1}

    ran = fleet.run(draw("plain_a", config={"plain_a": config}), config=RunConfig(**SOON))

    assert ran.of("plain_a") == ["step.started", "step.retrying", "step.started", "step.failed"]


@pytest.mark.parametrize("step", ["a", "plain_a"])
@pytest.mark.parametrize("watched", [False, True])
def test_a_run_that_is_not_done_in_time_is_ended(fleet: Fleet, step: str, watched: bool, gate: Path) -> None:
    callbacks: dict[str, Any] = {"on_step_start": print} if watched else {}

    ran = fleet.run(draw(step, config={step: {"gate": str(gate)}}), config=once(timeout_seconds=0.3, **callbacks))

    assert (ran.status, ran.error_type) == ("timeout", "TimeoutError")
    assert ran.result.error is not None
    assert "timed out after 0.3 seconds" in ran.result.error.error_message
    assert ran.result.error.recoverable
    assert ran.states == {step: "cancelled"}
    assert ran.events[-1].event_type == "segment.failed"


def test_durations_longer_than_there_are_dates_are_as_good_as_none(fleet: Fleet) -> None:
    segment = draw("a", timeout_seconds=1e300, config={"a": {"fail": 1, "timeout_seconds": 1e300}})

    ran = fleet.run(segment, config=RunConfig(timeout_seconds=1e200, step_timeout=1e200, retry_delay=0.0))

    assert ran.status == "completed"


def test_a_run_that_nobody_waits_for_ends_in_time_too(fleet: Fleet, gate: Path) -> None:
    segment = draw("a", config={"a": {"gate": str(gate)}})

    run_id = fleet.start(segment, config=once(timeout_seconds=0.2))

    eventually(lambda: str(fleet.call(fleet.runner.get_status(run_id))) == "timeout", "the end of the run")


@pytest.mark.parametrize("step", ["a", "plain_a"])
def test_a_run_that_is_cancelled_ends_at_once(fleet: Fleet, step: str, gate: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    run_id = fleet.start(draw(f"{step} -> b", config={step: {"mark": str(mark), "gate": str(gate)}}))
    eventually(mark.exists, "the step to run")

    assert fleet.cancel(run_id)

    ran = fleet.wait(run_id)
    assert (ran.status, ran.result.error) == ("cancelled", None)
    assert set(ran.states.values()) == {"cancelled"}
    assert ran.events[-1].event_type == "segment.cancelled"
    assert ran.result.completed_at is not None
    assert not fleet.cancel(run_id)


def test_a_run_whose_handlers_all_block_can_be_cancelled(fleet: Fleet, gate: Path) -> None:
    names = [f"plain_{number}" for number in range(12)]
    segment = draw(*(f"split_1 -> {name} -> all_1" for name in names), config={n: {"gate": str(gate)} for n in names})
    run_id = fleet.start(segment)
    eventually(lambda: sum(r.row.state == "running" for r in fleet.store.steps("default", run_id)) >= 8, "them to run")

    assert fleet.cancel(run_id)

    assert set(fleet.wait(run_id).states.values()) == {"completed", "cancelled"}


def test_cancelling_what_is_unknown_does_nothing(fleet: Fleet) -> None:
    assert not fleet.cancel("unknown")


def test_every_attempt_has_the_same_idempotency_key_and_every_run_another(fleet: Fleet) -> None:
    again = draw("a", config={"a": {"fail": 1, "show": "key"}})

    one, other = (fleet.run(again, config=RunConfig(**SOON)).outputs["output"] for _ in range(2))

    assert len(one) == 64
    assert one != other


def test_what_a_handler_annotates_stands_in_the_event_that_ends_the_attempt(fleet: Fleet) -> None:
    usage = {"input_tokens": 3, "output_tokens": 5}

    ran = fleet.run(draw("a", config={"a": {"annotate": usage}}))

    assert next(event for event in ran.events if event.event_type == "step.completed").payload["usage"] == usage
