"""``team``: decides who of several agents works next, and brings together what they gave."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from llmteam.canvas.exceptions import TeamAgentFailedError, TeamDecisionError
from llmteam.canvas.handlers.ai import Conversation, chosen_model
from llmteam.canvas.handlers.document import only_value
from llmteam.canvas.handlers.team_state import TeamState, goes_on, tokens_of
from llmteam.canvas.ports import Ports
from llmteam.canvas.teams import CARRIED_PORT, ESCALATED_PORT, LIMIT_PORT, PART, TURN_PORT, agent_port
from llmteam.ids import Clock, utc_now
from llmteam.licensing.manager import get_license_manager
from llmteam.roles.model_strategy import LLMBasedStrategy
from llmteam.roles.models import ESCALATE, FALLBACK, OrchestrationContext, OrchestrationDecision
from llmteam.roles.strategies import RuleBasedStrategy
from llmteam.runtime.context import StepContext
from llmteam.runtime.models import Completion, CompletionRequest

#: Why a team ended that no bound stopped.
ENDED, ESCALATED = "end", "escalation"

_TEMPERATURE = 0.0
_MAX_TOKENS = 1000

DEFAULT_PROMPT = """You coordinate agents that work on one task. Decide what happens next.

Agents: {agents}
What is known of the agents: {states}
Who worked last: {current_step}
The last decisions: {history}
What is known of the task: {state}

Answer with one JSON object and nothing else:
{"decision": "route", "targets": ["an agent"], "reason": "why", "confidence": 0.9}
decision is one of route, retry, escalate, skip, parallel, end; targets are agents from the list."""


class TeamHandler:
    """The decision of a team step, and the end of each of its turns: both are steps of type ``team``.

    A decision goes out on the ports of the agents that it names, with the state for each, and on ``turn`` with all that
    is carried on; it is also annotated, as ``decision``. The last one goes out on ``output``, ``limit`` or
    ``escalated``.

    Raises:
        TeamAgentFailedError: an agent failed, and the strategy has no decision of its own about that.
        TeamDecisionError: the model's answer is no decision.
        ModelError: no model, or no answer.
    """

    def __init__(self, clock: Clock = utc_now) -> None:
        self._clock = clock

    async def __call__(self, ctx: StepContext, config: dict[str, Any], input_data: Any, /) -> Ports:
        """The decision, or the state after a turn."""
        part = config.get(PART, {})
        if "turn_of" in part:
            return self._end_turn(ctx, config, input_data)
        return await self._decide(ctx, config, part, input_data)

    def _end_turn(self, ctx: StepContext, config: Mapping[str, Any], given: Mapping[str, Any]) -> Ports:
        turn = given[TURN_PORT]
        team = TeamState.of(turn)
        # A turn that another run began was not at work in between.
        begun_here = turn["run_id"] == ctx.run_id
        seconds = (self._clock() - datetime.fromisoformat(turn["began"])).total_seconds() if begun_here else 0.0
        team.end_turn(turn["working"], given, max(0.0, seconds))
        if config.get("result") != "last":
            team.last = None
        return Ports({"output": team.to_dict()})

    async def _decide(self, ctx: StepContext, config: Mapping[str, Any], part: Mapping[str, Any], given: Any) -> Ports:
        began = self._clock()
        team = _carried(ctx, part, given)
        turn = _Turn(ctx, config, part, team, began)
        bound = team.bound_reached(config)
        if team.queue:
            return turn.goes_on(None) if bound is None else turn.ends(bound, None, self._clock())
        decision = await self._asked(turn, bound)
        if decision is None:
            return turn.ends(str(bound), None, self._clock())
        targets = [name for name in dict.fromkeys(decision.target_agents) if name in turn.agents]
        if bound is not None and goes_on(decision, targets):
            return turn.ends(bound, None, self._clock())
        ctx.annotate("decision", decision.to_dict())
        team.tokens += tokens_of(decision.metadata)
        if team.follow(decision, targets, await _width(ctx, len(targets)), began):
            return turn.goes_on(decision)
        return turn.ends(ESCALATED if decision.decision_type == ESCALATE else ENDED, decision, self._clock())

    async def _asked(self, turn: _Turn, bound: str | None) -> OrchestrationDecision | None:
        """What the rules decide, else the model; None where a bound keeps the model from being asked."""
        strategy = turn.config.get("strategy", {})
        context = turn.team.context(turn.agents)
        decision = await RuleBasedStrategy(strategy.get("rules", ())).decide(context)
        if decision.metadata.get(FALLBACK) and ("llm_ref" in strategy or "model" in strategy):
            if bound is not None:
                return None
            errors = decision.metadata.get("rule_errors")
            decision = await self._model_decides(turn.ctx, strategy, context)
            decision.metadata |= {"rule_errors": errors} if errors else {}
        elif decision.metadata.get(FALLBACK) and turn.team.errors:
            raise TeamAgentFailedError(turn.ctx.step_id, turn.team.errors)
        return decision

    async def _model_decides(
        self, ctx: StepContext, strategy: Mapping[str, Any], context: OrchestrationContext
    ) -> OrchestrationDecision:
        chosen = chosen_model(ctx, strategy)
        model = _Model(Conversation(ctx, chosen.provider, self._clock), chosen.model, strategy)
        decision = await LLMBasedStrategy(model, strategy.get("prompt") or DEFAULT_PROMPT).decide(context)
        unknown = "dropped_targets" in decision.metadata and not decision.target_agents
        if decision.metadata.get(FALLBACK) or unknown:
            raise TeamDecisionError(ctx.step_id, "names no known agent" if unknown else "is no JSON object")
        return decision


async def _width(ctx: StepContext, wanted: int) -> int:
    """How many of so many agents may work at once: as the tenant's licence says, or one of the process for it."""
    if wanted < 2:
        return 1
    limit_of = ctx.runtime.parallel_agents or get_license_manager().tenants.licensed("parallel_agents")
    most = await asyncio.to_thread(limit_of, ctx.tenant_id)
    return wanted if most is None else max(1, min(most, wanted))


def _carried(ctx: StepContext, part: Mapping[str, Any], given: Any) -> TeamState:
    """What the turn before left, else the beginning. A run's own input is never taken for the former."""
    own = part.get("first") and ctx.visit == 1
    if isinstance(given, Mapping) and not own:
        if isinstance(given.get(CARRIED_PORT), Mapping):
            return TeamState.of(given[CARRIED_PORT])
        ports = tuple(port for port in ctx.inputs or ("input",) if port != CARRIED_PORT)
        return TeamState.begun(only_value(given, ports))
    return TeamState.begun(given)


@dataclass(slots=True)
class _Turn:
    """A decision at work, begun at ``began``."""

    ctx: StepContext
    config: Mapping[str, Any]
    part: Mapping[str, Any]
    team: TeamState
    began: datetime

    @property
    def agents(self) -> dict[str, str]:
        """The agents' descriptions by name."""
        return {agent["name"]: agent.get("description", "") for agent in self.config["agents"]}

    def goes_on(self, decision: OrchestrationDecision | None) -> Ports:
        """The next turn: the state for each agent that works in it, and all that is carried on."""
        working = self.team.next_turn()
        told = None if decision is None else decision.to_dict()
        turn = {"working": working, "began": self.began.isoformat(), "run_id": self.ctx.run_id, "decision": told}
        calls = {agent_port(name): self.team.state for name in working}
        return Ports({**calls, TURN_PORT: {**self.team.to_dict(), **turn}})

    def ends(self, stopped_by: str, decision: OrchestrationDecision | None, now: datetime) -> Ports:
        """The end of the team, on the port that is for it."""
        team = self.team
        team.seconds += max(0.0, (now - self.began).total_seconds())
        value = {
            "result": team.last if self.config.get("result") == "last" else team.state,
            "stopped_by": stopped_by,
            "turns": team.turns,
            "tokens": team.tokens,
            "seconds": round(team.seconds, 3),
            "decision": None if decision is None else decision.to_dict(),
            "history": team.history,
        }
        own = {ENDED: "output", ESCALATED: ESCALATED_PORT}.get(stopped_by, LIMIT_PORT)
        return Ports({own if own in self.part.get("leaving", ()) else "output": value})


class _Model:
    """The model of a strategy, asked within the step's deadline."""

    def __init__(self, conversation: Conversation, model: str | None, strategy: Mapping[str, Any]) -> None:
        self.model = model
        self._conversation = conversation
        self._strategy = strategy

    async def chat(self, request: CompletionRequest) -> Completion:
        """One answer. Raises :class:`ModelError`."""
        return await self._conversation.ask(
            replace(
                request,
                model=self.model,
                system_prompt=self._strategy.get("system_prompt"),
                temperature=self._strategy.get("temperature", _TEMPERATURE),
                max_tokens=self._strategy.get("max_tokens", _MAX_TOKENS),
            )
        )
