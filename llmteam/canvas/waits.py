"""Steps that wait for a person: parked without a worker, and gone on with when the answer is there. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from llmteam.canvas.graph import Graph
from llmteam.canvas.settling import Settling
from llmteam.canvas.state import Change, Completed, Key, Outcome, SegmentStatus, Slice, StepRow, StepState
from llmteam.canvas.transitions import time_out
from llmteam.human.models import InteractionRequest
from llmteam.human.rulings import Ruling

__all__ = ["go_on", "park"]

#: After which there is still a date, whatever the run's own time is.
LONGEST = timedelta(days=3650)


def park(moment: Slice, key: Key, fence: int, asked: Ruling) -> Change:
    """The claim ``fence`` asked a person: the step waits until the request's deadline, and its worker is free.

    A claim that no longer holds the step changes nothing (``applied`` is False).
    """
    row, change = moment.read(key), moment.change
    if row.fence != fence or row.state is not StepState.RUNNING or not moment.run.status.accepts_results:
        # What a first attempt wrote whose reply was lost is as good as written now.
        change.applied = row.fence == fence and row.state is StepState.WAITING
        return change
    if _is_late(moment):
        return time_out(moment)
    row = moment.edit(key)
    moment.run.running -= 1
    row.state, row.owner, row.wake_at, row.deadline = StepState.WAITING, "person", asked.request.deadline, None
    _lend(moment, row, asked.request)
    for event in asked.events:
        moment.emit(event)
    change.asks = replace(asked, events=())
    return change


def _lend(moment: Slice, row: StepRow, request: InteractionRequest) -> None:
    """Give the run all the time that people may take; what they do not take is taken back when the step is over."""
    run, now = moment.run, moment.change.now
    if run.deadline is None or request.deadline is None:
        return
    most = request.deadline - now + request.timeout * len(request.escalation_chain)
    row.deadline = now + min(most, LONGEST)
    run.deadline += row.deadline - now
    moment.change.moves_deadline = True


def go_on(graph: Graph, moment: Slice, key: Key, fence: int, outcome: Outcome) -> Change:
    """What the person decided, or that nobody did in time, is the step's outcome.

    Changes nothing (``applied`` is False) unless the step waits for a person, as the one that asked.
    Raises :class:`NeedRows`.
    """
    row, run = moment.read(key), moment.run
    waits = row.state is StepState.WAITING and row.owner == "person" and row.fence == fence
    if not waits or not run.status.accepts_results:
        moment.change.applied = False
        return moment.change
    if _is_late(moment):
        return time_out(moment)
    row = moment.edit(key)
    # The request is closed: nothing is to be withdrawn with the step.
    row.owner = None
    settling = Settling(graph, moment)
    if isinstance(outcome, Completed):
        settling.complete(graph.nodes[key[0]], row, outcome)
    else:
        settling.fail(graph.nodes[key[0]], row, outcome.error, outcome.payload)
    settling.settle()
    return moment.change


def _is_late(moment: Slice) -> bool:
    run = moment.run
    return run.status is SegmentStatus.RUNNING and run.deadline is not None and moment.change.now >= run.deadline
