"""Drives the pure state machine through a whole run, without stores, clocks or handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from llmteam.canvas import transitions
from llmteam.canvas.graph import Graph
from llmteam.canvas.state import (
    Change,
    Key,
    NeedRows,
    Outcome,
    RetryPolicy,
    RunState,
    SegmentStatus,
    Slice,
    StepRow,
    StepState,
)
from llmteam.events.models import EventDraft

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

#: Given what is ready and running, which one acts next.
Chooser = Callable[[int], int]


class Simulation:
    """One run; ``started`` lists claims in order, ``events`` everything recorded."""

    def __init__(self, graph: Graph, policy: RetryPolicy | None = None, timeout: float | None = None) -> None:
        self.graph = graph
        self.policy = policy or RetryPolicy(max_retries=0)
        self.now = EPOCH
        deadline = None if timeout is None else self.now + timedelta(seconds=timeout)
        first = transitions.start(graph, "run", self.now, deadline)
        self.run: RunState = first.run
        self.rows: dict[Key, StepRow] = dict(first.added)
        self.events: list[EventDraft] = list(first.events)
        self.started: list[Key] = []
        self.hinted: list[Key] = list(first.ready)
        self.rows_read: list[int] = []

    @property
    def running(self) -> list[StepRow]:
        return [row for row in self.rows.values() if row.state is StepState.RUNNING]

    @property
    def ready(self) -> list[Key]:
        return [key for key, row in self.rows.items() if row.state is StepState.READY]

    @property
    def status(self) -> SegmentStatus:
        return self.run.status

    def states(self) -> dict[Key, StepState]:
        return {key: row.state for key, row in self.rows.items()}

    def state(self, step_id: str, visit: int = 1) -> StepState:
        return self.rows[step_id, visit].state

    def claim(self, key: Key) -> StepRow | None:
        claimed = transitions.claim(self.run, self.rows[key], self.now, None)
        if claimed is not None:
            self.rows[key] = claimed
            self.run.running += 1
            self.started.append(key)
        return claimed

    def finish(self, key: Key, outcome: Outcome, fence: int | None = None, **how: str) -> Change:
        wanted = set(transitions.prefetch(self.graph, key))
        fence = self.rows[key].fence if fence is None else fence
        while True:
            moment = Slice(self.run, [self.rows[k] for k in wanted if k in self.rows], self.now)
            try:
                change = transitions.finish(
                    self.graph, moment, key, fence, outcome, policy=self.policy, chance=0.5, **how
                )
                break
            except NeedRows as request:
                keys = request.keys
            assert not keys & wanted, "asked twice for the same row"
            assert all(k in self.rows for k in keys), f"asked for rows that do not exist: {keys}"
            wanted |= keys
        self.rows_read.append(len(wanted))
        self._apply(change)
        return change

    def _apply(self, change: Change) -> None:
        if not change.applied:
            return
        assert not set(change.added) & set(self.rows), "a row was added twice"
        self.run = change.run
        self.rows.update(change.steps)
        self.rows.update(change.added)
        self.events.extend(change.events)
        self.hinted.extend(change.ready)
        if change.cancel_open:
            for row in self.rows.values():
                if row.state.is_open:
                    row.state = StepState.CANCELLED

    def play(self, outcome_of: Callable[[Key], Outcome], choose: Chooser, max_moves: int = 20_000) -> None:
        """Claim and finish in the order that ``choose`` picks until the run is over."""
        for _ in range(max_moves):
            if self.run.status.is_terminal:
                return
            self.now += timedelta(milliseconds=10)
            moves: list[tuple[str, Key]] = [("finish", row.key) for row in self.running]
            moves += [("claim", key) for key in self.ready]
            assert moves, f"stuck: {self.states()}"
            kind, key = moves[choose(len(moves))]
            if kind == "finish":
                self.finish(key, outcome_of(key))
            elif self.claim(key) is None:
                wake_at = self.rows[key].wake_at
                assert wake_at is not None
                self.now = max(self.now, wake_at)
        raise AssertionError("the run does not end")


def of_type(events: Iterable[EventDraft], kind: str) -> list[EventDraft]:
    return [event for event in events if event.event_type == kind]
