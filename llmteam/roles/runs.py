"""One run of an orchestrator: its state, its turns and what is kept of them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from llmteam.ids import Clock
from llmteam.ratelimit.calling import call
from llmteam.roles.exceptions import AgentResultError
from llmteam.roles.models import (
    ESCALATE,
    FALLBACK,
    PARALLEL,
    RETRY,
    ROUTE,
    SKIP,
    START,
    OrchestrationContext,
    OrchestrationDecision,
)
from llmteam.roles.recording import ABORTED, COMPLETED, STARTED, ProcessMining

#: Key of the state under which a run that was escalated says why.
ESCALATION = "escalation"


class Agent(Protocol):
    """Does part of the work. An agent may also have ``get_state() -> dict``, which strategies see.

    A plain ``process`` runs in a thread.
    """

    def process(self, state: dict[str, Any], /) -> Awaitable[Mapping[str, Any] | None] | Mapping[str, Any] | None: ...


def state_of(agent: Any) -> dict[str, Any]:
    """What an agent says of itself."""
    return dict(agent.get_state()) if hasattr(agent, "get_state") else {"status": "available"}


@dataclass(slots=True)
class OrchestratedRun:
    """A run in progress. ``agents`` are those that were registered when it began.

    Each agent works on a copy of the state; what it returns is merged by key. A failed call is kept and counted, and
    ``error`` is the first one of the last turn.
    """

    run_id: str
    agents: dict[str, Any]
    state: dict[str, Any]
    clock: Clock
    mining: ProcessMining | None = None
    step: str = START
    history: list[dict[str, Any]] = field(default_factory=list)
    step_duration: timedelta = timedelta()
    retries: int = 0
    calls: int = 0
    failures: int = 0
    error: Exception | None = None

    def context(self) -> OrchestrationContext:
        """Where the run stands."""
        return OrchestrationContext(
            current_step=self.step,
            available_agents=list(self.agents),
            agent_states={name: state_of(agent) for name, agent in self.agents.items()},
            execution_history=copy.deepcopy(self.history),
            global_state=copy.deepcopy(self.state),
            step_duration=self.step_duration,
            retry_count=self.retries,
            error_rate=self.failures / self.calls if self.calls else 0.0,
        )

    async def follow(self, decision: OrchestrationDecision) -> bool:
        """Act on ``decision`` and keep it; whether the run goes on. Raises a failed agent's error that nobody took up.

        Which it is when the strategy falls back to what it does without a decision.
        """
        entry = history_entry(self.step, decision, self.clock)
        self.history.append(entry)
        if self.error is not None and decision.metadata.get(FALLBACK):
            raise self.error
        kind = decision.decision_type
        if kind == ESCALATE:
            told = {"reason": decision.reason, "targets": list(decision.target_agents), "step": self.step}
            self.state[ESCALATION] = told
            return False
        targets = [name for name in dict.fromkeys(decision.target_agents) if name in self.agents]
        if kind not in (ROUTE, RETRY, PARALLEL, SKIP) or not targets:
            return False
        self.retries = self.retries + 1 if kind == RETRY else 0
        began = self.clock()
        self.error = None
        if kind == SKIP:
            entry["completed"] = targets
            self.step = targets[-1]
        elif kind == PARALLEL:
            await self._together(targets, entry)
        else:
            await self._in_turn(targets, entry)
        self.step_duration = self.clock() - began
        return True

    async def _in_turn(self, targets: list[str], entry: dict[str, Any]) -> None:
        for name in targets:
            self.step = name
            result = await self._called(name)
            if isinstance(result, Exception):
                self._failed(name, result, entry)
                return
            self.state.update(result)
            entry.setdefault("completed", []).append(name)

    async def _together(self, targets: list[str], entry: dict[str, Any]) -> None:
        results = await asyncio.gather(*(self._called(name) for name in targets))
        written: dict[str, Any] = {}
        conflicts: list[str] = []
        for name, result in zip(targets, results, strict=True):
            if isinstance(result, Exception):
                self._failed(name, result, entry)
                continue
            conflicts += [key for key, value in result.items() if key in written and written[key] != value]
            written.update(result)
            entry.setdefault("completed", []).append(name)
        self.state.update(written)
        self.step = targets[-1]
        if conflicts:
            entry["conflicts"] = list(dict.fromkeys(conflicts))

    def _failed(self, name: str, error: Exception, entry: dict[str, Any]) -> None:
        entry.setdefault("errors", {})[name] = type(error).__name__
        self.error = self.error or error

    async def _called(self, name: str) -> dict[str, Any] | Exception:
        """What the agent makes of a copy of the state, or its error."""
        self.calls += 1
        began = self.clock()
        self._record(name, STARTED)
        try:
            answer = await call(self.agents[name].process, (copy.deepcopy(self.state),), {})
            if answer is not None and not isinstance(answer, Mapping):
                raise AgentResultError(name, type(answer).__name__)
        except Exception as exc:  # noqa: BLE001  # an agent of the user may raise anything
            self.failures += 1
            self._record(name, ABORTED, self.clock() - began, {"error": type(exc).__name__})
            return exc
        self._record(name, COMPLETED, self.clock() - began)
        return dict(answer or {})

    def _record(
        self, name: str, lifecycle: str, took: timedelta = timedelta(), attributes: Mapping[str, Any] | None = None
    ) -> None:
        if self.mining is not None:
            self.mining.record_event(
                self.run_id,
                name,
                self.clock(),
                resource=name,
                lifecycle=lifecycle,
                duration_ms=round(took.total_seconds() * 1000),
                attributes=attributes,
            )


def history_entry(step: str, decision: OrchestrationDecision, clock: Clock) -> dict[str, Any]:
    """What is kept of a decision, as JSON."""
    return {
        "step": step,
        "decision": {
            "type": decision.decision_type,
            "targets": list(decision.target_agents),
            "reason": decision.reason,
            "confidence": decision.confidence,
            "metadata": dict(decision.metadata),
        },
        "timestamp": clock().isoformat(),
    }
