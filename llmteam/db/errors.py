"""Driver errors in the words of this package.

::

    InfrastructureError
    ├── ConflictError           the transaction lost against another one; running it again is right
    ├── DatabaseTimeoutError    a statement, a lock or the pool took too long
    ├── PoolerError             what a session had prepared is gone: a pooler hands it to others
    ├── RolesNotGrantedError    the login may not act as llmteam's roles
    └── MigrationsNotAppliedError
    LLMTeamError
    └── StatementError          Postgres refused a statement
        ├── ConstraintError     … because of a constraint, which it names
        └── RefusedError        … because a function of the schema said no, and why

Postgres' DETAIL and the statement around an error hold values, so both stay out of the text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg2
from sqlalchemy import exc as sa

from llmteam.errors import InfrastructureError, LLMTeamError, MigrationsNotAppliedError

_Result = TypeVar("_Result")

SETTING = "LLMTEAM_DATABASE_URL"
MIGRATION_SETTING = "LLMTEAM_MIGRATION_URL"
PRINT_ROLES = "llmteam db upgrade --print-roles"

#: What functions of the schema raise when they refuse.
REFUSED = "LT001"

_TIMEOUTS = {"57014": "statement", "55P03": "lock"}
#: What Postgres says when the output of :data:`PRINT_ROLES` was never run, by SQLSTATE.
_NOT_GRANTED = {
    "22023": re.compile('role "llmteam_'),
    "42704": re.compile('role "llmteam_'),
    "42501": re.compile("permission denied (to set role|for schema)"),
    "3F000": re.compile('schema "llmteam"'),
}
#: A prepared statement is not there, or there already.
_PREPARED = {"26000", "42P05"}
_SHUTDOWNS = {"57P01", "57P02", "57P03", "57P05"}
#: Classes of SQLSTATE for which trying later is the answer: connection, resources, system, read-only standby.
_TRANSIENT = ("08", "53", "58", "XX")


class ConflictError(InfrastructureError):
    """A serialization failure or deadlock undid the transaction; :func:`run_transaction` runs it again."""


class DatabaseTimeoutError(InfrastructureError):
    """A statement, a row lock or a connection of the pool was not there in time."""


class PoolerError(InfrastructureError):
    """A pooler between here and Postgres gave this session's statements to other clients, or theirs to this one."""

    retryable = False


class RolesNotGrantedError(InfrastructureError):
    """The roles of llmteam do not exist, or the login is not allowed to act as one of them."""

    retryable = False


class StatementError(LLMTeamError):
    """Postgres refused a statement. ``sqlstate`` is its code (PostgreSQL manual, appendix A)."""

    retryable = False

    def __init__(self, message: str, sqlstate: str = "") -> None:
        super().__init__(f"{message} (SQLSTATE {sqlstate})" if sqlstate else message)
        self.sqlstate = sqlstate


class ConstraintError(StatementError):
    """A row was refused by a constraint. Constraint names are part of the interface of the tables."""

    def __init__(self, constraint: str, sqlstate: str = "") -> None:
        super().__init__(f"a row was refused by the constraint {constraint}", sqlstate)
        self.constraint = constraint


class RefusedError(StatementError):
    """A function of the schema refused; ``reason`` is what it says, for the caller to put into words."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the database refused: {reason}", REFUSED)
        self.reason = reason


def constraint_of(exc: BaseException) -> str | None:
    """The name of the constraint that refused a row, or None when ``exc`` is something else."""
    if isinstance(exc, ConstraintError):
        return exc.constraint
    driver = exc.orig if isinstance(exc, sa.DBAPIError) else exc
    return driver.diag.constraint_name if isinstance(driver, psycopg2.IntegrityError) else None


def run_transaction(work: Callable[[], _Result], attempts: int = 3) -> _Result:
    """Call ``work``, again when it lost against another transaction; ``work`` opens and ends its own transaction."""
    for attempt in range(1, attempts):
        try:
            return work()
        except ConflictError:
            time.sleep(0.01 * 2**attempt)
    return work()


@contextmanager
def translated(server: str, setting: str = SETTING) -> Iterator[None]:
    """Raise errors of the driver, of SQLAlchemy and of its pool as errors of this package."""
    try:
        yield
    except (psycopg2.Error, sa.DBAPIError, sa.TimeoutError) as exc:
        raise translate(exc, server, setting) from None


def translate(exc: BaseException, server: str, setting: str = SETTING) -> Exception:
    """``exc`` as an error of this package; it names the masked URL ``server`` and the ``setting`` that has it."""
    where = f"Postgres at {server} ({setting})"
    if isinstance(exc, sa.TimeoutError):
        return DatabaseTimeoutError(f"{where}: every connection of this process's pool stayed busy: run fewer at once")
    driver = exc.orig if isinstance(exc, sa.DBAPIError) else exc
    if not isinstance(driver, psycopg2.Error):
        return InfrastructureError(f"{where}: {_first_line(exc)}")
    state = driver.pgcode or ""
    if not state and (
        isinstance(driver, psycopg2.OperationalError | psycopg2.InterfaceError)
        or type(driver) is psycopg2.DatabaseError
    ):
        return InfrastructureError(
            f"{where} cannot be reached: {_first_line(driver)}: check that the server runs and that {setting} is right"
        )
    return _of_state(driver, state, driver.diag.message_primary or _first_line(driver), where)


def _of_state(driver: psycopg2.Error, state: str, primary: str, where: str) -> Exception:
    if state.startswith("23"):
        return ConstraintError(driver.diag.constraint_name or f"on column {driver.diag.column_name}", state)
    if state == REFUSED:
        return RefusedError(primary)
    if state.startswith("40"):
        return ConflictError(f"{where}: {primary}: another transaction was first")
    if state in _TIMEOUTS:
        return DatabaseTimeoutError(f"{where}: {primary}: the {_TIMEOUTS[state]} timeout was reached")
    if state in _PREPARED:
        return PoolerError(f"{where}: {primary}: a pooler between here and Postgres has to be in session mode")
    if state == "25006":
        return InfrastructureError(f"{where} is read only: it must be the primary server")
    if state in _SHUTDOWNS or state.startswith(_TRANSIENT):
        return InfrastructureError(f"{where}: {primary}")
    if state == "42P01" and '"llmteam.' in primary:
        return MigrationsNotAppliedError(f"{where}: {primary}: run: llmteam db upgrade")
    if state in _NOT_GRANTED and _NOT_GRANTED[state].search(primary):
        return RolesNotGrantedError(f"{where}: {primary}: have a DBA run the output of: {PRINT_ROLES}")
    return StatementError(f"{where} refused a statement: {primary}", state)


def is_lost(exc: psycopg2.Error, closed: int) -> bool:
    """Whether ``exc`` says that its connection is gone; ``closed`` is the connection's own flag."""
    state = exc.pgcode or ""
    return closed != 0 or isinstance(exc, psycopg2.InterfaceError) or state in _SHUTDOWNS or state.startswith("08")


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
