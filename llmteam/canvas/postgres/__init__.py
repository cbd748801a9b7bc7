"""The run store in Postgres."""

from llmteam.canvas.postgres.store import PostgresRunStore

__all__ = ["PostgresRunStore"]
