"""The three roles behind row security, the login that may act as them, and the check that the login cannot do more.

``llmteam_owner`` owns the schema and its tables, ``llmteam_app`` works as one tenant, ``llmteam_sweeper`` looks for
what is due. None of them can log in. The login inherits nothing: each transaction becomes one of the roles.
"""

from __future__ import annotations

import psycopg2
from psycopg2 import sql as psql
from sqlalchemy import Connection, text

from llmteam.db.errors import PRINT_ROLES, SETTING
from llmteam.errors import ConfigurationError, InfrastructureError
from llmteam.settings import mask_url

OWNER = "llmteam_owner"
APP = "llmteam_app"
SWEEPER = "llmteam_sweeper"
ROLES = (OWNER, APP, SWEEPER)

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


def roles_sql(login: str) -> str:
    """SQL that a DBA runs once, in the database of llmteam, so that ``login`` can be used; again does no harm."""
    return "\n".join(
        [
            f"-- Roles and schema of llmteam; needs Postgres {LEAST_SERVER} or newer. Run as superuser. On a managed",
            f"-- server without one: the lines that create roles, then GRANT {OWNER} TO CURRENT_USER, then the rest.",
            *(_ROLE.format(role=role) for role in ROLES),
            f"-- The login owns nothing and inherits nothing: ALTER ROLE {quoted(login)} NOSUPERUSER NOBYPASSRLS",
            f"GRANT {', '.join(ROLES)} TO {quoted(login)} WITH INHERIT FALSE, SET TRUE;",
            _SCHEMA,
            "",
        ]
    )


def provision(superuser_url: str, login: str, database: str, *, password: str | None = None) -> None:
    """Make the roles, the login and the database with its empty schema; what is there already stays.

    ``superuser_url`` names any database of the server. Raises :class:`InfrastructureError` when the server cannot be
    reached or is older than Postgres 16.
    """
    try:
        _provision(superuser_url, login, database, password)
    except psycopg2.OperationalError as exc:
        first = (str(exc).strip().splitlines() or ["?"])[0]
        raise InfrastructureError(f"Postgres at {mask_url(superuser_url)} cannot be set up: {first}") from None


def _provision(superuser_url: str, login: str, database: str, password: str | None) -> None:
    url = superuser_url.replace("postgresql+psycopg2://", "postgresql://", 1)
    connection = psycopg2.connect(url, connect_timeout=5, application_name="llmteam provision")
    try:
        connection.autocommit = True
        check_server_version(connection.server_version)
        cursor = connection.cursor()
        # Roles and databases belong to the server: two who set it up at once take turns.
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (login,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE ROLE {quoted(login)} LOGIN NOINHERIT")
        if password is not None:
            cursor.execute(psql.SQL("ALTER ROLE {} PASSWORD {}").format(psql.Identifier(login), psql.Literal(password)))
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {quoted(database)} ENCODING 'UTF8' TEMPLATE template0")
        inside = psycopg2.connect(url, dbname=database, connect_timeout=5)
        try:
            with inside, inside.cursor() as work:
                work.execute(roles_sql(login))
        finally:
            inside.close()
    finally:
        connection.close()


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
    """Raise :class:`InsecureLoginError` unless row security binds the login and it can act as the three roles.

    Refused are superusers, BYPASSRLS, owners of the schema or its tables, and logins that have the rights of the
    roles without becoming one of them.
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
        if not can_set:
            raise _insecure(login, f"may not act as {role}", f"the output of: {PRINT_ROLES}")
        if inherits:
            raise _insecure(
                login, f"has the rights of {role} all the time", f"GRANT {role} TO {name} WITH INHERIT FALSE, SET TRUE"
            )


def _insecure(login: str, fault: str, fix: str) -> InsecureLoginError:
    return InsecureLoginError(f"the login {login!r} of {SETTING} {fault}: have a DBA run {fix}")
