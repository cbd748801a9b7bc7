"""Where time goes: people, queues, limits, retries, lost workers and pauses are told apart from work."""

from __future__ import annotations

from typing import Any

import pytest

from llmteam.mining.waits import WHOLE_RUN, Cause, RunClock, Waits
from tests.mined import at, told


def spent(*lines: str, **more: Any) -> dict[str, dict[str, float]]:
    """Seconds by activity and cause."""
    waits = Waits()
    clock = RunClock(waits)
    for event in told(*lines, **more):
        clock.feed(event)
    return {name: {str(cause): one.seconds for cause, one in causes.items()} for name, causes in waits.spent.items()}


def test_a_queue_is_not_work() -> None:
    assert spent("5 step.started a", "7 step.completed a", e1={"ready_at": at(1)}) == {"a": {"queue": 4, "work": 2}}


def test_a_person_is_waited_for_from_the_question_to_the_end_of_the_step() -> None:
    found = spent("1 step.started h", "2 human.task_created h", "3 human.task_assigned h", "62 step.completed h")

    assert found == {"h": {"work": 1, "human": 60}}


def test_a_limit_holds_a_step_from_the_refusal_to_its_start() -> None:
    found = spent("1 step.delayed a", "9 step.started a", "10 step.completed a", e1={"ready_at": at(0)})

    assert found == {"a": {"queue": 1, "limit": 8, "work": 1}}


def test_attempts_are_work_and_the_time_between_them_is_not() -> None:
    found = spent("0 step.started a", "1 step.retrying a", "5 step.started a", "7 step.failed a")

    assert found == {"a": {"work": 3, "retry": 4}}


def test_the_time_of_a_worker_that_vanished_is_lost_and_then_the_step_queues() -> None:
    found = spent("0 step.started a", "30 step.lost a", "31 step.started a", "33 step.completed a")

    assert found == {"a": {"lost": 30, "queue": 1, "work": 2}}


def test_a_step_that_is_handed_back_queues() -> None:
    assert spent("0 step.started a", "1 step.released a", "3 step.started a", "4 step.completed a") == {
        "a": {"work": 2, "queue": 2}
    }


def test_a_pause_is_nobodys_waiting_and_what_was_waited_for_goes_on_behind_it() -> None:
    found = spent(
        "0 step.started a", "0 step.started h", "0 human.task_created h", "2 segment.paused", "10 segment.resumed",
        "11 step.started a", "12 step.completed a", "13 step.completed h",
    )  # fmt: skip

    assert found == {
        "a": {"work": 3, "pause": 8, "queue": 1},
        "h": {"work": 0, "human": 5, "pause": 8},
        WHOLE_RUN: {"pause": 8},
    }


def test_a_run_that_waits_for_its_turn_waits_as_a_whole() -> None:
    assert spent("0 segment.queued", "40 segment.started") == {WHOLE_RUN: {"admission": 40}}


def test_what_is_open_when_the_run_ends_counts_until_then() -> None:
    assert spent("0 step.started a", "0 step.started b", "3 step.failed a", "3 segment.failed") == {
        "a": {"work": 3},
        "b": {"work": 3},
    }


def test_iterations_are_counted_one_by_one() -> None:
    waits = Waits()
    clock = RunClock(waits)

    for event in told("0 step.started a#1", "1 step.completed a#1", "2 step.started a#2", "5 step.completed a#2"):
        clock.feed(event)

    one = waits.spent["a"][Cause.WORK]
    assert (one.times, one.seconds, one.longest) == (2, 4.0, 3.0)


def test_the_slowest_come_first_with_what_holds_them_up_most() -> None:
    waits = Waits()
    waits.add("a", Cause.WORK, at(0), at(5))
    waits.add("b", Cause.HUMAN, at(0), at(9))
    waits.add("b", Cause.WORK, at(0), at(1))

    assert waits.slowest() == [("b", Cause.HUMAN, 9.0), ("a", Cause.WORK, 5.0)]
    assert (waits.by_cause()[Cause.WORK], waits.by_cause()[Cause.LIMIT]) == (6.0, 0.0)


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_is_said_in_words(cause: Cause) -> None:
    assert cause.says
