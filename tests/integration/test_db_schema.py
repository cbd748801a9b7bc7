"""Migrations: applied once, by anyone, to what the tables in code say."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from llmteam.db import Database, RolesNotGrantedError, StatementError, provision
from llmteam.db.schema import HEAD, MIGRATIONS, VERSION_TABLE
from llmteam.db.tables import SCHEMA, metadata
from llmteam.embedded import LOGIN, MIGRATION_LOGIN
from llmteam.errors import MigrationsNotAppliedError
from llmteam.tenancy import TenantTier
from llmteam.tenancy.admission import limits_of
from llmteam.tenancy.postgres import PostgresTenantStore
from tests.services import PostgresService, migration_url_of, owner_transaction


@pytest.fixture
def empty(postgres: PostgresService) -> Iterator[Database]:
    """A database with roles and schema, but without tables."""
    database = Database(postgres.create(migrated=False))
    yield database
    database.close()
    postgres.drop_all()


@pytest.fixture
def migrations(empty: Database) -> Iterator[Database]:
    """The same with the login of migrations."""
    migrations = as_migrations(empty)
    yield migrations
    migrations.close()


def as_migrations(database: Database) -> Database:
    return Database(migration_url_of(database.url.render_as_string(hide_password=False)))


def scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def upgrade_to(migrations: Database, revision: str) -> None:
    """The tables as a version of before made them."""
    config = scripts()
    with migrations.login_transaction() as connection:
        connection.execute(text("SET LOCAL ROLE llmteam_owner"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def set_version(database: Database, version: str, works_with: str = HEAD) -> None:
    with owner_transaction(database) as connection:
        connection.execute(
            text("UPDATE llmteam.alembic_version SET version_num = :version, works_with = :works_with"),
            {"version": version, "works_with": works_with},
        )


def test_an_upgrade_makes_the_tables_and_a_second_one_does_nothing(empty: Database, migrations: Database) -> None:
    assert empty.current() is None

    assert migrations.upgrade() is True
    assert migrations.upgrade() is False
    assert empty.current() == HEAD
    empty.check_schema()


def test_the_version_named_in_code_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(scripts()).get_heads() == [HEAD]


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
    url = migration_url_of(empty.url.render_as_string(hide_password=False))
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
    set_version(database, "9999", "9998")
    with pytest.raises(MigrationsNotAppliedError, match="update llmteam here"):
        database.check_schema()
    migrations = as_migrations(database)
    with pytest.raises(MigrationsNotAppliedError, match="update llmteam here"):
        migrations.upgrade()
    migrations.close()


def test_newer_tables_that_work_with_this_version_are_left_as_they_are(database: Database) -> None:
    set_version(database, "9999", HEAD)

    database.check_schema()

    migrations = as_migrations(database)
    assert migrations.upgrade() is False
    migrations.close()
    assert database.current() == "9999"


def test_each_migration_says_which_versions_work_on_its_tables() -> None:
    found = {script.revision: script.module for script in ScriptDirectory.from_config(scripts()).walk_revisions()}

    for revision, module in found.items():
        if revision > "0011":
            assert module.works_with in found
            assert module.works_with <= revision


def test_tables_that_the_version_before_does_not_work_with_are_made_only_when_it_is_stopped(
    empty: Database, migrations: Database
) -> None:
    upgrade_to(migrations, "0011")

    with pytest.raises(MigrationsNotAppliedError, match=r"stop workers.*llmteam db upgrade --stopped"):
        migrations.upgrade()
    assert empty.current() == "0011"

    assert migrations.upgrade(stopped=True) is True
    empty.check_schema()


def test_a_database_that_no_dba_prepared_says_what_to_run(postgres: PostgresService) -> None:
    url = postgres.create(migrated=False)
    name = url.partition("?")[0].rpartition("/")[2]
    unprepared = Database(url)
    owner = Database(unprepared.url.set(username="postgres").render_as_string(hide_password=False))
    with owner.login_transaction() as connection:
        connection.execute(text("DROP SCHEMA llmteam CASCADE"))
    owner.close()

    migrations = as_migrations(unprepared)
    with pytest.raises(RolesNotGrantedError, match="--print-roles"):
        migrations.upgrade()
    with pytest.raises(MigrationsNotAppliedError):
        unprepared.check_schema()
    provision(postgres.superuser_url, LOGIN, name, migration_login=MIGRATION_LOGIN)
    assert migrations.upgrade() is True
    unprepared.check_schema()
    migrations.close()
    unprepared.close()
    postgres.drop_all()


def test_the_login_of_what_runs_is_told_which_login_migrates(empty: Database) -> None:
    with pytest.raises(RolesNotGrantedError, match=r'to set role "llmteam_owner".*set LLMTEAM_MIGRATION_URL'):
        empty.upgrade()

    assert empty.current() is None


def test_a_migration_that_fails_changes_nothing(empty: Database, migrations: Database) -> None:
    with owner_transaction(empty) as connection:
        connection.execute(text("CREATE TABLE llmteam.runs (id int)"))

    with pytest.raises(StatementError, match="already exists"):
        migrations.upgrade()

    assert empty.current() is None


#: A record as it was written before starts looked at features and storage.
_OLD_RECORD = """
INSERT INTO llmteam.tenants (tenant_id, name, tier, data_region, document, created_at, updated_at)
VALUES (:tenant_id, :tenant_id, :tier, :region, :document, now(), now())
"""


@pytest.mark.parametrize("tier", [tier.value for tier in TenantTier])
@pytest.mark.parametrize(
    ("region", "becomes"), [("eu-west-1", "eu-west-1"), ("eu.west/1@a", "eu-west-1-a"), ("x" * 99, "x" * 63)]
)
def test_records_of_before_get_what_their_tier_gives_and_a_usable_region(
    empty: Database, migrations: Database, tier: str, region: str, becomes: str
) -> None:
    upgrade_to(migrations, "0006")
    document = '{"features_enabled": ["beta", "persistence"], "features_disabled": ["basic_agents", "*"]}'
    row = {"tenant_id": "acme", "tier": tier, "region": region, "document": document}
    with empty.tenant_transaction("acme") as connection:
        connection.execute(text(_OLD_RECORD), row)

    migrations.upgrade(stopped=True)

    store = PostgresTenantStore(empty)
    config, limits = store.find("acme"), store.start_limits("acme")
    assert config is not None
    assert limits is not None
    assert config.data_region == becomes
    expected = limits_of(config)
    for name in ("features", "features_off", "storage", "region"):
        assert getattr(limits, name) == getattr(expected, name), name
    with empty.tenant_transaction("globex") as connection:
        assert connection.execute(text("SELECT count(*) FROM llmteam.tenants")).scalar_one() == 0, "still forced"
