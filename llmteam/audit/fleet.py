"""Retention of audit trails as an installation's settings say."""

from __future__ import annotations

from collections.abc import Callable

from llmteam.audit.postgres import PostgresAuditStore
from llmteam.audit.retention import Pruner, load_keys
from llmteam.db import Database
from llmteam.settings import Settings


def pruning(settings: Settings, database: Database) -> Callable[[], int]:
    """The sweep of audit records; without a key that signs, it removes nothing. Raises :class:`ConfigurationError`."""
    keys = load_keys(settings.audit_keys)
    if keys is None:
        return lambda: 0
    return Pruner(PostgresAuditStore(database), keys, settings.audit_retention_days).sweep
