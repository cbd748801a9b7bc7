"""What events and errors say of steps that were skipped, joins without a branch, and loops that do not end."""

from __future__ import annotations

from datetime import datetime

from llmteam.canvas.graph import Graph, Loop, Node
from llmteam.canvas.state import StepRow
from llmteam.events.models import ErrorInfo, EventDraft, EventType


def skip_event(node: Node, row: StepRow, reason: str) -> EventDraft:
    """The event of a step that will not run."""
    return EventDraft(
        EventType.STEP_SKIPPED,
        step_id=node.step_id,
        step_type=node.step.step_type,
        visit=row.visit,
        payload={"reason": reason},
    )


def duration_ms(row: StepRow, now: datetime) -> int | None:
    """Milliseconds since the step began; None when it never did."""
    return None if row.started_at is None else max(0, round((now - row.started_at).total_seconds() * 1000))


def branches_failed(node: Node) -> ErrorInfo:
    """Why an early join failed."""
    return ErrorInfo(
        error_type="BranchesFailedError",
        error_message=f"every branch into join '{node.step_id}' failed or led nowhere",
    )


def both_ways(loop: Loop, graph: Graph, index: int) -> ErrorInfo:
    """Why a run ends whose loop went on and was left in one iteration."""
    edge = graph.edges[index]
    return ErrorInfo(
        error_type="LoopConflictError",
        error_message=(
            f"one iteration of the loop at '{loop.header}' both goes round again and leaves by "
            f"{edge.source} -> {edge.target}: make the conditions of the two exclude each other"
        ),
    )


def too_many(loop: Loop) -> ErrorInfo:
    """Why a run ends whose loop does not."""
    return ErrorInfo(
        error_type="LoopLimitError",
        error_message=(
            f"the loop at '{loop.header}' went round {loop.limit} times: check its condition or raise params.max_visits"
        ),
    )
