"""Hypothesis strategies of graphs that no grammar grew, and of what their steps answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from llmteam.canvas.graph import Graph, Node
from llmteam.canvas.ports import ERROR_PORT
from llmteam.canvas.routing import DEAD, LIVE, Decisions, compact
from llmteam.canvas.state import Completed, Failed, Key, Outcome
from llmteam.events.models import ErrorInfo
from tests.drawing import compiled, graph, kind_of
from tests.strategies import segments

_KINDS = ("s", "s", "s", "if", "split", "all", "any", "first")
_BACK = "true"


@st.composite
def _wild(draw: st.DrawFn, kinds: tuple[str, ...], *, loops: bool) -> Graph:
    """Steps in a row, each with edges from some before it; then back edges, as many as leave the graph sound."""
    count = draw(st.integers(2, 9))
    names = [f"{draw(st.sampled_from(kinds))}_{number}" for number in range(count)]
    names[0] = "s_0"
    lines = list(names)
    for place in range(1, count):
        sources = draw(st.lists(st.integers(0, place - 1), max_size=3)) or [draw(st.integers(0, place - 1))]
        lines += [_edge(draw, names[source], names[place]) for source in sources]
    params = {"parallel_execution": draw(st.booleans()), "max_visits": 3}
    drawn = graph(*lines, **params)
    for _ in range(draw(st.integers(0, 3)) if loops else 0):
        tail = draw(st.integers(0, count - 1))
        more = [*lines, f"{names[tail]} -[{_BACK}]-> {names[draw(st.integers(0, tail))]}"]
        if not (wider := graph(*more, **params)).problems:
            lines, drawn = more, wider
    return drawn


def _edge(draw: st.DrawFn, source: str, target: str) -> str:
    ports = {"if": ("true", "false"), "split": ("",)}.get(kind_of(source), ("", "", "", "error"))
    port = draw(st.sampled_from(ports))
    arrow = draw(st.sampled_from(("->", "->", "->", "-[true]->", "-[false]->")))
    return f"{source}{'.' if port else ''}{port} {arrow} {target}"


def graphs(*, early: bool = True, loops: bool = True) -> st.SearchStrategy[Graph]:
    """Sound graphs; without ``early`` no join fires before all its edges are decided."""
    kinds = _KINDS if early else _KINDS[:6]
    wild = _wild(kinds, loops=loops)
    if not (early and loops):
        return wild
    return st.one_of(wild, wild, segments(10).map(compiled).filter(lambda found: not found.problems))


@dataclass(frozen=True)
class Answers:
    """What each attempt at each step gives: drawn from a seed, so the same in whatever order steps run."""

    graph: Graph
    seed: int
    failing: float = 0.0

    def __call__(self, key: Key, attempt: int = 0) -> Outcome:
        chance = random.Random(f"{self.seed}/{key}/{attempt}")
        if chance.random() < self.failing:
            error = ErrorInfo(error_type="ValueError", error_message=f"{key[0]} broke")
            return Failed(error, retryable=chance.choice((None, None, False)))
        return Completed(decide(self.graph.nodes[key[0]], chance), {"output": 1}, {"output": 1})


def decide(node: Node, chance: random.Random) -> Decisions:
    """One of the decisions that an answer of this step can lead to."""
    decided = [DEAD] * len(node.outs)
    ports = sorted({edge.source_port for edge in node.outs})
    live = set(ports) - {ERROR_PORT}
    if node.facts.routing and node.facts.kind == "step":
        live = {chance.choice(("true", "false"))}
    elif node.facts.kind == "split" and chance.random() < 0.2:
        live = {port for port in live if chance.random() < 0.5}
    for port in sorted(live):
        group = [place for place, edge in enumerate(node.outs) if edge.source_port == port]
        if all(node.outs[place].condition is None for place in group):
            for place in group:
                decided[place] = LIVE
        for place in group if any(node.outs[place].condition for place in group) else ():
            if node.outs[place].condition is None or chance.random() < 0.5:
                decided[place] = LIVE
                break
    return compact(decided)


def orders() -> st.SearchStrategy[Callable[[int], int]]:
    """In which order what could happen next happens."""
    return st.integers(0, 2**32).map(lambda seed: random.Random(seed).randrange)
