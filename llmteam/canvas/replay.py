"""The rows of a run that takes over what is over in another one: for ``retry`` and for ``fork``. Pure.

Finished steps are settled again, in the order in which they finished, with the decisions that they led to then;
whatever that leaves ready is where the new run begins. Skipped and cancelled steps follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from llmteam.canvas import transitions
from llmteam.canvas.graph import Graph
from llmteam.canvas.routing import LIVE
from llmteam.canvas.settling import Settling
from llmteam.canvas.state import Change, Key, Slice, StepRow, StepState

__all__ = ["behind", "finished_rows", "replay", "reusable_rows"]

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def finished_rows(rows: Iterable[StepRow]) -> list[StepRow]:
    """What is over for good: completed steps, and failures that an error edge took up. In the order of finishing."""
    return sorted((row for row in rows if _is_over(row)), key=_finishing)


def reusable_rows(graph: Graph, rows: Iterable[StepRow]) -> list[StepRow]:
    """What a run takes over of one with these rows: :func:`finished_rows`, and failures that a loop has left behind.

    A failure that a join around it felt would run again. Where the join went on without it and its loop has begun
    another iteration, or was left, that would undo all that came after.
    """
    known = {row.key: row for row in rows}
    over = [row for row in known.values() if _is_over(row) or _is_left_behind(graph, row, known)]
    return sorted(over, key=_finishing)


def _is_over(row: StepRow) -> bool:
    if row.decisions is None:
        return False
    return row.state is StepState.COMPLETED or (row.state is StepState.FAILED and LIVE in row.decisions)


def _is_left_behind(graph: Graph, row: StepRow, rows: Mapping[Key, StepRow]) -> bool:
    if row.decisions is None or row.state is not StepState.FAILED:
        return False
    loop, visit = graph.nodes[row.step_id].loop, row.visit
    while loop is not None:
        iteration = rows[loop.header, visit].loop
        if iteration is None or iteration.open == 0:
            return iteration is not None
        loop, visit = loop.parent, iteration.parent
    return False


def _finishing(row: StepRow) -> tuple[datetime, datetime, str, int]:
    return (row.finished_at or _LONG_AGO, row.started_at or _LONG_AGO, row.step_id, row.visit)


def behind(graph: Graph, start: StepRow, rows: Iterable[StepRow]) -> set[Key]:
    """``start`` and every execution that may depend on it: steps that edges lead to, begun after it was."""
    reached = {start.step_id}
    queue = [start.step_id]
    while queue:
        for edge in graph.nodes[queue.pop()].outs:
            if edge.target not in reached:
                reached.add(edge.target)
                queue.append(edge.target)
    began = start.started_at or _LONG_AGO
    return {
        row.key
        for row in rows
        if row.key == start.key or (row.step_id in reached and (row.started_at or _LONG_AGO) >= began)
    }


def replay(
    graph: Graph, run_id: str, finished: Sequence[StepRow], now: datetime, deadline: datetime | None = None
) -> Change:
    """The beginning of a run in which ``finished`` (in the order of finishing) is done already.

    A run that would be over at once has its last step run again: what ended it then would end it now. All rows are in
    ``added``, and ``ready`` are the steps to hint at.
    """
    while True:
        change = _replayed(graph, run_id, finished, now, deadline)
        if not change.ended or not finished:
            return change
        finished = finished[:-1]


def _replayed(
    graph: Graph, run_id: str, finished: Sequence[StepRow], now: datetime, deadline: datetime | None
) -> Change:
    begun = transitions.start(graph, run_id, now, deadline)
    moment = Slice(begun.run, begun.added.values(), now)
    left = {row.key: row for row in finished}
    progress = True
    while progress and left and not moment.change.ended:
        progress = False
        for key, old in list(left.items()):
            if _is_ready(moment, begun.added, key):
                del left[key]
                progress = True
                _take_over(graph, moment, key, old)
                if moment.change.ended:
                    break
    return _as_new(begun, moment)


def _is_ready(moment: Slice, first: Mapping[Key, StepRow], key: Key) -> bool:
    known = key in first or key in moment.change.added
    return known and moment.read(key).state is StepState.READY


def _take_over(graph: Graph, moment: Slice, key: Key, old: StepRow) -> None:
    settling = Settling(graph, moment)
    settling.reuse(graph.nodes[key[0]], moment.edit(key), old)
    settling.settle()


def _as_new(begun: Change, moment: Slice) -> Change:
    """Rows old and new as rows of a run to be created, with the events of its beginning alone."""
    change = moment.change
    rows = {**begun.added, **change.steps, **change.added}
    ready = [key for key, row in rows.items() if row.state is StepState.READY]
    return Change(change.run, change.now, added=rows, events=begun.events, ready=ready, ended=change.ended)
