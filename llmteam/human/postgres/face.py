"""The store of requests in SQL as managers take it."""

from __future__ import annotations

from llmteam.db.engine import Database
from llmteam.dispatch import Dispatcher
from llmteam.human.postgres.store import PostgresInteractions
from llmteam.human.stores import InteractionStore
from llmteam.ids import Clock, utc_now
from llmteam.wakeup import Wakeup


class PostgresInteractionStore(InteractionStore):
    """Requests in Postgres, each tenant's behind row security.

    ``database`` is a :class:`~llmteam.db.Database` or its URL. ``tenant_id`` is for code without a current tenant; else
    the current one's requests are seen.
    """

    def __init__(
        self,
        database: Database | str,
        *,
        tenant_id: str | None = None,
        wakeup: Wakeup | None = None,
        dispatcher: Dispatcher | None = None,
        clock: Clock = utc_now,
    ) -> None:
        if isinstance(database, str):
            database = Database(database, application_name="llmteam-people")
        self.bound_to = tenant_id or ""
        self._core = PostgresInteractions(database, wakeup=wakeup, dispatcher=dispatcher, clock=clock)

    @property
    def core(self) -> PostgresInteractions:
        return self._core

    def close(self) -> None:
        """Let go of connections; of a database that was given too."""
        self._core.close()
