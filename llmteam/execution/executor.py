"""Running agents side by side in this process."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from llmteam.execution.attempts import attempt, delay_before, is_transient
from llmteam.execution.config import ExecutionMode, ExecutorConfig, TaskResult
from llmteam.execution.places import Places
from llmteam.execution.stats import ExecutionStats, Throttle
from llmteam.ids import random_bytes, random_id
from llmteam.tenancy.context import TenantContext, get_current_tenant

__all__ = ["PipelineExecutor"]

LimitOf = Callable[[str], int | Awaitable[int | None] | None]

#: Seconds that agents get to stop when their call is over.
STOP_SECONDS = 1.0


@dataclass
class _Call:
    """One call under way: whose it is, what every agent gets a copy of, and the limits that hold for it."""

    tenant_id: str
    input_data: Any
    limit: Callable[[], int]
    own: Places
    own_limit: int
    tasks: list[asyncio.Task[TaskResult]] = field(default_factory=list)


@dataclass(slots=True)
class _Seat:
    """A place in the queue, and whether it is still taken."""

    held: bool = True


class PipelineExecutor:
    """Runs agents: objects with ``process(input_data)``, plain or ``async``, and perhaps a ``name``.

    Each gets a copy of the input of its own and sees no other; a plain one runs in a thread. Never more than
    ``max_concurrent`` run at once, over all calls of this executor. An executor works for the tenant that is current
    when it is called. It is not durable; :class:`llmteam.canvas.FleetExecutor` is.

    Args:
        config: limits; see :class:`ExecutorConfig`.
        limit_of: how many agents of a tenant may run at once, None for no limit; plain, or ``async`` where it has to
            ask a server. By default what the tenant's licence says in this process, or that of the process itself
            (:func:`~llmteam.licensing.get_license_manager`).
    """

    def __init__(self, config: ExecutorConfig | None = None, *, limit_of: LimitOf | None = None) -> None:
        self.config = config or ExecutorConfig()
        self._limit_of = limit_of or _by_licence
        self._queue, self._slots = Places(), Places()
        self._tenants: dict[str, Places] = {}
        self._throttle = Throttle(self.config.max_concurrent)
        self._stats = ExecutionStats()
        self._pressed = False
        # Loops of several threads may share an executor.
        self._counting = threading.Lock()

    async def execute(
        self, agents: Sequence[Any], input_data: Any, *, mode: ExecutionMode | str | None = None
    ) -> list[TaskResult]:
        """Run agents and return what became of each, in their order; what one raises stands in its result.

        ``mode`` is the configured one by default. When the call is cancelled, so are its agents.
        """
        agents = list(agents)
        if not agents:
            return []
        chosen = ExecutionMode(mode or self.config.mode)
        tenant_id = get_current_tenant()
        found = self._limit_of(tenant_id)
        allowed = found if found is None or isinstance(found, int) else await found
        if allowed is not None and allowed < 1:
            return [self._count(_failed(agent, "not allowed", "LimitExceeded")) for agent in agents]
        places = self._tenants.setdefault(tenant_id, Places())
        call = _Call(
            tenant_id, copy.deepcopy(input_data), self._limit(chosen), places, allowed or self.config.max_concurrent
        )
        one_by_one = chosen is ExecutionMode.SEQUENTIAL
        return await self._run(agents, call, one_by_one=one_by_one)

    async def execute_parallel(self, agents: Sequence[Any], input_data: dict[str, Any]) -> list[TaskResult]:
        """:meth:`execute` in the configured mode: side by side, unless that is sequential."""
        return await self.execute(agents, input_data)

    async def execute_sequential(self, agents: Sequence[Any], input_data: dict[str, Any]) -> list[TaskResult]:
        """:meth:`execute`, one agent at a time in the given order."""
        return await self.execute(agents, input_data, mode=ExecutionMode.SEQUENTIAL)

    def get_stats(self) -> ExecutionStats:
        """A copy of the counts, with what is queued and running now."""
        return replace(self._stats, current_queue_size=self._queue.taken, current_running=self._slots.taken)

    def is_backpressure(self) -> bool:
        """Whether so many agents wait that callers should slow down."""
        config = self.config
        return config.enable_backpressure and self._queue.taken / config.queue_size >= config.backpressure_threshold

    def reset_stats(self) -> None:
        """Begin to count anew, and forget what failed lately."""
        self._stats = ExecutionStats()
        self._throttle.reset()

    # -- a call

    def _limit(self, mode: ExecutionMode) -> Callable[[], int]:
        if mode is ExecutionMode.ADAPTIVE:
            return lambda: self._throttle.allowed
        return lambda: self.config.max_concurrent

    async def _run(self, agents: Sequence[Any], call: _Call, *, one_by_one: bool) -> list[TaskResult]:
        try:
            async with asyncio.timeout(self.config.total_timeout):
                for agent in agents:
                    await self._queue_up()
                    call.tasks.append(self._begin(agent, call))
                    if one_by_one:
                        await asyncio.wait(call.tasks[-1:])
                await asyncio.wait(call.tasks)
        except TimeoutError:
            pass  # the results say whose time was over
        finally:
            await _stop(call.tasks)
        results = [self._result(agent, task) for agent, task in zip(agents, call.tasks, strict=False)]
        late = ("queue full", "QueueFull") if not one_by_one else ("timeout", "TotalTimeout")
        return results + [self._count(_failed(agent, *late)) for agent in agents[len(results) :]]

    def _result(self, agent: Any, task: asyncio.Task[TaskResult]) -> TaskResult:
        if task.done() and not task.cancelled():
            return task.result()
        late = _failed(agent, "timeout", "TotalTimeout")
        late.duration_ms = round(self.config.total_timeout * 1000)
        return self._count(late)

    async def _queue_up(self) -> None:
        await self._queue.take(lambda: self.config.queue_size)
        self._note_pressure()

    def _leave_queue(self, seat: _Seat) -> None:
        if seat.held:
            seat.held = False
            self._queue.give_back()
            self._note_pressure()

    def _note_pressure(self) -> None:
        with self._counting:
            pressed = self.is_backpressure()
            if pressed and not self._pressed:
                self._stats.backpressure_events += 1
                self._throttle.pressed()
            self._pressed = pressed

    # -- an agent

    def _begin(self, agent: Any, call: _Call) -> asyncio.Task[TaskResult]:
        """Start what works on an agent that has been queued; however it ends, it leaves the queue."""
        seat = _Seat()
        task = asyncio.create_task(self._work(agent, call, seat))
        task.add_done_callback(lambda task: self._leave_queue(seat))
        return task

    async def _work(self, agent: Any, call: _Call, seat: _Seat) -> TaskResult:
        """An agent until it succeeds or is given up."""
        result, started = _failed(agent, "", ""), time.monotonic()
        while True:
            if not seat.held:
                await self._queue_up()
                seat.held = True
            error = await self._in_turn(agent, call, result, seat)
            result.duration_ms = round((time.monotonic() - started) * 1000)
            if error is None or not is_transient(error) or result.retries >= self.config.max_retries:
                return self._count(result)
            result.retries += 1
            chance = int.from_bytes(random_bytes(4)) / 2**32
            await asyncio.sleep(delay_before(self.config.retry_delay, result.retries, error, chance))

    async def _in_turn(self, agent: Any, call: _Call, result: TaskResult, seat: _Seat) -> BaseException | None:
        """One attempt, as soon as there is a place for it; what it failed with."""
        await call.own.take(lambda: call.own_limit)
        try:
            await self._slots.take(call.limit)
            self._leave_queue(seat)
            try:
                with TenantContext(call.tenant_id) if call.tenant_id else nullcontext():
                    error, value = await attempt(agent, copy.deepcopy(call.input_data), self.config.task_timeout)
            finally:
                self._slots.give_back()
        finally:
            call.own.give_back()
        result.success, result.result = error is None, value
        result.error = None if error is None else str(error)
        result.error_type = None if error is None else type(error).__name__
        return error

    def _count(self, result: TaskResult) -> TaskResult:
        with self._counting:
            stats = self._stats
            stats.total_tasks += 1
            if result.success:
                stats.completed_tasks += 1
                stats.total_duration_ms += result.duration_ms
                stats.update_avg_duration()
            else:
                stats.failed_tasks += 1
            self._throttle.finished(result.success, pressed=self.is_backpressure())
        self._slots.look()
        return result


def _by_licence(tenant_id: str) -> int | None:
    # On first use: it brings what checks signatures.
    from llmteam.licensing.manager import get_license_manager

    return get_license_manager().tenants.licensed("parallel_agents")(tenant_id)


def _failed(agent: Any, error: str, kind: str) -> TaskResult:
    name = getattr(agent, "name", None)
    return TaskResult(random_id(), str(name) if name else "unknown", False, error=error, error_type=kind)


async def _stop(tasks: Sequence[asyncio.Task[TaskResult]]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=2 * STOP_SECONDS)
