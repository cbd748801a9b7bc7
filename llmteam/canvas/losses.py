"""What happens to a running step that its worker no longer answers for: lost, or handed back. Pure.

A loss is no failure of the handler: ``attempt`` stays as it is, ``losses`` goes up. A step that took its worker with it
twice runs apart from others from then on; after three more losses there it has failed, so that poison never loops.
"""

from __future__ import annotations

from llmteam.canvas.graph import Graph
from llmteam.canvas.settling import Settling
from llmteam.canvas.state import (
    QUARANTINE_AFTER,
    QUARANTINE_LOSSES,
    Change,
    Key,
    Slice,
    StepRow,
    StepState,
)
from llmteam.events.models import ErrorInfo, EventDraft, EventSeverity, EventType

__all__ = ["hand_back", "lose"]


def lose(graph: Graph, moment: Slice, key: Key, fence: int) -> Change:
    """The lease of the claim ``fence`` ran out: the step is due again, or has failed as one loss too many.

    Raises :class:`NeedRows`. A claim that no longer holds the step changes nothing.
    """
    row = _held(moment, key, fence)
    if row is None:
        return moment.change
    row.losses += 1
    moment.run.running -= 1
    settling = Settling(graph, moment)
    _emit(graph, moment, row, EventType.STEP_LOST, {"losses": row.losses, "quarantined": row.quarantined})
    if row.losses >= QUARANTINE_AFTER + QUARANTINE_LOSSES:
        settling.fail(graph.nodes[key[0]], row, _worker_lost(row), counts=False)
    else:
        row.deadline = None
        settling.make_ready(row)
    settling.settle()
    return moment.change


def hand_back(graph: Graph, moment: Slice, key: Key, fence: int) -> Change:
    """The worker that holds the claim ``fence`` cannot finish the step: it is due again, and nothing is counted."""
    row = _held(moment, key, fence)
    if row is None:
        return moment.change
    moment.run.running -= 1
    settling = Settling(graph, moment)
    _emit(graph, moment, row, EventType.STEP_RELEASED, {"reason": "the worker is stopping"})
    row.deadline = None
    settling.make_ready(row)
    settling.settle()
    return moment.change


def _held(moment: Slice, key: Key, fence: int) -> StepRow | None:
    """The row for changing, if the claim still holds it; else the change is marked as not applied."""
    row = moment.read(key)
    if row.state is StepState.RUNNING and row.fence == fence and moment.run.status.accepts_results:
        return moment.edit(key)
    moment.change.applied = False
    return None


def _emit(graph: Graph, moment: Slice, row: StepRow, kind: EventType, payload: dict[str, object]) -> None:
    moment.emit(
        EventDraft(
            kind,
            step_id=row.step_id,
            step_type=graph.nodes[row.step_id].step.step_type,
            visit=row.visit,
            attempt=row.attempt + 1,
            severity=EventSeverity.WARNING if kind is EventType.STEP_LOST else EventSeverity.INFO,
            payload=payload,
        )
    )


def _worker_lost(row: StepRow) -> ErrorInfo:
    return ErrorInfo(
        error_type="WorkerLostError",
        error_message=(
            f"the worker of step '{row.step_id}' vanished {row.losses} times while running it, lastly on its own: "
            "look for a crash, a kill or too little memory in its handler"
        ),
        error_code="worker_lost",
    )
