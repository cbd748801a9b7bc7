"""The version of the tables: which one this package needs, which one a database has, and the way between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import NullPool, create_engine, text

from llmteam.db.errors import MIGRATION_SETTING, RolesNotGrantedError, translated
from llmteam.db.roles import LOCK, OWNER, check_server_version
from llmteam.db.tables import SCHEMA
from llmteam.errors import MigrationsNotAppliedError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

    from llmteam.db.engine import Database

#: The newest migration, named here so that a look at the version does not load Alembic.
HEAD = "0014"

VERSION_TABLE = "alembic_version"
MIGRATIONS = Path(__file__).parent / "migrations"


def current(database: Database) -> str | None:
    """The migration that the database has; None when none was ever applied."""
    try:
        with database.hot(None) as hot:
            rows = hot.script("SELECT version_num FROM llmteam.alembic_version")
    except MigrationsNotAppliedError:
        return None
    return str(rows[0][0]) if rows else None


def check_schema(database: Database) -> None:
    """Raise :class:`MigrationsNotAppliedError` unless this version of the package works on the tables.

    It does on its own, and on newer ones whose migrations say so: see :func:`upgrade`.
    """
    found = current(database)
    if found is None:
        raise MigrationsNotAppliedError(
            f"the database {database.server} has no llmteam tables: run: llmteam db upgrade"
        )
    if found < HEAD:
        raise MigrationsNotAppliedError(
            f"the tables in {database.server} are at {found}, this version of llmteam needs {HEAD}: "
            "run: llmteam db upgrade"
        )
    if found > HEAD:
        with database.hot(None) as hot:
            ((works_with,),) = hot.script("SELECT works_with FROM llmteam.alembic_version") or [(found,)]
        _check_newer(found, str(works_with), database.server)


def _check_newer(found: str, works_with: str, server: str) -> None:
    if works_with > HEAD:
        raise MigrationsNotAppliedError(
            f"the tables in {server} are at {found} and work with llmteam from {works_with} on, this one knows {HEAD}: "
            "update llmteam here"
        )


def upgrade(database: Database, *, stopped: bool = False) -> bool:
    """Bring the tables to :data:`HEAD` in one transaction; True when there was something to do.

    Two processes at once take turns. A migration waits ten seconds for a lock on a table and then gives up, because
    everyone else would queue behind it. The login of ``database`` needs no right but to act as the owner.

    Each migration names in ``works_with`` the oldest one whose package goes on working when it has been applied: while
    that is not newer than the tables are now, workers of both versions may run. Else nothing is changed, unless
    ``stopped`` says that nothing of the other version runs any more.

    Raises :class:`MigrationsNotAppliedError` when the tables are too new for this package, or what runs on them is too
    old for it, and :class:`RolesNotGrantedError` when the login may not act as the owner.
    """
    try:
        return _upgrade(database, stopped)
    except RolesNotGrantedError as exc:
        if database.setting == MIGRATION_SETTING or "set role" not in str(exc):
            raise
        raise RolesNotGrantedError(
            f"{exc}, and set {MIGRATION_SETTING} to the login that it lets act as {OWNER}"
        ) from None


def _upgrade(database: Database, stopped: bool) -> bool:
    engine = create_engine(database.url, poolclass=NullPool, use_native_hstore=False, hide_parameters=True)
    with translated(database.server, database.setting), engine.begin() as connection:
        version = connection.connection.dbapi_connection.server_version  # type: ignore[union-attr]
        check_server_version(version)
        connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        return _migrate(connection, database.server, stopped)


def _migrate(connection: Connection, server: str, stopped: bool) -> bool:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

    options = {"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
    before = MigrationContext.configure(connection, opts=options).get_current_revision()
    if before == HEAD:
        return False
    if before is not None and before > HEAD:
        _check_newer(before, str(connection.scalar(text("SELECT works_with FROM llmteam.alembic_version"))), server)
        return False
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    works_with = _works_with(config)
    if before is not None and before < works_with and not stopped:
        raise MigrationsNotAppliedError(
            f"what runs on the tables of {server} may be of {before}, those of {HEAD} work with {works_with} or newer: "
            "stop workers, beat and inbox, then run: llmteam db upgrade --stopped"
        )
    command.upgrade(config, "head")
    connection.execute(text("UPDATE llmteam.alembic_version SET works_with = :oldest"), {"oldest": works_with})
    return True


def _works_with(config: Config) -> str:
    """The oldest migration whose package works on the tables of :data:`HEAD`."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(config).walk_revisions()
    return max(str(getattr(script.module, "works_with", script.revision)) for script in scripts)
