"""A segment as the engine sees it: ports, edges, loops, scopes of joins and chords, computed once per definition.

Words used here and in :mod:`llmteam.canvas.transitions`:

- a *loop* is a natural loop; its *header* is the only way in;
- the *region* of a join is what lies between the step that dominates it and the join itself and leads nowhere else;
- the *scope* of a step is the nearest join whose region it belongs to: where its failure is felt first;
- a *chord* is a split whose branches all meet in one ``all`` join, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from llmteam.canvas.dominance import (
    Neighbours,
    dominates,
    immediate_dominators,
    loop_body,
    region_before,
    walk,
)
from llmteam.canvas.models import SegmentDefinition, StepDefinition, StepTypeFacts
from llmteam.canvas.ports import ANNOTATIONS_PORT, ERROR_PORT
from llmteam.canvas.step_ports import step_inputs, step_outputs
from llmteam.canvas.teams import FactsOf, expand

#: Iterations of one loop per entry, unless ``params.max_visits`` says otherwise.
DEFAULT_MAX_VISITS = 100

JoinStrategy = Literal["all", "any", "first"]


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge; ``index`` is its place in the definition."""

    index: int
    source: str
    source_port: str
    target: str
    target_port: str
    condition: str | None
    back: bool = False


@dataclass(frozen=True, slots=True)
class GraphProblem:
    """Why a definition has no sound graph; ``path`` points into its JSON."""

    code: str
    message: str
    path: str


@dataclass(slots=True)
class Loop:
    """A natural loop. ``units`` is what one iteration waits for: its own steps and its child loops.

    ``limit`` is how many iterations it may take per entry.
    """

    header: str
    body: frozenset[str]
    limit: int = DEFAULT_MAX_VISITS
    parent: Loop | None = None
    children: list[Loop] = field(default_factory=list)
    members: tuple[str, ...] = ()
    exits: tuple[Edge, ...] = ()

    @property
    def units(self) -> int:
        return len(self.members) + len(self.children)


@dataclass(slots=True)
class Node:
    """One step with all that a transition needs to know about its surroundings.

    ``undecided`` counts what must be known before the step can be ready; ``place`` says where among ``outs`` the edge
    of that index stands; ``order_after`` names the steps that only wait for this one to be over.
    """

    step: StepDefinition
    facts: StepTypeFacts
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ins: tuple[Edge, ...] = ()
    outs: tuple[Edge, ...] = ()
    place: dict[int, int] = field(default_factory=dict)
    undecided: int = 0
    order_after: tuple[str, ...] = ()
    loop: Loop | None = None
    scope: str | None = None
    reachable: bool = True

    @property
    def step_id(self) -> str:
        return self.step.step_id

    @property
    def is_join(self) -> bool:
        return self.facts.kind == "join"

    @property
    def strategy(self) -> JoinStrategy:
        value = self.step.config.get("merge_strategy", "all")
        return value if value in ("any", "first") else "all"

    @property
    def fires_early(self) -> bool:
        """Whether the first live edge makes this step ready."""
        return self.is_join and self.strategy != "all"

    @property
    def hands_on_annotations(self) -> bool:
        """Whether a step behind this one is given what its handler annotated."""
        return any(edge.source_port == ANNOTATIONS_PORT for edge in self.outs)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(edge.source for edge in self.ins))


@dataclass(slots=True)
class Graph:
    """A compiled definition. Build it with :func:`compile_graph`; it is never changed afterwards.

    ``definition`` is as it was written; steps that are made of a team step are in ``made_of``, with that step's id.
    """

    definition: SegmentDefinition
    entry: str
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    order: tuple[str, ...]
    loops: dict[str, Loop]
    regions: dict[str, frozenset[str]]
    chords: dict[str, str]
    max_visits: int
    made_of: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[GraphProblem, ...] = ()

    @property
    def unreachable(self) -> tuple[str, ...]:
        return tuple(step_id for step_id, node in self.nodes.items() if not node.reachable)

    def loop_of(self, step_id: str) -> Loop | None:
        return self.nodes[step_id].loop


def compile_graph(definition: SegmentDefinition, facts_of: FactsOf) -> Graph:
    """The graph of a structurally sound definition (``definition.problems()`` gives none).

    ``facts_of`` answers what is known of a step type; an unknown type counts as a plain step with its own ports.
    What makes the graph unsound is listed in ``problems``; such a graph must not be run.
    """
    expanded = expand(definition, facts_of)
    spelled = expanded.definition
    nodes = {step.step_id: _node(step, facts_of(step.step_type)) for step in spelled.steps}
    drawn = [
        Edge(index, e.source_step, e.source_port, e.target_step, e.target_port, e.condition)
        for index, e in enumerate(spelled.edges)
    ]
    entry = spelled.resolve_entrypoint()
    assert entry is not None, "an empty definition was not validated"
    shape = _Shape(entry, nodes, drawn)
    problems = [*shape.find_loops(), *shape.crossing()]
    max_visits = definition.params.max_visits or DEFAULT_MAX_VISITS
    for header, loop in shape.loops.items():
        loop.limit = expanded.bounds.get(header, max_visits)
    if not any(p.code == "IRREDUCIBLE_LOOP" for p in problems):
        shape.find_scopes()
    for node in nodes.values():
        node.reachable = node.step_id in shape.rank
    _connect(nodes, shape)
    if not definition.params.parallel_execution:
        _order_siblings(nodes, shape.rank)
    return Graph(
        definition=definition,
        entry=entry,
        nodes=nodes,
        edges=tuple(shape.edges),
        order=shape.order,
        loops=shape.loops,
        regions=shape.regions,
        chords=_chords(nodes, shape),
        max_visits=max_visits,
        made_of=expanded.made_of,
        problems=tuple(problems),
    )


def _node(step: StepDefinition, facts: StepTypeFacts | None) -> Node:
    known = facts or StepTypeFacts(type_id=step.step_type)
    return Node(step, known, step_inputs(step, known), step_outputs(step, known))


class _Shape:
    """Loops and scopes of the part of the graph that the entry reaches."""

    def __init__(self, entry: str, nodes: Mapping[str, Node], edges: Sequence[Edge]) -> None:
        self.nodes = nodes
        self.edges = list(edges)
        following: dict[str, list[str]] = {step_id: [] for step_id in nodes}
        for edge in edges:
            following[edge.source].append(edge.target)
        found = walk(entry, following)
        self.order = found.order
        self.rank = {step_id: position for position, step_id in enumerate(self.order)}
        self.retreating = found.retreating
        preceding: dict[str, list[str]] = {step_id: [] for step_id in self.order}
        for edge in edges:
            if edge.source in self.rank:
                preceding[edge.target].append(edge.source)
        self.preceding = preceding
        self.loops: dict[str, Loop] = {}
        self.loop_of: dict[str, Loop] = {}
        self.regions: dict[str, frozenset[str]] = {}
        self._idom: dict[str, str] | None = None

    @property
    def idom(self) -> dict[str, str]:
        if self._idom is None:
            self._idom = immediate_dominators(self.order, self.preceding)
        return self._idom

    def find_loops(self) -> Iterable[GraphProblem]:
        """Mark back edges and nest the loops that they close; yield a problem for every cycle that is no such loop."""
        if not self.retreating:
            return []
        problems: list[GraphProblem] = []
        tails: dict[str, list[str]] = {}
        for position, edge in enumerate(self.edges):
            if (edge.source, edge.target) not in self.retreating:
                continue
            if dominates(edge.target, edge.source, self.idom, self.rank):
                self.edges[position] = Edge(
                    edge.index,
                    edge.source,
                    edge.source_port,
                    edge.target,
                    edge.target_port,
                    edge.condition,
                    back=True,
                )
                tails.setdefault(edge.target, []).append(edge.source)
            else:
                problems.append(_irreducible(edge))
        if not problems:
            self._nest(tails)
            problems.extend(self._without_exit())
        return problems

    def _nest(self, tails: Mapping[str, list[str]]) -> None:
        for header in tails:
            self.loops[header] = Loop(header, loop_body(header, tails[header], self.preceding))
        for loop in sorted(self.loops.values(), key=lambda found: -len(found.body)):
            loop.parent = self.loop_of.get(loop.header)
            if loop.parent is not None:
                loop.parent.children.append(loop)
            for step_id in loop.body:
                self.loop_of[step_id] = loop
        for loop in self.loops.values():
            loop.members = tuple(s for s in self.order if self.loop_of.get(s) is loop)
        for loop in self.loops.values():
            loop.exits = tuple(e for e in self.edges if e.source in loop.body and e.target not in loop.body)

    def _without_exit(self) -> Iterable[GraphProblem]:
        for loop in self.loops.values():
            if not any(e.source in loop.body and _decides(e, self.nodes[e.source]) for e in self.edges):
                path = " -> ".join([*sorted(loop.body, key=self.rank.__getitem__), loop.header])
                yield GraphProblem(
                    "CYCLE_WITHOUT_EXIT",
                    f"cycle {path} never ends: no edge in it has a condition and no step in it chooses a port",
                    f"steps[{self._place(loop.header)}]",
                )

    def _place(self, step_id: str) -> int:
        return list(self.nodes).index(step_id)

    def crossing(self) -> Iterable[GraphProblem]:
        """Splits and joins whose branches cross the border of a loop."""
        for loop in self.loops.values():
            arriving: dict[str, set[str]] = {}
            for edge in loop.exits:
                kind = self.nodes[edge.source].facts.kind
                # Edges of one step are decided together, and are no branches.
                sources = arriving.setdefault(edge.target, set())
                sources.add(edge.source)
                if kind == "split" or (len(sources) > 1 and self.nodes[edge.target].is_join):
                    yield GraphProblem(
                        "IRREDUCIBLE_LOOP",
                        f"parallel branches cross the border of the loop at '{loop.header}': "
                        f"edge {edge.source} -> {edge.target}; "
                        "split and join must both stand inside it, or both outside",
                        f"edges[{edge.index}]",
                    )

    def find_scopes(self) -> None:
        """Regions of joins, and for each step the nearest join that feels its failure."""
        joins = [step_id for step_id in self.order if self.nodes[step_id].is_join]
        if not joins:
            return
        following: dict[str, list[str]] = {step_id: [] for step_id in self.order}
        arriving: dict[str, list[str]] = {join: [] for join in joins}
        for edge in self.edges:
            if edge.source in self.rank:
                following[edge.source].append(edge.target)
                if edge.target in arriving and not edge.back:
                    arriving[edge.target].append(edge.source)
        around = Neighbours(following, self.preceding)
        for join in joins:
            self.regions[join] = region_before(join, self.idom[join], arriving[join], around)
        for join in sorted(joins, key=lambda found: len(self.regions[found])):
            for step_id in self.regions[join]:
                node = self.nodes[step_id]
                if node.scope is None:
                    node.scope = join


def _irreducible(edge: Edge) -> GraphProblem:
    return GraphProblem(
        "IRREDUCIBLE_LOOP",
        f"the cycle closed by edge {edge.source} -> {edge.target} can be entered elsewhere than at '{edge.target}': "
        "a loop needs one step that every path into it passes",
        f"edges[{edge.index}]",
    )


def _decides(edge: Edge, source: Node) -> bool:
    chooses = source.facts.routing and source.facts.kind == "step"
    return edge.condition is not None or chooses or edge.source_port == ERROR_PORT


def _connect(nodes: Mapping[str, Node], shape: _Shape) -> None:
    """Edges of each node; edges from steps that are never reached do not count."""
    ins: dict[str, list[Edge]] = {step_id: [] for step_id in nodes}
    outs: dict[str, list[Edge]] = {step_id: [] for step_id in nodes}
    for edge in shape.edges:
        if edge.source in shape.rank:
            ins[edge.target].append(edge)
            outs[edge.source].append(edge)
    for step_id, node in nodes.items():
        node.ins = tuple(ins[step_id])
        node.outs = tuple(outs[step_id])
        node.place = {edge.index: position for position, edge in enumerate(node.outs)}
        node.undecided = sum(not edge.back for edge in node.ins)
        node.loop = shape.loop_of.get(step_id)


def _order_siblings(nodes: Mapping[str, Node], rank: Mapping[str, int]) -> None:
    """Without ``parallel_execution`` the targets of one port run one after the other, in topological order.

    Only splits open concurrency then. The order is a chain of bare dependencies that carry no value; along a
    topological order they can close no cycle.
    """
    for node in nodes.values():
        if node.facts.kind == "split" or len(node.outs) < 2:
            continue
        by_port: dict[str, dict[str, None]] = {}
        # Of edges with conditions one at most is followed: nothing to order, and a dead one need not wait to die.
        guarded = {edge.source_port for edge in node.outs if edge.condition is not None}
        for edge in node.outs:
            target = nodes[edge.target]
            ordered = target.loop is node.loop and not target.is_join and edge.source_port not in guarded
            if ordered and not edge.back:
                by_port.setdefault(edge.source_port, {})[edge.target] = None
        for targets in by_port.values():
            chain = sorted(targets, key=rank.__getitem__)
            for before, after in pairwise(chain):
                if after not in nodes[before].order_after:
                    nodes[before].order_after += (after,)
                    nodes[after].undecided += 1


def _chords(nodes: Mapping[str, Node], shape: _Shape) -> dict[str, str]:
    """Split to join, for every split that can be sent as one flat chord."""
    chords: dict[str, str] = {}
    for join, region in shape.regions.items():
        node = nodes[join]
        split = shape.idom[join]
        heads = [e.target for e in nodes[split].outs if not e.back]
        if (
            node.strategy == "all"
            and nodes[split].facts.kind == "split"
            and len({head for head in heads if head != join}) > 1
            and all(head == join or head in region for head in heads)
            and all(edge.source == split or edge.source in region for edge in node.ins)
            and not any(nodes[step_id].facts.kind == "split" for step_id in region)
        ):
            chords[split] = join
    return chords
