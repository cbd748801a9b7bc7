"""The engine's fast path: whole scripts of SQL in one round trip, past SQLAlchemy's statement layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS

from llmteam import metrics
from llmteam.db.errors import StatementError, is_lost, translate
from llmteam.errors import InfrastructureError

if TYPE_CHECKING:
    from psycopg2 import extensions
    from sqlalchemy.pool import PoolProxiedConnection

    from llmteam.db.engine import Database

Params = Sequence[Any] | Mapping[str, Any]
HotRole = Literal["llmteam_app", "llmteam_sweeper"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that each connection plans once. Its text has ``%s`` for each value; ``call`` runs it in a script.

    Planning the statements of a step anew would cost Postgres more than running them.
    """

    name: str
    text: str

    @property
    def call(self) -> str:
        return f"EXECUTE {self.name}({', '.join(['%s'] * self.text.count('%s'))});"

    @property
    def definition(self) -> str:
        parts = self.text.split("%s")
        numbered = "".join(f"{part}${number}" for number, part in enumerate(parts[:-1], 1)) + parts[-1]
        return f"PREPARE {self.name} AS {numbered};"


_PREPARED = "llmteam.prepared"


class HotConnection:
    """One checkout of a pooled connection, made by :meth:`Database.hot` and used in a ``with`` statement.

    For one thread. What is not committed when the statement is left, is rolled back.
    """

    __slots__ = ("_cursor", "_database", "_fairy", "_fresh", "_raw", "_role", "_tenant_id")

    _fairy: PoolProxiedConnection
    _raw: extensions.connection
    _cursor: extensions.cursor

    def __init__(self, database: Database, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._role: HotRole = "llmteam_app"

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The pool's reset handler rolls an open transaction back.
        self._cursor.close()
        self._fairy.close()

    def script(
        self,
        sql: str,
        params: Params = (),
        *,
        role: HotRole = "llmteam_app",
        begin: bool = False,
        prepared: Iterable[Prepared] = (),
    ) -> list[tuple[Any, ...]] | None:
        """Run statements separated by ``;`` in one round trip; the rows of the last one, or None when it has none.

        Without ``begin`` the script is one transaction that ends with it. With ``begin`` the transaction stays open
        for the scripts that follow in this checkout, until one ends with ``COMMIT``. Values go through ``params``
        (``%s`` or ``%(name)s``; a plain percent sign is written ``%%``), which the driver binds on this side.
        ``prepared`` names what the script calls; a connection that has not planned it yet does so first, once.

        Raises :class:`ConstraintError`, :class:`ConflictError`, :class:`StatementError`,
        :class:`InfrastructureError`. A connection that breaks is never used again. Whether a script without
        ``begin`` took effect is then unknown, so only one with it is tried a second time, on a new connection.
        """
        status = self._raw.get_transaction_status()
        if status == TRANSACTION_STATUS_IDLE:
            sql = (
                f"{'BEGIN;' if begin else ''}SELECT set_config('role', '{role}', true),"
                # The identifier was checked: its alphabet has no quote, backslash or percent sign.
                f" set_config('llmteam.tenant_id', '{self._tenant_id}', true);{sql}"
            )
        elif self._raw.closed:
            raise InfrastructureError(f"the connection to Postgres at {self._database.server} was lost: start again")
        elif status != TRANSACTION_STATUS_INTRANS:
            raise StatementError("a script of this transaction failed and its error was not passed on")
        elif begin:
            raise StatementError("a transaction is already open in this checkout")
        elif role != self._role:
            sql = f"SELECT set_config('role', '{role}', true);{sql}"
        self._role = role
        try:
            self._prepare(prepared)
            return self._run(sql, params)
        except psycopg2.Error as exc:
            if not self._lost(exc) or not begin or not self._fresh:
                raise translate(exc, self._database.server, self._database.setting) from None
        self._open()
        try:
            self._prepare(prepared)
            return self._run(sql, params)
        except psycopg2.Error as exc:
            self._lost(exc)
            raise translate(exc, self._database.server, self._database.setting) from None

    def rollback(self) -> None:
        """End the open transaction, if there is one, without effect; costs a round trip only then."""
        if self._raw.closed or self._raw.get_transaction_status() == TRANSACTION_STATUS_IDLE:
            return
        try:
            self._run("ROLLBACK", ())
        except psycopg2.Error as exc:
            self._lost(exc)
            raise translate(exc, self._database.server, self._database.setting) from None

    def _open(self) -> None:
        self._fairy = self._database.checkout()
        self._raw = self._fairy.dbapi_connection  # type: ignore[assignment]
        self._cursor = self._raw.cursor()
        self._fresh = True

    def _prepare(self, wanted: Iterable[Prepared]) -> None:
        known: set[str] = self._fairy.info.setdefault(_PREPARED, set())
        missing = {statement.name: statement.definition for statement in wanted if statement.name not in known}
        if missing:
            self._run(f"SELECT set_config('role', '{self._role}', true);{''.join(missing.values())}", None)
            known.update(missing)

    def _run(self, sql: str, params: Params | None) -> list[tuple[Any, ...]] | None:
        cursor = self._cursor
        self._database.round_trips += 1
        if metrics.is_on():
            began = perf_counter()
            cursor.execute(sql, params)
            metrics.ROUND_TRIPS.observe(perf_counter() - began)
        else:
            cursor.execute(sql, params)
        self._fresh = False
        return cursor.fetchall() if cursor.description is not None else None

    def _lost(self, exc: psycopg2.Error) -> bool:
        """Whether the connection is gone; then it has left the pool."""
        if not is_lost(exc, self._raw.closed):
            return False
        self._fairy.invalidate(exc)
        return True


class Script:
    """A script of statements that is sent in one round trip."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._params: list[Any] = []
        self._prepared: list[Prepared] = []

    def add(self, statement: str | Prepared, *params: Any) -> Self:
        """Append a statement with its values."""
        if isinstance(statement, Prepared):
            self._prepared.append(statement)
            statement = statement.call
        self._texts.append(statement)
        self._params.extend(params)
        return self

    def run(self, connection: HotConnection, *, begin: bool = False) -> list[tuple[Any, ...]] | None:
        """As :meth:`HotConnection.script`."""
        return connection.script("".join(self._texts), self._params, begin=begin, prepared=self._prepared)
