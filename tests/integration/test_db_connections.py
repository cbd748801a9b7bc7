"""Connections go from one tenant's use to the next: no use leaves its tenant, or its role, behind, however it ends."""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, text

from llmteam.canvas.fleet import connect
from llmteam.cli.servers import Installation, installation
from llmteam.db import Database, PoolerError, Prepared, StatementError
from llmteam.db.tables import key_values, runs
from llmteam.embedded import LOGIN
from llmteam.errors import InfrastructureError, LLMTeamError
from llmteam.ids import utc_now
from llmteam.settings import Settings
from tests.embedding import short_folder
from tests.services import PostgresService, owner_transaction
from tests.waiting import wait_until

STATE = "SELECT current_user::text, session_user::text, coalesce(current_setting('llmteam.tenant_id', true), '')"
NOBODY = (LOGIN, LOGIN, "")
TENANTS = ("acme", "globex")


class Interrupted(BaseException):
    """As Ctrl-C, which no ``except Exception`` stops."""


@pytest.fixture(scope="module")
def database(postgres: PostgresService) -> Iterator[Database]:
    """One database for all tests here, in which the tenants acme and globex have a value each."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    for tenant in TENANTS:
        with database.tenant_transaction(tenant) as connection:
            row = {"tenant_id": tenant, "key": "k", "value": tenant, "updated_at": utc_now()}
            connection.execute(insert(key_values).values(row))
    yield database
    database.close()
    own.drop_all()


@pytest.fixture
def one(database: Database) -> Iterator[Database]:
    """The same with one connection, whose statements end after a tenth of a second."""
    one = Database(database.url.render_as_string(hide_password=False), pool_size=1, statement_timeout=0.1)
    yield one
    one.close()


def left_behind(database: Database) -> tuple[Any, ...]:
    """What a connection of the pool says of itself outside any transaction."""
    fairy = database.checkout()
    try:
        cursor = fairy.cursor()
        cursor.execute(STATE)
        found: tuple[Any, ...] = cursor.fetchone()
        cursor.close()
        return found
    finally:
        fairy.close()


def test_a_session_that_was_handed_to_others_is_told_from_a_wrong_statement(one: Database) -> None:
    """What a pooler in transaction mode does: statements that were prepared stand in another session."""
    known = Prepared("llmteam_test_known", "SELECT %s::integer")
    with one.hot("acme") as hot:
        assert hot.script(known.call, (7,), prepared=(known,)) == [(7,)]
        hot.script("DEALLOCATE ALL")

    with one.hot("acme") as hot, pytest.raises(PoolerError, match="session mode"):
        hot.script(known.call, (7,), prepared=(known,))


def test_a_session_has_the_settings_of_its_database_whatever_is_set_for_its_login(
    one: Database, postgres: PostgresService
) -> None:
    postgres.as_superuser(f"ALTER ROLE {LOGIN} SET timezone TO 'Asia/Tokyo'")
    one.close()
    try:
        with one.login_transaction() as connection:
            names = ("timezone", "statement_timeout", "search_path", "plan_cache_mode")
            found = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]
    finally:
        postgres.as_superuser(f"ALTER ROLE {LOGIN} RESET timezone")

    assert found == ["UTC", "100ms", "llmteam", "force_generic_plan"]


def backend(database: Database) -> int:
    with database.login_transaction() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def is_there(database: Database, process: int, condition: str = "true") -> bool:
    query = f"SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND {condition}"
    with database.login_transaction() as connection:
        return bool(connection.execute(text(query), {"pid": process}).scalar_one())


Work = Callable[[str], Any]
Use = Callable[[Database, Callable[[Work], None]], None]


def in_hot(database: Database, act: Callable[[Work], None]) -> None:
    with database.hot("acme") as hot:
        act(hot.script)


def in_open_hot(database: Database, act: Callable[[Work], None]) -> None:
    with database.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
        act(hot.script)


def as_sweeper_in_hot(database: Database, act: Callable[[Work], None]) -> None:
    with database.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
        act(lambda sql: hot.script(sql, role="llmteam_sweeper"))


def in_transaction(database: Database, act: Callable[[Work], None]) -> None:
    with database.tenant_transaction("acme") as connection:
        act(lambda sql: connection.execute(text(sql)))


def in_savepoint(database: Database, act: Callable[[Work], None]) -> None:
    with database.tenant_transaction("acme") as connection, connection.begin_nested():
        act(lambda sql: connection.execute(text(sql)))


def as_sweeper(database: Database, act: Callable[[Work], None]) -> None:
    with database.sweeper_transaction() as connection:
        act(lambda sql: connection.execute(text(sql)))


def as_login(database: Database, act: Callable[[Work], None]) -> None:
    with database.login_transaction() as connection:
        act(lambda sql: connection.execute(text(sql)))


USES: list[Use] = [in_hot, in_open_hot, as_sweeper_in_hot, in_transaction, in_savepoint, as_sweeper, as_login]


def nothing(work: Work) -> None:
    """It simply ends."""
    work("SELECT 1")


def fails(work: Work) -> None:
    work("SELECT 1/0")


def raises(work: Work) -> None:
    work("SELECT 1")
    raise ZeroDivisionError


def is_interrupted(work: Work) -> None:
    work("SELECT 1")
    raise Interrupted


def hides_a_failure(work: Work) -> None:
    with contextlib.suppress(Exception):
        work("SELECT 1/0")


def takes_too_long(work: Work) -> None:
    work("SELECT pg_sleep(60)")


def is_refused(work: Work) -> None:
    work("SELECT * FROM llmteam.alembic_version FOR UPDATE")


def sets_for_the_session(work: Work) -> None:
    """As a careless, or hostile, statement would: not only for its transaction."""
    work("SELECT set_config('llmteam.tenant_id', 'globex', false), set_config('role', 'llmteam_app', false)")


def _ending(use: Use, database: Database, end: Callable[[Work], None]) -> None:
    with contextlib.suppress(LLMTeamError, ZeroDivisionError, Interrupted):
        use(database, end)


@pytest.mark.parametrize("end", [nothing, fails, raises, is_interrupted, hides_a_failure, takes_too_long, is_refused])
@pytest.mark.parametrize("use", USES)
def test_no_use_leaves_its_tenant_behind_however_it_ends(one: Database, use: Use, end: Callable[[Work], None]) -> None:
    before = backend(one)

    _ending(use, one, end)

    assert left_behind(one) == NOBODY
    assert backend(one) == before, "it is the same connection that was looked at"


@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
@pytest.mark.parametrize("use", USES)
def test_a_query_that_is_cancelled_or_cut_off_leaves_no_tenant_behind(
    database: Database, postgres: PostgresService, use: Use, end: str
) -> None:
    one = Database(database.url.render_as_string(hide_password=False), pool_size=1)
    process = backend(one)

    def act(work: Work) -> None:
        work("SELECT pg_sleep(30)")

    with ThreadPoolExecutor(1) as pool:
        sleeping = pool.submit(use, one, act)
        wait_until(lambda: is_there(database, process, "wait_event = 'PgSleep'"), "the query to run")
        postgres.as_superuser(f"SELECT {end}({process})")
        with pytest.raises((StatementError, InfrastructureError)):
            sleeping.result()

    assert left_behind(one) == NOBODY
    assert (backend(one) == process) is (end == "pg_cancel_backend")
    one.close()


@pytest.mark.parametrize("use", USES)
def test_a_connection_that_the_server_closed_between_two_uses_is_replaced(
    one: Database, database: Database, postgres: PostgresService, use: Use
) -> None:
    use(one, nothing)
    before = backend(one)
    postgres.as_superuser(f"SELECT pg_terminate_backend({before})")
    wait_until(lambda: not is_there(database, before), "the server to let go of it")

    use(one, nothing)

    assert left_behind(one) == NOBODY
    assert backend(one) != before


@pytest.mark.parametrize("use", USES)
def test_what_a_statement_sets_for_the_whole_session_gives_the_next_use_no_other_tenant(
    one: Database, use: Use
) -> None:
    look = "SELECT tenant_id FROM llmteam.key_values"
    _ending(use, one, sets_for_the_session)

    with one.hot(None) as hot:
        assert hot.script(look) == []
    with one.hot("acme") as hot:
        assert hot.script(look) == [("acme",)]
    with one.tenant_transaction("acme") as connection:
        assert connection.scalars(text(look)).all() == ["acme"]


def test_eight_threads_on_one_connection_never_see_each_others_tenant(database: Database) -> None:
    """Some hundred uses, a third of which fail; each sees the rows of its own tenant, all of them and no other."""
    one = Database(database.url.render_as_string(hide_password=False), pool_size=1, pool_timeout=60)
    numbers, lock, seen = itertools.count(), threading.Lock(), []
    chance = random.Random(7)

    def use(number: int) -> None:
        tenant, way, fails = TENANTS[number % 2], number % 3, chance.random() < 1 / 3
        look = "SELECT tenant_id, current_setting('llmteam.tenant_id', true) FROM llmteam.key_values"
        found: list[Any] = []
        with contextlib.suppress(StatementError):
            if way == 0:
                with one.hot(tenant) as hot:
                    found = hot.script(look) or []
                    hot.script("SELECT 1/0" if fails else "SELECT 1")
            elif way == 1:
                with one.hot(tenant) as hot:
                    hot.script("SELECT 1", begin=True)
                    found = hot.script(look) or []
                    hot.script("SELECT 1/0" if fails else "COMMIT")
            else:
                with one.tenant_transaction(tenant) as connection:
                    found = [tuple(row) for row in connection.execute(text(look))]
                    connection.execute(text("SELECT 1/0" if fails else "SELECT 1"))
        with lock:
            seen.append((tenant, found))

    def work() -> None:
        while (number := next(numbers)) < 600:
            use(number)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()

    assert len(seen) == 600
    assert {(tenant, tuple(found)) for tenant, found in seen} == {(one, ((one, one),)) for one in TENANTS}
    assert left_behind(one) == NOBODY
    one.close()


# -- what the role of tenants cannot do


ESCAPES = [
    "CREATE FUNCTION llmteam.mine() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE public.mine (id int)",
    "CREATE SCHEMA mine",
    "CREATE VIEW llmteam.mine AS SELECT * FROM llmteam.runs",
    "CREATE OR REPLACE FUNCTION llmteam.tenant_is_erased(of_tenant text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "GRANT llmteam_owner TO llmteam_app",
    "ALTER TABLE llmteam.runs DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE llmteam.runs NO FORCE ROW LEVEL SECURITY",
    "ALTER TABLE llmteam.audit_log DISABLE TRIGGER ALL",
    "DROP POLICY tenant ON llmteam.runs",
    "CREATE POLICY mine ON llmteam.runs USING (true)",
    "ALTER POLICY tenant ON llmteam.runs USING (true)",
    "ALTER ROLE llmteam_app BYPASSRLS",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER DATABASE postgres SET row_security = off",
    "SET SESSION AUTHORIZATION postgres",
    "SET session_replication_role = replica",
    "COPY llmteam.runs TO PROGRAM 'cat'",
    "COPY llmteam.runs TO '/tmp/runs'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "LOAD 'auto_explain'",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE llmteam.runs OWNER TO llmteam_app'; END $$",
    "TRUNCATE llmteam.runs",
]


@pytest.mark.parametrize("role", ["llmteam_app", "llmteam_sweeper"])
@pytest.mark.parametrize("statement", ESCAPES)
def test_neither_role_can_change_what_binds_it(database: Database, role: Any, statement: str) -> None:
    with database.hot("acme") as hot, pytest.raises(LLMTeamError, match=r"permission denied|SQLSTATE 42501"):
        hot.script(statement.replace("%", "%%"), role=role)


@pytest.mark.parametrize("role", ["llmteam_app", "llmteam_sweeper"])
def test_neither_role_can_give_or_take_rights(database: Database, role: Any) -> None:
    """Postgres answers some of these with a warning only, so what counts is what the rights are afterwards."""

    def rights() -> Any:
        with owner_transaction(database) as connection:
            query = "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'llmteam'::regnamespace"
            return sorted(map(tuple, connection.execute(text(query))))

    before = rights()
    for statement in (
        "GRANT SELECT ON llmteam.sweeps TO llmteam_app",
        "GRANT ALL ON llmteam.runs, llmteam.tenant_keys TO PUBLIC, llmteam_app, llmteam_sweeper",
        "GRANT SELECT ON ALL TABLES IN SCHEMA llmteam TO llmteam_sweeper",
        "REVOKE ALL ON llmteam.runs FROM llmteam_sweeper, llmteam_app",
        "REVOKE GRANT OPTION FOR SELECT ON llmteam.runs FROM llmteam_app",
    ):
        with contextlib.suppress(LLMTeamError), database.hot("acme") as hot:
            hot.script(statement, role=role)

    assert rights() == before


def test_row_security_that_is_switched_off_shows_an_error_and_no_row(database: Database) -> None:
    """``row_security`` does not bypass policies: it makes a query that they would have filtered fail."""
    for table in ("key_values", runs.name):
        with database.hot("acme") as hot, pytest.raises(LLMTeamError, match="row-level security"):
            hot.script(f"SET LOCAL row_security = off; SELECT * FROM llmteam.{table}")


# -- what the login itself cannot do, as whoever sends SQL of their own with it may try


@pytest.fixture(scope="module")
def home_of_its_own() -> Iterator[Installation]:
    """What `llmteam up` and its like make in a home that is empty."""
    with short_folder() as folder, installation(Settings(home=folder / "home")) as place:
        yield place


@pytest.fixture(params=["of tests", "of an embedded home"])
def running(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with the login that workers have."""
    if request.param == "of tests":
        yield request.getfixturevalue("database")
        return
    database = request.getfixturevalue("home_of_its_own").database()
    yield database
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE llmteam_owner",
        "SET LOCAL ROLE llmteam_owner",
        "SET ROLE llmteam_migration",
        "SET SESSION AUTHORIZATION llmteam_migration",
        "SELECT set_config('role', 'llmteam_owner', false)",
        "GRANT llmteam_owner TO llmteam",
        "GRANT llmteam_owner TO CURRENT_USER",
        "ALTER ROLE llmteam SUPERUSER",
        "ALTER ROLE llmteam_migration PASSWORD 'mine'",
        "DROP POLICY tenant ON llmteam.runs",
        "CREATE POLICY mine ON llmteam.runs USING (true)",
        "ALTER TABLE llmteam.runs NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE llmteam.runs DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE llmteam.audit_log DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_log_is_kept ON llmteam.audit_log",
        "ALTER TABLE llmteam.audit_log OWNER TO llmteam",
        "REASSIGN OWNED BY llmteam_owner TO llmteam",
        "DROP OWNED BY llmteam_owner",
        "SET session_replication_role = replica",
        "TRUNCATE llmteam.audit_log",
        "DROP SCHEMA llmteam CASCADE",
    ],
)
@pytest.mark.parametrize("first", ["", "SET ROLE llmteam_app; ", "SET ROLE llmteam_sweeper; "])
def test_the_login_of_what_runs_cannot_lift_what_binds_tenants(running: Database, first: str, statement: str) -> None:
    running.check_login()

    with pytest.raises(LLMTeamError, match=r"permission denied|must be owner|SQLSTATE 42501"):
        send(running, first + statement)

    assert running.owner_risk() is None


def send(database: Database, sql: str) -> None:
    """``sql`` as it is, with the login as it is."""
    with database.login_transaction() as connection:
        connection.exec_driver_sql(sql)


def test_a_process_opens_no_more_connections_than_its_settings_say(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    fleet = connect(
        Settings(database_url=url, broker_url="memory://", database_connections=4), application_name="of_four"
    )
    look = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'of_four' AND wait_event_type = 'Lock'"
    threads = [threading.Thread(target=fleet.engine.store.header, args=("acme", "none")) for _ in range(6)]

    def waiting_for_the_table() -> int:
        with database.login_transaction() as connection:
            return int(connection.execute(text(look)).scalar_one())

    with owner_transaction(database) as connection:
        connection.execute(text("LOCK TABLE llmteam.runs"))
        for thread in threads:
            thread.start()
        wait_until(lambda: waiting_for_the_table() >= 4, "four threads to wait for the table")
        wait_until(lambda: sum(map(_waits_for_a_connection, threads)) == 2, "two threads to wait for a connection")
        opened = waiting_for_the_table()
    for thread in threads:
        thread.join(10)
    fleet.close()

    assert (opened, any(thread.is_alive() for thread in threads)) == (4, False)


def _waits_for_a_connection(thread: threading.Thread) -> bool:
    """Whether it is in the pool's queue."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_filename.endswith("sqlalchemy/util/queue.py"):
            return True
        frame = frame.f_back
    return False
