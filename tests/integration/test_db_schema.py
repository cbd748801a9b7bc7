"""Migrations: applied once, by anyone, to what the tables in code say."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from llmteam.db import Database, RolesNotGrantedError, StatementError, provision
from llmteam.db.schema import HEAD, MIGRATIONS, VERSION_TABLE
from llmteam.db.tables import SCHEMA, metadata
from llmteam.embedded import LOGIN
from llmteam.errors import MigrationsNotAppliedError
from tests.services import PostgresService


@pytest.fixture
def empty(postgres: PostgresService) -> Iterator[Database]:
    """A database with roles and schema, but without tables."""
    database = Database(postgres.create(migrated=False))
    yield database
    database.close()
    postgres.drop_all()


def set_version(database: Database, version: str) -> None:
    with database.owner_transaction() as connection:
        connection.execute(text("UPDATE llmteam.alembic_version SET version_num = :version"), {"version": version})


def test_an_upgrade_makes_the_tables_and_a_second_one_does_nothing(empty: Database) -> None:
    assert empty.current() is None

    assert empty.upgrade() is True
    assert empty.upgrade() is False
    assert empty.current() == HEAD
    empty.check_schema()


def test_the_version_named_in_code_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_the_tables_in_code_are_the_tables_of_the_migrations(database: Database, postgres: PostgresService) -> None:
    engine = create_engine(database.url.set(username="postgres"), connect_args={"options": "-c search_path=public"})
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "version_table_schema": SCHEMA,
                "include_schemas": True,
                "compare_server_default": True,
            },
        )
        differences = compare_metadata(context, metadata)
        checks = connection.scalars(
            text("SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'llmteam'::regnamespace")
        ).all()
    engine.dispose()

    assert differences == []
    assert sorted(checks) == ["notifications_state_known", "run_steps_owner_known"]


def test_two_upgrades_at_once_are_safe(empty: Database) -> None:
    url = empty.url.render_as_string(hide_password=False)
    did: list[bool] = []
    start = threading.Barrier(4, timeout=10)

    def work() -> None:
        database = Database(url)
        start.wait()
        did.append(database.upgrade())
        database.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(did) == [False, False, False, True]
    empty.check_schema()


def test_a_database_without_tables_says_what_to_run(empty: Database) -> None:
    with pytest.raises(MigrationsNotAppliedError, match="run: llmteam db upgrade"):
        empty.check_schema()
    with empty.hot("acme") as hot, pytest.raises(MigrationsNotAppliedError, match="run: llmteam db upgrade"):
        hot.script("SELECT 1 FROM llmteam.runs")


def test_older_and_newer_tables_are_told_apart(database: Database) -> None:
    set_version(database, "0000")
    with pytest.raises(MigrationsNotAppliedError, match="run: llmteam db upgrade"):
        database.check_schema()
    set_version(database, "9999")
    with pytest.raises(MigrationsNotAppliedError, match="update llmteam here"):
        database.check_schema()
    with pytest.raises(MigrationsNotAppliedError, match="update llmteam here"):
        database.upgrade()


def test_a_database_that_no_dba_prepared_says_what_to_run(postgres: PostgresService) -> None:
    url = postgres.create(migrated=False)
    name = url.partition("?")[0].rpartition("/")[2]
    unprepared = Database(url)
    owner = Database(unprepared.url.set(username="postgres").render_as_string(hide_password=False))
    with owner.login_transaction() as connection:
        connection.execute(text("DROP SCHEMA llmteam CASCADE"))
    owner.close()

    with pytest.raises(RolesNotGrantedError, match="--print-roles"):
        unprepared.upgrade()
    with pytest.raises(MigrationsNotAppliedError):
        unprepared.check_schema()
    provision(postgres.superuser_url, LOGIN, name)
    assert unprepared.upgrade() is True
    unprepared.close()
    postgres.drop_all()


def test_a_migration_that_fails_changes_nothing(empty: Database) -> None:
    with empty.owner_transaction() as connection:
        connection.execute(text("CREATE TABLE llmteam.runs (id int)"))

    with pytest.raises(StatementError, match="already exists"):
        empty.upgrade()

    assert empty.current() is None
