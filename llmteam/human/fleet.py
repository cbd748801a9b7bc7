"""The people of an installation: requests in its database, wake-ups and hints through its broker."""

from __future__ import annotations

from llmteam.db import Database
from llmteam.errors import ConfigurationError
from llmteam.human.manager import HumanInteractionManager
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.settings import Settings
from llmteam.wakeup import RedisWakeup


def connect(settings: Settings) -> HumanInteractionManager:
    """Asking and answering over the servers that the settings name."""
    if settings.database_url is None:
        raise ConfigurationError("LLMTEAM_DATABASE_URL is not set: set it, or use `llmteam up`")
    database = Database(settings.database_url, application_name="llmteam-people", pool_size=16)
    wakeup = None if settings.redis_url is None else RedisWakeup(settings.redis_url)
    return HumanInteractionManager(PostgresInteractionStore(database, wakeup=wakeup))
