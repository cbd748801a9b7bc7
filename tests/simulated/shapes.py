"""Segments by number: grown from blocks, or wired at random and kept when they are sound."""

from __future__ import annotations

from functools import cache
from random import Random

from llmteam.canvas.graph import Graph
from llmteam.canvas.models import SegmentDefinition, SegmentParams
from tests.conformance.turnstiles import NAME
from tests.drawing import compiled, draw, kind_of
from tests.strategies import Plan, segment_of
from tests.teams import team

_KINDS = ("s", "s", "s", "if", "split", "all", "all", "any", "first")
#: Different shapes; a history picks one by its number.
SHAPES = 400


@cache
def shape(number: int) -> tuple[SegmentDefinition, Graph]:
    """A sound segment and its graph, always the same for one number."""
    chance = Random(f"shape {number}")
    while True:
        params = {"parallel_execution": chance.random() < 0.8, "max_visits": chance.randint(1, 4)}
        if chance.random() < 0.6:
            found = segment_of(_plan(chance, 3), params=SegmentParams(**params))
        else:
            found = draw(*_wild(chance), **params)
        found = _limited(found, Random(f"limits {number}"))
        with_teams = _teamed(found, Random(f"teams {number}"))
        graph = compiled(with_teams)
        if not graph.problems and len(graph.nodes) <= 16:
            return with_teams, graph
        graph = compiled(found)
        if not graph.problems and len(graph.nodes) <= 16:
            return found, graph


def _limited(segment: SegmentDefinition, chance: Random) -> SegmentDefinition:
    """The segment with a few of its plain steps under a limit."""
    steps = [
        step.model_copy(update={"config": {**step.config, "limits": NAME}})
        if step.step_type == "work" and chance.random() < 0.2
        else step
        for step in segment.steps
    ]
    return segment.model_copy(update={"steps": steps})


def _teamed(segment: SegmentDefinition, chance: Random) -> SegmentDefinition:
    """The segment with a few of its plain steps as teams of plain steps."""
    steps = [
        team(["a", "b"][: chance.randint(1, 2)], step_id=step.step_id, max_turns=chance.randint(1, 4))
        if step.step_type == "work" and chance.random() < 0.1
        else step
        for step in segment.steps
    ]
    return segment.model_copy(update={"steps": steps})


def _plan(chance: Random, depth: int) -> Plan:
    kind = chance.choice(("step", "chain", "chain", "branch", "choice", "split", "split", "loop", "rescue"))
    if depth == 0 or kind == "step":
        return ("step",)

    def inner(least: int, most: int) -> list[Plan]:
        return [_plan(chance, depth - 1) for _ in range(chance.randint(least, most))]

    if kind == "branch":
        return (kind, _plan(chance, depth - 1), _plan(chance, depth - 1) if chance.random() < 0.5 else None)
    if kind == "split":
        return (kind, chance.choice(("all", "all", "all", "any", "first")), inner(2, 4))
    if kind in ("loop", "rescue"):
        return (kind, _plan(chance, depth - 1))
    return (kind, inner(1, 3))


def _wild(chance: Random) -> list[str]:
    """Steps in a row, each with edges from some before it, and now and then a way back."""
    count = chance.randint(2, 9)
    names = ["s_0", *(f"{chance.choice(_KINDS)}_{number}" for number in range(1, count))]
    lines = list(names)
    for place in range(1, count):
        sources = [names[chance.randrange(place)] for _ in range(chance.choice((1, 1, 2, 3)))]
        lines += [_edge(chance, source, names[place]) for source in sources]
    if chance.random() < 0.3:
        tail = chance.randrange(count)
        lines.append(f"{names[tail]} -[default(pick, 0) == 1]-> {names[chance.randint(0, tail)]}")
    return lines


def _edge(chance: Random, source: str, target: str) -> str:
    ports = {"if": ("true", "false"), "split": ("",)}.get(kind_of(source), ("", "", "", "error"))
    port = chance.choice(ports)
    arrow = chance.choice(("->", "->", "->", "-[default(pick, 0) == 0]->", "-[default(pick, 2) > 0]->"))
    return f"{source}{'.' if port else ''}{port} {arrow} {target}"
