"""Row security under the login that deployments use: nobody sees or writes another tenant's rows."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import Column, Table, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from llmteam.db import Database, InsecureLoginError, RolesNotGrantedError, StatementError, provision, roles_sql
from llmteam.db.roles import quoted
from llmteam.db.tables import (
    action_attempts,
    agent_contexts,
    audit_heads,
    audit_log,
    definitions,
    events,
    key_values,
    limit_reservations,
    metadata,
    payloads,
    revoked_licenses,
    run_steps,
    runs,
    segments,
    sweeps,
    tenant_keys,
    tenant_licenses,
    tenant_starts,
    tenants,
)
from llmteam.embedded import LOGIN, MIGRATION_LOGIN
from tests.services import PostgresService, owner_transaction, url_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TENANT_TABLES = [
    *(definitions, segments, runs, run_steps, events, payloads, audit_log, audit_heads),
    *(tenants, tenant_starts, key_values, tenant_keys, agent_contexts, action_attempts),
    *(tenant_licenses, revoked_licenses, limit_reservations),
]


def sample(table: Table, tenant: str) -> dict[str, Any]:
    """A row with everything that has no default."""

    def value(column: Column[Any]) -> Any:
        kind = column.type.python_type
        return {str: "x", int: 1, datetime: NOW, date: NOW.date()}.get(kind, {})

    needed = [column for column in table.columns if not column.nullable and column.server_default is None]
    return {column.name: tenant if column.name == "tenant_id" else value(column) for column in needed}


@pytest.fixture
def two_tenants(database: Database) -> Database:
    """A database where the tenants acme and globex have one row in every table."""
    for tenant in ("acme", "globex"):
        with database.tenant_transaction(tenant) as connection:
            for table in TENANT_TABLES:
                connection.execute(insert(table), sample(table, tenant))
    return database


@pytest.fixture
def odd_login(postgres: PostgresService) -> Iterator[str]:
    """The name of a role of this test's own that can log in."""
    name = f"odd_{secrets.token_hex(4)}"
    postgres.as_superuser(f"CREATE ROLE {name} LOGIN")
    yield name
    postgres.drop_all()
    postgres.as_superuser(f"DROP ROLE {name}")


def assert_refused(database: Database, tenant: str | None, table: Table, row: dict[str, Any]) -> None:
    columns = ", ".join(row)
    values = ", ".join(["%s"] * len(row))
    params = [json.dumps(value) if isinstance(value, dict) else value for value in row.values()]
    with database.hot(tenant) as hot, pytest.raises(StatementError, match="row-level security"):
        hot.script(f"INSERT INTO {table.fullname} ({columns}) VALUES ({values})", params)


def as_login(database: Database, login: str) -> Database:
    return Database(database.url.set(username=login).render_as_string(hide_password=False))


def superuser(database: Database, postgres: PostgresService) -> Database:
    return Database(url_of(postgres.superuser_url, database.url.database or ""))


def test_every_table_has_its_tenant_first_and_its_row_security_forced(database: Database) -> None:
    with owner_transaction(database) as connection:
        found = connection.execute(
            text(
                "SELECT relname, relrowsecurity AND relforcerowsecurity, pg_get_userbyid(relowner) FROM pg_class "
                "WHERE relnamespace = 'llmteam'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'"
            )
        ).all()

    assert sorted(found) == sorted((table.name, True, "llmteam_owner") for table in metadata.sorted_tables)
    for table in metadata.sorted_tables:
        assert next(iter(table.primary_key.columns)).name == "tenant_id"


def test_a_query_without_a_tenant_filter_sees_one_tenant_only(two_tenants: Database) -> None:
    for table in TENANT_TABLES:
        with two_tenants.tenant_transaction("acme") as connection:
            assert connection.scalars(select(table.c.tenant_id)).all() == ["acme"]
            assert connection.scalars(select(table.c.tenant_id).where(table.c.tenant_id == "globex")).all() == []
        with two_tenants.hot("globex") as hot:
            assert hot.script(f"SELECT tenant_id FROM {table.fullname}") == [("globex",)]


def test_a_transaction_that_forgets_its_tenant_sees_and_writes_nothing(two_tenants: Database) -> None:
    for table in TENANT_TABLES:
        with two_tenants.hot(None) as hot:
            assert hot.script(f"SELECT tenant_id FROM {table.fullname}") == []
        for tenant in ("", "acme"):
            assert_refused(two_tenants, None, table, sample(table, tenant))


def test_a_row_for_another_tenant_is_refused(two_tenants: Database) -> None:
    for table in TENANT_TABLES:
        assert_refused(two_tenants, "globex", table, sample(table, "acme"))


def test_a_row_cannot_be_moved_to_another_tenant(two_tenants: Database) -> None:
    with (
        pytest.raises(StatementError, match="row-level security"),
        two_tenants.tenant_transaction("globex") as connection,
    ):
        connection.execute(update(runs).values(tenant_id="acme", run_id="stolen"))


def test_what_is_written_once_cannot_be_changed_or_deleted(two_tenants: Database) -> None:
    for table in (definitions, events, payloads, audit_log):
        for statement in ("UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}", "TRUNCATE {}"):
            with two_tenants.hot("acme") as hot, pytest.raises(StatementError, match="permission denied"):
                hot.script(statement.format(table.fullname))


def test_the_sweeper_sees_what_is_due_for_every_tenant(two_tenants: Database) -> None:
    with two_tenants.sweeper_transaction() as connection:
        assert set(connection.scalars(select(runs.c.tenant_id))) == {"acme", "globex"}
        assert set(connection.scalars(select(run_steps.c.tenant_id))) == {"acme", "globex"}
    with two_tenants.hot(None) as hot:
        locked = "SELECT tenant_id, run_id, step_id FROM llmteam.run_steps FOR UPDATE SKIP LOCKED"
        assert len(hot.script(locked, role="llmteam_sweeper") or ()) == 2


def test_the_sweeper_pushes_wake_ups_and_leases_and_records_its_end(two_tenants: Database) -> None:
    statements = f"""
        UPDATE llmteam.runs SET wake_at = '{NOW}', hints = hints + 1;
        UPDATE llmteam.run_steps SET wake_at = '{NOW}', hints = 1, owner = 'queue', holder = 'w', lease_until = now();
        INSERT INTO llmteam.sweeps (name, ended_at) VALUES ('steps', '{NOW}')
        ON CONFLICT (tenant_id, name) DO UPDATE SET ended_at = EXCLUDED.ended_at, found = EXCLUDED.found"""
    with two_tenants.hot(None) as hot:
        hot.script(statements, role="llmteam_sweeper")
        hot.script(statements, role="llmteam_sweeper")

    with two_tenants.sweeper_transaction() as connection:
        assert connection.execute(select(runs.c.wake_at, runs.c.hints)).all() == [(NOW, 2)] * 2
        assert connection.execute(select(run_steps.c.wake_at, run_steps.c.holder)).all() == [(NOW, "w")] * 2
        assert connection.execute(select(sweeps.c.tenant_id, sweeps.c.ended_at)).all() == [("*", NOW)]


def test_the_sweeper_may_nothing_else(two_tenants: Database) -> None:
    for statement in (
        "SELECT input FROM llmteam.runs",
        "SELECT outputs, context FROM llmteam.runs",
        "SELECT output FROM llmteam.run_steps",
        "SELECT given FROM llmteam.run_steps",
        "SELECT payload FROM llmteam.events",
        "SELECT body FROM llmteam.payloads",
        "SELECT document FROM llmteam.snapshots",
        "SELECT document FROM llmteam.definitions",
        "SELECT value FROM llmteam.key_values",
        "SELECT old_value FROM llmteam.audit_log",
        "SELECT document FROM llmteam.agent_contexts",
        "SELECT wrapped FROM llmteam.tenant_keys",
        "UPDATE llmteam.tenant_keys SET destroyed_at = now()",
        "SELECT document FROM llmteam.tenant_licenses",
        "UPDATE llmteam.tenant_licenses SET valid_to = now()",
        "INSERT INTO llmteam.revoked_licenses VALUES ('acme', 'x', now(), '')",
        "UPDATE llmteam.runs SET status = 'failed'",
        "UPDATE llmteam.run_steps SET state = 'completed'",
        "UPDATE llmteam.run_steps SET tenant_id = 'acme'",
        "SELECT actor_id FROM llmteam.audit_log",
        "SELECT checksum FROM llmteam.audit_heads",
        "UPDATE llmteam.audit_checkpoints SET sequence_number = 9",
        "DELETE FROM llmteam.audit_checkpoints",
        "DELETE FROM llmteam.sweeps",
        "UPDATE llmteam.tenants SET is_active = true",
        "INSERT INTO llmteam.payloads VALUES ('acme', 'h', '1', 1, now())",
    ):
        with two_tenants.hot(None) as hot, pytest.raises(StatementError, match="permission denied"):
            hot.script(statement, role="llmteam_sweeper")


def test_the_sweeper_deletes_nothing_of_a_tenant_that_is_not_being_erased(two_tenants: Database) -> None:
    with two_tenants.sweeper_transaction() as connection:
        for table in (definitions, segments, events, tenants, key_values, tenant_starts, tenant_licenses, audit_log):
            assert connection.execute(delete(table)).rowcount == 0, table.name
        assert connection.execute(text("UPDATE llmteam.audit_log SET salt = NULL")).rowcount == 0


def test_a_tenant_has_no_business_with_sweeps_and_tables(database: Database) -> None:
    with database.hot("acme") as hot:
        with pytest.raises(StatementError, match="permission denied"):
            hot.script("SELECT 1 FROM llmteam.sweeps")
        with pytest.raises(RolesNotGrantedError, match="permission denied"):
            hot.script("CREATE TABLE llmteam.mine (id int)")


def test_row_security_binds_the_owner_too(two_tenants: Database) -> None:
    with owner_transaction(two_tenants) as connection:
        for table in TENANT_TABLES:
            assert connection.scalar(select(func.count()).select_from(table)) == 0


def test_the_login_itself_may_nothing(two_tenants: Database) -> None:
    with pytest.raises(RolesNotGrantedError), two_tenants.login_transaction() as connection:
        connection.execute(select(runs.c.tenant_id))


def test_the_pool_leaks_no_tenant_from_one_use_to_the_next(two_tenants: Database) -> None:
    one = Database(two_tenants.url.render_as_string(hide_password=False), pool_size=1)
    look = "SELECT current_user::text, coalesce(current_setting('llmteam.tenant_id', true), '')"

    def left_behind() -> tuple[Any, ...]:
        with one.login_transaction() as connection:
            return tuple(connection.execute(text(look)).one())

    with one.hot("acme") as hot:
        hot.script("SELECT 1")
    assert left_behind() == (LOGIN, "")
    with one.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
    assert left_behind() == (LOGIN, "")
    with one.hot("acme") as hot, pytest.raises(StatementError):
        hot.script("SELECT 1/0")
    assert left_behind() == (LOGIN, "")
    with one.tenant_transaction("acme") as connection:
        connection.execute(select(1))
    assert left_behind() == (LOGIN, "")
    with pytest.raises(StatementError), one.tenant_transaction("acme") as connection:
        connection.execute(text("SELECT 1/0"))
    assert left_behind() == (LOGIN, "")
    one.close()


def test_one_checkout_can_change_its_role_inside_a_transaction(two_tenants: Database) -> None:
    with two_tenants.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
        assert hot.script("SELECT count(*) FROM llmteam.runs", role="llmteam_sweeper") == [(2,)]
        assert hot.script("SELECT tenant_id FROM llmteam.runs") == [("acme",)]


def test_the_login_owns_nothing_and_passes_its_check(database: Database) -> None:
    with database.login_transaction() as connection:
        owned = connection.scalar(
            text("SELECT count(*) FROM pg_shdepend WHERE refobjid = session_user::regrole AND deptype = 'o'")
        )

    assert owned == 0
    database.check_login()


@pytest.mark.parametrize(
    ("prepare", "fault"),
    [
        (["ALTER ROLE {login} SUPERUSER"], "superuser"),
        (["ALTER ROLE {login} BYPASSRLS"], "bypass"),
        ([], "may not act as llmteam_app"),
        (["GRANT llmteam_app TO {login} WITH INHERIT FALSE, SET TRUE"], "may not act as llmteam_sweeper"),
        (
            [
                "GRANT llmteam_app, llmteam_sweeper TO {login} WITH INHERIT FALSE, SET TRUE",
                "GRANT llmteam_owner TO {login} WITH INHERIT TRUE",
            ],
            "has the rights of llmteam_owner all the time",
        ),
        (["GRANT llmteam_owner, llmteam_app, llmteam_sweeper TO {login} WITH INHERIT TRUE"], "all the time"),
    ],
)
def test_a_login_that_row_security_would_not_bind_is_refused(
    database: Database, postgres: PostgresService, odd_login: str, prepare: list[str], fault: str
) -> None:
    for statement in prepare:
        postgres.as_superuser(statement.format(login=odd_login))
    other = as_login(database, odd_login)

    with pytest.raises(InsecureLoginError, match=fault) as raised:
        other.check_login()

    assert odd_login in str(raised.value)
    assert "have a DBA run" in str(raised.value)
    other.close()


RUNNING = "GRANT llmteam_app, llmteam_sweeper TO {login} WITH INHERIT FALSE, SET TRUE"


@pytest.mark.parametrize(
    "way",
    [
        "GRANT llmteam_owner TO {login} WITH INHERIT FALSE, SET TRUE",
        "GRANT llmteam_owner TO {login} WITH INHERIT FALSE, SET FALSE, ADMIN TRUE",
        "GRANT llmteam_migration TO {login} WITH INHERIT FALSE, SET TRUE",
    ],
)
def test_a_login_that_may_become_the_owner_works_and_is_warned_of(
    database: Database, postgres: PostgresService, odd_login: str, way: str
) -> None:
    for statement in (RUNNING, way):
        postgres.as_superuser(statement.format(login=odd_login))
    other = as_login(database, odd_login)

    risk = other.owner_risk()

    other.check_login()
    other.close()
    assert risk is not None
    assert f"'{odd_login}' of LLMTEAM_DATABASE_URL may become llmteam_owner" in risk.found
    assert f'REVOKE llmteam_owner FROM "{odd_login}"' in risk.advice
    assert "llmteam db upgrade --print-roles" in risk.advice


def test_nothing_is_said_of_the_login_of_what_runs(database: Database) -> None:
    assert database.owner_risk() is None


def test_a_login_that_owns_tables_is_refused(database: Database, postgres: PostgresService, odd_login: str) -> None:
    administrator = superuser(database, postgres)
    with administrator.login_transaction() as connection:
        connection.execute(text(f"ALTER TABLE llmteam.runs OWNER TO {odd_login}"))
    administrator.close()
    other = as_login(database, odd_login)

    with pytest.raises(InsecureLoginError, match="owns tables"):
        other.check_login()
    other.close()


def test_a_login_without_the_roles_is_told_what_a_dba_must_run(database: Database, odd_login: str) -> None:
    other = as_login(database, odd_login)
    with other.hot("acme") as hot, pytest.raises(RolesNotGrantedError, match="--print-roles"):
        hot.script("SELECT 1")
    other.close()


@pytest.fixture
def quoted_login(postgres: PostgresService) -> Iterator[str]:
    """A login whose name has to be quoted, and another one with _migration behind it."""
    login = f'o"dd {secrets.token_hex(4)}'
    names = [quoted(login), quoted(f"{login}_migration")]
    for name in names:
        postgres.as_superuser(f"CREATE ROLE {name} LOGIN")
    yield login
    postgres.drop_all()
    for name in names:
        postgres.as_superuser(f"DROP ROLE {name}")


def run_as_dba(database: Database, postgres: PostgresService, sql: str) -> None:
    administrator = superuser(database, postgres)
    with administrator.login_transaction() as connection:
        connection.exec_driver_sql(sql)
    administrator.close()


def test_the_printed_roles_make_any_two_logins_fit_and_can_be_run_again(
    database: Database, postgres: PostgresService, quoted_login: str
) -> None:
    migration_login = f"{quoted_login}_migration"
    for _ in range(2):
        run_as_dba(database, postgres, roles_sql(quoted_login, migration_login))
    running, migrations = as_login(database, quoted_login), as_login(database, migration_login)

    running.check_login()
    assert running.owner_risk() is None
    with migrations.owner_transaction() as connection:
        connection.execute(text("CREATE TABLE llmteam.made (id int)"))
    with migrations.hot("acme") as hot, pytest.raises(RolesNotGrantedError, match="permission denied to set role"):
        hot.script("SELECT 1")
    running.close()
    migrations.close()


def test_the_printed_roles_take_the_owner_from_an_only_login_unless_it_stays_one(
    database: Database, postgres: PostgresService, quoted_login: str
) -> None:
    risks = []
    for migration_login in (quoted_login, f"{quoted_login}_migration"):
        run_as_dba(database, postgres, roles_sql(quoted_login, migration_login))
        running = as_login(database, quoted_login)
        running.check_login()
        risks.append(running.owner_risk())
        running.close()

    assert [risk is None for risk in risks] == [False, True]


def test_provisioning_again_keeps_what_is_there(two_tenants: Database, postgres: PostgresService) -> None:
    provision(postgres.superuser_url, LOGIN, two_tenants.url.database or "", migration_login=MIGRATION_LOGIN)

    two_tenants.check_login()
    with two_tenants.tenant_transaction("acme") as connection:
        assert connection.scalar(select(func.count()).select_from(runs)) == 1


def test_a_savepoint_keeps_role_and_tenant(two_tenants: Database) -> None:
    with two_tenants.tenant_transaction("acme") as connection:
        with pytest.raises(DBAPIError), connection.begin_nested():
            connection.execute(text("SELECT 1/0"))
        assert connection.scalars(select(runs.c.tenant_id)).all() == ["acme"]
