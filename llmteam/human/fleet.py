"""One process's way to the requests of an installation: Postgres, the broker and Redis behind one manager."""

from __future__ import annotations

from llmteam.db import Database, DatabaseClock
from llmteam.dispatch import CeleryDispatcher, celery_app
from llmteam.human.deliveries import Courier
from llmteam.human.interactions import Interactions
from llmteam.human.manager import HumanInteractionManager
from llmteam.human.notifications.configured import channels_of_settings
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.human.postgres.deliveries import PostgresDeliveries
from llmteam.human.respond_links import RespondLinks
from llmteam.ids import Clock
from llmteam.ratelimit.gate import Gate
from llmteam.settings import Settings
from llmteam.wakeup import shared_wakeup


def connect(
    settings: Settings | None = None,
    *,
    database_url: str | None = None,
    broker_url: str | None = None,
    tenant_id: str | None = None,
) -> HumanInteractionManager:
    """A manager of the requests that the workers of an installation make.

    Settings come from ``LLMTEAM_*`` variables where they are not given; connections are made on first use. Raises
    :class:`ConfigurationError`.
    """
    settings = Settings.of_installation(settings, database_url=database_url, broker_url=broker_url)
    assert settings.database_url is not None
    app = celery_app(settings)
    database = Database(settings.database_url, application_name="llmteam-people", pool_size=8)
    clock = DatabaseClock(database)
    store = PostgresInteractionStore(
        database,
        tenant_id=tenant_id,
        wakeup=shared_wakeup(settings.redis_beside(str(app.conf.broker_url))),
        dispatcher=CeleryDispatcher(app),
        clock=clock,
    )
    return HumanInteractionManager(store, clock=clock)


def courier(
    settings: Settings, database: Database, interactions: Interactions, clock: Clock, gate: Gate | None = None
) -> Courier:
    """What delivers the notifications of an installation, through the channels of the settings, as ``gate`` lets it.

    Raises :class:`ConfigurationError` for an address or a key that cannot be used.
    """
    return Courier(
        PostgresDeliveries(database),
        interactions,
        channels_of_settings(settings),
        RespondLinks.of(settings),
        attempts=settings.notify_attempts,
        gate=gate,
        clock=clock,
    )
