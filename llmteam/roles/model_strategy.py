"""The strategy that asks a language model who works next."""

from __future__ import annotations

import math
import re
from typing import Any, Protocol

from llmteam import codec, metrics
from llmteam.roles.models import FALLBACK, ROUTE, OrchestrationContext, OrchestrationDecision
from llmteam.roles.rules import is_share
from llmteam.roles.strategies import OrchestrationStrategy
from llmteam.runtime.models import ChatProvider, CompletionRequest

#: What a template may name in braces; other braces stand for themselves.
PLACEHOLDERS = ("current_step", "agents", "states", "history", "error_rate", "state")

DEFAULT_PROMPT = """You coordinate agents that work on one task. Decide what happens next.

Current step: {current_step}
Agents: {agents}
What the agents say of themselves: {states}
The last decisions: {history}
Share of failed calls: {error_rate}

Answer with one JSON object and nothing else:
{"decision": "route", "targets": ["an agent"], "reason": "why", "confidence": 0.9}
decision is one of route, retry, escalate, skip, parallel, end; targets are agents from the list."""

#: Decisions of the history that a prompt shows.
_SHOWN_HISTORY = 5
#: Characters of a model's answer that are kept with the decision.
_KEPT_REPLY = 4000

_PIECE = re.compile(r"\{\{|\}\}|\{(" + "|".join(PLACEHOLDERS) + r")\}")
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)


class Generator(Protocol):
    """A model that only generates text."""

    async def generate(self, prompt: str, /) -> str: ...


class LLMBasedStrategy(OrchestrationStrategy):
    """Asks ``llm``, by ``generate``, ``chat`` or ``complete``, whichever it has first.

    ``prompt_template`` may name any of :data:`PLACEHOLDERS`. The metadata of a decision has ``prompt_hash``, ``model``,
    ``reply`` and, where it is told, ``usage``, so that it can be seen later what was decided on. An answer that is no
    JSON object decides nothing: ``route`` to nobody with reason "llm_parse_error". Errors of the model are raised.
    """

    def __init__(self, llm: Any, prompt_template: str | None = None) -> None:
        self.llm = llm
        self.prompt_template = prompt_template

    async def decide(self, context: OrchestrationContext) -> OrchestrationDecision:
        """What the model says; targets that are no available agents are left out."""
        prompt = self.prompt(context)
        reply, told = await self._ask(prompt)
        decision = read_reply(reply, context.available_agents)
        decision.metadata |= {"prompt_hash": codec.digest(prompt), **told, "reply": str(reply)[:_KEPT_REPLY]}
        return decision

    def prompt(self, context: OrchestrationContext) -> str:
        """What the model is asked."""
        values = {
            "current_step": context.current_step,
            "agents": ", ".join(context.available_agents),
            "states": context.agent_states,
            "history": context.execution_history[-_SHOWN_HISTORY:],
            "error_rate": f"{context.error_rate:.2f}",
            "state": context.global_state,
        }

        def piece(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            value = values[match[1]]
            return value if isinstance(value, str) else codec.dumps(value, path=match[1])

        return _PIECE.sub(piece, self.prompt_template or DEFAULT_PROMPT)

    async def _ask(self, prompt: str) -> tuple[Any, dict[str, Any]]:
        named = getattr(self.llm, "model", None)
        told: dict[str, Any] = {"model": named if isinstance(named, str) else None}
        if hasattr(self.llm, "generate"):
            return await self.llm.generate(prompt), told
        if not isinstance(self.llm, ChatProvider):
            return await self.llm.complete(prompt), told
        with metrics.asking(told["model"]) as call:
            answer = await self.llm.chat(CompletionRequest.of(prompt))
            call.answered(answer.model, answer.usage)
        told["model"] = answer.model or told["model"]
        if answer.usage is not None:
            told["usage"] = {"input_tokens": answer.usage.input_tokens, "output_tokens": answer.usage.output_tokens}
        return answer.text, told


def read_reply(reply: Any, available: list[str]) -> OrchestrationDecision:
    """The decision in a model's answer, bare or in a code fence; what it leaves out has its default."""
    answer = _object_in(reply)
    if answer is None:
        return OrchestrationDecision(ROUTE, [], "llm_parse_error", 0.5, {FALLBACK: True})
    kind, reason, confidence = answer.get("decision"), answer.get("reason"), answer.get("confidence")
    targets = answer.get("targets")
    named = [targets] if isinstance(targets, str) else targets if isinstance(targets, list) else []
    known = [name for name in named if name in available]
    dropped = [str(name)[:100] for name in named if name not in available]
    return OrchestrationDecision(
        kind if isinstance(kind, str) and kind else ROUTE,
        known,
        reason if isinstance(reason, str) and reason else "llm_decision",
        _confidence(confidence),
        {"dropped_targets": dropped} if dropped else {},
    )


def _object_in(reply: Any) -> dict[str, Any] | None:
    if not isinstance(reply, str):
        return None
    fenced = _FENCED.search(reply)
    try:
        found = codec.loads(fenced[1] if fenced else reply)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _confidence(value: Any) -> float:
    if is_share(value):
        return float(value)
    number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return min(1.0, max(0.0, value)) if number else 0.8
