"""The processes of a simulated installation: workers, sweepers and callers, each with an engine of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from llmteam.canvas.engine import Engine
from llmteam.canvas.execution import Execution, Limits
from llmteam.canvas.keeper import LOOK_SECONDS, Keeper
from llmteam.canvas.records import NewRun, RunStore
from llmteam.canvas.recovery import Recovery
from llmteam.canvas.state import Change, SegmentStatus
from llmteam.canvas.surgery import Surgery
from llmteam.canvas.sweeper import Sweeper
from llmteam.dispatch import QUARANTINE_QUEUE, Hint
from llmteam.errors import InfrastructureError, LLMTeamError
from llmteam.runtime import RuntimeContext
from tests.simulated.faults import Crash, FaultyDispatcher, FaultyStore, FaultySweeps
from tests.simulated.replies import Reply

if TYPE_CHECKING:
    from tests.simulated.broker import Message
    from tests.simulated.world import World

#: A worker keeps wake-ups within this many seconds itself.
REACH = 10.0
SWEEP_SECONDS = 5.0
LIMITS = Limits()
LEASE_SECONDS = LIMITS.lease.total_seconds()


class Actor:
    """A process: it acts when its time has come, stands still while frozen, and loses everything when it dies."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.life = 0
        self.frozen_until = 0.0
        self.boot()

    def boot(self) -> None:
        """Begin anew, with nothing but what is in the store."""
        world = self.world
        self.store: RunStore = FaultyStore(world.store, self, world.faults, world.witness)  # type: ignore[assignment]
        self.dispatcher = FaultyDispatcher(world.broker, self, world.faults)
        self.engine: Engine = world.engine_class(
            self.store,
            handler_of=lambda type_id: None,
            runtime_of=lambda header: RuntimeContext(header.tenant_id, "", header.run_id, header.segment_id),
            dispatcher=self.dispatcher,
            alarm=self.alarm,
            limits=LIMITS,
            gate=world.gate,
            holder=f"{self.name}/{self.life}",
            clock=world.schedule.clock,
            chance=world.chance.random,
        )
        self.engine._graphs = world.graphs

    def alarm(self, moment: datetime, hint: Hint) -> None:
        delay = self.world.schedule.seconds(moment) - self.world.schedule.now
        if delay <= REACH:
            self.later(max(0.0, delay), lambda: self._send(hint))

    def _send(self, hint: Hint) -> None:
        with suppress(ConnectionError):
            self.dispatcher.send([hint])

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it then, unless this process died before."""
        life, schedule = self.life, self.world.schedule

        def call() -> None:
            if self.life != life:
                return
            if schedule.now < self.frozen_until:
                schedule.at(self.frozen_until, call)
            else:
                self.act(action)

        schedule.after(seconds, call)

    def act(self, action: Callable[[], None]) -> None:
        """Do it now, and die of it if it crashes."""
        try:
            action()
        except Crash as crash:
            if crash.actor is not self:
                raise
            if crash.life == self.life:
                self.die()

    def die(self) -> None:
        """Lose everything, and come back after a while."""
        self.life += 1
        self.frozen_until = 0.0
        life = self.life

        def boot() -> None:
            if self.life == life:
                self.boot()

        self.world.schedule.after(self.world.chance.uniform(0.5, 20.0), boot)


class StoppedError(Exception):
    """What a handler raises that was told to stop. It must never be told of as a failure."""


class StillKeeper(Keeper):
    """A keeper that looks when it is told to, instead of by a thread."""

    def _forget(self) -> None:
        super()._forget()
        self._pid = os.getpid()


@dataclass
class Job:
    """A claimed step in a worker's hands."""

    execution: Execution
    message: Message
    reply: Reply
    kept: AbstractContextManager[None]
    give_up: float
    over: bool = False


class Worker(Actor):
    """Takes messages of its queues, as many at once as it is wide."""

    def __init__(self, world: World, name: str, width: int, *, apart: bool = False) -> None:
        self.width, self.apart = width, apart
        self.deaf = False
        super().__init__(world, name)

    def boot(self) -> None:
        super().boot()
        self.recovery = Recovery(self.engine)
        self.keeper = StillKeeper(
            self.store, LIMITS.lease, stopped=self._told_to_stop, monotonic=self.world.schedule.monotonic
        )
        self.jobs: dict[int, Job] = {}
        self.busy = 0
        self.watches = self.world.chance.random() < 0.8
        self._looking = False
        self._numbers = 0
        self._up = self.life
        self.world.broker.pump()

    def takes(self, queue: str) -> bool:
        """Whether there is room for a message of this queue."""
        serves = self.apart or queue != QUARANTINE_QUEUE
        return self._up == self.life and serves and self.busy < self.width and not self.deaf

    def receive(self, message: Message) -> None:
        self.busy += 1
        self.later(0.001, lambda: self._begin(message))

    def _begin(self, message: Message) -> None:
        try:
            execution = self.engine.begin(message.hint, message.chord_id)
        except InfrastructureError:
            execution = None
        if execution is None:
            self._free(message)
            return
        kept = self.keeper.holding(execution)
        kept.__enter__()
        self._numbers += 1
        number, reply = self._numbers, self.world.reply(execution)
        job = self.jobs[number] = Job(execution, message, reply, kept, self.world.schedule.now + LEASE_SECONDS)
        self._look_soon()
        if reply.kills:
            self.later(reply.seconds, lambda: self._killed(job))
            return
        self.later(reply.seconds, lambda: self._finish(number, job))
        if execution.timeout is not None and self.watches:
            self.later(execution.timeout, lambda: self._overdue(job))

    def _killed(self, job: Job) -> None:
        if not job.over:
            self.world.killed.append(self)
            raise Crash(self)

    def _overdue(self, job: Job) -> None:
        """The handler is not done in time; it goes on all the same, and answers too late."""
        if not job.over:
            try:
                with self._writing(job):
                    self.engine.timed_out(job.execution)
            except InfrastructureError:
                pass

    def _finish(self, number: int, job: Job) -> None:
        """Write the outcome, again and again while the store does not answer."""
        if job.over:
            return
        schedule = self.world.schedule
        try:
            with self._writing(job):
                self._write(job)
        except InfrastructureError:
            if schedule.now < job.give_up + job.reply.seconds:
                self.later(0.7, lambda: self._finish(number, job))
                return
        job.over = True
        self.jobs.pop(number, None)
        job.kept.__exit__(None, None, None)
        self._free(job.message)

    def _write(self, job: Job) -> Change:
        if job.reply.error is not None:
            return self.engine.failed(job.execution, job.reply.error)
        return self.engine.answered(job.execution, job.reply.value)

    @contextmanager
    def _writing(self, job: Job) -> Iterator[None]:
        execution = job.execution
        writing = self.world.witness.writing
        writing.append((execution.header.run_id, execution.key, execution.fence))
        try:
            yield
        finally:
            writing.pop()

    def _free(self, message: Message) -> None:
        self.busy -= 1
        self.world.broker.returned(message)
        self.world.broker.pump()

    # -- leases

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True
            self.later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = False
        if self.keeper.held:
            self._look_soon()
        self.keeper.look()

    def _told_to_stop(self, execution: Execution) -> None:
        """Some handlers stop when their context is cancelled, others go on and answer for nothing."""
        for number, job in list(self.jobs.items()):
            if job.execution is execution and self.world.chance.random() < 0.5 and not job.reply.kills:
                job.reply = Reply(error=StoppedError())
                self.later(0.01, lambda number=number, job=job: self._finish(number, job))

    def shut_down(self) -> None:
        """Hand back what still runs, and end."""
        for execution in self.keeper.held:
            try:
                self.recovery.hand_back(execution)
            except LLMTeamError:
                continue
        self.die()


class Beat(Actor):
    """Starts the sweeps at their interval. ``idle_until`` is when it goes on after having stopped for a while."""

    def boot(self) -> None:
        super().boot()
        world = self.world
        self.idle_until = 0.0
        self.sweeper = Sweeper(
            self.engine,
            FaultySweeps(world.store.sweeps, self, world.faults, world.witness),
            self.dispatcher,
            Surgery(self.engine, _Patience(self)),
        )
        self.later(SWEEP_SECONDS * world.chance.random(), self._tick)

    def _tick(self) -> None:
        self.later(SWEEP_SECONDS, self._tick)
        if self.world.schedule.now < self.idle_until:
            return
        for name in self.world.sweeps:
            try:
                self.sweeper.sweep(name)
            except (LLMTeamError, ConnectionError):
                continue


class _Patience:
    """Wake-ups that never come: whoever waits for one stands still, and others go on."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def subscribe(self, name: str) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def wait(self, timeout: float) -> bool:
        faults = self._actor.world.faults
        faults.point(self._actor, "while waiting", lambda: InfrastructureError("whoever waits is interrupted"))
        walks_away = faults.on and faults.rates.crash and faults.chance.random() < 0.1
        if walks_away or not faults.hold_up(self._actor, timeout):
            raise Crash(self._actor)
        return False


class Caller(Actor):
    """Starts runs and meddles with them."""

    def boot(self) -> None:
        super().boot()
        self.surgery = Surgery(self.engine, _Patience(self))

    def start(self, run: NewRun) -> None:
        """Write a run, again until it is there."""
        if self.world.witness.run(run.tenant_id, run.run_id) is None:
            self.world.schedule.after(3.0, lambda: self.start(run))
            self.attempt(lambda: self.engine.submit(run))

    def cancel(self, tenant_id: str, run_id: str) -> None:
        def cancel() -> None:
            self.world.cancelled.add(run_id)
            self.engine.end(tenant_id, run_id, SegmentStatus.CANCELLED)

        self.attempt(cancel)

    def attempt(self, action: Callable[[], Any]) -> None:
        """Do something that may not work."""

        def careful() -> None:
            with suppress(LLMTeamError):
                action()

        if self.world.schedule.now >= self.frozen_until:
            self.act(careful)
