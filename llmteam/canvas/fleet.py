"""One process's part of an installation: Postgres, the broker and Redis behind one :class:`Runs`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from llmteam import tracing
from llmteam.actions.executor import ActionExecutor
from llmteam.actions.limiting import RegisteredLimits
from llmteam.actions.postgres import PostgresAttemptStore
from llmteam.actions.registry import default_registry
from llmteam.audit.postgres import PostgresAuditStore
from llmteam.audit.trail import AuditTrail
from llmteam.canvas.catalog import StepCatalog
from llmteam.canvas.engine import Engine
from llmteam.canvas.execution import Limits
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.records import PinnedDefinition, RunHeader
from llmteam.canvas.registry.postgres import PostgresSegmentRegistry
from llmteam.canvas.runs import Runs
from llmteam.context.runs import Contexts
from llmteam.crypto import MasterKeys
from llmteam.db import Database, DatabaseClock
from llmteam.dispatch import CeleryDispatcher, Hint, celery_app
from llmteam.events.emitter import EventEmitter
from llmteam.events.postgres import PostgresEventStore
from llmteam.human.postgres import PostgresInteractions
from llmteam.ids import Clock
from llmteam.licensing import LicenseManager
from llmteam.licensing.postgres import PostgresLicenseStore
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
from llmteam.ratelimit.decisions import CircuitBackend, LimitBackend
from llmteam.ratelimit.executor import RateLimitedExecutor
from llmteam.ratelimit.gate import Gate
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.limits.redis import RedisLimitBackend
from llmteam.regions import queue_in
from llmteam.runtime.context import RuntimeContext
from llmteam.runtime.manager import default_manager
from llmteam.settings import Settings
from llmteam.tenancy.admission import limits_of_tier
from llmteam.tenancy.limits import TenantTier
from llmteam.tenancy.manager import TenantManager
from llmteam.tenancy.postgres import PostgresTenantStore
from llmteam.wakeup import run_notifier, shared_wakeup

if TYPE_CHECKING:
    from celery import Celery


def connect(
    settings: Settings | None = None,
    *,
    database_url: str | None = None,
    broker_url: str | None = None,
    catalog: StepCatalog | None = None,
    app: Celery | None = None,
    alarm: Callable[[datetime, Hint], None] = lambda moment, hint: None,
    application_name: str = "llmteam-client",
    pool_size: int | None = None,
) -> Runs:
    """The installation that the settings name. Connections are made on first use, at most ``pool_size`` or as many as
    the settings say.

    Raises :class:`ConfigurationError` when a server's URL is missing.
    """
    settings = Settings.of_installation(settings, database_url=database_url, broker_url=broker_url)
    assert settings.database_url is not None
    tracing.set_up(settings)
    app = app or celery_app(settings)
    most = pool_size or settings.database_connections
    database = Database(settings.database_url, application_name=application_name, pool_size=most)
    dispatcher = CeleryDispatcher(app)
    shared = settings.redis_beside(str(app.conf.broker_url))
    wakeup = shared_wakeup(shared)
    catalog = catalog or StepCatalog.get_instance()
    clock = DatabaseClock(database)
    limits, circuits = shared_limits(shared, settings.limit_workers)
    interactions = PostgresInteractions(database, wakeup=wakeup, dispatcher=dispatcher, clock=clock)
    store = PostgresRunStore(
        database,
        interactions,
        unknown_tenants=limits_of_tier(TenantTier(settings.default_tier)),
        master_keys=MasterKeys(settings.encryption_keys),
        region=settings.region,
    )
    events = PostgresEventStore(database, wakeup=wakeup)
    engine = Engine(
        store,
        handler_of=catalog.get_handler,
        runtime_of=_runtimes(
            store.contexts,
            PostgresAuditStore(database, clock=clock),
            _actions(database, events, RateLimitedExecutor(limits=limits, circuits=circuits), clock),
            LicenseManager(store=PostgresLicenseStore(database), settings=settings).tenants.licensed("parallel_agents"),
        ),
        dispatcher=dispatcher,
        notify=run_notifier(wakeup),
        alarm=alarm,
        limits=limits_of(settings),
        gate=Gate(limits, circuits, lease_seconds=settings.lease_seconds),
        holder=f"{os.uname().nodename}:{os.getpid()}",
        clock=clock,
    )

    def unattended(pinned: PinnedDefinition, region: str) -> list[str]:
        return dispatcher.unattended({queue_in(facts.queue, region) for facts in pinned.facts.values()})

    def close() -> None:
        engine.denials.flush()
        for backend in (limits, circuits):
            if isinstance(backend, RedisLimitBackend | RedisCircuitBackend):
                backend.close()
        wakeup.close()
        database.close()

    return Runs(engine, events, wakeup, catalog, PostgresSegmentRegistry(database), close=close, unattended=unattended)


def shared_limits(redis_url: str | None, workers: int) -> tuple[LimitBackend, CircuitBackend]:
    """Where this process counts limits and keeps circuits: for itself alone when there is no Redis to share."""
    if redis_url is None:
        return MemoryLimitBackend(workers=workers), MemoryCircuitBackend()
    return RedisLimitBackend(redis_url, workers=workers), RedisCircuitBackend(redis_url)


def limits_of(settings: Settings) -> Limits:
    """Sizes and durations as the settings say."""
    return Limits(
        max_output_bytes=settings.max_output_bytes,
        inline_bytes=settings.inline_bytes,
        lease=timedelta(seconds=settings.lease_seconds),
        step_timeout=timedelta(seconds=settings.step_timeout_seconds),
    )


def _actions(
    database: Database, events: PostgresEventStore, limiter: RateLimitedExecutor, clock: Clock
) -> ActionExecutor:
    """Takes the actions that this process knows; tenants, attempts, limits and events are those of the installation."""
    return ActionExecutor(
        default_registry,
        rate_limiter=RegisteredLimits(limiter),
        events=EventEmitter(events, clock=clock),
        attempts=PostgresAttemptStore(database),
        tenants=TenantManager(PostgresTenantStore(database, clock=clock)),
        clock=clock,
    )


def _runtimes(
    contexts: Contexts, audit: PostgresAuditStore, actions: ActionExecutor, parallel_agents: Callable[[str], int | None]
) -> Callable[[RunHeader], RuntimeContext]:
    """Makes a run's runtime: resources of this process, and what of the installation its steps may use."""

    def runtime_of(header: RunHeader) -> RuntimeContext:
        runtime = default_manager().from_ref(dict(header.context))
        runtime.contexts = contexts
        runtime.actions = actions
        runtime.parallel_agents = parallel_agents
        runtime.audit_trail = AuditTrail(audit, tenant_id=header.tenant_id)
        return runtime

    return runtime_of
