"""What follows when a step is over: edges decided, steps ready or skipped, iterations and runs ended.

A work list instead of recursion: a dead path may be as long as the segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from llmteam.canvas.exceptions import InvalidConditionError
from llmteam.canvas.graph import Graph, Loop, Node
from llmteam.canvas.routing import DEAD, FAILED, LIVE, decision_at, error_decisions
from llmteam.canvas.state import (
    CHORD_GRACE,
    HINT_AFTER,
    Completed,
    Failed,
    Key,
    LoopState,
    RetryPolicy,
    SegmentStatus,
    Slice,
    StepRow,
    StepState,
)
from llmteam.canvas.tellings import both_ways, branches_failed, duration_ms, skip_event, too_many
from llmteam.events.models import ErrorInfo, EventDraft, EventSeverity, EventType


class Settling:
    """One transition at work on one slice."""

    def __init__(
        self, graph: Graph, moment: Slice, *, delivered_chord: str | None = None, chord_id: str | None = None
    ) -> None:
        self._graph = graph
        self._moment = moment
        self._now = moment.change.now
        self._delivered_chord = delivered_chord
        self._chord_id = chord_id
        self._brought_by_chord: str | None = None
        self._result: Mapping[str, Any] = {}
        self._arrivals: deque[tuple[Key, int | None]] = deque()

    # -- what happened to the step itself

    def complete(self, node: Node, row: StepRow, outcome: Completed) -> None:
        """The handler answered: decide its edges."""
        run = self._moment.run
        self._close(row, StepState.COMPLETED)
        row.decisions = outcome.decisions
        row.terminal = LIVE not in outcome.decisions
        run.completed += 1
        run.terminals += row.terminal
        self._result = outcome.result if row.terminal else {}
        duration = duration_ms(row, self._now)
        self._emit(EventType.STEP_COMPLETED, node, row, row.attempt + 1, payload=outcome.payload, took=duration)
        if self._delivered_chord is not None and row.chord_id == self._delivered_chord:
            self._brought_by_chord = self._join_of(node)
        self._over(node, row)
        if self._chord_id is not None and node.step_id in self._graph.chords:
            row.chord_id = self._moment.change.chord = self._chord_id

    def retry(self, node: Node, row: StepRow, outcome: Failed, policy: RetryPolicy, chance: float) -> None:
        """The handler failed and may try again, later."""
        row.attempt += 1
        row.state, row.owner, row.deadline = StepState.READY, "timer", None
        row.wake_at = self._now + max(policy.delay_after(row.attempt, chance), outcome.retry_after)
        row.error = outcome.error
        tries = {"attempt": row.attempt, "max_attempts": policy.max_retries + 1}
        payload = {**outcome.payload, **tries}
        self._emit(EventType.STEP_RETRYING, node, row, row.attempt, EventSeverity.WARNING, payload, outcome.error)

    def fail(
        self,
        node: Node,
        row: StepRow,
        error: ErrorInfo,
        payload: Mapping[str, Any] | None = None,
        *,
        counts: bool = True,
    ) -> None:
        """The step failed for good: its error edge takes it, or a join around it feels it, or the run fails.

        ``counts`` says whether it was an attempt of its handler that failed.
        """
        self._close(row, StepState.FAILED)
        row.attempt += counts
        row.error = error
        self._moment.run.failed += 1
        duration = duration_ms(row, self._now)
        attempt = row.attempt + (not counts)
        self._emit(EventType.STEP_FAILED, node, row, attempt, EventSeverity.ERROR, payload, error, duration)
        try:
            handled = error_decisions(node, error)
        except InvalidConditionError as exc:
            handled, error = None, ErrorInfo.from_exception(exc)
        if handled is None:
            self._contain(node, row, error)
        else:
            row.decisions = handled
            self._over(node, row)

    def reuse(self, node: Node, row: StepRow, old: StepRow) -> None:
        """Take over what the step came to in another run, without an event."""
        self._close(row, old.state)
        for name in ("attempt", "losses", "error", "terminal", "started_at", "finished_at", "decisions"):
            setattr(row, name, getattr(old, name))
        run = self._moment.run
        run.completed += old.state is StepState.COMPLETED
        run.failed += old.state is StepState.FAILED
        run.terminals += row.terminal
        if old.error is not None and old.state is StepState.FAILED and LIVE not in (old.decisions or ()):
            self._contain(node, row, old.error)
        else:
            self._over(node, row)

    def _contain(self, node: Node, row: StepRow, error: ErrorInfo) -> None:
        """Let the nearest early join feel the failure; ``all`` joins on the way to it die with their branches."""
        dying: str | None = None
        scope = node.scope
        while scope is not None and not self._graph.nodes[scope].fires_early:
            dying, scope = scope, self._graph.nodes[scope].scope
        if scope is None:
            self._fail_run(error)
        elif dying is None:
            row.decisions = (FAILED,)
            self._over(node, row)
        else:
            self._kill(node, row, dying)

    def _kill(self, node: Node, row: StepRow, join_id: str) -> None:
        row.decisions = (DEAD,)
        self._release(node, row)
        join = self._graph.nodes[join_id]
        key = self._locate(join, node.loop, row.visit)
        cancelled = self._moment.edit(key)
        if cancelled.state.is_open:
            self._close(cancelled, StepState.CANCELLED)
            cancelled.decisions = (FAILED,)
            self._cancel_region(join, key[1])
            self._over(join, cancelled)
        outer = join.loop.parent if join.loop is not None and join.loop.header == join_id else join.loop
        if node.loop is not None and node.loop is outer:
            self._unit_over(node.loop, row.visit)

    # -- consequences

    def settle(self) -> None:
        """Work off everything that follows, then end the run if nothing is open."""
        change = self._moment.change
        while self._arrivals and not change.ended:
            self._moment.need_first(key for key, _ in self._arrivals)
            self._arrive(*self._arrivals.popleft())
        if change.ended:
            return
        if self._moment.run.open == 0:
            alone = self._moment.run.terminals == 1
            payload = dict(self._result) if alone else {}
            change.end(SegmentStatus.COMPLETED, None, EventDraft(EventType.SEGMENT_COMPLETED, payload=payload))
        elif self._moment.run.status is SegmentStatus.PAUSING:
            # Nothing is claimed until the run goes on, which hints at whatever is due then.
            change.ready.clear()
            change.chord = None
        elif change.chord is not None:
            self._mark_chord_heads()

    def _over(self, node: Node, row: StepRow) -> None:
        """Route every edge of a step that is over, and count it towards its iteration."""
        if node.loop is None:
            self._moment.need((edge.target, 1) for edge in node.outs)
        decisions = row.decisions or (DEAD,)
        for place, edge in enumerate(node.outs):
            self._route(edge.index, decision_at(decisions, place), node.loop, row.visit)
        self._release(node, row)
        if node.loop is not None:
            self._unit_over(node.loop, row.visit)

    def _release(self, node: Node, row: StepRow) -> None:
        """Let go of the siblings that only wait for this step to be over."""
        for after in node.order_after:
            self._arrivals.append(((after, row.visit), None))

    def _route(self, index: int, decision: int, loop: Loop | None, visit: int) -> None:
        """Take a decided edge as far as it goes: to its target, or to the border of the loop it leaves."""
        edge = self._graph.edges[index]
        target = self._graph.nodes[edge.target]
        if loop is not None:
            iteration = self._loop_state(loop, visit)
            if edge.target == loop.header:
                iteration.back = iteration.back or decision == LIVE
                return
            if edge.target not in loop.body:
                iteration.exits[index] = decision
                return
        self._arrivals.append((self._locate(target, loop, visit), decision))

    def _arrive(self, key: Key, decision: int | None) -> None:
        """One thing less to wait for. ``None`` is a sibling that only had to be over first."""
        row = self._moment.edit(key)
        node = self._graph.nodes[key[0]]
        row.undecided -= 1
        row.live += decision == LIVE
        row.failed_in += decision == FAILED
        if row.state is not StepState.PENDING:
            return
        decided = row.undecided == 0 and row.failed_in == 0
        if row.live and (decided or node.fires_early):
            self.make_ready(row)
            if node.is_join and node.strategy == "first":
                self._cancel_region(node, key[1])
        elif row.undecided == 0:
            self._skip(node, row)

    def make_ready(self, row: StepRow) -> None:
        """The step is due: hint at it, unless the body of a chord brings the hint."""
        row.state, row.owner, row.ready_at = StepState.READY, "queue", self._now
        if row.step_id == self._brought_by_chord:
            row.wake_at = self._now + CHORD_GRACE
        else:
            row.wake_at = self._now + HINT_AFTER
            self._moment.change.ready.append(row.key)

    def _skip(self, node: Node, row: StepRow) -> None:
        if row.failed_in and node.fires_early:
            self.fail(node, row, branches_failed(node))
            return
        self._close(row, StepState.SKIPPED)
        row.decisions = (FAILED,) if row.failed_in else (DEAD,)
        self._moment.emit(skip_event(node, row, "no edge into it was followed"))
        self._over(node, row)

    def _close(self, row: StepRow, state: StepState) -> None:
        if row.owner == "person":
            self._moment.change.withdrawn.append(row.key)
        if row.state is StepState.WAITING:
            self._take_back(row)
        row.state, row.owner, row.wake_at, row.deadline = state, None, None, None
        row.finished_at = self._now
        self._moment.run.open -= 1

    def _take_back(self, row: StepRow) -> None:
        """Time that people take is none of the run's; what was lent for it and not taken is taken back."""
        run = self._moment.run
        if row.deadline is not None and run.deadline is not None:
            run.deadline -= row.deadline - self._now
            self._moment.change.moves_deadline = True

    def _fail_run(self, error: ErrorInfo) -> None:
        draft = EventDraft(EventType.SEGMENT_FAILED, severity=EventSeverity.ERROR, error=error)
        self._moment.change.end(SegmentStatus.FAILED, error, draft)

    # -- loops

    def _loop_state(self, loop: Loop, visit: int) -> LoopState:
        state = self._moment.edit((loop.header, visit)).loop
        assert state is not None
        return state

    def _peek(self, loop: Loop, visit: int) -> LoopState:
        state = self._moment.read((loop.header, visit)).loop
        assert state is not None
        return state

    def _locate(self, target: Node, loop: Loop | None, visit: int) -> Key:
        """The row of ``target`` that belongs to the iteration ``visit`` of ``loop``, or to one around it."""
        while loop is not None and target.step_id not in loop.body:
            visit = self._peek(loop, visit).parent
            loop = loop.parent
        if target.loop is loop:
            return (target.step_id, visit)
        return (target.step_id, 1 if loop is None else self._peek(loop, visit).children[target.step_id])

    def _unit_over(self, loop: Loop, visit: int) -> None:
        state = self._loop_state(loop, visit)
        state.open -= 1
        if state.open > 0 or self._moment.change.ended:
            return
        leaving = [index for index, decision in state.exits.items() if decision == LIVE]
        if state.back and leaving:
            self._fail_run(both_ways(loop, self._graph, leaving[0]))
        elif state.back and state.iteration >= loop.limit:
            self._fail_run(too_many(loop))
        elif state.back:
            self._iterate(loop, visit, state)
        else:
            self._leave(loop, state)

    def _leave(self, loop: Loop, state: LoopState) -> None:
        for edge in loop.exits:
            self._route(edge.index, state.exits.get(edge.index, DEAD), loop.parent, state.parent)
        if loop.parent is not None:
            self._unit_over(loop.parent, state.parent)

    def _iterate(self, loop: Loop, visit: int, state: LoopState) -> None:
        """Rows for one more round of the loop's body, its header ready."""
        self._set_latest(loop, state.parent, visit + 1)
        pending = [(loop, visit, state.parent, state.iteration + 1)]
        while pending:
            inner, last, parent, iteration = pending.pop()
            fresh = LoopState(iteration, parent, inner.units)
            before = self._peek(inner, last)
            for child in inner.children:
                fresh.children[child.header] = before.children[child.header] + 1
                pending.append((child, before.children[child.header], last + 1, 1))
            for step_id in inner.members:
                is_header = step_id == inner.header
                undecided = 0 if inner is loop and is_header else self._graph.nodes[step_id].undecided
                self._moment.add(StepRow(step_id, last + 1, undecided=undecided, loop=fresh if is_header else None))
                self._moment.run.open += 1
        header = self._moment.edit((loop.header, visit + 1))
        header.live = 1
        self.make_ready(header)

    def _set_latest(self, loop: Loop, parent_visit: int, visit: int) -> None:
        """Remember the current visit of a loop: with the loop around it, or with its own first visit."""
        holder = self._loop_state(loop.parent, parent_visit) if loop.parent else self._loop_state(loop, 1)
        holder.children[loop.header] = visit

    def _latest(self, loop: Loop, parent_visit: int) -> int:
        holder = self._peek(loop.parent, parent_visit) if loop.parent else self._peek(loop, 1)
        return holder.children.get(loop.header, 1)

    # -- joins and chords

    def _cancel_region(self, join: Node, visit: int) -> None:
        """Cancel what is still open between a join and where its branches began."""
        region = self._graph.regions[join.step_id]
        outer = join.loop
        if outer is not None and outer.header == join.step_id:
            visit, outer = self._peek(outer, visit).parent, outer.parent
        inside = [self._graph.loops[s] for s in region if s in self._graph.loops]
        self._moment.need((s, visit) for s in region if self._graph.nodes[s].loop is outer)
        for step_id in region:
            if self._graph.nodes[step_id].loop is outer and self._cancel((step_id, visit)) and outer is not None:
                self._unit_over(outer, visit)
        stack = [(loop, visit, True) for loop in inside if loop.parent is outer]
        while stack:
            loop, parent_visit, counts = stack.pop()
            current = self._latest(loop, parent_visit)
            state = self._loop_state(loop, current)
            was_open, state.open = state.open > 0, 0
            self._moment.need((step_id, current) for step_id in loop.members)
            for step_id in loop.members:
                self._cancel((step_id, current))
            stack.extend((child, current, False) for child in loop.children)
            if counts and was_open and outer is not None:
                self._unit_over(outer, visit)

    def _cancel(self, key: Key) -> bool:
        if not self._moment.read(key).state.is_open:
            return False
        row = self._moment.edit(key)
        self._moment.run.running -= row.state is StepState.RUNNING
        self._close(row, StepState.CANCELLED)
        row.decisions = (DEAD,)
        self._release(self._graph.nodes[row.step_id], row)
        return True

    def _join_of(self, head: Node) -> str | None:
        for edge in head.ins:
            if edge.source in self._graph.chords:
                return self._graph.chords[edge.source]
        return None

    def _mark_chord_heads(self) -> None:
        change = self._moment.change
        heads = [key for key in change.ready if self._join_of(self._graph.nodes[key[0]]) is not None]
        if len(heads) < 2:
            change.chord, heads = None, []
        for key in heads:
            self._moment.edit(key).chord_id = change.chord

    def _emit(
        self,
        kind: EventType,
        node: Node,
        row: StepRow,
        attempt: int,
        severity: EventSeverity = EventSeverity.INFO,
        payload: Mapping[str, Any] | None = None,
        error: ErrorInfo | None = None,
        took: int | None = None,
    ) -> None:
        self._moment.emit(
            EventDraft(
                kind,
                step_id=node.step_id,
                step_type=node.step.step_type,
                visit=row.visit,
                attempt=attempt,
                severity=severity,
                payload=dict(payload or {}),
                error=error,
                duration_ms=took,
            )
        )
