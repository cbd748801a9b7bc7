"""Parking under a limit, as the state machine sees it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmteam.canvas.delays import LEAD, delay, wake_up
from llmteam.canvas.state import RunState, SegmentStatus, Slice, StepRow, StepState
from llmteam.canvas.transitions import claim
from llmteam.events.models import EventDraft, EventType

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=5)
KEY = ("a", 1)
TOLD = EventDraft(EventType.STEP_DELAYED, step_id="a", visit=1)


def moment(run: dict[str, Any] | None = None, **row: Any) -> Slice:
    step = StepRow("a", **{"state": StepState.READY, "owner": "queue", "fence": 3, "attempt": 1, "losses": 1, **row})
    return Slice(RunState("r", open=1, **(run or {})), [step], NOW)


def test_a_ready_step_waits_for_the_limit_and_nothing_else_of_it_changes() -> None:
    change = delay(moment(), KEY, 3, LATER, TOLD)

    row = change.steps[KEY]
    assert (row.state, row.owner, row.wake_at) == (StepState.WAITING, "limit", LATER)
    assert (row.fence, row.attempt, row.losses) == (3, 1, 1)
    assert (change.run.open, change.run.running, change.events, change.ready) == (1, 0, [TOLD], [])


@pytest.mark.parametrize(
    "row",
    [
        {"state": StepState.RUNNING, "owner": "lease"},
        {"state": StepState.WAITING, "owner": "person"},
        {"state": StepState.COMPLETED, "owner": None},
        {"state": StepState.CANCELLED, "owner": None},
        {"fence": 4},
    ],
)
def test_a_step_that_moved_meanwhile_is_left_alone(row: dict[str, Any]) -> None:
    change = delay(moment(**row), KEY, 3, LATER, TOLD)

    assert not change.applied
    assert (change.steps, change.events) == ({}, [])


@pytest.mark.parametrize("status", [one for one in SegmentStatus if one is not SegmentStatus.RUNNING])
def test_a_run_that_does_not_run_parks_nothing(status: SegmentStatus) -> None:
    assert not delay(moment({"status": status}), KEY, 3, LATER, TOLD).applied


def test_a_run_that_is_over_time_ends_instead() -> None:
    change = delay(moment({"deadline": NOW}), KEY, 3, LATER, TOLD)

    assert change.ended
    assert change.run.status is SegmentStatus.TIMEOUT


def test_only_steps_that_wait_for_a_limit_are_claimed_out_of_waiting() -> None:
    def claimed(owner: Any) -> bool:
        row = StepRow("a", state=StepState.WAITING, owner=owner, wake_at=LATER)
        return claim(RunState("r"), row, NOW, None) is not None

    assert [owner for owner in ("limit", "person", "timer", "pause") if claimed(owner)] == ["limit"]


def test_a_turn_in_reach_is_met_exactly_and_a_far_one_ahead_of_time() -> None:
    assert wake_up(NOW + LEAD, NOW) == NOW + LEAD
    assert wake_up(NOW + 2 * LEAD, NOW) == NOW + LEAD
