"""Agents as a segment: its shape, its limits, and what results are read off a run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.canvas import AgentRef, StepCatalog, agents_segment, validate_segment
from llmteam.canvas.agent_segments import task_results
from llmteam.canvas.records import StepRecord
from llmteam.canvas.state import SegmentStatus, StepRow, StepState
from llmteam.events.models import ErrorInfo
from llmteam.execution import ExecutionMode, ExecutorConfig
from tests.agents_at_work import register

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def catalog() -> StepCatalog:
    made = StepCatalog()
    register(made)
    return made


def refs(count: int) -> list[AgentRef]:
    return [AgentRef("counting", {"folder": "", "n": number}) for number in range(count)]


@pytest.mark.parametrize(("count", "width"), [(1, 10), (2, 1), (5, 2), (30, 10)])
def test_the_segment_is_sound_and_plain_json(catalog: StepCatalog, count: int, width: int) -> None:
    segment = agents_segment(refs(count), ExecutorConfig(max_concurrent=width))

    result = validate_segment(segment, catalog)

    assert result.is_valid, result.errors
    assert type(segment).from_json(segment.to_json()) == segment


@given(st.integers(1, 30), st.integers(1, 12))
def test_no_more_than_allowed_can_run_at_once(count: int, width: int) -> None:
    segment = agents_segment(refs(count), ExecutorConfig(max_concurrent=width))

    before: dict[str, set[str]] = defaultdict(set)
    for edge in segment.edges:
        if edge.target_port == "after":
            before[edge.target_step].add(edge.source_step)
    # Agents that wait for one another, directly or not, make lanes: of each at most one runs.
    lanes: dict[str, int] = {}
    for number in range(count):
        step_id = f"agent_{number + 1}"
        lanes[step_id] = lanes[next(iter(before[step_id]))] if step_id in before else len(set(lanes.values()))
    assert len(set(lanes.values())) == min(count, width)
    assert all(len(sources) == 1 for sources in before.values())


def test_sequential_agents_are_one_lane() -> None:
    segment = agents_segment(refs(3), ExecutorConfig(mode=ExecutionMode.SEQUENTIAL))

    after = [(edge.source_step, edge.target_step) for edge in segment.edges if edge.target_port == "after"]

    assert sorted(set(after)) == [("agent_1", "agent_2"), ("agent_2", "agent_3")]


def test_no_agents_make_no_segment() -> None:
    with pytest.raises(ValueError, match="no agents"):
        agents_segment([])


def record(number: int, state: StepState, output: Any = None, error: str = "", attempt: int = 0) -> StepRecord:
    row = StepRow(f"agent_{number}", state=state, attempt=attempt, started_at=NOW)
    if state in (StepState.COMPLETED, StepState.FAILED):
        row = replace(row, finished_at=NOW + timedelta(seconds=2))
    if error:
        row = replace(row, error=ErrorInfo(error_type=error, error_message="its words"))
    return StepRecord(row, "", None, None, output)


def test_what_became_of_each_is_read_off_the_steps() -> None:
    steps = [
        record(5, StepState.CANCELLED),
        record(1, StepState.COMPLETED, {"success": True, "result": 7, "retries": 1}),
        record(2, StepState.COMPLETED, {"success": False, "error": "no", "error_type": "ValueError", "retries": 0}),
        record(3, StepState.FAILED, error="StepTimeoutError", attempt=3),
        record(4, StepState.FAILED, error="WorkerLostError"),
    ]

    results = task_results([*refs(5), AgentRef("counting", name="last")], "run-1", SegmentStatus.TIMEOUT, steps)

    assert [(one.success, one.result, one.error, one.error_type, one.retries) for one in results] == [
        (True, 7, None, None, 1),
        (False, None, "no", "ValueError", 0),
        (False, None, "timeout", "TimeoutError", 2),
        (False, None, "worker lost", "WorkerLost", 0),
        (False, None, "timeout", "TotalTimeout", 0),
        (False, None, "timeout", "TotalTimeout", 0),
    ]
    assert [one.duration_ms for one in results[:4]] == [2000] * 4
    assert (results[0].task_id, results[5].agent_name) == ("run-1/agent_1", "last")
