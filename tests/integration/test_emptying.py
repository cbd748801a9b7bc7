"""A database is lent from test to test: empty, as it was made, and only when nobody can still write to it."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest
from sqlalchemy import func, insert, select

from llmteam.db import Database
from llmteam.db.tables import key_values
from llmteam.ids import utc_now
from tests.services import PostgresService, url_of

ROW = {"tenant_id": "acme", "key": "k", "value": 1, "updated_at": utc_now()}


@pytest.fixture
def own(postgres: PostgresService) -> PostgresService:
    """One that has lent nothing yet."""
    return PostgresService(postgres.superuser_url, postgres.login_url)


def rows(database: Database) -> int:
    with database.tenant_transaction("acme") as connection:
        return connection.execute(select(func.count()).select_from(key_values)).scalar_one()


def test_what_a_test_wrote_is_gone_for_the_next_one(own: PostgresService) -> None:
    with own.lent() as first, closing(Database(first)) as database:
        with database.tenant_transaction("acme") as connection:
            connection.execute(insert(key_values).values(ROW))
        assert rows(database) == 1

    with own.lent() as second, closing(Database(second)) as database:
        assert second == first
        assert rows(database) == 0
        with database.tenant_transaction("acme") as connection:
            connection.execute(insert(key_values).values(ROW))
        assert rows(database) == 1
    own.drop_all()


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE llmteam.runs ADD COLUMN more text",
        "ALTER TABLE llmteam.runs DISABLE ROW LEVEL SECURITY",
        "REVOKE SELECT ON llmteam.runs FROM llmteam_app",
        "CREATE TABLE public.more (id int)",
        "DROP INDEX llmteam.{index}",
        "ALTER DATABASE {database} SET synchronous_commit TO off",
        "ANALYZE llmteam.key_values",
        "VACUUM llmteam.used_links",
    ],
)
def test_a_database_that_was_changed_is_lent_to_nobody_else(own: PostgresService, change: str) -> None:
    with own.lent() as first:
        name = Database(first).url.database or ""
        there = PostgresService(url_of(own.superuser_url, name), first)
        with closing(Database(first)) as database, database.tenant_transaction("acme") as connection:
            connection.execute(insert(key_values).values(ROW))
        there.as_superuser(change.format(database=name, index=index_of(there)))

    with own.lent() as second:
        assert second != first
    own.drop_all()


def index_of(there: PostgresService) -> str:
    with closing(psycopg2.connect(there.superuser_url.replace("+psycopg2", ""))) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indrelid "
            "WHERE relname = 'runs' AND NOT indisprimary AND NOT indisunique LIMIT 1"
        )
        (row,) = cursor.fetchall()
        return str(row[0]).removeprefix("llmteam.")


def test_a_database_in_which_a_session_is_open_is_lent_to_nobody_else(own: PostgresService) -> None:
    with own.lent() as first:
        left = psycopg2.connect(first.replace("+psycopg2", ""))

    with closing(left), own.lent() as second:
        assert second != first
    own.drop_all()
