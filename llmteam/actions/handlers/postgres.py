"""A database of the operator's own as a client of the runtime: single statements, bound parameters, limits."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy import exc as sa
from sqlalchemy.sql.elements import TextClause

from llmteam import codec
from llmteam.actions.exceptions import ActionDataError
from llmteam.db.engine import libpq_args
from llmteam.errors import ConfigurationError, InfrastructureError, PayloadTooLargeError

#: Rows that an answer may have.
MAX_ROWS = 10_000
_DRIVER = "postgresql+psycopg2"


class SqlEngine:
    """Statements against one Postgres, registered by ``register_client``: its address is the operator's and trusted.

    ``engine`` is a SQLAlchemy engine or a URL. Raises :class:`ConfigurationError` for another kind of database.
    """

    def __init__(self, engine: Engine | str, *, max_rows: int = MAX_ROWS) -> None:
        if isinstance(engine, str):
            try:
                engine = _engine_of(make_url(engine))
            except (sa.ArgumentError, ImportError):
                raise ConfigurationError("SqlEngine: the URL is none of a Postgres database") from None
        if engine.dialect.name != "postgresql":
            raise ConfigurationError(f"SqlEngine: it takes Postgres, not {engine.dialect.name}")
        self._engine = engine
        self._max_rows = max_rows

    async def request(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """Run the statement ``path`` with ``parameters``; ``method`` is READ or WRITE."""
        limits = {"seconds": 30.0, "max_bytes": 5 * 1024 * 1024, **kwargs}
        parameters = limits.pop("parameters", {})
        return await asyncio.to_thread(self.run, path, parameters, read_only=method.upper() == "READ", **limits)

    def close(self) -> None:
        """Close the idle connections."""
        self._engine.dispose()

    def names(self, statement: str) -> frozenset[str]:
        """As :meth:`Statements.names`."""
        return frozenset(_single(statement).compile().params)

    def run(
        self, statement: str, parameters: Mapping[str, Any], *, read_only: bool, seconds: float, max_bytes: int
    ) -> dict[str, Any]:
        """As :meth:`Statements.run`. Raises :class:`ActionDataError` for what the database refuses, without its values.

        A read-only statement runs in a read-only transaction, which the server enforces.
        """
        bound = {name: _bindable(value) for name, value in parameters.items()}
        failure: Exception
        try:
            with self._engine.connect() as connection, connection.begin() as transaction:
                connection.execute(
                    text("SELECT set_config('statement_timeout', :ms, true)"), {"ms": f"{seconds * 1000:.0f}"}
                )
                if read_only:
                    connection.execute(text("SET TRANSACTION READ ONLY"))
                result = connection.execute(_single(statement), bound)
                answer = self._answer(result, max_bytes)
                if read_only:
                    transaction.rollback()
                return answer
        except sa.OperationalError as exc:
            canceled = getattr(exc.orig, "pgcode", None) == "57014"
            failure = TimeoutError("the statement took too long") if canceled else _unreachable(exc)
        except sa.SQLAlchemyError as exc:
            code = getattr(getattr(exc, "orig", None), "pgcode", None)
            failure = ActionDataError(f"the database refuses the statement ({code or type(exc).__name__})")
        # Out here, so that the library's error, whose text may have the values, is not its context.
        raise failure

    def _answer(self, result: Any, max_bytes: int) -> dict[str, Any]:
        if not result.returns_rows:
            return {"rows": [], "row_count": max(result.rowcount, 0)}
        found = result.mappings().fetchmany(self._max_rows + 1)
        if len(found) > self._max_rows:
            raise ActionDataError(f"the answer is over {self._max_rows:,} rows: ask for fewer")
        rows = [{name: _plain(value) for name, value in row.items()} for row in found]
        size = len(codec.dumps(rows, path="$.rows").encode())
        if size > max_bytes:
            raise PayloadTooLargeError("the answer", size, max_bytes)
        return {"rows": rows, "row_count": len(rows)}


def _engine_of(url: URL) -> Engine:
    """An engine that notices when the server goes without a word; other drivers than those of libpq are left alone.

    A URL that names no driver means psycopg2, which is always there.
    """
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername=_DRIVER)
    libpq = url.drivername in {_DRIVER, "postgresql+psycopg"}
    return create_engine(url, hide_parameters=True, connect_args=libpq_args(url) if libpq else {})


def _single(statement: str) -> TextClause:
    whole = statement.strip().removesuffix(";")
    if ";" in whole:
        raise ActionDataError("the statement has a semicolon inside: give a single one, and such text as a parameter")
    return text(whole)


def _bindable(value: Any) -> Any:
    return codec.dumps(value) if isinstance(value, dict) else value


def _unreachable(exc: sa.OperationalError) -> Exception:
    return InfrastructureError(f"the action's database does not answer ({type(exc.orig).__name__})")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    return value
