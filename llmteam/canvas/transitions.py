"""The state machine: from a slice of a run and one outcome to what changes. Pure: no clock, no I/O, no randomness.

Readiness is BPEL's dead-path elimination (WS-BPEL 2.0, section 11.6.1): an edge is live or dead once its source is
over; a step is ready when all its edges are decided and one is live; when all are dead it is skipped and its own
edges die. A join with ``any`` or ``first`` is ready at its first live edge.

A failure that no error edge takes up is felt by the nearest ``any`` or ``first`` join around the step: what needs the
step's answer dies with it, other live edges notwithstanding, and the join goes on with the other branches. Without such
a join the run fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from llmteam.canvas.graph import Graph, Node
from llmteam.canvas.routing import DEAD
from llmteam.canvas.settling import Settling
from llmteam.canvas.state import (
    Change,
    Completed,
    Failed,
    Key,
    LoopState,
    Outcome,
    RetryPolicy,
    RunState,
    SegmentStatus,
    Slice,
    StepRow,
    StepState,
)
from llmteam.canvas.tellings import skip_event
from llmteam.events.models import ErrorInfo, EventDraft, EventSeverity, EventType

__all__ = ["OnGraph", "ahead", "claim", "end_run", "finish", "prefetch", "retry_policy", "start"]

#: A transition that needs the graph.
OnGraph = Callable[[Graph, Slice], Change]


def start(graph: Graph, run_id: str, now: datetime, deadline: datetime | None = None) -> Change:
    """All rows of a new run, its entry step ready. Steps that nothing reaches are skipped at once."""
    run = RunState(run_id, started_at=now, deadline=deadline, open=len(graph.nodes))
    moment = Slice(run, (), now)
    moment.emit(EventDraft(EventType.SEGMENT_STARTED))
    for node in graph.nodes.values():
        moment.add(_first_row(graph, node))
    settling = Settling(graph, moment)
    for step_id in graph.unreachable:
        row = moment.edit((step_id, 1))
        row.state, row.owner, row.finished_at, row.decisions = StepState.SKIPPED, None, now, (DEAD,)
        moment.run.open -= 1
        moment.emit(skip_event(graph.nodes[step_id], row, "no step leads to it"))
    settling.make_ready(moment.edit((graph.entry, 1)))
    return moment.change


def _first_row(graph: Graph, node: Node) -> StepRow:
    loop = graph.loops.get(node.step_id)
    state = None
    if loop is not None:
        state = LoopState(open=loop.units, children={child.header: 1 for child in loop.children})
    return StepRow(node.step_id, undecided=node.undecided, loop=state)


def claim(run: RunState, row: StepRow, now: datetime, timeout: timedelta | None) -> StepRow | None:
    """The row as claimed, or None when the step is not due: then whoever asked does nothing.

    The store applies it as compare-and-set on the run's status and the row's state and fence.
    """
    waits_for_limit = row.state is StepState.WAITING and row.owner == "limit"
    if run.status is not SegmentStatus.RUNNING or not (row.state is StepState.READY or waits_for_limit):
        return None
    if row.owner == "timer" and row.wake_at is not None and row.wake_at > now:
        return None
    return replace(
        row,
        state=StepState.RUNNING,
        fence=row.fence + 1,
        owner="lease",
        started_at=now,
        deadline=None if timeout is None else now + timeout,
    )


def retry_policy(node: Node, default: RetryPolicy) -> RetryPolicy:
    """The step's own ``retry_count`` before the run's; types that cannot be repeated run once."""
    if not node.facts.supports_retry:
        return replace(default, max_retries=0)
    own = node.step.config.get("retry_count")
    return replace(default, max_retries=own) if isinstance(own, int) and own >= 0 else default


def prefetch(graph: Graph, key: Key) -> list[Key]:
    """The rows that finishing this step most likely needs; what lies further is asked for by :class:`NeedRows`."""
    step_id, visit = key
    node = graph.nodes[step_id]
    keys = [key]
    if node.loop is not None and node.loop.header != step_id:
        keys.append((node.loop.header, visit))
    for edge in node.outs:
        target = graph.nodes[edge.target]
        if target.loop is node.loop and not edge.back:
            keys.append((edge.target, visit))
        elif node.loop is None:
            keys.append((edge.target, 1))
    keys.extend((after, visit) for after in node.order_after)
    return list(dict.fromkeys(keys))


def ahead(nodes: Mapping[str, Node], keys: Collection[Key], known: Collection[Key]) -> set[Key]:
    """Rows to load when ``keys`` are missing beside those ``known``: as many again of what lies behind them.

    A dead path may be as long as the segment; loading twice as much each time takes few looks. Some may not exist.
    """
    found = set(keys)
    queue = deque(keys)
    while queue and len(found) < len(keys) + len(known):
        step_id, visit = queue.popleft()
        node = nodes[step_id]
        for edge in node.outs:
            key = (edge.target, visit if nodes[edge.target].loop is node.loop else 1)
            if not edge.back and key not in found:
                found.add(key)
                queue.append(key)
    return found


def finish(
    graph: Graph,
    moment: Slice,
    key: Key,
    fence: int,
    outcome: Outcome,
    *,
    policy: RetryPolicy,
    chance: float = 0.0,
    delivered_chord: str | None = None,
    chord_id: str | None = None,
) -> Change:
    """Apply the outcome of the claim ``fence`` of a step.

    Args:
        policy: the run's retry policy; the step's own configuration comes first.
        chance: a number in [0, 1) that spreads retries.
        delivered_chord: id of the chord whose header this very delivery was; its body then brings the join's hint.
        chord_id: id to use if this step is a split whose heads can go out as one chord.

    A claim that no longer holds the step changes nothing (``applied`` is False); one whose result was applied already
    gives the hints once more.

    Raises:
        NeedRows: the slice lacks rows; load them and call again with a fresh slice.
    """
    node, row, now = graph.nodes[key[0]], moment.read(key), moment.change.now
    if row.fence != fence or row.state is not StepState.RUNNING:
        return _refused(graph, moment, node, row, fence)
    if moment.run.status is SegmentStatus.RUNNING and moment.run.deadline is not None and now >= moment.run.deadline:
        return time_out(moment)
    settling = Settling(graph, moment, delivered_chord=delivered_chord, chord_id=chord_id)
    row = moment.edit(key)
    moment.run.running -= 1
    if isinstance(outcome, Completed):
        settling.complete(node, row, outcome)
    elif _may_retry(node, row, outcome, policy):
        settling.retry(node, row, outcome, retry_policy(node, policy), chance)
    else:
        settling.fail(node, row, outcome.error, outcome.payload)
    settling.settle()
    return moment.change


def _may_retry(node: Node, row: StepRow, outcome: Failed, policy: RetryPolicy) -> bool:
    return outcome.retryable is not False and row.attempt < retry_policy(node, policy).max_retries


def _refused(graph: Graph, moment: Slice, node: Node, row: StepRow, fence: int) -> Change:
    change = moment.change
    change.applied = row.fence == fence and row.state in (StepState.COMPLETED, StepState.FAILED)
    if change.applied:
        for key in prefetch(graph, row.key)[1:]:
            if moment.read(key).state is StepState.READY:
                change.ready.append(key)
    return change


def end_run(moment: Slice, status: SegmentStatus, error: ErrorInfo | None = None, by: str = "") -> Change:
    """Cancel (or fail) a run from outside: every open step is cancelled with it. A run that is over stays as it is."""
    if moment.run.status.is_terminal:
        moment.change.applied = False
        return moment.change
    kind = EventType.SEGMENT_CANCELLED if status is SegmentStatus.CANCELLED else EventType.SEGMENT_FAILED
    severity = EventSeverity.WARNING if status is SegmentStatus.CANCELLED else EventSeverity.ERROR
    moment.change.end(status, error, EventDraft(kind, severity=severity, error=error))
    moment.change.by = by
    return moment.change


def time_out(moment: Slice) -> Change:
    """End a run whose deadline has passed."""
    run = moment.run
    limit = ""
    if run.deadline is not None and run.started_at is not None:
        limit = f" after {(run.deadline - run.started_at).total_seconds():g} seconds"
    error = ErrorInfo(
        error_type="TimeoutError",
        error_message=f"run timed out{limit}: raise timeout_seconds or find the slow step with `llmteam runs show`",
        recoverable=True,
    )
    return end_run(moment, SegmentStatus.TIMEOUT, error)
