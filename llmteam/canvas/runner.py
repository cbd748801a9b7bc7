"""The async face: start runs, wait for them, cancel them; in this process or on a fleet of workers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from llmteam.actions.executor import ActionExecutor
from llmteam.actions.registry import default_registry
from llmteam.audit.trail import AuditTrail
from llmteam.canvas.callbacks import call_back, has_hooks, tell
from llmteam.canvas.catalog import StepCatalog
from llmteam.canvas.engine import Engine
from llmteam.canvas.exceptions import LocalHandlerError, RunNotFoundError
from llmteam.canvas.execution import Limits
from llmteam.canvas.fleet import connect
from llmteam.canvas.handlers import HumanTaskHandler
from llmteam.canvas.local import HOLDER, LocalFleet
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.ports import StepHandler
from llmteam.canvas.records import RunHeader, RunStore
from llmteam.canvas.registry import SegmentRegistry
from llmteam.canvas.results import RunConfig, SegmentResult
from llmteam.canvas.runs import POLL_SECONDS, Patience, Runs, Segment, Start, StartRules
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.steering import Steering
from llmteam.canvas.stores import MemoryRunStore
from llmteam.errors import ConfigurationError
from llmteam.events.emitter import EventEmitter
from llmteam.events.models import EventType
from llmteam.events.stores import EventStoreFace, MemoryEventStore
from llmteam.events.stream import EventStream
from llmteam.human.memory import MemoryInteractions
from llmteam.ids import new_id
from llmteam.ratelimit.gate import process_gate
from llmteam.runtime.context import RuntimeContext
from llmteam.runtime.manager import default_manager
from llmteam.tenancy.context import DEFAULT_TENANT, get_current_tenant
from llmteam.wakeup import end_channel, run_notifier

if TYPE_CHECKING:
    from celery import Celery

    from llmteam.settings import Settings

__all__ = ["RunConfig", "SegmentResult", "SegmentRunner", "SegmentStatus"]

T = TypeVar("T")

#: Told (tenant, run, whether it is over) after each commit that wrote events.
Notify = Callable[[str, str, bool], None]
#: Runs of which a runner remembers whose they are.
TENANTS_KEPT = 10_000
#: Runs of one tenant that are listed.
LISTED = 1000


class SegmentRunner(Steering):
    """Runs segments and tells how they went.

    ``SegmentRunner()`` runs in this process with memory stores: for notebooks and tests; with a ``store`` it runs in
    this process over Postgres. ``SegmentRunner(app=…)`` and :meth:`connect` give one whose runs are worked on by
    workers anywhere.

    Args:
        catalog: step types and their handlers; the process's own by default.
        event_stream: where events go and can be followed; its store must be able to take them at once.
        app: a Celery app whose broker the workers use; the database comes from ``LLMTEAM_DATABASE_URL``.
        store: where runs live; in memory by default.
    """

    def __init__(
        self,
        catalog: StepCatalog | None = None,
        event_stream: EventStream | None = None,
        *,
        app: Celery | None = None,
        store: RunStore | None = None,
        registry: SegmentRegistry | None = None,
        limits: Limits | None = None,
    ) -> None:
        if app is not None:
            self._attach(connect(app=app, catalog=catalog))
            return
        self.catalog = catalog or StepCatalog.get_instance()
        self.event_stream = event_stream or EventStream(MemoryEventStore())
        events = self.event_stream.store
        if not isinstance(events, EventStoreFace):
            raise TypeError(f"event_stream: its store is a {type(events).__name__}, which is no EventStoreFace")
        self._handlers: dict[str, StepHandler] = {}
        self._runtimes: dict[tuple[str, str], RuntimeContext] = {}
        self._tenants: OrderedDict[str, str] = OrderedDict()
        self._local: LocalFleet | None = LocalFleet(events.blocks)
        wakeup = self.event_stream.wakeup
        self._store: RunStore = store or MemoryRunStore(sink=events.add)
        engine = Engine(
            self._store,
            handler_of=lambda type_id: self._handlers.get(type_id) or self.catalog.get_handler(type_id),
            runtime_of=self._runtime_of,
            dispatcher=self._local,
            notify=self._notifier(run_notifier(wakeup), self._local),
            alarm=self._local.alarm,
            limits=limits,
            gate=process_gate(),
            holder=HOLDER,
        )
        self._local.attach(engine)
        self._runs = Runs(engine, events, wakeup, self.catalog, registry, known_types=lambda: self._handlers)

    @classmethod
    def connect(
        cls,
        *,
        settings: Settings | None = None,
        database_url: str | None = None,
        broker_url: str | None = None,
        catalog: StepCatalog | None = None,
    ) -> Self:
        """A runner whose runs are worked on by the workers of an installation, wherever they are.

        Settings come from ``LLMTEAM_*`` variables where they are not given. Raises :class:`ConfigurationError`.
        """
        self = cls.__new__(cls)
        self._attach(connect(settings, database_url=database_url, broker_url=broker_url, catalog=catalog))
        return self

    def _attach(self, runs: Runs) -> None:
        self._runs = runs
        self.catalog = runs.catalog
        self.event_stream = EventStream(runs.events)
        self._handlers, self._runtimes, self._tenants, self._local = {}, {}, OrderedDict(), None

    @property
    def is_distributed(self) -> bool:
        """Whether steps are run by workers rather than in this process."""
        return self._local is None

    def register_handler(self, step_type: str, handler: StepHandler) -> None:
        """Use ``handler`` for this type in this runner's runs, before the catalog's.

        Raises :class:`LocalHandlerError` on a distributed runner: its workers cannot see an object of this process.
        """
        if self._local is None:
            raise LocalHandlerError(step_type)
        if isinstance(handler, HumanTaskHandler):
            handler = self._asks_through(handler)
        self._handlers[step_type] = handler

    def _asks_through(self, handler: HumanTaskHandler) -> StepHandler:
        """Steps that ask people park, and their requests live in the store of the handler's manager.

        Raises :class:`ConfigurationError` when that store and the one of the runs cannot go together.
        """
        runs, manager = self._store, handler.manager
        requests = manager.store.core
        if isinstance(runs, MemoryRunStore) and isinstance(requests, MemoryInteractions):
            runs.use_interactions(requests)
        elif isinstance(runs, MemoryRunStore) or isinstance(requests, MemoryInteractions):
            raise ConfigurationError(
                "HumanTaskHandler: runs and requests must both be in memory or both in Postgres, so that they change "
                "together: build its manager on the other kind of store"
            )
        assert self._local is not None
        self._local.tell_people = manager.settle
        return handler.ask

    def _notifier(self, tell: Notify, fleet: LocalFleet) -> Notify:
        """``tell``; a run that is over also stops what still works for it and lets go of its runtime."""

        def notify(tenant_id: str, run_id: str, ended: bool) -> None:
            tell(tenant_id, run_id, ended)
            if ended:
                self._runtimes.pop((tenant_id, run_id), None)
                fleet.over(tenant_id, run_id)

        return notify

    def _runtime_of(self, header: RunHeader) -> RuntimeContext:
        runtime = self._runtimes.get((header.tenant_id, header.run_id))
        if runtime is None:
            runtime = default_manager().from_ref(dict(header.context))
        if runtime.contexts is None:
            runtime.contexts = self._runs.engine.store.contexts
        if runtime.actions is None:
            runtime.actions = ActionExecutor(default_registry, events=EventEmitter(self.event_stream.store))
        if runtime.audit_trail is None:
            runtime.audit_trail = AuditTrail(self._runs.engine.store.audit, tenant_id=header.tenant_id)
        return runtime

    # -- runs

    async def run(
        self,
        segment: Segment,
        runtime: RuntimeContext | None = None,
        input_data: Any = None,
        *,
        config: RunConfig | None = None,
        run_id: str | None = None,
    ) -> SegmentResult:
        """Start a run, wait for its end and return how it ended; failures of steps are told, not raised.

        Raises what :meth:`start` raises. When the awaiting task is cancelled, so is the run.
        """
        started = await self.start(segment, runtime, input_data, config=config, run_id=run_id)
        tenant_id = self._tenant(runtime)
        try:
            result = await self._follow(tenant_id, started, config, runtime)
        except asyncio.CancelledError:
            await asyncio.shield(self.cancel(started, tenant_id=tenant_id))
            raise
        return result

    async def start(
        self,
        segment: Segment,
        runtime: RuntimeContext | None = None,
        input_data: Any = None,
        *,
        config: RunConfig | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        rules: StartRules | None = None,
    ) -> str:
        """Start a run and return its id at once.

        ``segment`` is a definition or ``id[@version]`` of a published one. A second start of the same ``run_id`` or
        ``idempotency_key`` gives the run of the first, unless ``rules`` say otherwise. Raises
        :class:`SegmentValidationError`, :class:`AlreadyRunningError`, :class:`UnknownSegmentError`,
        :class:`NotJSONError`.
        """
        run_id = run_id or (new_id() if runtime is None else runtime.run_id)
        tenant_id = self._tenant(runtime)
        if runtime is None:
            runtime = default_manager().create_runtime(tenant_id, "", run_id=run_id)
        elif not runtime.segment_id and isinstance(segment, SegmentDefinition):
            runtime.segment_id = segment.segment_id
        context = {**runtime.to_ref(), "run_id": run_id}
        rules = rules or StartRules()
        start = Start(
            tenant_id, segment, input_data, config, run_id, runtime.instance_id, context, idempotency_key, rules
        )
        if self._local is not None:
            self._local.enter_loop()
        starting = asyncio.ensure_future(self._call(self._begin, start, runtime))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be called back: what it has begun to start is started, then cancelled.
            with suppress(Exception):
                await self.cancel(await starting, tenant_id=tenant_id)
            raise

    def _begin(self, start: Start, runtime: RuntimeContext) -> str:
        """Start the run; its live runtime is there before its first step can ask for it."""
        run_id = start.run_id or ""
        self._tenants[run_id] = start.tenant_id
        if len(self._tenants) > TENANTS_KEPT:
            self._tenants.popitem(last=False)
        if self._local is None:
            return self._runs.start(start)
        key = (start.tenant_id, run_id)
        fresh = key not in self._runtimes
        self._runtimes.setdefault(key, runtime)
        started = None
        try:
            started = self._runs.start(start)
        finally:
            if fresh and started != run_id:
                self._runtimes.pop(key, None)
        return started

    async def result(
        self,
        run_id: str,
        timeout: float | None = None,  # noqa: ASYNC109  # the caller's limit on waiting, not on the run
        *,
        tenant_id: str | None = None,
    ) -> SegmentResult:
        """Wait until a run is over, at most ``timeout`` seconds, and return how it is then; from any process.

        Raises :class:`RunNotFoundError`.
        """
        tenant = tenant_id or self._tenant_of(run_id)
        try:
            async with asyncio.timeout(timeout):
                return await self._follow(tenant, run_id, None, None, stop_at_pause=False)
        except TimeoutError:
            return await self._call(self._runs.result, tenant, run_id)

    async def cancel(self, run_id: str, *, tenant_id: str | None = None, by: str = "") -> bool:
        """Cancel a run; its running handlers are told. False when it is unknown or over."""
        tenant = tenant_id or self._tenant_of(run_id)
        cancelled = await self._call(partial(self._runs.cancel, by=by), tenant, run_id)
        if cancelled and self._local is not None:
            self._local.stop(tenant, run_id)
        return cancelled

    async def get_status(self, run_id: str, *, tenant_id: str | None = None) -> SegmentStatus | None:
        """The run's status, also after its end; None when it is unknown."""
        record = await self._call(self._runs.engine.store.record, tenant_id or self._tenant_of(run_id), run_id)
        return None if record is None else record.status

    def is_running(self, run_id: str) -> bool:
        """Whether the run is known, not over and not paused."""
        record = self._runs.engine.store.record(self._tenant_of(run_id), run_id)
        return record is not None and record.status is SegmentStatus.RUNNING

    def list_running(self) -> list[str]:
        """Ids of the current tenant's runs that run, newest first; outside of tenants, as for :meth:`is_running`, those
        of every tenant for which this runner started one.
        """
        return self._list(SegmentStatus.RUNNING)

    def _list(self, status: SegmentStatus) -> list[str]:
        current, store = get_current_tenant(), self._runs.engine.store
        tenants = [current] if current else list(dict.fromkeys([DEFAULT_TENANT, *self._tenants.values()]))
        found = [record for tenant in tenants for record in store.records(tenant, status=status, limit=LISTED)]
        return [record.run_id for record in sorted(found, key=lambda record: record.created_at, reverse=True)]

    # -- following

    def _tenant(self, runtime: RuntimeContext | None) -> str:
        return runtime.tenant_id if runtime is not None else get_current_tenant() or DEFAULT_TENANT

    def _tenant_of(self, run_id: str) -> str:
        """The current tenant, else the one for which a run of this id was started last."""
        return get_current_tenant() or self._tenants.get(run_id, DEFAULT_TENANT)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        if self._runs.blocks:
            return await asyncio.to_thread(function, *args)
        return function(*args)

    async def _follow(
        self,
        tenant_id: str,
        run_id: str,
        config: RunConfig | None,
        runtime: RuntimeContext | None,
        *,
        stop_at_pause: bool = True,
        after_seq: int = 0,
    ) -> SegmentResult:
        """Wait for the end of a run, or for its pause; with callbacks, by reading its events."""
        listening = (config is not None and config.has_callbacks) or has_hooks(runtime)
        if listening:
            async for event in self.event_stream.subscribe(run_id, tenant_id=tenant_id, after_seq=after_seq):
                await tell(event, config, runtime)
                if stop_at_pause and event.event_type is EventType.SEGMENT_PAUSED:
                    break
        await self._until_over(tenant_id, run_id, stop_at_pause=stop_at_pause)
        if self._local is not None:
            self._local.stop(tenant_id, run_id)
        result = await self._call(self._runs.result, tenant_id, run_id)
        if result.status is SegmentStatus.CANCELLED and config is not None:
            await call_back(config.on_cancel, result)
        return result

    async def _until_over(self, tenant_id: str, run_id: str, *, stop_at_pause: bool) -> None:
        store, clock = self._runs.engine.store, self._runs.engine.clock
        patience = Patience(self._runs)
        with self._runs.wakeup.subscribe(end_channel(tenant_id, run_id)) as watch:
            while True:
                record = await self._call(store.record, tenant_id, run_id)
                if record is None:
                    raise RunNotFoundError(run_id)
                if record.status.is_terminal or (stop_at_pause and record.status is SegmentStatus.PAUSED):
                    return
                await self._call(patience.look, record)
                left = POLL_SECONDS
                if self._local is not None and record.deadline is not None:
                    left = (record.deadline - clock()).total_seconds()
                    if left <= 0:
                        await self._call(self._runs.engine.expire, tenant_id, run_id)
                        continue
                await watch.wait_async(min(left, POLL_SECONDS))
