"""The embedded Postgres and Valkey, listening on the network instead of a Unix socket, each on a host of its own."""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg2
import redis

from hosts.network import POSTGRES, VALKEY, Network
from llmteam.db import Database, provision
from llmteam.embedded import DATABASE, LOGIN, MIGRATION_LOGIN, EmbeddedServers, start
from llmteam.embedded.names import SUPERUSER
from llmteam.embedded.processes import Account, spawn, tail
from llmteam.embedded.programs import find_postgres, find_valkey, reachable_postgres, reachable_valkey
from llmteam.errors import InfrastructureError

_PREFIX, _LOCK = "llmteam-hosts-", "owner.lock"
_READY_SECONDS = 30.0
_VALKEY = """\
bind {address}
port {port}
dir {folder}
requirepass {password}
databases 4
appendonly no
save ""
maxmemory-policy noeviction
"""


@dataclass(frozen=True)
class Servers:
    """Both, as the harness and each host reach them. ``superuser_url`` goes past the network and is never cut."""

    home: Path
    superuser_url: str
    network: Network
    password: str

    def urls(self, host: str | None = None) -> Mapping[str, str]:
        """``database_url`` and ``broker_url`` for a host, or for the harness."""
        find = self.network.listens if host is None else lambda server: self.network.reaches(str(host), server)
        (postgres, port), (valkey, other) = find(POSTGRES), find(VALKEY)
        return {
            "database_url": f"postgresql://{LOGIN}:{self.password}@{postgres}:{port}/{DATABASE}",
            "broker_url": f"redis://:{self.password}@{valkey}:{other}/0",
        }


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder, gone afterwards; and so are those of harnesses that were killed."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    folder.chmod(0o755)
    with (folder / "draft").open("w") as held:
        # Held as long as this process lives, and before anybody can see it by its name.
        fcntl.flock(held, fcntl.LOCK_EX)
        (folder / "draft").rename(folder / _LOCK)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(network: Network) -> Iterator[Servers]:
    """Servers with all tables in a new folder; both are gone afterwards."""
    password = secrets.token_urlsafe(24)
    with _folder() as folder:
        with start(folder, valkey=False) as embedded:
            _prepare(embedded, password)
        # Where the embedded servers keep their data and, for this user alone, the socket.
        base = folder / "embedded"
        account = _account(base / "postgres")
        sockets, port = base / "run" / "pg", network.listens(POSTGRES)[1]
        superuser = f"postgresql://{SUPERUSER}@/postgres?host={quote(str(sockets), safe='/')}&port={port}"
        servers = Servers(base, superuser, network, password)
        with (
            _running(servers, POSTGRES, _postgres(servers, account), account, signal.SIGINT),
            _running(servers, VALKEY, _valkey(servers, account), account, signal.SIGTERM),
        ):
            _wait_for(servers)
            yield servers


def _prepare(embedded: EmbeddedServers, password: str) -> None:
    provision(embedded.superuser_url, LOGIN, DATABASE, migration_login=MIGRATION_LOGIN)
    database = Database(embedded.migration_url)
    database.upgrade()
    database.close()
    connection = psycopg2.connect(embedded.superuser_url.replace("+psycopg2", "", 1))
    try:
        connection.autocommit = True
        connection.cursor().execute(f'ALTER ROLE "{LOGIN}" PASSWORD %s', (password,))
    finally:
        connection.close()


def _account(data: Path) -> Account | None:
    owner = data.stat()
    if owner.st_uid == os.geteuid():
        return None
    return Account(pwd.getpwuid(owner.st_uid).pw_name, owner.st_uid, owner.st_gid)


def _postgres(servers: Servers, account: Account | None) -> list[str]:
    home = servers.home
    address, port = servers.network.listens(POSTGRES)
    rules = home / "hosts_hba.conf"
    rules.write_text(f"local all all peer map=llmteam\nhost {DATABASE} {LOGIN} samenet scram-sha-256\n")
    rules.chmod(0o644)
    settings = {
        "listen_addresses": address,
        "port": str(port),
        "unix_socket_directories": str(home / "run" / "pg"),
        "hba_file": str(rules),
        "ident_file": str(home / "conf" / "pg_ident.conf"),
        "max_connections": "200",
        "max_wal_senders": "0",
        "jit": "off",
        "timezone": "UTC",
        "log_min_error_statement": "panic",
    }
    program = reachable_postgres(find_postgres(), account, home / "programs").program("postgres")
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [program, "-D", str(home / "postgres" / "data"), *options]


def _valkey(servers: Servers, account: Account | None) -> list[str]:
    address, port = servers.network.listens(VALKEY)
    config = servers.home / "valkey" / "valkey.conf"
    text = _VALKEY.format(address=address, port=port, folder=config.parent, password=servers.password)
    config.write_text(text)
    if account is not None:
        os.chown(config, account.uid, account.gid)
    config.chmod(0o600)
    return [str(reachable_valkey(find_valkey(), account, servers.home / "programs")), str(config)]


@contextmanager
def _running(
    servers: Servers, host: str, argv: list[str], account: Account | None, stop: signal.Signals
) -> Iterator[None]:
    command = servers.network.command(host, account, stop, argv)
    process = spawn(command, account=None, log=servers.home / f"{host}.log", death_signal=signal.SIGKILL)
    try:
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(_READY_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(servers: Servers) -> None:
    """Raises :class:`InfrastructureError` when they do not answer in time."""
    give_up = time.monotonic() + _READY_SECONDS
    urls = servers.urls()
    while True:
        try:
            psycopg2.connect(urls["database_url"], connect_timeout=2).close()
            with redis.Redis.from_url(urls["broker_url"], socket_timeout=2) as client:
                client.ping()
        except (psycopg2.OperationalError, redis.RedisError) as exc:
            if time.monotonic() > give_up:
                logs = "\n".join(tail(servers.home / f"{host}.log") for host in (POSTGRES, VALKEY))
                raise InfrastructureError(f"the servers do not answer ({type(exc).__name__}):\n{logs}") from None
            time.sleep(0.05)
        else:
            return
