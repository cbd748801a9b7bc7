"""Requests in Postgres."""

from llmteam.human.postgres.face import PostgresInteractionStore
from llmteam.human.postgres.store import PostgresInteractions

__all__ = ["PostgresInteractionStore", "PostgresInteractions"]
