"""The fleets of the conformance suite: one per way to run a segment, the Celery worker once per module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from llmteam.canvas.execution import MAX_RETRY_AFTER
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.checks import PostgresChecks
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.stores import MemoryRunStore
from llmteam.db import Database
from llmteam.events import MemoryEventStore
from llmteam.events.postgres import PostgresEventStore
from llmteam.human import MemoryInteractionStore
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.tenancy import TenantContext
from tests.conformance.desk import TENANT, Outbox
from tests.conformance.fleets import Fleet, in_memory, in_postgres, on_celery
from tests.conformance.office import Office
from tests.conformance.people import Counter, in_memory_counter, in_postgres_counter
from tests.conformance.ward import Ward, in_memory_passes, in_postgres_passes
from tests.services import PostgresService


@pytest.fixture(scope="module")
def celery_fleet(
    postgres: PostgresService, session_valkey: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    # For a module only: a worker that nobody needs any more goes on sweeping. A service of its own, because that of the
    # session drops its databases after each test.
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    url = own.create()
    with on_celery(url, session_valkey, tmp_path_factory.mktemp("conformance")) as fleet:
        yield fleet
        with closing(Database(url)) as database:
            assert_every_rule_holds(database)
    own.drop_all()


@pytest.fixture(scope="session")
def postgres_fleet(postgres: PostgresService) -> Iterator[Fleet]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    yield in_postgres(database)
    assert_every_rule_holds(database)
    database.close()
    own.drop_all()


def assert_every_rule_holds(database: Database) -> None:
    """After all that the suite did to these runs, no row is left that nothing would move, or that disagrees."""
    found = PostgresChecks(database, lease=timedelta(seconds=30), retry=MAX_RETRY_AFTER).check()
    assert found.counts == {}, found.rows
    assert found.runs > 0


@pytest.fixture(params=["memory", "postgres", "celery"])
def fleet(request: pytest.FixtureRequest) -> Fleet:
    """Each way to run a segment in turn."""
    if request.param == "memory":
        return in_memory()
    made: Fleet = request.getfixturevalue(f"{request.param}_fleet")
    return made


@pytest.fixture(params=["memory", "postgres"])
def ward(request: pytest.FixtureRequest) -> Iterator[Ward]:
    """Each run store in turn, with its sweeps; whatever a test does, it leaves no row that breaks a rule."""
    if request.param == "memory":
        events = MemoryEventStore()
        store = MemoryRunStore(sink=events.add)
        yield Ward(store, events, store.sweeps, in_memory_passes(store))
        return
    database: Database = request.getfixturevalue("database")
    yield Ward(
        PostgresRunStore(database), PostgresEventStore(database), PostgresSweeps(database), in_postgres_passes(database)
    )
    found = PostgresChecks(database, lease=timedelta(seconds=30), retry=MAX_RETRY_AFTER).check()
    assert found.counts == {}, found.rows


@pytest.fixture(params=["memory", "postgres"])
def office(request: pytest.FixtureRequest) -> Iterator[Office]:
    """Each run store in turn, with the store of what its steps ask people; no row is left that breaks a rule."""
    if request.param == "memory":
        events = MemoryEventStore()
        memory, people = MemoryRunStore(sink=events.add), MemoryInteractionStore()
        memory.use_interactions(people.core)
        yield Office(Ward(memory, events, memory.sweeps, in_memory_passes(memory)), people)
        return
    database: Database = request.getfixturevalue("database")
    outbox = Outbox()
    face = PostgresInteractionStore(database, dispatcher=outbox)
    ward = Ward(
        PostgresRunStore(database, face.core),
        PostgresEventStore(database),
        PostgresSweeps(database),
        in_postgres_passes(database),
        outbox,
    )
    yield Office(ward, face)
    found = PostgresChecks(database, lease=timedelta(seconds=30), retry=MAX_RETRY_AFTER).check()
    assert found.counts == {}, found.rows


@pytest.fixture(params=["memory", "postgres"])
def counter(request: pytest.FixtureRequest) -> Iterator[Counter]:
    """Each store of requests in turn, with a tenant that is current."""
    with TenantContext(TENANT):
        yield (
            in_memory_counter()
            if request.param == "memory"
            else in_postgres_counter(request.getfixturevalue("database"))
        )


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that handlers wait for; it is there at the latest when the test is over."""
    path = tmp_path / "gate"
    yield path
    path.touch()
