"""From a handler's answer to decided edges, and from decided edges to the next step's input. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmteam.canvas.expressions import evaluate_edge_condition
from llmteam.canvas.graph import Edge, Node
from llmteam.canvas.ports import ANNOTATIONS_PORT, ERROR_PORT, Broadcast, Ports
from llmteam.events.models import ErrorInfo
from llmteam.events.payloads import omission, prepare

#: What an edge can turn out to be. A failed edge is a dead one whose death is somebody's failure.
DEAD, LIVE, FAILED = 0, 1, 2

#: One per outgoing edge; a single entry stands for all edges alike, so that a wide split stays a small row.
Decisions = tuple[int, ...]


def compact(decided: Sequence[int]) -> Decisions:
    """``decided`` with equal entries folded into one."""
    return (decided[0],) if decided and all(one == decided[0] for one in decided) else tuple(decided)


def decision_at(decisions: Sequence[int], place: int) -> int:
    """The decision on the edge that stands at ``place`` among its source's outgoing edges."""
    return decisions[0] if len(decisions) == 1 else decisions[place]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step gave: a value per port. ``whole`` says that the answer was one value, kept under the first port."""

    ports: Mapping[str, Any]
    whole: bool = False

    @property
    def value(self) -> Any:
        """The answer as the handler returned it."""
        return next(iter(self.ports.values()), None) if self.whole else self._given

    def at(self, port: str) -> Any:
        """The value that an edge from ``port`` carries: the port's own, else the whole answer."""
        if port in self.ports:
            return self.ports[port]
        return self.value

    @property
    def as_result(self) -> dict[str, Any]:
        """The answer as a run shows it: a dict as it is, anything else under the name of its port."""
        value = self.value
        return value if isinstance(value, dict) else self._given

    @property
    def _given(self) -> dict[str, Any]:
        return {port: value for port, value in self.ports.items() if port != ANNOTATIONS_PORT}

    def with_annotations(self, annotations: Mapping[str, Any]) -> StepOutput:
        """The output with what the handler annotated, on a port of its own."""
        return StepOutput({**self.ports, ANNOTATIONS_PORT: dict(annotations)}, self.whole)


def shape_output(node: Node, answer: Any) -> StepOutput:
    """Read a handler's answer as ports.

    A :class:`Ports` is taken as it is; a :class:`Broadcast` puts one value on every port. A plain dict is a port map
    only when it is not empty and all its keys are declared output ports; one of a routing step names a port it did not
    choose with None. Anything else is the value of the first output port.
    """
    if isinstance(answer, Broadcast):
        return StepOutput({first_port(node): answer.value}, whole=True)
    if isinstance(answer, Ports):
        return StepOutput(dict(answer))
    if isinstance(answer, dict) and answer and all(key in node.outputs for key in answer):
        routing = node.facts.routing
        return StepOutput({port: value for port, value in answer.items() if not (routing and value is None)})
    return StepOutput({first_port(node): answer}, whole=True)


def first_port(node: Node) -> str:
    """The port that a plain answer stands on."""
    return node.outputs[0] if node.outputs else "output"


def decide_edges(node: Node, output: StepOutput) -> Decisions:
    """For each outgoing edge of ``node``, in order, whether it is followed.

    Edges of one port that have conditions are tried in order and the first match wins (one without a condition is
    the else); without any condition all edges of a live port are followed.

    Raises:
        InvalidConditionError: a condition names what is not there or compares what cannot be compared.
    """
    groups: dict[str, list[int]] = {}
    for position, edge in enumerate(node.outs):
        groups.setdefault(edge.source_port, []).append(position)
    decided = [DEAD] * len(node.outs)
    for port, positions in groups.items():
        if not _port_is_live(node, port, output):
            continue
        if all(node.outs[position].condition is None for position in positions):
            for position in positions:
                decided[position] = LIVE
            continue
        chosen = _first_match([node.outs[position] for position in positions], output, port)
        if chosen is not None:
            decided[positions[chosen]] = LIVE
    return compact(decided)


def _port_is_live(node: Node, port: str, output: StepOutput) -> bool:
    if port == ANNOTATIONS_PORT:
        return port in output.ports
    given = not output.whole and port in output.ports
    if port == ERROR_PORT:
        return given
    if node.facts.routing:
        return given or (output.whole and (node.facts.kind == "split" or port == first_port(node)))
    return output.whole or ERROR_PORT not in output.ports


def _first_match(edges: Sequence[Edge], output: StepOutput, port: str) -> int | None:
    whole, value = output.value, output.at(port)
    for place, edge in enumerate(edges):
        if edge.condition is None or evaluate_edge_condition(edge.condition, whole, value):
            return place
    return None


def failure_output(error: ErrorInfo) -> StepOutput:
    """What a step that failed for good hands on: the failure, on its error port."""
    told = {"error_type": error.error_type, "error_message": error.error_message}
    return StepOutput({ERROR_PORT: told})


def error_decisions(node: Node, error: ErrorInfo) -> Decisions | None:
    """Decisions after a failure that an error edge takes up; None when there is none whose condition holds.

    Raises as :func:`decide_edges`.
    """
    if not any(edge.source_port == ERROR_PORT for edge in node.outs):
        return None
    decided = decide_edges(node, failure_output(error))
    return decided if LIVE in decided else None


@dataclass(frozen=True, slots=True)
class Source:
    """A finished step that an incoming edge comes from. ``superseded`` says that a later visit of it has begun."""

    step_id: str
    decisions: Sequence[int]
    output: StepOutput
    superseded: bool = False


def gather_input(node: Node, sources: Iterable[Source], nodes: Mapping[str, Node]) -> dict[str, Any]:
    """One value per input port that a live edge reaches; of several on one port the later edge wins.

    A back edge wins over the edges into the loop, so that an iteration sees what the one before it gave and keeps
    what the loop was entered with on every other port.
    """
    by_step = {source.step_id: source for source in sources}
    gathered: dict[str, Any] = {}
    for edge in sorted(node.ins, key=lambda incoming: incoming.back):
        source = by_step.get(edge.source)
        if source is not None and _carried(edge, source, nodes[edge.source]):
            gathered[edge.target_port] = source.output.at(edge.source_port)
    return gathered


def _carried(edge: Edge, source: Source, node: Node) -> bool:
    """An early join in a loop must not take what its slower branches gave in the iteration before."""
    if source.superseded and not edge.back:
        return False
    return decision_at(source.decisions, node.place[edge.index]) == LIVE


def run_outputs(terminals: Mapping[str, StepOutput]) -> dict[str, Any]:
    """A run's outputs: of one last step its answer, of several one entry per step."""
    if len(terminals) == 1:
        return next(iter(terminals.values())).as_result
    return {step_id: output.value for step_id, output in terminals.items()}


def outputs_payload(terminals: Mapping[str, StepOutput]) -> dict[str, Any]:
    """A run's outputs for its last event; what is too large is left out with its size."""
    return prepare({"output": run_outputs(terminals)}, replace=omission)[0]
