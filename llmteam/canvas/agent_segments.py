"""Agents side by side as a segment: what to run, and what became of each. Pure.

There is no second engine: agents are steps between a split and a join, with all that holds for steps. That no more than
``max_concurrent`` run at once is in the graph: each agent comes after the one so many places before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmteam.canvas.models import EdgeDefinition, PortDefinition, SegmentDefinition, SegmentParams, StepDefinition
from llmteam.canvas.ports import ERROR_PORT
from llmteam.canvas.records import StepRecord
from llmteam.canvas.state import SegmentStatus, StepState
from llmteam.events.models import ErrorInfo
from llmteam.execution.config import ExecutionMode, ExecutorConfig, TaskResult

__all__ = ["AgentRef", "agents_segment", "task_results", "type_of"]

_SPLIT, _JOIN, _AFTER = "agents", "results", "after"
#: Errors of the engine as results of agents tell of them.
_TOLD = {"StepTimeoutError": ("timeout", "TimeoutError"), "WorkerLostError": ("worker lost", "WorkerLost")}
_LATE = {SegmentStatus.TIMEOUT: ("timeout", "TotalTimeout"), SegmentStatus.CANCELLED: ("cancelled", "Cancelled")}


@dataclass(frozen=True, slots=True)
class AgentRef:
    """An agent that workers make for themselves: the id that it is registered under, and its arguments, as JSON."""

    agent_id: str
    state: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def shown(self) -> str:
        """What its results are called by."""
        return self.name or self.agent_id


def type_of(agent_id: str) -> str:
    """The step type of a registered agent."""
    return f"agent.{agent_id}"


def agents_segment(
    agents: Sequence[AgentRef], config: ExecutorConfig | None = None, *, segment_id: str = "agents"
) -> SegmentDefinition:
    """The segment that runs ``agents`` within the limits of ``config`` and is done when each has an outcome.

    Of ``config`` the limits of the caller's own process (``queue_size``, back-pressure) mean nothing here, and ADAPTIVE
    is PARALLEL. Raises ``ValueError`` when there are no agents.
    """
    config = config or ExecutorConfig()
    if not agents:
        raise ValueError("no agents were given")
    width = 1 if config.mode is ExecutionMode.SEQUENTIAL else config.max_concurrent
    ids = [_step_id(number) for number in range(len(agents))]
    branches = [f"branch_{number}" for number in range(1, len(agents) + 1)]
    edges = []
    for number, (step_id, branch) in enumerate(zip(ids, branches, strict=True)):
        edges.append(_edge(_SPLIT, branch, step_id, "input"))
        if number >= width:
            edges += [_edge(ids[number - width], port, step_id, _AFTER) for port in ("output", ERROR_PORT)]
        edges += [_edge(step_id, port, _JOIN, branch) for port in ("output", ERROR_PORT)]
    ports = [PortDefinition(port_id=branch) for branch in branches]
    steps = [
        StepDefinition(step_id=_SPLIT, step_type="parallel_split", outputs=ports),
        *(
            _step(step_id, agent, config, waits=number >= width)
            for number, (step_id, agent) in enumerate(zip(ids, agents, strict=True))
        ),
        StepDefinition(step_id=_JOIN, step_type="parallel_join", inputs=ports),
    ]
    params = SegmentParams(max_retries=config.max_retries, timeout_seconds=config.total_timeout)
    return SegmentDefinition(segment_id=segment_id, name="Agents", steps=steps, edges=edges, params=params)


def _step_id(number: int) -> str:
    return f"agent_{number + 1}"


def _edge(source: str, port: str, target: str, target_port: str) -> EdgeDefinition:
    return EdgeDefinition(source_step=source, source_port=port, target_step=target, target_port=target_port)


def _step(step_id: str, agent: AgentRef, config: ExecutorConfig, *, waits: bool) -> StepDefinition:
    inputs = [PortDefinition(port_id="input")]
    if waits:
        inputs.append(PortDefinition(port_id=_AFTER))
    settings = {
        "state": dict(agent.state),
        "retry_count": config.max_retries,
        "timeout_seconds": config.task_timeout,
    }
    return StepDefinition(
        step_id=step_id, step_type=type_of(agent.agent_id), name=agent.shown, config=settings, inputs=inputs
    )


def task_results(
    agents: Sequence[AgentRef], run_id: str, status: SegmentStatus, steps: Sequence[StepRecord]
) -> list[TaskResult]:
    """What became of each agent of a run, in their order; ``task_id`` is ``run_id/step_id``."""
    by_step = {record.row.step_id: record for record in steps}
    return [
        _result(agent, f"{run_id}/{_step_id(number)}", status, by_step.get(_step_id(number)))
        for number, agent in enumerate(agents)
    ]


def _result(agent: AgentRef, task_id: str, status: SegmentStatus, record: StepRecord | None) -> TaskResult:
    result = TaskResult(task_id, agent.shown, False)
    result.error, result.error_type = _LATE.get(status, ("not run", "NotRun"))
    if record is None:
        return result
    row = record.row
    if row.started_at is not None and row.finished_at is not None:
        result.duration_ms = round((row.finished_at - row.started_at).total_seconds() * 1000)
    if row.state is StepState.COMPLETED:
        answer = record.output
        result.success, result.result = answer["success"], answer.get("result")
        result.error, result.error_type = answer.get("error"), answer.get("error_type")
        result.retries = answer.get("retries", 0)
    elif row.error is not None:
        result.error, result.error_type = _told(row.error)
        result.retries = max(0, row.attempt - 1)
    return result


def _told(error: ErrorInfo) -> tuple[str, str]:
    return _TOLD.get(error.error_type, (error.error_message, error.error_type))
