"""Segments drawn as lines of text, so that a test shows its graph and nothing else.

``a -> b -> c`` are edges, ``a.true -> b`` leaves by a port, ``a -[x > 1]-> b`` has a condition. The word before the
first ``_`` of a step's name says its type (see :data:`TYPES`); branches get their ports and counts by themselves.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from llmteam.canvas.catalog import StepCatalog
from llmteam.canvas.graph import Graph, compile_graph
from llmteam.canvas.models import (
    EdgeDefinition,
    PortDefinition,
    SegmentDefinition,
    SegmentParams,
    StepDefinition,
    StepTypeFacts,
)

#: Word in a step's name to step type and configuration; every other name is a plain step of type ``work``.
TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "if": ("condition", {"expression": "true"}),
    "split": ("parallel_split", {}),
    "all": ("parallel_join", {"merge_strategy": "all"}),
    "any": ("parallel_join", {"merge_strategy": "any"}),
    "first": ("parallel_join", {"merge_strategy": "first"}),
    "human": ("human_task", {"task_type": "approval", "title": "Go on?", "assignee_ref": "ann"}),
    "count": ("count", {}),
    "plain": ("plain", {}),
    "ghost": ("ghost", {}),
}
#: The type of plain steps.
WORK = StepTypeFacts(type_id="work", outputs=("output", "error"))

_ARROW = re.compile(r"\s*-(?:\[(?P<condition>[^\]]*)\]-)?>\s*")


def draw(
    *lines: str,
    entry: str | None = None,
    work: str = "work",
    config: Mapping[str, Mapping[str, Any]] | None = None,
    segment_id: str = "drawn",
    **params: Any,
) -> SegmentDefinition:
    """The segment of ``lines``. ``work`` is the type of plain steps, ``config`` adds to a step's configuration."""
    names: dict[str, None] = {}
    edges: list[EdgeDefinition] = []
    ports: Counter[tuple[str, str]] = Counter()
    for line in lines:
        parts = _ARROW.split(line.strip())
        steps, conditions = parts[::2], parts[1::2]
        names.update(dict.fromkeys(step.partition(".")[0] for step in steps))
        for (source, target), condition in zip(itertools.pairwise(steps), conditions, strict=True):
            edges.append(_edge(source, target.partition(".")[0], condition, ports))
    given = config or {}
    return SegmentDefinition(
        segment_id=segment_id,
        name="Drawn",
        entrypoint=entry or next(iter(names)),
        steps=[_step(name, work, given.get(name, {}), ports) for name in names],
        edges=edges,
        params=SegmentParams(**params),
    )


def graph(*lines: str, **how: Any) -> Graph:
    """:func:`draw`, compiled."""
    return compiled(draw(*lines, **how))


def compiled(segment: SegmentDefinition) -> Graph:
    """The graph of a segment; ``work`` is as here, whatever the process's catalog knows by that name."""
    known = StepCatalog.get_instance().facts
    return compile_graph(segment, lambda type_id: WORK if type_id == WORK.type_id else known(type_id) or WORK)


def kind_of(name: str) -> str:
    """The word that says the type of the step of this name."""
    return name.partition("_")[0]


def _edge(source: str, target: str, condition: str | None, ports: Counter[tuple[str, str]]) -> EdgeDefinition:
    name, _, port = source.partition(".")
    if not port and kind_of(name) == "split":
        ports[name, "out"] += 1
        port = f"branch_{ports[name, 'out']}"
    into = "input"
    if kind_of(target) in ("all", "any", "first"):
        ports[target, "in"] += 1
        into = f"branch_{ports[target, 'in']}"
    return EdgeDefinition(
        source_step=name, source_port=port or "output", target_step=target, target_port=into, condition=condition
    )


def _step(name: str, work: str, given: Mapping[str, Any], ports: Counter[tuple[str, str]]) -> StepDefinition:
    step_type, config = TYPES.get(kind_of(name), (work, {}))
    branches = max(ports[name, "out"], ports[name, "in"])
    sized = {"branches": branches} if branches > 1 and step_type.startswith("parallel") else {}
    ins = [PortDefinition(port_id=f"branch_{number}") for number in range(1, ports[name, "in"] + 1)]
    extra: dict[str, Any] = {"inputs": ins} if ins else {}
    return StepDefinition(step_id=name, step_type=step_type, config={**config, **sized, **given}, **extra)
