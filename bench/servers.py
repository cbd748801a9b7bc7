"""The servers of one bench: embedded Postgres and Valkey in a folder of their own, and the workers on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import redis

from bench import raw
from llmteam.db import Database, provision
from llmteam.dispatch import THREAD_QUEUES
from llmteam.embedded import DATABASE, LOGIN, MIGRATION_LOGIN, EmbeddedServers, start
from llmteam.errors import LLMTeamError
from llmteam.settings import Settings, variable

ROOT = Path(__file__).resolve().parent.parent
#: What must be on, or the figures would be those of a database that may lose what it has confirmed.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
#: Logical databases of Valkey: one for each side, so that neither sees the other's keys.
_OURS, _RAW = 0, 1
_STOP_SECONDS = 30


class UnsafeServerError(LLMTeamError, RuntimeError):
    """The database does not write what it confirms; nothing measured on it would mean anything."""

    def __init__(self, found: Mapping[str, str]) -> None:
        shown = ", ".join(f"{name} = {value}" for name, value in found.items())
        super().__init__(f"the bench needs {', '.join(DURABLE)} on, but found {shown}")


@dataclass(frozen=True)
class Site:
    """Both servers, ready for both sides."""

    settings: Settings
    raw_broker: str
    superuser_url: str
    folder: Path
    versions: Mapping[str, str]
    durability: Mapping[str, str]


@contextmanager
def site() -> Iterator[Site]:
    """Start the servers in a new folder, and remove both at the end."""
    with embedded("llmteam-bench-") as servers:
        yield _prepared(servers, servers.home)


@contextmanager
def embedded(prefix: str) -> Iterator[EmbeddedServers]:
    """Servers of their own with all tables, in a new folder; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    # As root, Postgres runs under a user of its own, which has to get here.
    folder.chmod(0o755)
    try:
        with start(folder) as servers:
            provision(servers.superuser_url, LOGIN, DATABASE, migration_login=MIGRATION_LOGIN)
            database = Database(servers.migration_url)
            database.upgrade()
            database.close()
            yield servers
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepared(servers: EmbeddedServers, folder: Path) -> Site:
    ours, theirs = (_numbered(servers.broker_url, number) for number in (_OURS, _RAW))
    settings = Settings(database_url=servers.database_url, broker_url=ours, imports=("bench.steps",))
    durability, postgres = durability_of(servers.database_url)
    valkey = _valkey(ours)
    return Site(
        settings=settings,
        raw_broker=theirs,
        superuser_url=servers.superuser_url,
        folder=folder,
        versions={"postgres": postgres, "valkey": valkey["valkey_version"]},
        durability={**durability, "appendonly": "on" if valkey["aof_enabled"] == "1" else "off"},
    )


def _numbered(url: str, number: int) -> str:
    return f"{url.rpartition('/')[0]}/{number}"


def durability_of(database_url: str) -> tuple[dict[str, str], str]:
    """The settings of :data:`DURABLE` as they hold for this login, and the version of Postgres.

    Raises :class:`UnsafeServerError` unless all are on.
    """
    connection = psycopg2.connect(database_url.replace("+psycopg2", "", 1))
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in (*DURABLE, "server_version")))
        *found, version = cursor.fetchone() or ()
    finally:
        connection.close()
    durability = dict(zip(DURABLE, found, strict=True))
    if set(durability.values()) != {"on"}:
        raise UnsafeServerError(durability)
    return durability, version


def _valkey(url: str) -> dict[str, str]:
    with redis.Redis.from_url(url) as client:
        return {name: str(value) for name, value in client.info().items()}


class Worker:
    """One Celery worker process with the ``threads`` pool; both sides get the same command."""

    def __init__(
        self,
        name: str,
        app: str,
        queues: Sequence[str],
        concurrency: int,
        log: Path,
        environment: Mapping[str, str],
        more: Sequence[str] = (),
    ) -> None:
        self.log = log / f"{name}-{concurrency}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "--pool", "threads"]
        command += ["--concurrency", str(concurrency), "--queues", ",".join(queues), "--hostname", f"{name}@%h"]
        command += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        command += more
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("LLMTEAM_")}
        with self.log.open("w") as out:
            self._process = subprocess.Popen(
                command, env={**clean, "PYTHONPATH": path, **environment}, cwd=log, stdout=out, stderr=out
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def check(self) -> None:
        """Raises when the worker has ended."""
        if self._process.poll() is not None:
            raise LLMTeamError(f"a worker ended with {self._process.returncode}: its last words are above")

    def last_words(self) -> str:
        """The end of the worker's log."""
        return f"{self.log.name}: {self.log.read_text()[-2000:]}"

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def connections_for(concurrency: int) -> int:
    """What one process of raw Celery may need when every thread of its worker talks to broker and backend."""
    return 2 * concurrency + 100


def our_environment(place: Site) -> dict[str, str]:
    """What a worker of ours is told."""
    return {
        variable("database_url"): place.settings.database_url or "",
        variable("broker_url"): place.settings.broker_url or "",
        variable("imports"): ",".join(place.settings.imports),
        variable("log_level"): "WARNING",
    }


def raw_environment(place: Site, concurrency: int, *, acks: bool) -> dict[str, str]:
    """What a worker of raw Celery is told."""
    connections = str(connections_for(concurrency))
    return {raw.BROKER: place.raw_broker, raw.CONNECTIONS: connections, raw.ACKS: "1" if acks else "0"}


@contextmanager
def workers(place: Site, concurrency: int, *, acks: bool) -> Iterator[Sequence[Worker]]:
    """One worker of each side, alike in pool, concurrency and flags."""
    ours, theirs = our_environment(place), raw_environment(place, concurrency, acks=acks)
    with contextlib.ExitStack() as stack:
        started = []
        for name, app, queues, environment in (
            ("raw", "bench.raw", (raw.QUEUE,), theirs),
            ("llmteam", "llmteam.tasks.celery", THREAD_QUEUES, ours),
        ):
            worker = Worker(name, app, queues, concurrency, place.folder, environment)
            stack.callback(worker.stop)
            started.append(worker)
        yield started
