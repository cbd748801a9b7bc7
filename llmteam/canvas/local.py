"""Runs inside one process: hints become tasks of the running event loop, and nothing else is needed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any, TypeVar

from llmteam.canvas import invoke, observed
from llmteam.canvas.engine import Engine
from llmteam.canvas.execution import Execution
from llmteam.canvas.keeper import Keeper
from llmteam.canvas.ports import Ask
from llmteam.dispatch import Chord, Hint
from llmteam.errors import InfrastructureError
from llmteam.human.interactions import request_channel
from llmteam.regions import region_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Name under which claims of this process are kept.
HOLDER = "in-process"
#: Seconds between two looks for an answer that nothing told of.
LOOK_SECONDS = 1.0


async def _tell_nobody() -> None:
    """Without a manager there are no channels."""


class LocalFleet:
    """A dispatcher whose workers are tasks of the event loop that it was made in.

    ``blocks`` says whether the engine's store waits for a server; its calls then run in threads.
    """

    def __init__(self, blocks: bool) -> None:
        self.engine: Engine | None = None
        self.keeper: Keeper | None = None
        #: Has people told what steps ask them.
        self.tell_people: Callable[[], Awaitable[None]] = _tell_nobody
        self._blocks = blocks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[tuple[str, str], set[asyncio.Task[None]]] = {}
        self._timers: dict[tuple[str, str], set[asyncio.TimerHandle]] = {}
        self._working: dict[int, asyncio.Task[None]] = {}

    def attach(self, engine: Engine) -> None:
        """Run the steps of ``engine``; leases are kept where its store outlives this process."""
        self.engine = engine
        if self._blocks:
            lease = engine.limits.lease
            self.keeper = Keeper(engine.store, lease, stopped=self._lost, renewed=engine.limiting.renew)

    def _lost(self, execution: Execution) -> None:
        self._from_anywhere(self._stop_step, id(execution))

    def _stop_step(self, number: int) -> None:
        task = self._working.get(number)
        if task is not None:
            task.cancel()

    def enter_loop(self) -> None:
        """Run steps on the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call into the store without blocking the loop."""
        if self._blocks:
            return await asyncio.to_thread(function, *args, **kwargs)
        return function(*args, **kwargs)

    # -- the dispatcher

    def send(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            if self._serves(hint):
                self._from_anywhere(self._spawn, hint)

    def _serves(self, hint: Hint) -> bool:
        """Whether the step may run here; else it waits for a worker of its region, and somebody should know."""
        here, there = self.engine.store.region if self.engine is not None else "", region_of(hint.queue)
        if here != there:
            logger.warning(
                "run %s waits for a worker of the region %s: this process is in %s", hint.run_id, there, here
            )
        return here == there

    def send_chord(self, chord: Chord) -> None:
        self.send(chord.heads)

    def alarm(self, moment: datetime, hint: Hint) -> None:
        """Send a hint at ``moment``."""
        self._from_anywhere(self._later, moment, hint)

    def over(self, tenant_id: str, run_id: str) -> None:
        """Stop what still works for a run that is over; from any thread."""
        self._from_anywhere(self.stop, tenant_id, run_id)

    def _from_anywhere(self, function: Callable[..., None], *args: Any) -> None:
        # On a loop that was closed nothing works any more.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _later(self, moment: datetime, hint: Hint) -> None:
        assert self._loop is not None
        assert self.engine is not None
        delay = (moment - self.engine.clock()).total_seconds()
        if delay <= 0:
            self._spawn(hint)
            return
        # Looks at the clock again when it is called: that of the loop is another one and may be early.
        handle = self._loop.call_later(delay, self._later, moment, hint)
        self._timers.setdefault((hint.tenant_id, hint.run_id), set()).add(handle)

    # -- the worker

    def _spawn(self, hint: Hint) -> None:
        self._keep((hint.tenant_id, hint.run_id), hint, self._step(hint))

    def _keep(self, key: tuple[str, str], hint: Hint, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks = self._tasks.setdefault(key, set())
        tasks.add(task)

        def done(finished: asyncio.Task[None]) -> None:
            tasks.discard(finished)
            if not finished.cancelled() and finished.exception() is not None:
                logger.error("run %s, step %s", hint.run_id, hint.step_id, exc_info=finished.exception())

        task.add_done_callback(done)

    async def _step(self, hint: Hint) -> None:
        assert self.engine is not None
        execution = await self._insist(self.engine.begin, hint)
        if execution is None:
            # Of a run that goes on after a pause, or in another process, nobody watches for answers yet.
            await self._until_answered(hint)
            return
        task = asyncio.current_task()
        assert task is not None
        self._working[id(execution)] = task
        try:
            with nullcontext() if self.keeper is None else self.keeper.holding(execution):
                await self._run(execution)
        finally:
            self._working.pop(id(execution), None)

    async def _run(self, execution: Execution) -> None:
        assert self.engine is not None
        try:
            answer = await invoke.call(execution, HOLDER)
        except asyncio.CancelledError:
            execution.ctx.cancelled.set()
            raise
        except (Exception, SystemExit) as exc:  # noqa: BLE001  # a handler may raise anything
            await self._settle(self.engine.failed, execution, exc)
        else:
            await self._settle(self.engine.answered, execution, answer)
            if isinstance(answer, Ask):
                self._from_anywhere(self._await_person, execution)
        finally:
            if observed.is_open(execution):
                await asyncio.shield(asyncio.ensure_future(self.call(observed.over, execution, self.engine.store)))

    def _await_person(self, execution: Execution) -> None:
        header, (step_id, visit) = execution.header, execution.key
        hint = Hint(header.tenant_id, header.run_id, step_id, visit, execution.node.facts.queue)
        self._keep((hint.tenant_id, hint.run_id), hint, self._until_answered(hint))

    async def _until_answered(self, hint: Hint) -> None:
        """Look for the answer when something happens to the request, and now and then: it may come from anywhere."""
        assert self.engine is not None
        interactions = self.engine.store.interactions
        case = await self._insist(interactions.case_of_step, hint.tenant_id, hint.run_id, hint.step_id, hint.visit)
        if case is None:
            return
        with interactions.wakeup.subscribe(request_channel(hint.tenant_id, case.request.request_id)) as watch:
            while await self._insist(self.engine.still_asks, hint):
                await self.tell_people()
                await watch.wait_async(LOOK_SECONDS)

    async def _settle(self, function: Callable[..., Any], execution: Execution, what: Any) -> None:
        """An answer that is there is written even when the task is cancelled meanwhile."""
        await asyncio.shield(asyncio.ensure_future(self._insist(function, execution, what)))

    async def _insist(self, function: Callable[..., T], *args: Any) -> T:
        """:meth:`call` until it works or a claim would have run out: nobody sweeps here after a short outage."""
        assert self.engine is not None
        give_up = time.monotonic() + self.engine.limits.lease.total_seconds()
        pause = 0.05
        while True:
            try:
                return await self.call(function, *args)
            except InfrastructureError as exc:
                if exc.retryable is not True or time.monotonic() + pause > give_up:
                    raise
                logger.warning("the store does not answer (%s); trying again", exc)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    def stop(self, tenant_id: str, run_id: str) -> None:
        """Stop what still works for a run that is over."""
        for handle in self._timers.pop((tenant_id, run_id), ()):
            handle.cancel()
        for task in self._tasks.pop((tenant_id, run_id), ()):
            task.cancel()
