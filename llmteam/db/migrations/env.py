"""Alembic's environment: the connection, its transaction and its role are those of ``llmteam.db.schema.upgrade``."""

from __future__ import annotations

from alembic import context

from llmteam.db.schema import VERSION_TABLE
from llmteam.db.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
