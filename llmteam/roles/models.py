"""What orchestration decides on and what it decides, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from llmteam.roles.exceptions import InvalidOrchestrationError

#: The step that a run stands at before its first decision.
START = "start"

#: Kinds of decisions that an orchestrator acts on; any other text ends the run.
ROUTE, RETRY, ESCALATE, SKIP, PARALLEL, END = "route", "retry", "escalate", "skip", "parallel", "end"
DECISION_TYPES = (ROUTE, RETRY, ESCALATE, SKIP, PARALLEL, END)

#: Key of a decision's metadata: the strategy had nothing to say and this is what it does then.
FALLBACK = "fallback"


class OrchestratorRole(StrEnum):
    """What an orchestrator does beside its agents' own work."""

    ORCHESTRATION = "orchestration"
    PROCESS_MINING = "process_mining"


@dataclass(slots=True)
class OrchestrationDecision:
    """What happens next. ``decision_type`` is one of :data:`DECISION_TYPES`, ``confidence`` is from 0 to 1."""

    decision_type: str
    target_agents: list[str]
    reason: str
    confidence: float
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """One key per field, as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote. Raises :class:`InvalidOrchestrationError`."""
        try:
            return cls(**data)
        except TypeError:
            fields = "decision_type, target_agents, reason, confidence and metadata"
            raise InvalidOrchestrationError(f"A decision is an object with the keys {fields}") from None


@dataclass(slots=True)
class OrchestrationContext:
    """Where a run stands. ``error_rate`` is failed calls of agents over all calls, ``retry_count`` retries in a row.

    Entries of ``execution_history`` are those of :meth:`PipelineOrchestrator.get_execution_history`.
    """

    current_step: str
    available_agents: list[str]
    agent_states: dict[str, dict[str, Any]]
    execution_history: list[dict[str, Any]]
    global_state: dict[str, Any]
    step_duration: timedelta = timedelta()
    retry_count: int = 0
    error_rate: float = 0.0

    @property
    def completed_agents(self) -> list[str]:
        """The agents that are done in this run, in the order in which they first were."""
        done = (name for entry in self.execution_history for name in entry.get("completed", ()))
        return list(dict.fromkeys(done))

    @property
    def failed_agents(self) -> list[str]:
        """The agents that failed in the last turn."""
        return list(self.execution_history[-1].get("errors", ())) if self.execution_history else []

    def as_document(self) -> dict[str, Any]:
        """What an expression of a rule sees: one key per field and property; ``step_duration`` in seconds."""
        return {
            "current_step": self.current_step,
            "available_agents": self.available_agents,
            "agent_states": self.agent_states,
            "execution_history": self.execution_history,
            "global_state": self.global_state,
            "step_duration": self.step_duration.total_seconds(),
            "retry_count": self.retry_count,
            "error_rate": self.error_rate,
            "completed_agents": self.completed_agents,
            "failed_agents": self.failed_agents,
        }


class GroupDecisionType(StrEnum):
    """What a group of pipelines does with an input."""

    ROUTE_TO_PIPELINE = "route_to_pipeline"
    PARALLEL_PIPELINES = "parallel_pipelines"
    AGGREGATE_RESULTS = "aggregate_results"
    ESCALATE = "escalate"


@dataclass(slots=True)
class GroupOrchestrationDecision:
    """Which pipelines take an input. ``aggregation_strategy`` is merge, vote, first or all."""

    decision_type: GroupDecisionType
    target_pipelines: list[str]
    aggregation_strategy: str = "merge"
    reason: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class PipelineStatus:
    """How a pipeline is doing: ``status`` is idle, running, completed or failed, ``progress`` from 0 to 1.

    ``running`` counts the inputs that it works on at this moment.
    """

    pipeline_id: str
    status: str
    progress: float
    current_step: str
    error_count: int
    last_update: datetime
    running: int = 0
