"""A simulated run that checks after every move what must hold at every moment of every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from llmteam.canvas.graph import Edge, Loop
from llmteam.canvas.routing import LIVE, decision_at
from llmteam.canvas.state import CHORD_GRACE, Change, Key, Outcome, StepRow, StepState
from llmteam.events.models import TERMINAL_TYPES, EventType
from tests.simulation import Simulation

OVER = frozenset({StepState.COMPLETED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED})


class CheckedSimulation(Simulation):
    """Raises ``AssertionError`` as soon as the state machine breaks a promise.

    ``finishing`` gives the further arguments of a finish, ``changed`` is told of each change.
    """

    finishing: Callable[[Key], dict[str, str | None]] = staticmethod(lambda key: {})
    changed: Callable[[Change], None] = staticmethod(lambda change: None)

    def finish(self, key: Key, outcome: Outcome, fence: int | None = None, **how: str | None) -> Change:
        return super().finish(key, outcome, fence, **{**self.finishing(key), **how})

    def claim(self, key: Key) -> StepRow | None:
        claimed = super().claim(key)
        if claimed is not None:
            self._inputs_are_decided(key)
            self._promises_hold()
        return claimed

    def _apply(self, change: Change) -> None:
        before = {key: row.state for key, row in self.rows.items()}
        super()._apply(change)
        self.changed(change)
        for key, state in before.items():
            assert state not in OVER or self.rows[key].state is state, f"{key} was {state} and is something else now"
        due = {key for key, row in self.rows.items() if row.state is StepState.READY} - {
            key for key, state in before.items() if state is StepState.READY
        }
        for key in due - set(change.ready):
            row = self.rows[key]
            brought = change.events[0].attempt is not None and row.wake_at == self.now + CHORD_GRACE
            assert row.owner == "timer" or brought, f"nobody is told that {key} is due"
        self._promises_hold()

    # -- every moment

    def _promises_hold(self) -> None:
        rows = self.rows.values()
        states = Counter(row.state for row in rows)
        run = self.run
        if run.status.is_terminal:
            assert not any(row.state.is_open for row in rows), "an ended run has open steps"
            assert (run.open, run.running) == (0, 0)
            assert run.finished_at is not None
        else:
            assert run.open == sum(row.state.is_open for row in rows)
            assert run.running == states[StepState.RUNNING]
            assert run.open > 0, "nothing is open and the run has not ended"
        assert (run.completed, run.failed) == (states[StepState.COMPLETED], states[StepState.FAILED])
        assert run.terminals == sum(row.terminal for row in rows)
        for row in rows:
            self._row_is_sound(row)
        self._events_are_sound()

    def _row_is_sound(self, row: StepRow) -> None:
        if row.state.is_open:
            assert row.owner is not None, f"nobody owns {row.key}"
            assert row.owner == "inputs" or row.wake_at is not None, f"nothing wakes {row.key}"
            assert (row.owner == "inputs") == (row.state is StepState.PENDING)
            assert row.undecided >= 0
        elif not self.run.status.is_terminal:
            assert row.decisions is not None, f"{row.key} is over and its edges are not decided"

    def _events_are_sound(self) -> None:
        ends = [place for place, event in enumerate(self.events) if event.event_type in TERMINAL_TYPES]
        assert ends == ([len(self.events) - 1] if self.run.status.is_terminal else [])
        closed = Counter(
            (event.step_id, event.visit)
            for event in self.events
            if event.event_type in (EventType.STEP_COMPLETED, EventType.STEP_FAILED, EventType.STEP_SKIPPED)
        )
        assert not closed or max(closed.values()) == 1, f"told twice of the end of {closed.most_common(1)}"

    # -- every claim

    def _inputs_are_decided(self, key: Key) -> None:
        node, row = self.graph.nodes[key[0]], self.rows[key]
        if node.step_id == self.graph.entry and key[1] == 1:
            return
        again = self.graph.loops.get(key[0]) is not None and self.rows[key].undecided == 0 and row.live == 1
        arrived = [self.followed(edge, key[1]) for edge in node.ins]
        assert any(arrived), f"{key} runs although no edge leads to it"
        if not node.fires_early and not again:
            open_ = [edge.source for edge in node.ins if not edge.back and self.followed(edge, key[1]) is None]
            assert not open_, f"{key} runs before {open_}"

    def followed(self, edge: Edge, visit: int) -> bool | None:
        """Whether the edge was followed into this visit of its target; None as long as that is not decided."""
        source = self.graph.nodes[edge.source]
        rows = [row for row in self.rows.values() if row.step_id == edge.source]
        if source.loop is self.graph.nodes[edge.target].loop and not edge.back:
            rows = [row for row in rows if row.visit == visit]
        decided = [row for row in rows if row.decisions is not None]
        if not decided or (not edge.back and self._goes_on(source.loop, edge, max(row.visit for row in rows))):
            return None
        last = max(decided, key=lambda row: row.visit)
        return decision_at(last.decisions or (), source.place[edge.index]) == LIVE

    def _goes_on(self, loop: Loop | None, edge: Edge, visit: int) -> bool:
        """Whether a loop that the edge leaves may still go round."""
        if loop is None or edge.target in loop.body:
            return False
        return any(
            row.state not in OVER for row in self.rows.values() if row.step_id in loop.body and row.visit >= visit
        )
