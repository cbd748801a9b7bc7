"""The three roles behind row security, the two logins that may act as them, and the check that they cannot do more.

``llmteam_owner`` owns the schema and its tables, ``llmteam_app`` works as one tenant, ``llmteam_sweeper`` looks for
what is due. None of them can log in. Whatever runs logs in with one that may become the last two; migrations log in
with another, which may become the owner. Logins inherit nothing: each transaction becomes one of the roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql as psql
from psycopg2.extensions import cursor
from sqlalchemy import Connection, text

from llmteam.db.errors import MIGRATION_SETTING, PRINT_ROLES, SETTING
from llmteam.errors import ConfigurationError, InfrastructureError
from llmteam.settings import mask_url

OWNER = "llmteam_owner"
APP = "llmteam_app"
SWEEPER = "llmteam_sweeper"
ROLES = (OWNER, APP, SWEEPER)
#: What the login of running processes has to act as.
RUNNING = (APP, SWEEPER)

#: ``GRANT role … WITH INHERIT FALSE, SET TRUE`` came with this release.
LEAST_SERVER = 16

#: Key of the advisory lock under which roles, databases and migrations are made ("llmteam" in hex).
LOCK = 0x6C6C6D7465616D

_ROLE = (
    "DO $$ BEGIN CREATE ROLE {role} NOLOGIN NOINHERIT; "
    "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;"
)
_SCHEMA = f"""\
CREATE SCHEMA IF NOT EXISTS llmteam AUTHORIZATION {OWNER};
GRANT USAGE ON SCHEMA llmteam TO {APP}, {SWEEPER};"""


class InsecureLoginError(ConfigurationError):
    """The login of ``LLMTEAM_DATABASE_URL`` would not be bound by row security, or cannot act as llmteam's roles."""


def quoted(identifier: str) -> str:
    """``identifier`` as SQL writes it (PostgreSQL manual, section 4.1.1)."""
    if not identifier or "\x00" in identifier:
        raise ConfigurationError(f"{identifier!r} is no name for a Postgres role or database")
    return '"' + identifier.replace('"', '""') + '"'


def roles_sql(login: str, migration_login: str) -> str:
    """SQL that a DBA runs once, in the database of llmteam, so that both logins can be used; again does no harm.

    ``login`` is for what runs, and loses the right to become the owner; ``migration_login`` has it instead. When they
    are the same, the one login has all three roles.
    """
    return "\n".join(
        [
            f"-- Roles and schema of llmteam; needs Postgres {LEAST_SERVER} or newer. Run as superuser. On a managed",
            f"-- server without one: the lines that create roles, then GRANT {OWNER} TO CURRENT_USER, then the rest.",
            *(_ROLE.format(role=role) for role in ROLES),
            *_grants(login, migration_login),
            _SCHEMA,
            "",
        ]
    )


def _grants(login: str, migration_login: str) -> list[str]:
    running, migrating = quoted(login), quoted(migration_login)
    options = "WITH INHERIT FALSE, SET TRUE;"
    if login == migration_login:
        return [
            f"-- One login, {running}: whoever can send SQL with it can become the owner and lift what binds tenants.",
            f"GRANT {', '.join(ROLES)} TO {running} {options}",
        ]
    return [
        "-- Both logins have to be there: CREATE ROLE … LOGIN NOINHERIT PASSWORD '…'. They own and inherit nothing:",
        *(f"-- ALTER ROLE {name} NOSUPERUSER NOBYPASSRLS" for name in (running, migrating)),
        f"-- Of {MIGRATION_SETTING}, which llmteam db upgrade uses and nothing else needs:",
        f"GRANT {OWNER} TO {migrating} {options}",
        f"-- Of {SETTING}, which everything uses that runs; Postgres warns when there is nothing to revoke:",
        f"GRANT {', '.join(RUNNING)} TO {running} {options}",
        f"REVOKE {OWNER} FROM {running};",
    ]


def provision(
    superuser_url: str,
    login: str,
    database: str,
    *,
    migration_login: str,
    password: str | None = None,
    migration_password: str | None = None,
) -> None:
    """Make the roles, the logins and the database with its empty schema; what is there already stays.

    A ``login`` that could become the owner cannot any more, unless it is the ``migration_login`` as well.
    ``superuser_url`` names any database of the server. Raises :class:`InfrastructureError` when the server cannot be
    reached or is older than Postgres 16.
    """
    try:
        passwords = {migration_login: migration_password, login: password}
        _provision(superuser_url, passwords, database, roles_sql(login, migration_login))
    except psycopg2.OperationalError as exc:
        first = (str(exc).strip().splitlines() or ["?"])[0]
        raise InfrastructureError(f"Postgres at {mask_url(superuser_url)} cannot be set up: {first}") from None


def _provision(superuser_url: str, logins: Mapping[str, str | None], database: str, inside: str) -> None:
    """Make the logins, with their passwords, and the database, and run ``inside`` there."""
    url = superuser_url.replace("postgresql+psycopg2://", "postgresql://", 1)
    connection = psycopg2.connect(url, connect_timeout=5, application_name="llmteam provision")
    try:
        connection.autocommit = True
        check_server_version(connection.server_version)
        cursor = connection.cursor()
        # Roles and databases belong to the server: two who set it up at once take turns.
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        for login, password in logins.items():
            _make_login(cursor, login, password)
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {quoted(database)} ENCODING 'UTF8' TEMPLATE template0")
        there = psycopg2.connect(url, dbname=database, connect_timeout=5)
        try:
            with there, there.cursor() as work:
                work.execute(inside)
        finally:
            there.close()
    finally:
        connection.close()


def _make_login(cursor: cursor, login: str, password: str | None) -> None:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (login,))
    if cursor.fetchone() is None:
        cursor.execute(f"CREATE ROLE {quoted(login)} LOGIN NOINHERIT")
    if password is not None:
        cursor.execute(psql.SQL("ALTER ROLE {} PASSWORD {}").format(psql.Identifier(login), psql.Literal(password)))


def check_server_version(version: int) -> None:
    """Raise :class:`InfrastructureError` when ``version`` (as in ``server_version_num``) is too old."""
    if version // 10_000 < LEAST_SERVER:
        raise InfrastructureError(
            f"Postgres {version // 10_000} is too old: llmteam needs {LEAST_SERVER} or newer ({SETTING})"
        )


_LOOK = text(
    """
    SELECT session_user, r.rolsuper, r.rolbypassrls,
           EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = 'llmteam' AND n.nspowner = r.oid)
           OR EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE n.nspname = 'llmteam' AND c.relowner = r.oid),
           current_setting('server_version_num')::int
    FROM pg_roles r WHERE r.rolname = session_user
    """
)
_MEMBER = text(
    """
    SELECT rolname, pg_has_role(session_user, oid, 'USAGE'), pg_has_role(session_user, oid, 'SET')
    FROM pg_roles WHERE rolname = ANY (:roles)
    """
)


def check_login(connection: Connection) -> None:
    """Raise :class:`InsecureLoginError` unless row security binds the login and it can act as tenant and sweeper.

    Refused are superusers, BYPASSRLS, owners of the schema or its tables, and logins that have the rights of the
    roles without becoming one of them. A login that may become the owner passes: see :func:`owner_risk`.
    """
    login, superuser, bypass, owns, version = connection.execute(_LOOK).one()
    check_server_version(version)
    name = quoted(login)
    if superuser or bypass:
        what, option = (
            ("a superuser", "NOSUPERUSER") if superuser else ("allowed to bypass row security", "NOBYPASSRLS")
        )
        raise _insecure(login, f"is {what}, so tenants would not be kept apart", f"ALTER ROLE {name} {option}")
    if owns:
        raise _insecure(login, "owns tables of the schema llmteam", f"REASSIGN OWNED BY {name} TO {OWNER}")
    found = {
        role: (inherits, can_set) for role, inherits, can_set in connection.execute(_MEMBER, {"roles": list(ROLES)})
    }
    for role in ROLES:
        inherits, can_set = found.get(role, (False, False))
        if role in RUNNING and not can_set:
            raise _insecure(login, f"may not act as {role}", f"the output of: {PRINT_ROLES}")
        if inherits:
            raise _insecure(
                login, f"has the rights of {role} all the time", f"GRANT {role} TO {name} WITH INHERIT FALSE, SET TRUE"
            )


@dataclass(frozen=True, slots=True)
class OwnerRisk:
    """What is wrong with a login that may become the owner, and ``advice``, what a DBA runs."""

    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.found}: {self.advice}"


# MEMBER counts every way there is, also one that leads through other roles or needs a grant to oneself first.
_OWNER = text("SELECT session_user, pg_has_role(session_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = :owner")


def owner_risk(connection: Connection) -> OwnerRisk | None:
    """What is wrong with a login that may become the owner of the tables; None when it may not."""
    row = connection.execute(_OWNER, {"owner": OWNER}).one_or_none()
    if row is None or not row[1]:
        return None
    return OwnerRisk(
        f"the login {row[0]!r} of {SETTING} may become {OWNER}, so that whoever can send SQL of their own with it can "
        "drop row security and the triggers of the audit trail",
        f"have a DBA run the output of: {PRINT_ROLES} (above all: REVOKE {OWNER} FROM {quoted(row[0])}), and set "
        f"{MIGRATION_SETTING} to the other login, for llmteam db upgrade alone",
    )


def _insecure(login: str, fault: str, fix: str) -> InsecureLoginError:
    return InsecureLoginError(f"the login {login!r} of {SETTING} {fault}: have a DBA run {fix}")
