"""Strategies decide what a run does next: the base, and the one that goes by rules."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self

from llmteam.errors import LLMTeamError
from llmteam.roles.exceptions import InvalidRuleError
from llmteam.roles.models import END, FALLBACK, ROUTE, OrchestrationContext, OrchestrationDecision
from llmteam.roles.rules import DecisionRule

#: A rule looks at the context and decides, or leaves it to the next one with None.
Rule = Callable[
    [OrchestrationContext],
    OrchestrationDecision | Awaitable[OrchestrationDecision | None] | None,
]


class OrchestrationStrategy:
    """Base of the strategies of a :class:`PipelineOrchestrator`."""

    async def decide(self, context: OrchestrationContext) -> OrchestrationDecision:
        """What happens next in the run that ``context`` describes."""
        raise NotImplementedError(f"{type(self).__name__} decides nothing: give it a method decide(context)")


class RuleBasedStrategy(OrchestrationStrategy):
    """Goes by rules in their order; the first that decides wins.

    A rule is a function, plain or ``async``, or an object as :class:`DecisionRule` reads it. One that raises is passed
    over and named under ``rule_errors`` in the metadata of the decision. Where no rule decides, the agents work one
    after the other, each once; after a failed turn that is the end.

    Raises :class:`InvalidRuleError` for what is no rule.
    """

    def __init__(self, rules: Iterable[Rule | Mapping[str, Any]] = ()) -> None:
        self.rules: list[Rule] = []
        for rule in rules:
            self.add_rule(rule)

    def add_rule(self, rule: Rule | Mapping[str, Any]) -> Self:
        """Add a rule behind the others. Raises :class:`InvalidRuleError`."""
        self.rules.append(rule if callable(rule) else DecisionRule.from_dict(rule, f"rules[{len(self.rules)}]"))
        return self

    async def decide(self, context: OrchestrationContext) -> OrchestrationDecision:
        """The decision of the first rule that has one, else the next agent in turn."""
        errors: list[dict[str, Any]] = []
        for place, rule in enumerate(self.rules):
            try:
                decision = await _asked(rule, context)
            except Exception as exc:  # noqa: BLE001  # a rule of the user may raise anything
                errors.append({"rule": place, "error": _shown(exc)})
                continue
            if decision is not None:
                break
        else:
            decision = next_in_turn(context)
        if errors:
            return replace(decision, metadata={**decision.metadata, "rule_errors": errors})
        return decision

    def to_dict(self) -> dict[str, Any]:
        """The strategy as JSON. Raises :class:`InvalidRuleError` when a rule is a function."""
        return {"rules": [_stored(rule, place) for place, rule in enumerate(self.rules)]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote. Raises :class:`InvalidRuleError`."""
        rules = data.get("rules") if isinstance(data, Mapping) else None
        if not isinstance(rules, list) or len(data) != 1:
            raise InvalidRuleError("strategy", 'has to be an object with the key "rules", a list')
        strategy = cls()
        for place, rule in enumerate(rules):
            strategy.rules.append(DecisionRule.from_dict(rule, f"rules[{place}]"))
        return strategy


def next_in_turn(context: OrchestrationContext) -> OrchestrationDecision:
    """What is done where nobody has decided: the first agent that is not done yet, and nothing after a failure."""
    done = context.completed_agents
    left = [name for name in context.available_agents if name not in done]
    if context.failed_agents:
        return OrchestrationDecision(END, [], "agent_failed", 1.0, {FALLBACK: True})
    if not left:
        return OrchestrationDecision(END, [], "no_more_agents", 1.0, {FALLBACK: True})
    return OrchestrationDecision(ROUTE, left[:1], "default_sequence", 1.0, {FALLBACK: True})


async def _asked(rule: Rule, context: OrchestrationContext) -> OrchestrationDecision | None:
    answer = rule(context)
    decision = await answer if inspect.isawaitable(answer) else answer
    if decision is not None and not isinstance(decision, OrchestrationDecision):
        raise InvalidRuleError(
            "decision", f"a rule gives an OrchestrationDecision or None, not a {type(decision).__name__}"
        )
    return decision


def _shown(exc: Exception) -> str:
    """Our own errors carry no data; of others only their kind is told."""
    name = type(exc).__name__
    return f"{name}: {exc}" if isinstance(exc, LLMTeamError) else name


def _stored(rule: Rule, place: int) -> dict[str, Any]:
    if not isinstance(rule, DecisionRule):
        raise InvalidRuleError(f"rules[{place}]", "is a function, which cannot be stored: write it as an object")
    return rule.to_dict()
