"""What is sealed: each tenant's data keys, wrapped by master keys that no table has, and the contexts of agents."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE llmteam.tenant_keys (
    tenant_id text NOT NULL,
    generation integer NOT NULL,
    key_id text NOT NULL,
    master_id text,
    wrapped text,
    created_at timestamptz NOT NULL,
    destroyed_at timestamptz,
    PRIMARY KEY (tenant_id, generation)
);
CREATE INDEX tenant_keys_master_id ON llmteam.tenant_keys (master_id, tenant_id) WHERE destroyed_at IS NULL;

CREATE TABLE llmteam.agent_contexts (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    path text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    document json NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, run_id, path)
);
"""

#: What the tenants' role may do with each table. A key is never deleted: that it was destroyed has to stay known.
_RIGHTS = {
    "tenant_keys": "SELECT, INSERT, UPDATE (master_id, wrapped, destroyed_at)",
    "agent_contexts": "SELECT, INSERT, UPDATE (version, document, updated_at), DELETE",
}

_SECURE = """
ALTER TABLE llmteam.{table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE llmteam.{table} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON llmteam.{table} TO llmteam_app
    USING (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''))
    WITH CHECK (tenant_id = nullif(current_setting('llmteam.tenant_id', true), ''));
GRANT {rights} ON llmteam.{table} TO llmteam_app;
CREATE POLICY sweeper_looks ON llmteam.{table} FOR SELECT TO llmteam_sweeper USING (true);
"""

# What was destroyed stays so, whatever a statement says. The sweeper finds keys under old master keys, and sees none.
_LIMITS = """
CREATE POLICY destroyed_stays ON llmteam.tenant_keys AS RESTRICTIVE FOR UPDATE TO llmteam_app
    USING (destroyed_at IS NULL) WITH CHECK (true);
GRANT SELECT (tenant_id, generation, key_id, master_id, created_at, destroyed_at)
    ON llmteam.tenant_keys TO llmteam_sweeper;
GRANT SELECT (tenant_id, run_id, path), DELETE ON llmteam.agent_contexts TO llmteam_sweeper;
CREATE POLICY sweeper_purges ON llmteam.agent_contexts FOR DELETE TO llmteam_sweeper
    USING (llmteam.run_is_over(tenant_id, run_id));
CREATE POLICY sweeper_erases ON llmteam.agent_contexts FOR DELETE TO llmteam_sweeper
    USING (llmteam.tenant_is_erased(tenant_id));
"""


def upgrade() -> None:
    op.execute(_TABLES)
    for table, rights in _RIGHTS.items():
        op.execute(_SECURE.format(table=table, rights=rights))
    op.execute(_LIMITS)
