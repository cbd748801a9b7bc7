"""What can be known to be wrong with a team step before it runs, beside what its schema says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmteam.canvas.documents import Problem
from llmteam.canvas.graph import Graph
from llmteam.canvas.models import SegmentDefinition, StepDefinition
from llmteam.canvas.teams import CARRIED_PORT, TEAM_TYPE, TURN, FactsOf, agents_of, part_id
from llmteam.roles.exceptions import InvalidRuleError
from llmteam.roles.rules import EXPRESSION_SIGN, DecisionRule

#: The longest id that a step may have.
_LONGEST_ID = 255
#: Keys of a strategy that say whom to ask, and those that mean nothing without them.
_WHOM, _HOW = ("llm_ref", "model"), ("prompt", "system_prompt", "temperature", "max_tokens")


def team_problems(segment: SegmentDefinition, facts_of: FactsOf) -> Iterator[Problem]:
    """Faults of the team steps of ``segment``: agents, their ids and types, rules, edges."""
    taken = {step.step_id: f"steps[{place}].step_id" for place, step in enumerate(segment.steps)}
    for place, step in enumerate(segment.steps):
        if step.step_type == TEAM_TYPE:
            path = f"steps[{place}].config"
            yield from _id_problems(step, path, taken)
            yield from _type_problems(step, path, facts_of)
            yield from _strategy_problems(step, f"{path}.strategy")
    teams = {step.step_id for step in segment.steps if step.step_type == TEAM_TYPE}
    for place, edge in enumerate(segment.edges):
        if edge.target_step in teams and edge.target_port == CARRIED_PORT:
            message = f"the port '{CARRIED_PORT}' is the team's own"
            yield Problem("UNKNOWN_PORT", message, f"edges[{place}].target_port", "lead the edge to 'input'")


def loop_problems(segment: SegmentDefinition, graph: Graph) -> Iterator[Problem]:
    """Edges of the user that lead back to a team step: that loop is the team's own."""
    for edge in graph.edges[: len(segment.edges)]:
        if edge.back and graph.nodes[edge.target].step.step_type == TEAM_TYPE:
            message = f"a loop cannot begin with the team step '{edge.target}'"
            hint = "put a step before the team, a transform for example, and lead the edge there"
            yield Problem("IRREDUCIBLE_LOOP", message, f"edges[{edge.index}]", hint)


def _id_problems(step: StepDefinition, path: str, taken: dict[str, str]) -> Iterable[Problem]:
    """``taken`` are ids with the place where each is given; those of this team are added."""
    named = {TURN: path}
    for agent in agents_of(step):
        where = f"{path}.agents[{agent.place}].name"
        if agent.name in named:
            told = "is the end of a turn" if agent.name == TURN else f"is the name at {named[agent.name]} too"
            yield Problem("DUPLICATE_ID", f"'{agent.name[:80]}' {told}", where, "give the agent another name")
        else:
            named[agent.name] = where
    for name, where in named.items():
        own = part_id(step.step_id, name)
        if len(own) > _LONGEST_ID:
            yield Problem("INVALID_ID_FORMAT", f"the step '{own[:80]}…' would have more than 255 characters", where)
        elif own in taken:
            message = f"the team makes a step '{own[:80]}', and that id is given at {taken[own]}"
            yield Problem("DUPLICATE_ID", message, where, "give one of them another id")
        taken.setdefault(own, where)


def _type_problems(step: StepDefinition, path: str, facts_of: FactsOf) -> Iterable[Problem]:
    for agent in agents_of(step):
        facts = facts_of(agent.step_type)
        if agent.step_type == TEAM_TYPE or (facts is not None and facts.kind != "step"):
            message = f"a step of type '{agent.step_type}' cannot be an agent"
            yield Problem("INVALID_VALUE", message, f"{path}.agents[{agent.place}].step_type")


def _strategy_problems(step: StepDefinition, path: str) -> Iterable[Problem]:
    strategy = step.config.get("strategy")
    if not isinstance(strategy, Mapping):
        return
    rules = strategy.get("rules")
    names = {agent.name for agent in agents_of(step)}
    for place, rule in enumerate(rules if isinstance(rules, list) else ()):
        yield from _rule_problems(rule, f"{path}.rules[{place}]", names)
    unheard = [key for key in _HOW if key in strategy]
    if unheard and not any(key in strategy for key in _WHOM):
        yield Problem("INVALID_VALUE", "means nothing without llm_ref or model", f"{path}.{unheard[0]}")


def _rule_problems(rule: Any, path: str, names: set[str]) -> Iterable[Problem]:
    try:
        read = DecisionRule.from_dict(rule, path)
    except InvalidRuleError as exc:
        of_expression = exc.path.endswith(".when") or exc.path.endswith("]")
        yield Problem("BAD_EXPRESSION" if of_expression else "SCHEMA_VIOLATION", exc.reason, exc.path)
        return
    for place, target in enumerate(read.targets):
        if not target.startswith(EXPRESSION_SIGN) and target not in names:
            yield Problem("INVALID_REFERENCE", f"Unknown agent '{target[:80]}'", f"{path}.targets[{place}]")
