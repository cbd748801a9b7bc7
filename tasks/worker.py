"""What one worker process keeps: its engine, the leases of its steps, its timers, its loop for ``async`` handlers."""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from celery import current_app

from llmteam.audit.fleet import pruning
from llmteam.canvas import observed
from llmteam.canvas.execution import Execution
from llmteam.canvas.fleet import connect
from llmteam.canvas.invoke import LoopThread, call_blocking, is_async
from llmteam.canvas.keeper import Keeper
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.recovery import Recovery
from llmteam.canvas.results import RunConfig
from llmteam.canvas.runs import Start, runtime_ref
from llmteam.canvas.sweeper import Sweeper
from llmteam.canvas.timers import Timers
from llmteam.crypto import check_start
from llmteam.db import Database
from llmteam.dispatch import CONTROL_QUEUE, START_RUN, CeleryDispatcher, Hint, pass_on, queues_in
from llmteam.errors import ConfigurationError, InfrastructureError, LLMTeamError
from llmteam.human.fleet import courier
from llmteam.ids import new_id
from llmteam.regions import queue_in
from llmteam.settings import Settings
from llmteam.tasks import leaving
from llmteam.tasks.abandoned import GRACE_SECONDS, Abandoned, Call
from llmteam.tasks.queues import BusyQueues
from llmteam.tasks.standin import StandIn
from llmteam.tenancy.postgres.standing import region_of_tenant
from llmteam.tenancy.postgres.storage import StorageMeter

logger = logging.getLogger(__name__)

#: A wake-up that lies further ahead is left to the sweep. In seconds.
TIMER_REACH = 10.0
#: A hint that could not be looked at is sent again after this many seconds; a process puts off so many at once.
AGAIN_SECONDS, AGAIN_MOST = 2.0, 100
#: Connections to Postgres that one process may have, and those of them that sweeps may have.
CONNECTIONS, SWEEP_CONNECTIONS = 16, 2


class StepWorker:
    """Runs the steps that hints name, in whatever thread the pool calls it."""

    def __init__(self, settings: Settings) -> None:
        import_user_modules(settings)
        self.settings = settings
        self._timers = Timers()
        self._put_off = threading.BoundedSemaphore(AGAIN_MOST)
        self._loop = LoopThread()
        self._abandoned = Abandoned(leaving.pool_size(), self._too_many_abandoned)
        self.runs = connect(
            settings,
            app=current_app,
            alarm=self._alarm,
            application_name="llmteam-worker",
            pool_size=CONNECTIONS - SWEEP_CONNECTIONS - 1,
        )
        self.engine = self.runs.engine
        self.recovery = Recovery(self.engine)
        assert settings.database_url is not None
        # Leases are kept over a connection of their own: steps that crowd the pool must not cost anybody a lease.
        own = PostgresRunStore(Database(settings.database_url, application_name="llmteam-keeper", pool_size=1))
        self.keeper = Keeper(
            own, self.engine.limits.lease, stopped=self._loop.cancel, renewed=self.engine.limiting.renew
        )
        self._dispatcher = CeleryDispatcher(current_app)
        sweeping = Database(settings.database_url, application_name="llmteam-sweep", pool_size=SWEEP_CONNECTIONS)
        self._records = sweeping
        sweeps = PostgresSweeps(sweeping)
        engine = self.engine
        deliveries = courier(settings, sweeping, engine.store.interactions, engine.clock, engine.limiting.gate)
        self.sweeper = Sweeper(
            self.engine,
            sweeps,
            self._dispatcher,
            self.runs.surgery,
            busy_queues=BusyQueues(current_app, settings.hint_depth, queues_in(settings.region)),
            retention=None if settings.retention_days is None else timedelta(days=settings.retention_days),
            deliver=deliveries.deliver_due,
            prune=pruning(settings, sweeping),
            meter=StorageMeter(sweeping).meter_due,
        )
        self.stand_in = StandIn(self.sweeper, sweeps, settings.sweep_seconds)
        self.stand_in.start()

    def run_step(self, hint: Hint, chord: Any = None) -> None:
        """Claim the step, call its handler, write what came of it. Does nothing when the step is not due."""
        try:
            execution = self.engine.begin(hint, chord["options"]["task_id"] if chord else None)
        except InfrastructureError as exc:
            if exc.retryable is not True:
                raise
            logger.warning("a step could not be claimed (%s); its hint comes again", exc)
            self._put_off_hint(hint)
            return
        if execution is not None:
            with self.keeper.holding(execution):
                self._run(execution)

    def _put_off_hint(self, hint: Hint) -> None:
        """Send the hint again soon. Beyond what one process puts off, a sweep does it."""

        def send() -> None:
            self._put_off.release()
            self._dispatcher.send([hint])

        if self._put_off.acquire(blocking=False):
            self._timers.after(AGAIN_SECONDS, send)

    def _run(self, execution: Execution) -> None:
        overdue = None
        call = self._abandoned.begin()
        if execution.timeout is not None and execution.handler is not None and not is_async(execution.handler):
            overdue = self._timers.after(execution.timeout, lambda: self._overdue(execution, call))
        try:
            answer = self._called(execution, call)
        except (Exception, SystemExit) as exc:  # noqa: BLE001  # a handler may raise anything
            failure = exc
            self._insist(lambda: self.engine.failed(execution, failure))
        else:
            self._insist(lambda: self.engine.answered(execution, answer))
        finally:
            if overdue is not None:
                overdue.cancel()
            observed.over(execution, self.engine.store)

    def _called(self, execution: Execution, call: Call) -> Any:
        try:
            return call_blocking(execution, self._loop, self.engine.holder)
        finally:
            call.returned()

    def hand_back(self) -> int:
        """Give up every step that still runs here, so that others go on with it at once; how many."""
        return sum(self._given_up(execution) for execution in self.keeper.held)

    def _given_up(self, execution: Execution) -> bool:
        try:
            return self.recovery.hand_back(execution)
        except LLMTeamError as exc:
            logger.warning("a step could not be handed back (%s); its lease will run out", exc)
            return False

    def _overdue(self, execution: Execution, call: Call) -> None:
        """The handler outlived its deadline: the step goes on without it, its late answer will be refused."""

        def settle() -> None:
            try:
                self._insist(lambda: self.engine.timed_out(execution))
            finally:
                self._timers.after(GRACE_SECONDS, call.outlived)

        threading.Thread(target=settle, daemon=True).start()

    def _too_many_abandoned(self) -> None:
        logger.warning("%d handlers outlived their deadline and still run: this process ends", self._abandoned.count)
        leaving.leave(hung=lambda: self._abandoned.count, last=self.runs.close)

    def _insist(self, write: Callable[[], Any]) -> None:
        """Write until it worked or the claim has run out: work that was done should not be lost to a short outage."""
        give_up = time.monotonic() + self.settings.lease_seconds
        pause = 0.1
        while True:
            try:
                write()
                return
            except InfrastructureError as exc:
                if exc.retryable is not True or time.monotonic() + pause > give_up:
                    raise
                logger.warning("a step's result could not be written (%s); trying again", exc)
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _alarm(self, moment: datetime, hint: Hint) -> None:
        delay = (moment - self.engine.clock()).total_seconds()
        if delay <= TIMER_REACH:
            self._timers.after(max(0.0, delay), lambda: self._dispatcher.send([hint]))

    def start_run(
        self,
        tenant_id: str,
        segment: dict[str, Any] | str,
        input_data: Any,
        run_id: str | None,
        idempotency_key: str | None,
        signature: str | None,
        started_by: str | None = None,
        *,
        forwarded: bool = False,
    ) -> str | None:
        """Start a run for a message. One that was delivered twice starts once.

        One for a tenant of another region is sent on to the workers there, as it is; unless it was ``forwarded``: then
        the tenant has moved meanwhile, and it is started here, for there.
        """
        if self.settings.start_keys:
            key = self.settings.start_keys.get(tenant_id)
            check_start(key, signature, tenant_id, segment, input_data, run_id, idempotency_key, started_by)
        region = self.settings.region if forwarded else region_of_tenant(self._records, tenant_id)
        if region != self.settings.region:
            message = {
                "tenant_id": tenant_id,
                "segment": segment,
                "input": input_data,
                "run_id": run_id,
                "signature": signature,
                "idempotency_key": idempotency_key,
                "started_by": started_by,
                "forwarded": True,
            }
            pass_on(current_app, START_RUN, message, queue_in(CONTROL_QUEUE, region))
            return run_id
        run_id = run_id or new_id()
        named = segment if isinstance(segment, str) else SegmentDefinition.from_dict(segment)
        definition = self.runs.resolve(tenant_id, named)
        config = None
        if started_by is not None:
            config = RunConfig(max_retries=definition.params.max_retries, started_by=started_by)
        context = runtime_ref(tenant_id, run_id)
        start = Start(tenant_id, definition, input_data, config, run_id, "", context, idempotency_key)
        return self.runs.start(start)


def import_user_modules(settings: Settings) -> None:
    """Import what ``LLMTEAM_IMPORTS`` names, where decorators register step types and resources.

    Raises :class:`ConfigurationError` naming the module that cannot be imported.
    """
    for name in settings.imports:
        try:
            importlib.import_module(name)
        except LLMTeamError:
            raise
        except ImportError as exc:
            raise ConfigurationError(
                f"LLMTEAM_IMPORTS (or --import): module {name!r} cannot be imported: {exc}; "
                "it must be on the Python path of the worker"
            ) from exc
        except Exception as exc:
            raise ConfigurationError(
                f"LLMTEAM_IMPORTS (or --import): module {name!r} failed when it was imported: "
                f"{type(exc).__name__}: {exc}"
            ) from exc


_worker: tuple[int, StepWorker] | None = None
_lock = threading.Lock()


def step_worker() -> StepWorker:
    """The worker of this process; a forked child makes its own."""
    global _worker  # noqa: PLW0603  # one worker per process, made when its first task arrives
    if _worker is None or _worker[0] != os.getpid():
        with _lock:
            if _worker is None or _worker[0] != os.getpid():
                _worker = (os.getpid(), StepWorker(Settings.load()))
    return _worker[1]


def step_worker_if_any() -> StepWorker | None:
    """The worker of this process, if it ever had a task."""
    return _worker[1] if _worker is not None and _worker[0] == os.getpid() else None
