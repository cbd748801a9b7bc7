"""What the engine does about steps whose worker does not finish them: lost, overdue, or handed back in time."""

from __future__ import annotations

from datetime import datetime

from llmteam.canvas import losses, transitions
from llmteam.canvas.engine import Engine
from llmteam.canvas.exceptions import StepTimeoutError
from llmteam.canvas.execution import Execution
from llmteam.canvas.graph import Graph
from llmteam.canvas.records import RunHeader
from llmteam.canvas.state import Change, Failed, Key, Slice
from llmteam.events.models import ErrorInfo

__all__ = ["Recovery"]


class Recovery:
    """Moves on steps that are running by the rows and not in fact. Each call is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def lose(self, tenant_id: str, run_id: str, key: Key, fence: int) -> bool:
        """The lease of this claim has run out: the step runs again, or has failed; False when the claim is over."""
        return self._move(tenant_id, run_id, key, lambda graph, moment: losses.lose(graph, moment, key, fence))

    def hand_back(self, execution: Execution) -> bool:
        """This process cannot finish the step: another one goes on at once; False when the claim is over.

        The handler is told afterwards: what it gives on being told must not count.
        """
        key, fence, header = execution.key, execution.fence, execution.header
        try:
            return self._move(
                header.tenant_id, header.run_id, key, lambda graph, moment: losses.hand_back(graph, moment, key, fence)
            )
        finally:
            execution.ctx.cancelled.set()

    def overdue(self, tenant_id: str, run_id: str, key: Key, fence: int) -> bool:
        """The step's deadline has passed, whatever its worker does: it has timed out; False when the claim is over."""
        engine = self._engine
        header = engine.store.header(tenant_id, run_id)
        if header is None:
            return False
        policy, chance = engine.policy_of(header), engine.chance()

        def late(graph: Graph, moment: Slice) -> Change:
            row = moment.read(key)
            seconds = 0.0
            if row.deadline is not None and row.started_at is not None:
                seconds = (row.deadline - row.started_at).total_seconds()
            if row.deadline is None or row.deadline > moment.change.now:
                moment.change.applied = False
                return moment.change
            error = ErrorInfo.from_exception(StepTimeoutError(key[0], seconds), recoverable=True)
            outcome = Failed(error, retryable=True)
            return transitions.finish(graph, moment, key, fence, outcome, policy=policy, chance=chance)

        return self._apply(header, key, late, engine.clock())

    def _move(self, tenant_id: str, run_id: str, key: Key, transition: transitions.OnGraph) -> bool:
        header = self._engine.store.header(tenant_id, run_id)
        return header is not None and self._apply(header, key, transition, self._engine.clock())

    def _apply(self, header: RunHeader, key: Key, transition: transitions.OnGraph, now: datetime) -> bool:
        engine = self._engine
        graph = engine.graph_of(header)
        change = engine.store.apply(
            header,
            transitions.prefetch(graph, key),
            lambda moment: transition(graph, moment),
            graph.nodes,
            now=now,
        )
        if change.applied:
            engine.outbox.send(header.tenant_id, graph, change)
        return change.applied
