"""The pool and the transactions in which all else runs: as one tenant or the sweeper, migrations as the owner.

Connections stay in autocommit and transactions are opened by hand, because psycopg2 would spend a round trip on
each BEGIN. Role and tenant are set for one transaction only, together with its BEGIN, so that a connection in the
pool has neither.
"""

from __future__ import annotations

import json
import os
import re
import select
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS
from sqlalchemy import Connection, create_engine, event
from sqlalchemy import exc as sa
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from llmteam.db import roles, schema
from llmteam.db.errors import SETTING, StatementError, is_lost, translated
from llmteam.db.hot import HotConnection
from llmteam.db.tables import SCHEMA
from llmteam.errors import ConfigurationError
from llmteam.ids import check_identifier
from llmteam.settings import mask_url

Role = Literal["llmteam_app", "llmteam_sweeper", "llmteam_owner"]

_DRIVERS = {"postgresql", "postgres", "postgresql+psycopg2"}
#: Seconds in which the other side's kernel has to acknowledge what was sent; then the connection is dead.
_SILENCE = 10
#: What libpq is told unless the URL says otherwise: a server that went without a word is noticed within 20 s, also by
#: whoever waits for its answer, and so before a lease is over (seconds, and milliseconds).
_LIBPQ = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": _SILENCE * 1000,
}
#: The same for the server, which would otherwise keep the session of a host that went for two hours, and what it has
#: locked for a minute; Unix sockets ignore them.
_SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": f"{_SILENCE * 1000}",
}
#: Names in libpq's ``options``: ``-c name=value`` or ``--name=value``.
_OPTION = re.compile(r"(?:-c\s*|--)(\w+)\s*=")
_POLLER = "llmteam.poller"
_PROCESS = "llmteam.process"


class Database:
    """A pool of connections to one database, and the only way to a transaction in it.

    ``url`` is ``postgresql://…`` as in ``LLMTEAM_DATABASE_URL``; errors name the ``setting`` that has it. At most
    ``pool_size`` connections are open; a caller waits ``pool_timeout`` seconds for one. The other timeouts, in
    seconds, hold on the server: for a statement, for a lock, and for a transaction in which nothing happens.
    Connecting is lazy. Safe to share between threads and to keep across a fork: the child gets connections of its
    own.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str = "llmteam",
        setting: str = SETTING,
        pool_size: int = 16,
        pool_timeout: float = 30.0,
        statement_timeout: float = 30.0,
        lock_timeout: float = 10.0,
        idle_timeout: float = 60.0,
    ) -> None:
        self.url = parse_url(url)
        #: The URL as it may be shown.
        self.server = mask_url(url)
        self.setting = setting
        #: Messages sent to the server so far and answered; for tests of the budgets, not exact under threads.
        self.round_trips = 0
        self._engine = create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            connect_args=connect_args(self.url, application_name),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout,
            pool_use_lifo=True,
            pool_reset_on_return=None,
            use_native_hstore=False,
            hide_parameters=True,
            # Postgres has checked the text; without options json uses its prepared decoder.
            json_deserializer=json.loads,
        )
        event.listen(
            self._engine, "connect", _prepares(session_of(self.url, statement_timeout, lock_timeout, idle_timeout))
        )
        self._listen(self._engine)
        _forget_after_fork(self._engine)

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "connect", _remember_process)
        event.listen(engine, "checkout", _refuse_stale)
        event.listen(engine, "reset", _end_transaction)
        event.listen(engine, "after_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self.round_trips += 1

    def __repr__(self) -> str:
        return f"Database({self.server!r})"

    def close(self) -> None:
        """Close the idle connections; the next use opens new ones."""
        self._engine.dispose()

    def hot(self, tenant_id: str | None) -> HotConnection:
        """A connection for whole scripts as ``tenant_id``; None for the sweeper, which belongs to no tenant.

        Use it in a ``with`` statement and not during a handler. Raises :class:`InvalidIdentifierError` for a tenant
        id that cannot exist.
        """
        return HotConnection(self, "" if tenant_id is None else check_identifier("tenant", tenant_id))

    def checkout(self) -> PoolProxiedConnection:
        """A connection of the pool, known not to have been closed by the server while it was idle."""
        with translated(self.server, self.setting):
            return self._engine.raw_connection()

    @contextmanager
    def tenant_transaction(self, tenant_id: str) -> Iterator[Connection]:
        """A transaction that sees and writes the rows of one tenant; committed at the end, rolled back on an error."""
        with self._transaction("llmteam_app", check_identifier("tenant", tenant_id)) as connection:
            yield connection

    @contextmanager
    def sweeper_transaction(self) -> Iterator[Connection]:
        """A transaction that sees what is due for every tenant and may push wake-ups and leases, nothing else."""
        with self._transaction("llmteam_sweeper") as connection:
            yield connection

    @contextmanager
    def owner_transaction(self) -> Iterator[Connection]:
        """A transaction for DDL, with the login of migrations.

        Row security binds the owner too, who has no policy and so sees no row. Raises :class:`RolesNotGrantedError`
        with a login that may not act as the owner.
        """
        with self._transaction("llmteam_owner") as connection:
            yield connection

    @contextmanager
    def login_transaction(self) -> Iterator[Connection]:
        """A transaction as the login itself, which has no rights of its own; for looking at the catalog."""
        with self._transaction(None) as connection:
            yield connection

    def check_schema(self) -> None:
        """Raise :class:`MigrationsNotAppliedError` unless this version of the package works on the tables."""
        schema.check_schema(self)

    def upgrade(self, *, stopped: bool = False) -> bool:
        """Apply the migrations that are missing, with the login of migrations; True when there were any.

        Two processes at once are safe. ``stopped`` says that nothing runs on the tables as they are: needed for
        migrations that the version before does not work with.
        """
        return schema.upgrade(self, stopped=stopped)

    def current(self) -> str | None:
        """The migration that the database has, or None."""
        return schema.current(self)

    def check_login(self) -> None:
        """Raise :class:`InsecureLoginError` when row security would not bind the login."""
        with self.login_transaction() as connection:
            roles.check_login(connection)

    def owner_risk(self) -> roles.OwnerRisk | None:
        """What is wrong with a login that may become the owner of the tables; None when it may not."""
        with self.login_transaction() as connection:
            return roles.owner_risk(connection)

    @contextmanager
    def _transaction(self, role: Role | None, tenant_id: str = "") -> Iterator[Connection]:
        with translated(self.server, self.setting), self._begun(role, tenant_id) as connection:
            yield connection
            raw = connection.connection
            # COMMIT of a failed transaction rolls back and reports success.
            if raw.get_transaction_status() == TRANSACTION_STATUS_INERROR:
                raise StatementError("a statement of this transaction failed and its error was not passed on")
            self._send(connection, "COMMIT")

    def _begun(self, role: Role | None, tenant_id: str) -> Connection:
        """A connection in a transaction; tried once more when the connection of the pool turns out to be dead."""
        for last in (False, True):
            connection = self._engine.connect()
            try:
                if role is None:
                    self._send(connection, "BEGIN")
                else:
                    self._send(connection, _BEGIN_AS, (role, tenant_id))
            except psycopg2.Error as exc:
                lost = is_lost(exc, connection.connection.closed)
                if lost:
                    connection.invalidate(exc)
                connection.close()
                if last or not lost:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise AssertionError

    def _send(self, connection: Connection, sql: str, params: tuple[str, ...] = ()) -> None:
        """Run ``sql`` past SQLAlchemy, which knows nothing of scripts and of transactions in autocommit."""
        self.round_trips += 1
        cursor = connection.connection.cursor()
        try:
            cursor.execute(sql, params)
        finally:
            cursor.close()


_BEGIN_AS = "BEGIN; SELECT set_config('role', %s, true), set_config('llmteam.tenant_id', %s, true)"


def parse_url(url: str) -> URL:
    """``url`` for psycopg2. Raises :class:`ConfigurationError` for another driver or text that is no URL."""
    try:
        parsed = make_url(url)
    except (sa.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in _DRIVERS:
        raise ConfigurationError(
            f"{SETTING} is {mask_url(url)!r}, but must be a URL like postgresql://user:password@host:5432/database"
        )
    return parsed.set(drivername="postgresql+psycopg2")


def connect_args(url: URL, application_name: str) -> dict[str, Any]:
    """Arguments for libpq. What the URL says wins."""
    named = {} if "application_name" in url.query else {"application_name": application_name}
    return {**libpq_args(url), **named}


def libpq_args(url: URL) -> dict[str, Any]:
    """Arguments for libpq with which it notices that a server went; what the URL says wins."""
    return {name: value for name, value in _LIBPQ.items() if name not in url.query}


def session_of(url: URL, statement_timeout: float, lock_timeout: float, idle_timeout: float) -> dict[str, str]:
    """Settings of each session. Times in seconds. What the URL's ``options`` name wins.

    JIT is off because a plan over tables without statistics would compile for longer than it runs; prepared statements
    look rows up by key, for which one plan fits all values.
    """
    session = {
        "statement_timeout": f"{round(statement_timeout * 1000)}",
        "lock_timeout": f"{round(lock_timeout * 1000)}",
        "idle_in_transaction_session_timeout": f"{round(idle_timeout * 1000)}",
        "timezone": "UTC",
        "search_path": SCHEMA,
        "jit": "off",
        "plan_cache_mode": "force_generic_plan",
        **_SESSION,
    }
    options = url.query.get("options", "")
    given = {name.lower() for name in _OPTION.findall(options if isinstance(options, str) else " ".join(options))}
    return {name: value for name, value in session.items() if name not in given}


def _prepares(session: Mapping[str, str]) -> Callable[[Any, ConnectionPoolEntry], None]:
    """Apply the settings to a new connection.

    By a statement, since poolers refuse the startup parameter that could carry them: a round trip for each connection.
    """
    calls = ", ".join(["set_config(%s, %s, false)"] * len(session))
    values = [part for item in session.items() for part in item]

    def prepare(connection: Any, record: ConnectionPoolEntry) -> None:
        was, connection.autocommit = connection.autocommit, True
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {calls}", values)  # names of our own settings are values too
        connection.autocommit = was

    return prepare


def _remember_process(connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_PROCESS] = os.getpid()


def _refuse_stale(connection: Any, record: ConnectionPoolEntry, fairy: PoolProxiedConnection) -> None:
    """Have a connection replaced that the server closed while it was idle.

    An idle connection has nothing to read; the end of the stream, or the notice of a shutdown, makes it readable.
    One system call, where a ping would be a round trip.
    """
    poller = record.info.get(_POLLER)
    if poller is None:
        poller = record.info[_POLLER] = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
    elif poller.poll(0):
        raise sa.DisconnectionError("closed by the server while idle")


def _end_transaction(connection: Any, record: ConnectionPoolEntry, state: object) -> None:
    """Before a connection returns to the pool: roll back what is open, which costs a round trip only then."""
    status = connection.get_transaction_status()
    if status == TRANSACTION_STATUS_IDLE:
        return
    if record.info.get(_PROCESS) != os.getpid():
        # A fork inside a transaction: the socket is the parent's. Unreferenced, psycopg2 leaves it alone.
        record.dbapi_connection = None  # type: ignore[misc]
    elif status in {TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR}:
        connection.cursor().execute("ROLLBACK")
    else:
        record.invalidate()


def _forget_after_fork(engine: Engine) -> None:
    reference = weakref.ref(engine)

    def forget() -> None:
        alive = reference()
        if alive is not None:
            alive.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
