"""The embedded servers are set up like production: durable, closed to others, good for Celery, and watched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis
from celery import Celery
from kombu import Connection
from sqlalchemy import create_engine, text

from llmteam.db import Database
from llmteam.embedded import EmbeddedServerError, EmbeddedServers, start, status
from tests.services import PostgresService, redis_client


@pytest.fixture
def settings(embedded_servers: EmbeddedServers) -> Iterator[dict[str, str]]:
    engine = create_engine(embedded_servers.superuser_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT name, setting FROM pg_settings"))
        yield {row.name: row.setting for row in rows}
    engine.dispose()


def test_postgres_keeps_its_promises_of_durability(settings: dict[str, str]) -> None:
    assert {name: settings[name] for name in ("fsync", "synchronous_commit", "full_page_writes")} == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
    }
    assert settings["data_checksums"] == "on"


def test_postgres_has_room_for_many_workers_in_little_memory(settings: dict[str, str]) -> None:
    assert int(settings["max_connections"]) == 200
    assert int(settings["shared_buffers"]) * 8192 == 128 * 1024 * 1024


def test_postgres_listens_on_a_socket_only_that_nobody_else_can_reach(settings: dict[str, str]) -> None:
    assert settings["listen_addresses"] == ""
    folder = Path(settings["unix_socket_directories"])
    assert folder.stat().st_mode & 0o077 == 0


def test_failed_statements_stay_out_of_the_log(embedded_servers: EmbeddedServers, postgres: PostgresService) -> None:
    with pytest.raises(psycopg2.Error):
        postgres.as_superuser("SELECT 'a-payload-that-must-not-be-logged'::int")
    log = status(embedded_servers.home).servers[0].data.parent / "log" / "postgres.log"
    assert "invalid input syntax" in log.read_text()
    assert "SELECT 'a-payload" not in log.read_text()


def test_the_environment_of_the_client_does_not_move_the_address(
    embedded_servers: EmbeddedServers, postgres: PostgresService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGDATABASE": "none", "PGUSER": "none"}.items():
        monkeypatch.setenv(name, value)
    database = Database(embedded_servers.database_url)
    with database.login_transaction() as connection:
        assert connection.execute(text("SELECT current_database(), session_user")).one() == ("llmteam", "llmteam")
    database.close()


def test_the_login_role_passes_the_check_of_a_production_login(database: Database) -> None:
    database.check_login()
    database.check_schema()


def test_valkey_never_evicts_and_writes_everything_down(valkey: str) -> None:
    with redis_client(valkey) as client:
        told = client.config_get("maxmemory-policy", "appendonly", "appendfsync", "bind", "databases")
    assert told == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "bind": "127.0.0.1",
        "databases": "64",
    }


def test_valkey_takes_nobody_without_its_password(valkey: str) -> None:
    without = f"redis://{valkey.partition('@')[2]}"
    with redis_client(without) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


# Celery calls what redis-py has deprecated.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_one_address_serves_as_celery_broker_and_result_backend(clean_valkey: str) -> None:
    with Connection(clean_valkey) as connection:
        queue = connection.SimpleQueue("embedded-test")
        queue.put({"step": 1})
        message = queue.get(timeout=5)
        message.ack()
        assert message.payload == {"step": 1}
        queue.close()
    app = Celery(broker=clean_valkey, backend=clean_valkey)
    app.conf.update(redis_socket_keepalive=True, result_accept_content=["json"])
    app.backend.store_result("some-task", {"answer": 42}, "SUCCESS")
    assert app.backend.get_result("some-task") == {"answer": 42}
    app.backend.client.connection_pool.disconnect()
    app.close()


def test_status_names_owners_servers_and_data(embedded_servers: EmbeddedServers) -> None:
    found = status(embedded_servers.home)
    assert found.running
    assert os.getpid() in {owner.pid for owner in found.owners}
    assert [server.name for server in found.servers] == ["postgres", "valkey"]
    assert all(server.pid and server.data_bytes > 0 and server.version[0].isdigit() for server in found.servers)


def test_status_of_a_home_that_was_never_used_changes_nothing(tmp_path: Path) -> None:
    found = status(tmp_path / "home")
    assert not found.running
    assert [server.pid for server in found.servers] == [None, None]
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_was_not_asked_for_is_refused(embedded_servers: EmbeddedServers) -> None:
    with start(embedded_servers.home, valkey=False) as servers:
        assert servers.database_url
        with pytest.raises(EmbeddedServerError, match="Valkey was not asked for"):
            _ = servers.broker_url
