"""Audit records in Postgres: the store, what appends in a caller's transaction, and retention."""

from llmteam.audit.postgres.store import PostgresAuditStore, append_in, insert_in, record_of, records_wanted

__all__ = ["PostgresAuditStore", "append_in", "insert_in", "record_of", "records_wanted"]
