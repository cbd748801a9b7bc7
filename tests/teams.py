"""Segments with a team of agents, in the fewest words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmteam.canvas.models import EdgeDefinition, SegmentDefinition, SegmentParams, StepDefinition

#: Agents work one after the other, in this order, as often as each is named.
Order = str


def agent(name: str, step_type: str = "work", **config: Any) -> dict[str, Any]:
    """An agent as a team's configuration has it."""
    return {"name": name, "step_type": step_type, "config": config}


def rule(when: str, decision: str, *targets: str, **more: Any) -> dict[str, Any]:
    """A rule of a strategy."""
    return {"when": when, "decision": decision, **({"targets": list(targets)} if targets else {}), **more}


def in_order(order: Order) -> dict[str, Any]:
    """The strategy by which the agents of ``"a b a"`` work, and then nobody."""
    names = order.split()
    rules = [rule(f"len(execution_history) == {turn}", "route", name) for turn, name in enumerate(names)]
    return {"rules": [*rules, rule("true", "end", reason="all done")]}


def team(
    agents: Iterable[Mapping[str, Any] | str], /, *rules: Mapping[str, Any], step_id: str = "team", **config: Any
) -> StepDefinition:
    """A team step; agents that are named only are of type ``work``."""
    listed = [agent(one) if isinstance(one, str) else one for one in agents]
    strategy = {"strategy": {"rules": list(rules)}} if rules else {}
    return StepDefinition(step_id=step_id, step_type="team", config={"agents": listed, **strategy, **config})


def segment(
    *steps: StepDefinition, edges: Iterable[str] = (), entry: str | None = None, **params: Any
) -> SegmentDefinition:
    """The steps with edges like ``team.limit -> after``."""
    return SegmentDefinition(
        segment_id="teamed",
        name="Teamed",
        entrypoint=entry or steps[0].step_id,
        steps=list(steps),
        edges=[_edge(line) for line in edges],
        params=SegmentParams(**params),
    )


def step(step_id: str, step_type: str = "transform", **config: Any) -> StepDefinition:
    """Any other step."""
    return StepDefinition(step_id=step_id, step_type=step_type, config=config)


def _edge(line: str) -> EdgeDefinition:
    source, target = line.split(" -> ")
    left, right = source.partition("."), target.partition(".")
    return EdgeDefinition(
        source_step=left[0], source_port=left[2] or "output", target_step=right[0], target_port=right[2] or "input"
    )
