"""Names and numbers of the embedded servers that others rely on."""

from __future__ import annotations

#: The bootstrap superuser of the cluster.
SUPERUSER = "postgres"
#: The role with which llmteam logs in, the one with which it migrates, and its database; ``llmteam.db.provision``
#: makes all three.
LOGIN = "llmteam"
MIGRATION_LOGIN = "llmteam_migration"
DATABASE = "llmteam"
#: Number in the name of Postgres's socket file.
PORT = 5432
#: Logical databases of Valkey; tests give one to each of their workers.
BROKER_DATABASES = 64
