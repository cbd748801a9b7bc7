"""Which steps a pending one waits for: the sources of its edges that are not decided yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from llmteam.canvas.graph import Edge, Graph, Loop, Node
from llmteam.canvas.state import Key, StepRow, StepState

#: Open states, the one that moves a run first.
MOVING_FIRST = (StepState.RUNNING, StepState.READY, StepState.WAITING, StepState.PENDING)


class Awaited:
    """Looks through all rows of one run, as they were at one moment."""

    def __init__(self, graph: Graph, rows: Iterable[StepRow]) -> None:
        self._graph = graph
        self._rows: Mapping[Key, StepRow] = {row.key: row for row in rows}
        self._movers = {loop.header: self._mover(loop) for loop in graph.loops.values()}
        self._siblings: dict[str, list[str]] = {}
        for node in graph.nodes.values():
            for after in node.order_after:
                self._siblings.setdefault(after, []).append(node.step_id)

    def of(self, row: StepRow) -> list[Key]:
        """One key per edge into ``row`` that is not decided, and per sibling that has to be over first.

        Edges out of a loop are decided when its last round ends: for them stands the step that moves the loop.
        """
        node = self._graph.nodes[row.step_id]
        found = [key for edge in node.ins if not edge.back for key in self._undecided(edge, node, row)]
        siblings = ((step_id, row.visit) for step_id in self._siblings.get(row.step_id, ()))
        return found + [key for key in siblings if self._is_undecided(key)]

    def _undecided(self, edge: Edge, target: Node, row: StepRow) -> Iterator[Key]:
        source = self._graph.nodes[edge.source]
        around, visit = self._around(source, target, row)
        if source.loop is around:
            if self._is_undecided((edge.source, visit)):
                yield (edge.source, visit)
        else:
            mover = self._movers[_outermost(source.loop, around).header]
            if mover is not None:
                yield mover

    def _around(self, source: Node, target: Node, row: StepRow) -> tuple[Loop | None, int]:
        """The innermost loop that both lie in, and the visit in which ``row`` lies in it."""
        loop, visit = target.loop, row.visit
        while loop is not None and source.step_id not in loop.body:
            header = self._rows.get((loop.header, visit))
            visit = 1 if header is None or header.loop is None else header.loop.parent
            loop = loop.parent
        return loop, visit

    def _is_undecided(self, key: Key) -> bool:
        row = self._rows.get(key)
        return row is None or row.state.is_open

    def _mover(self, loop: Loop) -> Key | None:
        """The step of a loop that moves first; None when no more of its steps are open."""
        rows = (row for row in self._rows.values() if row.step_id in loop.body and row.state.is_open)
        first = min(rows, key=lambda row: MOVING_FIRST.index(row.state), default=None)
        return None if first is None else first.key


def _outermost(loop: Loop | None, around: Loop | None) -> Loop:
    """The loop around ``loop`` that lies directly in ``around``."""
    assert loop is not None
    while loop.parent is not around:
        assert loop.parent is not None
        loop = loop.parent
    return loop
