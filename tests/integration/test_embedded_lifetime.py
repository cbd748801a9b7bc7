"""The embedded servers start once, are shared, and never outlive their last owner."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
from sqlalchemy import insert, select

from llmteam.cli.servers import installation
from llmteam.db import Database, provision
from llmteam.db.tables import key_values
from llmteam.embedded import DATABASE, LOGIN, MIGRATION_LOGIN, EmbeddedServers, start, status
from llmteam.ids import utc_now
from llmteam.settings import Settings
from tests.embedding import kill_all, lives, make_seed, owner, plant, processes_of, short_folder, wait_until_gone
from tests.services import redis_client
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def seed() -> Iterator[Path]:
    with short_folder() as folder:
        yield make_seed(folder)


@pytest.fixture(scope="module")
def shared_home(seed: Path) -> Iterator[Path]:
    with short_folder() as folder:
        yield plant(seed, folder / "home")


@pytest.fixture
def home(shared_home: Path) -> Iterator[Path]:
    """The same home for every test, with nothing running in it."""
    yield shared_home
    kill_all(shared_home)


def query(servers: EmbeddedServers, sql: str) -> object:
    connection = psycopg2.connect(servers.superuser_url.replace("+psycopg2", ""))
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()


def answers(servers: EmbeddedServers) -> bool:
    try:
        with redis_client(servers.redis_url) as client:
            return query(servers, "SELECT 1") == 1 and bool(client.ping())
    except (psycopg2.OperationalError, redis.ConnectionError):
        return False


def pid_of(home: Path, name: str) -> int | None:
    return next(server.pid for server in status(home).servers if server.name == name)


def test_both_answer_once_started_and_are_gone_once_stopped(home: Path) -> None:
    with start(home) as servers:
        assert servers.started
        assert answers(servers)
    assert processes_of(home) == []


def test_a_second_stop_does_nothing(home: Path) -> None:
    servers = start(home)
    servers.stop()
    servers.stop()


def test_data_are_there_at_the_next_start(home: Path) -> None:
    with start(home) as servers, redis_client(servers.redis_url) as client:
        query(servers, "CREATE TABLE written AS SELECT 42 AS answer")
        client.set("written", "42")
    with start(home) as again, redis_client(again.redis_url) as client:
        assert query(again, "SELECT answer FROM written") == 42
        assert client.get("written") == b"42"
        assert (again.broker_url, again.superuser_url) == (servers.broker_url, servers.superuser_url)


def test_a_home_whose_one_login_could_become_the_owner_gets_two_at_its_next_start() -> None:
    with short_folder() as folder:
        home = folder / "home"
        with start(home) as servers:
            provision(servers.superuser_url, LOGIN, DATABASE, migration_login=LOGIN)
            query(servers, f"DROP ROLE IF EXISTS {MIGRATION_LOGIN}")
            with closing(Database(servers.database_url)) as database:
                database.upgrade()
                assert database.owner_risk() is not None
                with database.tenant_transaction("acme") as connection:
                    row = {"tenant_id": "acme", "key": "k", "value": "kept", "updated_at": utc_now()}
                    connection.execute(insert(key_values).values(row))

        with installation(Settings(home=home)) as place:
            with closing(place.database()) as database, database.tenant_transaction("acme") as connection:
                assert connection.scalars(select(key_values.c.value)).all() == ["kept"]
            with closing(place.database()) as database:
                database.check_login()
                risk = database.owner_risk()
            with closing(Database(place.settings.migration_url or "")) as migrations:
                assert migrations.upgrade() is False

        assert risk is None
        wait_until_gone(folder)


def test_servers_stay_until_the_last_of_two_processes_leaves(home: Path) -> None:
    with owner(home) as first, owner(home) as second:
        assert sorted([first.answer()[0], second.answer()[0]]) == ["joined", "started"]
        first.leave()
        with start(home) as servers:
            assert not servers.started
            second.leave()
            assert answers(servers)
    wait_until_gone(home)


def test_of_many_that_start_at_once_one_starts_and_the_others_join(home: Path) -> None:
    with owner(home) as one, owner(home) as two, owner(home) as three, owner(home) as four:
        said = [each.answer() for each in (one, two, three, four)]
        assert sorted(word for word, *_ in said) == ["joined", "joined", "joined", "started"]
        assert len({tuple(urls) for _, *urls in said}) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_an_owner_that_dies_of_a_signal_leaves_no_process(home: Path, number: signal.Signals) -> None:
    with owner(home) as only:
        assert only.answer()[0] == "started"
        assert len(processes_of(home)) > 2
        only.kill(number)
    wait_until_gone(home)


def test_an_owner_killed_during_the_start_leaves_no_process(home: Path) -> None:
    with owner(home) as only:
        wait_until(lambda: processes_of(home), "the guardian to be there")
        only.kill(signal.SIGKILL)
    wait_until_gone(home)


def test_a_killed_owner_does_not_take_the_servers_from_another(home: Path) -> None:
    with owner(home) as other:
        other.answer()
        with start(home) as servers:
            other.kill(signal.SIGKILL)
            wait_until(lambda: len(status(home).owners) == 1, "the guardian to notice")
            assert answers(servers)


FORKING = """
import os, sys, time
from pathlib import Path
from llmteam.embedded import start
servers = start(Path(sys.argv[1]))
if os.fork() == 0:
    servers.stop()
    os.close(1)
    os.close(2)
    time.sleep(60)
print("started", os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_forked_child_neither_keeps_the_servers_nor_stops_them(home: Path) -> None:
    with owner(home, FORKING) as parent:
        parent.answer()
        [child] = wait_until(lambda: psutil.Process(parent.pid).children()[1:], "the forked child")
        assert status(home).running
        parent.kill(signal.SIGKILL)
        try:
            wait_until_gone(home)
            assert lives(child)
        finally:
            child.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent died")
def test_the_servers_die_with_a_killed_guardian(home: Path) -> None:
    with start(home):
        psutil.Process(status(home).guardian_pid).kill()
        wait_until_gone(home)


def test_an_owner_whose_guardian_died_can_start_again(home: Path) -> None:
    before = start(home)
    psutil.Process(status(home).guardian_pid).kill()
    with start(home) as servers:
        assert servers.started
        assert answers(servers)
        before.stop()
        assert answers(servers)


def test_a_start_after_everything_was_killed_finds_the_data(home: Path) -> None:
    servers = start(home)
    query(servers, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill_all(home)
    servers.stop()
    with start(home) as again:
        assert query(again, "SELECT answer FROM kept") == 42
        assert answers(again)


def test_a_server_that_is_killed_comes_back_at_the_same_address(home: Path) -> None:
    with start(home) as servers:
        for name in ("postgres", "valkey"):
            killed = pid_of(home, name)
            psutil.Process(killed).kill()
            wait_until(lambda old=killed, name=name: pid_of(home, name) not in {None, old}, f"{name} to be back")
            wait_until(lambda: answers(servers), f"{name} to answer")
        assert [server.restarts for server in status(home).servers] == [1, 1]


def test_a_deleted_home_ends_its_servers_and_can_be_made_anew(seed: Path) -> None:
    with short_folder() as folder:
        lose_home(plant(seed, folder / "home"))


def lose_home(home: Path) -> None:
    before = start(home)
    old = processes_of(home)
    shutil.rmtree(home)
    with start(home) as servers:
        assert servers.started
        assert answers(servers)
        wait_until(lambda: not any(map(lives, old)), "the old servers to be gone")
        before.stop()
        assert answers(servers)


def test_one_server_can_be_had_alone_and_the_other_added(home: Path) -> None:
    with start(home, postgres=False) as broker:
        assert [server.pid is None for server in status(home).servers] == [True, False]
        with start(home) as both:
            assert not both.started
            assert both.broker_url == broker.broker_url
            assert answers(both)
