"""Tenants in SQL: records, values, admission of runs, export and erasure."""

from llmteam.tenancy.postgres.tenants import PostgresTenantStore
from llmteam.tenancy.postgres.values import PostgresKeyValueStore

__all__ = ["PostgresKeyValueStore", "PostgresTenantStore"]
