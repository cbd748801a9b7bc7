"""Which versions of the package work on these tables, so that two can run side by side while one replaces the other."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

#: The oldest migration whose package works on the tables that this one makes.
works_with = "0012"


def upgrade() -> None:
    op.execute("ALTER TABLE llmteam.alembic_version ADD COLUMN works_with text NOT NULL DEFAULT '0012'")
