"""Scripts and transactions: round trips, values, errors, and connections that break."""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import DBAPIError

from llmteam.db import (
    ConflictError,
    ConstraintError,
    Database,
    DatabaseTimeoutError,
    HotConnection,
    StatementError,
    constraint_of,
    run_transaction,
)
from llmteam.db.tables import payloads
from llmteam.errors import InfrastructureError
from llmteam.ids import InvalidIdentifierError
from tests.waiting import wait_until

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
INSERT = "INSERT INTO llmteam.payloads VALUES ('acme', %s, %s, 1, now())"
PID = "SELECT pg_backend_pid()"


def backend(hot: HotConnection) -> int:
    rows = hot.script(PID)
    assert rows is not None
    return int(rows[0][0])


def kill(database: Database, pid: int) -> None:
    """End the server process ``pid``; its client has not noticed when this returns."""
    with database.login_transaction() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def hashes(database: Database) -> list[str]:
    with database.hot("acme") as hot:
        return [row[0] for row in hot.script("SELECT hash FROM llmteam.payloads ORDER BY hash") or ()]


def write_and_raise(connection: Connection) -> None:
    connection.execute(text("INSERT INTO llmteam.payloads VALUES ('acme', 'h', '1', 1, now())"))
    raise ZeroDivisionError


def second(database: Database) -> Database:
    return Database(database.url.render_as_string(hide_password=False))


def test_a_script_is_one_round_trip_and_one_transaction(database: Database) -> None:
    with database.hot("acme") as hot:
        before = database.round_trips
        rows = hot.script(
            f"{INSERT}; SELECT count(*), current_user, current_setting('llmteam.tenant_id') FROM llmteam.payloads",
            ("h", "{}"),
        )

        assert database.round_trips - before == 1
        assert rows == [(1, "llmteam_app", "acme")]
        with pytest.raises(ConstraintError):
            hot.script(f"{INSERT}; {INSERT}", ("new", "1", "h", "1"))
    assert hashes(database) == ["h"]


def test_a_script_answers_with_the_rows_of_its_last_statement(database: Database) -> None:
    with database.hot("acme") as hot:
        assert hot.script("SELECT 1; SELECT 2") == [(2,)]
        assert hot.script("SELECT 1 WHERE false") == []
        assert hot.script("SELECT 1; DO $$ BEGIN END $$") is None


def test_values_come_back_as_python_values(database: Database) -> None:
    with database.hot("acme") as hot:
        rows = hot.script(
            "SELECT %(document)s::json, %(when)s::timestamptz, '{1,2}'::smallint[], ARRAY['a'], '100%%'",
            {"document": '{"b": [1, 2.5, null], "a": "ü"}', "when": NOW},
        )

    assert rows == [({"b": [1, 2.5, None], "a": "ü"}, NOW, [1, 2], ["a"], "100%")]


def test_begin_opens_a_transaction_that_a_later_script_commits(database: Database) -> None:
    before = database.round_trips
    with database.hot("acme") as hot:
        hot.script(INSERT, ("h", "{}"), begin=True)
        assert hashes(database) == []
        hot.script("COMMIT")

    assert hashes(database) == ["h"]
    assert database.round_trips - before == 4


def test_what_is_not_committed_is_rolled_back_when_the_checkout_ends(database: Database) -> None:
    with database.hot("acme") as hot:
        hot.script(INSERT, ("left", "{}"), begin=True)
    with database.hot("acme") as hot:
        hot.script(INSERT, ("failed", "{}"), begin=True)
        with pytest.raises(ConstraintError):
            hot.script(INSERT, ("failed", "{}"))
    with database.hot("acme") as hot:
        hot.script(INSERT, ("undone", "{}"), begin=True)
        hot.rollback()
        hot.script("COMMIT")

    assert hashes(database) == []


def test_leaving_without_an_open_transaction_costs_no_round_trip(database: Database) -> None:
    with database.hot("acme") as hot:
        before = database.round_trips
        hot.script("SELECT 1")
        hot.rollback()

    assert database.round_trips - before == 1


def test_a_failed_transaction_is_not_carried_on_or_committed(database: Database) -> None:
    with database.hot("acme") as hot:
        hot.script(INSERT, ("h", "{}"), begin=True)
        with pytest.raises(StatementError, match="22012"):
            hot.script("SELECT 1/0")
        with pytest.raises(StatementError, match="not passed on"):
            hot.script("COMMIT")
    with (
        pytest.raises(StatementError, match="not passed on"),
        database.tenant_transaction("acme") as connection,
        suppress(DBAPIError),
    ):
        connection.execute(text("SELECT 1/0"))

    assert hashes(database) == []


def test_a_second_begin_is_refused(database: Database) -> None:
    with database.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
        with pytest.raises(StatementError, match="already open"):
            hot.script("SELECT 1", begin=True)


def test_a_transaction_is_opened_in_one_round_trip(database: Database) -> None:
    before = database.round_trips
    with database.tenant_transaction("acme") as connection:
        row = {"tenant_id": "acme", "hash": "h", "body": {"a": None}, "size": 1, "created_at": NOW}
        connection.execute(insert(payloads), row)

    assert database.round_trips - before == 3
    assert hashes(database) == ["h"]


def test_an_error_rolls_a_transaction_back(database: Database) -> None:
    with pytest.raises(StatementError, match="22012"), database.tenant_transaction("acme") as connection:
        connection.execute(text("INSERT INTO llmteam.payloads VALUES ('acme', 'h', '1', 1, now()); SELECT 1/0"))
    with pytest.raises(ZeroDivisionError), database.tenant_transaction("acme") as connection:
        write_and_raise(connection)

    assert hashes(database) == []


@pytest.mark.parametrize("tenant", ["", "a'b", "a%sb", "*", "a\\", "a;b"])
def test_a_tenant_that_cannot_exist_never_reaches_the_server(database: Database, tenant: str) -> None:
    with pytest.raises(InvalidIdentifierError):
        database.hot(tenant)
    with pytest.raises(InvalidIdentifierError), database.tenant_transaction(tenant):
        pass


def test_a_refused_row_names_its_constraint_and_shows_no_value(database: Database) -> None:
    with database.hot("acme") as hot:
        hot.script(INSERT, ("secret-hash", "{}"))
        with pytest.raises(ConstraintError) as raised:
            hot.script(INSERT, ("secret-hash", "{}"))
    with pytest.raises(ConstraintError) as again, database.tenant_transaction("acme") as connection:
        connection.execute(
            insert(payloads), {"tenant_id": "acme", "hash": "secret-hash", "body": 1, "size": 1, "created_at": NOW}
        )

    assert constraint_of(raised.value) == constraint_of(again.value) == "payloads_pkey"
    assert "secret-hash" not in str(raised.value) + str(again.value)


def test_constraints_are_known_inside_a_transaction_too(database: Database) -> None:
    statement = text("INSERT INTO llmteam.payloads VALUES ('acme', 'h', '1', 1, now())")
    with database.tenant_transaction("acme") as connection:
        connection.execute(statement)
        with pytest.raises(DBAPIError) as raised, connection.begin_nested():
            connection.execute(statement)

    assert constraint_of(raised.value) == "payloads_pkey"
    assert constraint_of(ValueError()) is None
    assert hashes(database) == ["h"]


def test_a_deadlock_is_run_again(database: Database) -> None:
    first_row, both = "SELECT pg_advisory_xact_lock(%s)", threading.Barrier(2, timeout=10)
    calls: list[int] = []

    def work(mine: int, other: int) -> None:
        calls.append(mine)
        with database.hot("acme") as hot:
            hot.script(first_row, (mine,), begin=True)
            if len(calls) <= 2:
                both.wait()
            hot.script(f"{first_row}; COMMIT", (other,))

    threads = [threading.Thread(target=run_transaction, args=(lambda m=m: work(m, 3 - m),)) for m in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(calls) == 3


def test_a_conflict_that_does_not_end_is_passed_on() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise ConflictError("again")

    with pytest.raises(ConflictError):
        run_transaction(work, attempts=3)
    assert len(calls) == 3


def test_a_slow_statement_a_lock_and_a_busy_pool_are_timeouts(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    hurried = Database(url, pool_size=1, pool_timeout=0.05, statement_timeout=0.05, lock_timeout=10)
    with hurried.hot("acme") as hot, pytest.raises(DatabaseTimeoutError, match="statement timeout"):
        hot.script("SELECT pg_sleep(5)")
    with hurried.hot("acme"), pytest.raises(DatabaseTimeoutError, match="stayed busy"), hurried.hot("acme"):
        pass
    hurried.close()

    waiting = Database(url, lock_timeout=0.05)
    with database.hot("acme") as holder, waiting.hot("acme") as hot:
        holder.script("SELECT pg_advisory_xact_lock(7)", begin=True)
        with pytest.raises(DatabaseTimeoutError, match="lock timeout"):
            hot.script("SELECT pg_advisory_xact_lock(7)")
    waiting.close()


def test_a_connection_that_the_server_closed_while_idle_is_replaced_unnoticed(database: Database) -> None:
    other = second(database)
    with other.hot("acme") as hot:
        pid = backend(hot)
    kill(database, pid)
    with other.hot("acme") as hot:
        replaced = backend(hot)
    kill(database, replaced)
    with other.tenant_transaction("acme") as connection:
        assert connection.scalar(text(PID)) not in {pid, replaced}
    other.close()


def test_a_connection_that_dies_between_checkout_and_begin_is_replaced(database: Database) -> None:
    other = second(database)
    with other.hot("acme") as hot:
        pid = backend(hot)
    with other.hot("acme") as hot:
        kill(database, pid)
        hot.script(INSERT, ("h", "{}"), begin=True)
        hot.script("COMMIT")
    other.close()

    assert hashes(database) == ["h"]


def test_a_script_of_unknown_outcome_is_not_run_twice(database: Database) -> None:
    other = second(database)
    with other.hot("acme") as hot:
        pid = backend(hot)
    with other.hot("acme") as hot:
        kill(database, pid)
        with pytest.raises(InfrastructureError, match="LLMTEAM_DATABASE_URL"):
            hot.script(INSERT, ("h", "{}"))
        with pytest.raises(InfrastructureError, match="was lost"):
            hot.script("SELECT 1")
        hot.rollback()
    with other.hot("acme") as hot:
        assert backend(hot) != pid
    other.close()


def test_a_transaction_whose_connection_breaks_fails_and_the_next_one_works(database: Database) -> None:
    other = second(database)

    def core() -> None:
        with other.tenant_transaction("acme") as connection:
            kill(database, connection.scalar(text(PID)) or 0)
            connection.execute(text("SELECT 1"))

    def hot() -> None:
        with other.hot("acme") as hot:
            hot.script(INSERT, ("h", "{}"), begin=True)
            kill(database, backend(hot))
            hot.script("COMMIT")

    for work in (core, hot):
        with pytest.raises(InfrastructureError):
            work()
    assert hashes(other) == []
    other.close()


def test_a_server_that_is_not_there_is_named_by_its_setting_without_the_password() -> None:
    nowhere = Database("postgresql://app:hunter2@127.0.0.1:1/app")

    with pytest.raises(InfrastructureError) as raised, nowhere.hot("acme"):
        pass
    with pytest.raises(InfrastructureError), nowhere.tenant_transaction("acme"):
        pass

    assert "LLMTEAM_DATABASE_URL" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_forked_child_has_connections_of_its_own(database: Database) -> None:
    with database.hot("acme") as hot:
        pid = backend(hot)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            with database.hot("acme") as hot:
                os.write(write, str(backend(hot)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert int(os.read(read, 20)) != pid
    with database.hot("acme") as hot:
        assert backend(hot) == pid


def test_a_fork_inside_a_transaction_leaves_the_parents_transaction_alone(database: Database) -> None:
    with database.hot("acme") as hot:
        hot.script(INSERT, ("h", "{}"), begin=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                hot.__exit__(None, None, None)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        hot.script("COMMIT")

    assert hashes(database) == ["h"]


def test_threads_share_the_pool_and_never_each_others_tenant(database: Database) -> None:
    wrong: list[object] = []

    def work(tenant: str) -> None:
        for _ in range(50):
            with database.hot(tenant) as hot:
                rows = hot.script("SELECT current_setting('llmteam.tenant_id')")
                if rows != [(tenant,)]:
                    wrong.append(rows)

    threads = [threading.Thread(target=work, args=(f"tenant-{number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "all threads to end", timeout=30)

    assert wrong == []
