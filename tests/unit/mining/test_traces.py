"""Runs as traces: each event as the transition that it stands for, in order of time, with who did it."""

from __future__ import annotations

from llmteam.mining.models import ProcessEvent
from llmteam.mining.records import StoredEvent
from llmteam.mining.traces import in_order, process_events
from tests.mined import at, told


def transitions(events: list[StoredEvent]) -> list[tuple[str, str, float]]:
    """Step, transition and seconds."""
    return [
        (one.activity, one.lifecycle, (one.timestamp - at(0)).total_seconds())
        for one in in_order(process_events(events))
    ]


def test_a_step_is_scheduled_when_it_was_due_then_starts_and_completes() -> None:
    events = told(
        "0 segment.started", "0 step.started a", "2 step.completed a", "5 step.started b", "6 step.completed b",
        "6 segment.completed",
        e2={"ready_at": at(0)}, e4={"ready_at": at(2)}, e5={"duration_ms": 1000},
    )  # fmt: skip

    found = list(in_order(process_events(events)))

    assert transitions(events) == [
        ("a", "schedule", 0), ("a", "start", 0), ("a", "complete", 2),
        ("b", "schedule", 2), ("b", "start", 5), ("b", "complete", 6),
    ]  # fmt: skip
    assert found[-1].duration_ms == 1000
    assert len({one.event_id for one in found}) == len(found)


def test_branches_that_wait_side_by_side_are_scheduled_at_the_same_time() -> None:
    events = told(
        "1 step.completed split", "1 step.started x", "4 step.completed x", "5 step.started y",
        e2={"ready_at": at(1)}, e4={"ready_at": at(1)},
    )  # fmt: skip

    assert [one[:2] for one in transitions(events)] == [
        ("split", "complete"), ("x", "schedule"), ("x", "start"), ("y", "schedule"), ("x", "complete"), ("y", "start"),
    ]  # fmt: skip


def test_a_limit_suspends_a_step_until_it_starts() -> None:
    events = told(
        "3 step.delayed a", "9 step.started a",
        e1={"ready_at": at(1), "told": {"limit": "gpt", "limited_by": "rate"}}, e2={"ready_at": at(1)},
    )  # fmt: skip

    assert transitions(events) == [("a", "schedule", 1), ("a", "suspend", 3), ("a", "start", 9)]
    held = [one for one in process_events(events) if one.lifecycle == "suspend"]
    assert held[0].attributes["limit"] == "gpt"


def test_a_retry_aborts_the_attempt_and_says_so() -> None:
    events = told(
        "0 step.started a", "1 step.retrying a", "5 step.started a", "6 step.failed a", e2={"error": "ValueError"}
    )

    found = list(process_events(events))

    assert [one.lifecycle for one in found] == ["start", "ate_abort", "start", "ate_abort"]
    assert [(one.is_error, one.is_retry) for one in found] == [
        (False, False),
        (True, True),
        (False, False),
        (True, False),
    ]
    assert found[1].attributes["error"] == "ValueError"


def test_a_step_that_was_lost_is_due_again_at_once() -> None:
    events = told(
        "0 step.started a", "30 step.lost a", "31 step.started a", e1={"ready_at": at(30)}, e3={"ready_at": at(30)}
    )

    assert transitions(events) == [
        ("a", "start", 0), ("a", "ate_abort", 30), ("a", "schedule", 30), ("a", "start", 31),
    ]  # fmt: skip


def test_a_step_that_was_handed_back_is_suspended_and_resumes() -> None:
    events = told(
        "0 step.started a", "2 step.released a", "3 step.started a", "4 step.completed a", e3={"ready_at": at(2)}
    )

    assert [one[1] for one in transitions(events)] == ["start", "suspend", "resume", "complete"]


def test_a_pause_suspends_what_runs_and_nothing_that_asks_a_person() -> None:
    events = told(
        "0 step.started a", "0 step.started human_1", "1 human.task_created human_1", "2 segment.paused",
        "9 segment.resumed", "9 step.started a", "10 step.completed a", "11 step.completed human_1",
    )  # fmt: skip

    assert transitions(events) == [
        ("a", "start", 0), ("human_1", "assign", 1), ("a", "suspend", 2), ("a", "resume", 9), ("a", "complete", 10),
        ("human_1", "complete", 11),
    ]  # fmt: skip


def test_what_people_do_is_told_with_their_names() -> None:
    events = told(
        "0 step.started human_1", "1 human.task_created human_1", "2 human.task_escalated human_1",
        "3 human.task_assigned human_1", "4 human.task_assigned human_1", "9 human.task_completed human_1",
        "9 step.completed human_1",
        e2={"told": {"assignee": None, "group": "desk"}}, e3={"told": {"assignee": "boss", "level": 1}},
        e4={"told": {"assignee": "ann"}}, e5={"told": {"assignee": "ann", "claimed": True}},
        e6={"told": {"completed_by": "ann"}},
    )  # fmt: skip

    found = list(process_events(events))

    assert [(one.lifecycle, one.resource) for one in found] == [
        ("assign", ""), ("reassign", "boss"), ("reassign", "ann"), ("start", "ann"), ("complete", "ann"),
    ]  # fmt: skip
    assert (found[0].attributes["org:group"], found[1].attributes["level"]) == ("desk", 1)


def test_what_is_no_step_of_the_process_is_left_out() -> None:
    events = told("0 segment.queued", "1 segment.started", "1 data.produced a", "1 custom a", "2 step.skipped b")

    assert [one[:2] for one in transitions(events)] == [("b", "autoskip")]


def test_a_run_that_is_too_long_to_be_put_in_order_is_told_as_it_is_numbered() -> None:
    events = [ProcessEvent(str(n), at(seconds), "a", "", "c") for n, seconds in enumerate((3, 1, 2))]

    assert [one.event_id for one in in_order(events, most=3)] == ["1", "2", "0"]
    assert [one.event_id for one in in_order(events, most=2)] == ["0", "1", "2"]
    assert list(in_order([], most=2)) == []
