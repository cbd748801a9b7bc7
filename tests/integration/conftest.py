"""What tests of the run store in Postgres work with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmteam.canvas.postgres import PostgresRunStore
from llmteam.db import Database
from llmteam.events.postgres import PostgresEventStore
from tests.conformance.desk import Desk


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
