"""The audit trail in Postgres."""

from llmteam.audit.postgres.appending import CONDITION, append_in, append_with, write_in
from llmteam.audit.postgres.changes import key_changes, tenant_changes
from llmteam.audit.postgres.store import PostgresAuditStore, records_wanted

__all__ = [
    "CONDITION",
    "PostgresAuditStore",
    "append_in",
    "append_with",
    "key_changes",
    "records_wanted",
    "tenant_changes",
    "write_in",
]
