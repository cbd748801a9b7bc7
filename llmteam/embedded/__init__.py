"""Real Postgres and Valkey from wheels, for development, demo and tests: started or joined, never left behind.

:func:`start` gives an :class:`EmbeddedServers`; the servers live as long as one process holds one. Data are kept under
the home. Roles and the database are not made here; that is
``llmteam.db.provision(servers.superuser_url, login=LOGIN, migration_login=MIGRATION_LOGIN, database=DATABASE)``.
"""

from __future__ import annotations

from llmteam.embedded.errors import (
    EmbeddedNotInstalledError,
    EmbeddedPlaceError,
    EmbeddedServerError,
    EmbeddedStartError,
)
from llmteam.embedded.keys import home_key, home_master_key
from llmteam.embedded.names import BROKER_DATABASES, DATABASE, LOGIN, MIGRATION_LOGIN
from llmteam.embedded.owner import EmbeddedServers, start
from llmteam.embedded.status import EmbeddedStatus, OwnerStatus, ServerStatus, status

__all__ = [
    "BROKER_DATABASES",
    "DATABASE",
    "LOGIN",
    "MIGRATION_LOGIN",
    "EmbeddedNotInstalledError",
    "EmbeddedPlaceError",
    "EmbeddedServerError",
    "EmbeddedServers",
    "EmbeddedStartError",
    "EmbeddedStatus",
    "OwnerStatus",
    "ServerStatus",
    "home_key",
    "home_master_key",
    "start",
    "status",
]
