"""Agents, recorders and clocks for the tests of orchestration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from llmteam.roles import OrchestrationContext


@dataclass
class Writes:
    """Adds one key to the state, or raises the errors that it has, one per call."""

    key: str
    value: Any = True
    errors: list[Exception] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def process(self, state: dict[str, Any]) -> dict[str, Any]:
        self.seen.append(state)
        if self.errors:
            raise self.errors.pop(0)
        return {self.key: self.value}


@dataclass
class Recorder:
    """Keeps what is recorded as (case, activity, lifecycle, attributes)."""

    name: str = ""
    events: list[tuple[str, str, str, dict[str, Any]]] = field(default_factory=list)

    def record_event(
        self,
        process_id: str,
        activity: str,
        timestamp: datetime,
        *,
        resource: str = "",
        lifecycle: str = "complete",
        duration_ms: int = 0,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        assert timestamp.tzinfo is not None
        assert resource
        self.events.append((process_id, activity, lifecycle, dict(attributes or {})))

    def calculate_metrics(self) -> Any:
        return len(self.events)

    def export_xes(self) -> str:
        return f"<log>{self.name}</log>"


class Ticking:
    """A clock that is a second later each time it is asked."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def context(*agents: str, **fields: Any) -> OrchestrationContext:
    """A context in which ``agents`` are available and nothing has happened."""
    values: dict[str, Any] = {
        "current_step": "start",
        "available_agents": list(agents),
        "agent_states": {},
        "execution_history": [],
        "global_state": {},
    }
    return OrchestrationContext(**{**values, **fields})
