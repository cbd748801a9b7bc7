"""The orchestrator of one pipeline: asks its strategy, lets agents work, until the strategy ends the run."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from llmteam.ids import Clock, utc_now
from llmteam.roles.exceptions import InvalidOrchestrationError, OrchestrationLimitError
from llmteam.roles.models import RETRY, START, OrchestrationContext, OrchestrationDecision
from llmteam.roles.recording import RUNS_KEPT, ProcessMining, engine_for
from llmteam.roles.runs import Agent, OrchestratedRun, history_entry, state_of
from llmteam.roles.strategies import OrchestrationStrategy, RuleBasedStrategy
from llmteam.tenancy.context import current_tenant

#: Decisions that one run may take.
MAX_ITERATIONS = 100
#: Retries in a row that one run may take.
MAX_RETRIES = 3

#: What everything about a run is kept under; two tenants may use the same run id.
_History = OrderedDict[str, list[dict[str, Any]]]


class PipelineOrchestrator:
    """Lets registered agents work in the order that ``strategy`` (by default rules without a rule) decides.

    It runs in the caller's process, and a run ends with it. History and mined events are apart by tenant, which is
    taken from the context; ``mining`` makes the recorder of a tenant.

    Raises :class:`InvalidOrchestrationError` for bounds below one.
    """

    def __init__(
        self,
        pipeline_id: str,
        strategy: OrchestrationStrategy | None = None,
        enable_process_mining: bool = True,
        *,
        max_iterations: int = MAX_ITERATIONS,
        max_retries: int = MAX_RETRIES,
        mining: Callable[[str], ProcessMining] = engine_for,
        clock: Clock = utc_now,
    ) -> None:
        if max_iterations < 1 or max_retries < 1:
            raise InvalidOrchestrationError("max_iterations and max_retries have to be 1 or more")
        self.pipeline_id = pipeline_id
        self.strategy = strategy or RuleBasedStrategy()
        self.max_iterations = max_iterations
        self.max_retries = max_retries
        self._mined = enable_process_mining
        self._mining = mining
        self._clock = clock
        self._agents: dict[str, Any] = {}
        self._engines: dict[str, ProcessMining] = {}
        self._histories: dict[str, _History] = {}

    @property
    def process_mining(self) -> ProcessMining | None:
        """What records the current tenant's runs; nothing when process mining is off."""
        if not self._mined:
            return None
        tenant = current_tenant.get()
        if tenant not in self._engines:
            self._engines[tenant] = self._mining(self.pipeline_id)
        return self._engines[tenant]

    def register_agent(self, name: str, agent: Agent) -> None:
        """Let ``agent`` work under this name; the last registration wins. Runs in progress keep those they have."""
        if not callable(getattr(agent, "process", None)):
            raise InvalidOrchestrationError(f"Agent '{name}' has no method process(state)")
        self._agents[name] = agent

    def unregister_agent(self, name: str) -> None:
        """Forget an agent; an unknown name is ignored."""
        self._agents.pop(name, None)

    async def decide(self, task_context: OrchestrationContext | Mapping[str, Any]) -> OrchestrationDecision:
        """What the strategy decides, and nothing is run.

        Of a mapping, keys that are fields of :class:`OrchestrationContext` are taken as those and all others as keys
        of ``global_state``; agents, their states and the history of the run ``run_id`` are this orchestrator's where
        they are not given. Raises :class:`InvalidOrchestrationError` for anything else, and what the strategy raises.
        """
        if isinstance(task_context, OrchestrationContext):
            run_id, context = self.pipeline_id, task_context
        elif isinstance(task_context, Mapping):
            run_id = str(task_context.get("run_id") or self.pipeline_id)
            context = self._context(run_id, task_context)
        else:
            found = type(task_context).__name__
            raise InvalidOrchestrationError(f"A task is an OrchestrationContext or a mapping, not a {found}")
        decision = await self._decided(context)
        self._record(run_id, decision)
        self._history(run_id).append(history_entry(context.current_step, decision, self._clock))
        return decision

    async def orchestrate(self, run_id: str, input_data: Mapping[str, Any]) -> dict[str, Any]:
        """Run until the strategy ends it, and return the state: the input with what the agents gave. A run id that
        was used before begins anew.

        Raises:
            OrchestrationLimitError: more than ``max_iterations`` decisions, or ``max_retries`` retries in a row.
            Exception: that of an agent, when the strategy has no decision about it; and what the strategy raises.
        """
        history = self._histories.setdefault(current_tenant.get(), OrderedDict())
        history.pop(run_id, None)
        run = OrchestratedRun(
            run_id,
            dict(self._agents),
            dict(input_data),
            self._clock,
            self.process_mining,
            history=self._history(run_id),
        )
        for _ in range(self.max_iterations):
            decision = await self._decided(run.context())
            self._record(run_id, decision)
            if decision.decision_type == RETRY and run.retries >= self.max_retries:
                raise OrchestrationLimitError(self.pipeline_id, run_id, "retries", self.max_retries) from run.error
            if not await run.follow(decision):
                return run.state
        raise OrchestrationLimitError(self.pipeline_id, run_id, "decisions", self.max_iterations) from run.error

    def get_process_metrics(self) -> Any:
        """The ``ProcessMetrics`` of the current tenant's runs; None when process mining is off."""
        engine = self.process_mining
        return None if engine is None else engine.calculate_metrics()

    def export_process_model(self) -> str | None:
        """The current tenant's runs as an XES document; None when process mining is off."""
        engine = self.process_mining
        return None if engine is None else engine.export_xes()

    def get_execution_history(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """The decisions of one run, or of all runs of the current tenant that are kept, run by run.

        Each has ``step``, ``decision`` (type, targets, reason, confidence, metadata) and ``timestamp``, and where it
        applies ``completed``, ``errors`` (kind by agent) and ``conflicts`` (keys that two agents wrote at once).
        """
        histories = self._histories.get(current_tenant.get(), OrderedDict())
        wanted = histories.values() if run_id is None else [histories.get(run_id, [])]
        return copy.deepcopy([entry for history in wanted for entry in history])

    async def _decided(self, context: OrchestrationContext) -> OrchestrationDecision:
        decision = await self.strategy.decide(context)
        if not isinstance(decision, OrchestrationDecision):
            strategy, found = type(self.strategy).__name__, type(decision).__name__
            raise InvalidOrchestrationError(f"{strategy} has to decide with an OrchestrationDecision, not a {found}")
        return decision

    def _history(self, run_id: str) -> list[dict[str, Any]]:
        kept = self._histories.setdefault(current_tenant.get(), OrderedDict())
        history = kept.setdefault(run_id, [])
        if len(kept) > RUNS_KEPT:
            kept.popitem(last=False)
        return history

    def _record(self, run_id: str, decision: OrchestrationDecision) -> None:
        engine = self.process_mining
        if engine is not None:
            engine.record_event(
                run_id,
                f"decision:{decision.decision_type}",
                self._clock(),
                resource="orchestrator",
                attributes={"reason": decision.reason, "confidence": decision.confidence},
            )

    def _context(self, run_id: str, given: Mapping[str, Any]) -> OrchestrationContext:
        fields = OrchestrationContext.__dataclass_fields__
        states = {name: state_of(agent) for name, agent in self._agents.items()}
        values: dict[str, Any] = {
            "current_step": START,
            "available_agents": list(self._agents),
            "agent_states": states,
            "execution_history": self.get_execution_history(run_id),
            **{key: value for key, value in given.items() if key in fields},
        }
        rest = {key: value for key, value in given.items() if key not in fields}
        values["global_state"] = {**rest, **(given.get("global_state") or {})}
        if not isinstance(values.get("step_duration", timedelta()), timedelta):
            values["step_duration"] = timedelta(seconds=values["step_duration"])
        return OrchestrationContext(**values)
