"""Limits, on the engine's side: whether a step may begin, parking it when not, and giving back what it held."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from llmteam.canvas import delays
from llmteam.canvas.execution import Execution
from llmteam.canvas.expressions import compile_expression
from llmteam.canvas.graph import Graph, Node
from llmteam.canvas.handlers.document import only_value
from llmteam.canvas.outbox import Outbox, hint_of
from llmteam.canvas.records import RunHeader, RunStore, Work
from llmteam.canvas.state import Change, Slice, StepRow, StepState
from llmteam.errors import LLMTeamError
from llmteam.events.models import EventDraft, EventType
from llmteam.ids import Clock
from llmteam.ratelimit.gate import Gate, Hold, Pass, Use
from llmteam.ratelimit.registry import LimitRegistry

logger = logging.getLogger(__name__)

#: Keys of a step's configuration that name a resource, whose limit holds if one of that name is registered.
RESOURCES = ("llm_ref", "client_ref", "action")
#: The longest part of a limit's key; what is longer is cut.
PART_CHARS = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """What came of asking for room: a pass (None when the step is under no limit), or why it fails."""

    passed: Pass | None = None
    refusal: Exception | None = None


class Limiting:
    """Lets steps begin as limits allow. A step under no limit costs nothing here."""

    def __init__(self, store: RunStore, outbox: Outbox, gate: Gate | None, clock: Clock) -> None:
        self._store = store
        self._outbox = outbox
        self.gate = gate
        self._clock = clock

    def enter(self, work: Work, graph: Graph, node: Node, input_data: Any) -> Entry | None:
        """Room for the step of ``work``, or None: then it is parked until its turn is expected."""
        if self.gate is None:
            return Entry()
        try:
            uses = list(uses_of(node, input_data, self.gate.registry))
            if not uses:
                return Entry()
            found = self.gate.enter(work.header.tenant_id, uses, _ticket_of(work.header.run_id, work.row))
        except LLMTeamError as exc:
            if exc.retryable is True:
                raise
            return Entry(refusal=exc)
        if isinstance(found, Pass):
            return Entry(found)
        self._park(work, graph, node, found)
        return None

    def _park(self, work: Work, graph: Graph, node: Node, hold: Hold) -> None:
        header, row, now = work.header, work.row, self._clock()
        wake_at = delays.wake_up(now + timedelta(seconds=hold.seconds), now)
        waits = row.state is StepState.WAITING
        if waits and row.wake_at is not None and row.wake_at > now:
            # Asked before its time: what is written holds, and a timer is nearer to the turn than any sweep.
            self._outbox.alarm(wake_at, hint_of(header.tenant_id, work.run, graph, row.key, row))
            return
        told = None if waits else _told(node, row, hold)

        def transition(moment: Slice) -> Change:
            return delays.delay(moment, row.key, row.fence, wake_at, told)

        change = self._store.apply(header, [row.key], transition, graph.nodes, now=now)
        if change.applied:
            self._outbox.send(header.tenant_id, graph, change)

    def renew(self, executions: Iterable[Execution]) -> None:
        """Hold the permits of steps that still run. Never raises: a permit that ends early lets one call more in."""
        for execution in executions:
            if self.gate is not None and execution.passed is not None:
                try:
                    self.gate.renew(execution.passed)
                except LLMTeamError as exc:
                    logger.warning("the permit of step %s could not be renewed (%s)", execution.key[0], exc)

    def abandon(self, header: RunHeader, graph: Graph, change: Change) -> None:
        """A run ended with steps open: those that wait for a limit let others go ahead. Never raises.

        Where a limit is divided by what the input says, places end by themselves when their turn has passed.
        """
        if self.gate is None or not change.cancel_open:
            return
        try:
            registry = self.gate.registry
            limited = {node.step_id: uses for node in graph.nodes.values() if (uses := _undivided(node, registry))}
            if not limited:
                return
            for record in self._store.steps(header.tenant_id, header.run_id, outputs=False):
                left = limited.get(record.row.step_id)
                if left and record.row.state is StepState.CANCELLED:
                    self.gate.withdraw(header.tenant_id, left, _ticket_of(header.run_id, record.row))
        except LLMTeamError as exc:
            logger.warning("places of run %s under limits could not be given up (%s)", header.run_id, exc)

    def leave(self, execution: Execution, error: BaseException | None = None) -> None:
        """The step's handler is done. Never raises: what is not given back ends by itself."""
        if self.gate is None or execution.passed is None:
            return
        try:
            self.gate.leave(execution.passed, error, ignored=execution.revoked.is_set())
        except LLMTeamError as exc:
            logger.warning("the permit of step %s could not be given back (%s)", execution.key[0], exc)


def _ticket_of(run_id: str, row: StepRow) -> str:
    """The same however often the step asks, another one for each attempt at it."""
    return f"{run_id}/{row.step_id}/{row.visit}/{row.attempt}.{row.losses}"


def _undivided(node: Node, registry: LimitRegistry) -> list[Use]:
    """The limits of a step that it has whatever its input says."""
    named = node.step.config.get("limits")
    if isinstance(named, list) and any(not isinstance(one, str) and "by" in one for one in named):
        return []
    return list(uses_of(node, None, registry))


def _told(node: Node, row: StepRow, hold: Hold) -> EventDraft:
    return EventDraft(
        EventType.STEP_DELAYED,
        step_id=row.step_id,
        step_type=node.step.step_type,
        visit=row.visit,
        attempt=row.attempt + 1,
        payload={
            "limit": hold.name,
            "limited_by": hold.limited_by,
            "position": hold.position,
            "seconds": round(hold.seconds, 3),
        },
    )


def uses_of(node: Node, input_data: Any, registry: LimitRegistry) -> Iterator[Use]:
    """The limits that a step is under: those it names, or those registered for the resource it uses.

    Raises :class:`ExpressionError` when the part of a limit cannot be told from the input.
    """
    named = node.step.config.get("limits")
    if named is None:
        yield from (Use(name) for name in _resources(node.step.config) if registry.find(name) is not None)
        return
    for one in [named] if isinstance(named, str) else named:
        if isinstance(one, str):
            yield Use(one)
        else:
            part = _part(one.get("by"), node, input_data)
            yield Use(one["name"], part)


def _resources(config: dict[str, Any]) -> Iterator[str]:
    for key in RESOURCES:
        if isinstance(config.get(key), str):
            yield config[key]
    host = _host_of(config.get("url"))
    if host:
        yield host


def _host_of(url: Any) -> str | None:
    """The host of a step's URL; one that cannot be read is the step's own fault to tell of, when it runs."""
    try:
        return urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        return None


def _part(by: str | None, node: Node, input_data: Any) -> str:
    if by is None:
        return ""
    value = compile_expression(by).evaluate(only_value(input_data, node.inputs))
    return str(value)[:PART_CHARS]
