"""Everything that can be known to be wrong with a segment before it runs: types, configurations, ports, graph."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Protocol

from llmteam.canvas.documents import Problem
from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.canvas.expressions import compile_expression
from llmteam.canvas.graph import Edge, Graph, Node, compile_graph
from llmteam.canvas.models import SegmentDefinition, StepDefinition, StepTypeFacts
from llmteam.canvas.ports import ERROR_PORT, StepHandler
from llmteam.canvas.schema_check import ConfigSchema
from llmteam.canvas.step_ports import step_inputs, step_outputs
from llmteam.canvas.team_checks import loop_problems, team_problems
from llmteam.canvas.teams import TEAM_TYPE, agents_of

_BRANCH = re.compile(r"branch_[1-9]\d*")

#: Choices that are followed along a path when two edges are compared; the latest count.
_CHOICES = 64

#: Earlier edges of one port with which an edge is compared.
_COMPARED = 20

#: What was chosen, by the place of the choice: a port of a routing step, an edge of a group with conditions.
_Choices = dict[tuple[str, str], object]


class StepTypes(Protocol):
    """Where step types are known; the catalog is one."""

    def facts(self, type_id: str, /) -> StepTypeFacts | None: ...

    def schema(self, type_id: str, /) -> ConfigSchema | None: ...

    def get_handler(self, type_id: str, /) -> StepHandler | None: ...

    def list_type_ids(self) -> list[str]: ...


@dataclass
class Findings:
    """What an examination found. A segment with errors must not run."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def error(self, code: str, message: str, path: str, suggestion: str = "") -> None:
        self.errors.append(Problem(code, message, path, suggestion))

    def warning(self, code: str, message: str, path: str, suggestion: str = "") -> None:
        self.warnings.append(Problem(code, message, path, suggestion))


def examine(
    segment: SegmentDefinition, types: StepTypes, known: Collection[str] = (), *, strict: bool = True
) -> Findings:
    """Examine ``segment`` against the step types that are known here.

    ``known`` names types with a handler that the caller has beside those. Not ``strict``: a type that is not known
    here is no more than a warning, because a worker may know it.
    """
    found = Findings(errors=list(segment.problems()))
    reported = {problem.path for problem in found.errors}
    for index, step in enumerate(segment.steps):
        path = f"steps[{index}]"
        if step.step_type not in known:
            _check_type(found, step, types, path, strict=strict)
        _check_config(found, step, types.schema(step.step_type), f"{path}.config", reported)
    _check_agents(found, segment, types, known, strict=strict)
    _check_conditions(found, segment)
    if not any(problem.code in _NO_GRAPH for problem in found.errors):
        _check_graph(found, segment, types)
    return found


_NO_GRAPH = frozenset({"EMPTY_SEGMENT", "DUPLICATE_ID", "INVALID_REFERENCE", "INVALID_ENTRYPOINT"})


def _check_type(found: Findings, step: StepDefinition, types: StepTypes, path: str, *, strict: bool) -> None:
    if types.facts(step.step_type) is None:
        say = found.error if strict else found.warning
        message = f"Unknown step type '{step.step_type[:80]}'"
        hint = _close(step.step_type, types.list_type_ids()) or "import the module that registers it (--import)"
        say("UNKNOWN_TYPE", message, f"{path}.step_type", hint)
    elif types.get_handler(step.step_type) is None:
        message = f"No handler for step type '{step.step_type}' in this process"
        found.warning(
            "NO_HANDLER", message, f"{path}.step_type", "workers need the module that registers it (--import)"
        )


def _check_config(
    found: Findings, step: StepDefinition, schema: ConfigSchema | None, path: str, reported: Collection[str]
) -> None:
    if schema is None:
        return
    found.errors.extend(problem for problem in schema.problems(step.config, path) if problem.path not in reported)
    for key in schema.unknown_keys(step.config):
        hint = _close(key, schema.known_keys)
        found.warning("UNKNOWN_CONFIG_KEY", f"step type '{step.step_type}' has no such key", f"{path}.{key}", hint)


def _check_agents(
    found: Findings, segment: SegmentDefinition, types: StepTypes, known: Collection[str], *, strict: bool
) -> None:
    """The agents of team steps, as the steps that they become."""
    for index, step in enumerate(segment.steps):
        for agent in agents_of(step) if step.step_type == TEAM_TYPE else ():
            path = f"steps[{index}].config.agents[{agent.place}]"
            made = StepDefinition(step_id=step.step_id, step_type=agent.step_type, config=dict(agent.config))
            if agent.step_type not in known:
                _check_type(found, made, types, path, strict=strict)
            _check_config(found, made, types.schema(agent.step_type), f"{path}.config", ())
    reported = {problem.path for problem in found.errors}
    found.errors.extend(one for one in team_problems(segment, types.facts) if one.path not in reported)


def _check_conditions(found: Findings, segment: SegmentDefinition) -> None:
    for index, edge in enumerate(segment.edges):
        if edge.condition is None:
            continue
        try:
            compile_expression(edge.condition)
        except InvalidConditionError as exc:
            found.error("BAD_CONDITION", exc.reason, f"edges[{index}].condition")


def _check_graph(found: Findings, segment: SegmentDefinition, types: StepTypes) -> None:
    heads = segment.heads()
    if segment.entrypoint is None and len(heads) != 1:
        message = f"{len(heads)} steps have no incoming edge; the first step of the document begins the run"
        found.warning("MISSING_ENTRYPOINT", message, "entrypoint", f"set entrypoint to '{segment.steps[0].step_id}'")
    graph = compile_graph(segment, types.facts)
    for problem in graph.problems:
        found.error(problem.code, problem.message, problem.path)
    found.errors.extend(loop_problems(segment, graph))
    place = {step.step_id: index for index, step in enumerate(segment.steps)}
    for step_id in (one for one in graph.unreachable if one not in graph.made_of):
        message = f"no edge leads from the entrypoint to step '{step_id}': it never runs"
        found.warning("UNREACHABLE_STEP", message, f"steps[{place[step_id]}]")
    sides = {
        step_id: _Side(node, known=types.facts(node.step.step_type) is not None)
        for step_id, node in graph.nodes.items()
    }
    for edge in graph.edges[: len(segment.edges)]:
        _check_edge(found, edge, sides[edge.source], sides[edge.target])
    for step_id, node in graph.nodes.items():
        if node.is_join and step_id in place:
            _check_join(found, node, graph, f"steps[{place[step_id]}]")
    _check_shared_inputs(found, graph)


def _check_edge(found: Findings, edge: Edge, source: _Side, target: _Side) -> None:
    path = f"edges[{edge.index}]"
    if edge.source == edge.target:
        found.warning("SELF_LOOP", f"the edge leads from step '{edge.source}' to itself", path)
    if source.known and edge.source_port not in source.leaving and edge.source_port != ERROR_PORT:
        say = found.error if source.node.facts.routing else found.warning
        message = f"step '{edge.source}' ({source.type_id}) has no output port '{edge.source_port[:80]}'"
        say("UNKNOWN_PORT", message, f"{path}.source_port", _ports_hint(edge.source_port, source.leaving))
    if target.known and not target.accepts(edge.target_port):
        message = f"step '{edge.target}' ({target.type_id}) has no input port '{edge.target_port[:80]}'"
        hint = _ports_hint(edge.target_port, target.entering)
        found.warning("UNKNOWN_PORT", message, f"{path}.target_port", hint)


class _Side:
    """A step as the end of edges, with its ports looked up once."""

    def __init__(self, node: Node, *, known: bool) -> None:
        self.node = node
        self.known = known
        self.type_id = node.step.step_type
        self.leaving = dict.fromkeys(_leaving_ports(node))
        self.entering = dict.fromkeys(node.inputs)

    def accepts(self, port: str) -> bool:
        return port in self.entering or (self.node.is_join and _BRANCH.fullmatch(port) is not None)


def _leaving_ports(node: Node) -> tuple[str, ...]:
    """Ports that an edge may leave from: of a routing step those of its type, since it names them itself.

    A split hands on through every port, so that ports of its own count unless they are the one it has by default.
    """
    if not node.facts.routing:
        return node.outputs
    own = [port.port_id for port in node.step.outputs]
    of_type = step_outputs(node.step.model_copy(update={"outputs": []}), node.facts)
    return (*of_type, *own) if node.facts.kind == "split" and own != ["output"] else of_type


def _check_join(found: Findings, node: Node, graph: Graph, path: str) -> None:
    """A join that nothing reaches, or that declares a required input which no edge brings, waits for nothing."""
    if node.step_id == graph.entry:
        return
    arriving = {edge.target_port for edge in node.ins}
    if not arriving:
        found.error("JOIN_NEVER_SATISFIED", f"no branch reaches join '{node.step_id}'", path)
        return
    optional = {port.port_id for port in node.step.inputs if not port.required}
    declared = step_inputs(node.step, node.facts.model_copy(update={"inputs": ()}))
    absent = [port for port in declared if port not in arriving and port not in optional and port != "input"]
    if absent and node.strategy == "all":
        names = ", ".join(absent[:10])
        message = f"no edge brings what join '{node.step_id}' requires: {names}"
        found.error("JOIN_NEVER_SATISFIED", message, path, "add the edges, or remove these ports from the join")


def _check_shared_inputs(found: Findings, graph: Graph) -> None:
    """Edges into one port of one step, where more than one can bring a value and the later one wins."""
    shared: dict[tuple[str, str], list[Edge]] = {}
    for node in graph.nodes.values():
        for edge in node.ins:
            if not edge.back:
                shared.setdefault((edge.target, edge.target_port), []).append(edge)
    crowded = {key: edges for key, edges in shared.items() if len(edges) > 1}
    if not crowded or any(problem.code == "IRREDUCIBLE_LOOP" for problem in graph.problems):
        return
    chosen = _choices_of_edges(graph)
    for (step_id, port), edges in crowded.items():
        for position, after in enumerate(edges):
            nearest = edges[max(0, position - _COMPARED) : position]
            if any(not _exclusive(chosen[before.index], chosen[after.index]) for before in nearest):
                message = f"port '{port}' of step '{step_id}' has another edge: where both bring a value, this one wins"
                path = f"edges[{after.index}].target_port"
                found.warning("DUPLICATE_PORT_INPUT", message, path, "give each edge a port of its own")


def _choices_of_edges(graph: Graph) -> dict[int, _Choices]:
    """For each edge, choices that were certainly made when it is followed."""
    of_step: dict[str, _Choices] = {graph.entry: {}}
    of_edge: dict[int, _Choices] = {}
    for step_id in graph.order:
        node = graph.nodes[step_id]
        if step_id not in of_step:
            of_step[step_id] = _common(of_edge[edge.index] for edge in node.ins if not edge.back)
        guarded = {edge.source_port for edge in node.outs if edge.condition is not None}
        rescued = any(edge.source_port == ERROR_PORT for edge in node.outs)
        for edge in node.outs:
            own: _Choices = {}
            if node.facts.routing and node.facts.kind == "step":
                own[step_id, ""] = edge.source_port
            elif rescued:
                own[step_id, ""] = edge.source_port == ERROR_PORT
            if edge.source_port in guarded:
                own[step_id, f"condition of {edge.source_port}"] = edge.index
            of_edge[edge.index] = _latest({**of_step[step_id], **own}) if own else of_step[step_id]
    return of_edge


def _common(alternatives: Iterable[_Choices]) -> _Choices:
    first, *others = alternatives
    for other in others:
        first = {place: choice for place, choice in first.items() if other.get(place, _NOTHING) == choice}
    return first


_NOTHING = object()


def _latest(choices: _Choices) -> _Choices:
    return choices if len(choices) <= _CHOICES else dict(list(choices.items())[-_CHOICES:])


def _exclusive(one: Mapping[tuple[str, str], object], other: Mapping[tuple[str, str], object]) -> bool:
    return any(other.get(place, choice) != choice for place, choice in one.items())


def _ports_hint(port: str, ports: Collection[str]) -> str:
    return _close(port, ports) or f"its ports are {', '.join(list(ports)[:10])}"


def _close(name: str, names: Iterable[str]) -> str:
    found = get_close_matches(name[:80], list(names)[:1000], n=1)
    return f"did you mean '{found[0]}'?" if found else ""
