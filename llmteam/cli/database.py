"""``llmteam db``: the tables and the roles behind them."""

from __future__ import annotations

import sys
from urllib.parse import unquote, urlsplit

import click

from llmteam.cli import codes
from llmteam.cli.options import json_option, load_settings
from llmteam.cli.render import print_json
from llmteam.cli.servers import installation
from llmteam.errors import ConfigurationError, MigrationsNotAppliedError
from llmteam.settings import Settings, variable


@click.group(name="db")
def db() -> None:
    """The database: tables and roles."""


@db.command()
@click.option("--print-roles", is_flag=True, help="Write the SQL that a DBA runs once, and do nothing.")
@click.option("--login", metavar="NAME", help="The login of --print-roles; by default that of LLMTEAM_DATABASE_URL.")
@click.option(
    "--migration-login",
    metavar="NAME",
    help="The other login of --print-roles; by default that of LLMTEAM_MIGRATION_URL, else the login with _migration.",
)
@click.option("--stopped", is_flag=True, help="Workers, beat and inbox of the version before are stopped.")
@json_option
def upgrade(print_roles: bool, login: str | None, migration_login: str | None, stopped: bool, as_json: bool) -> None:
    """Bring the tables to the version that this llmteam needs. Again does no harm.

    Logs in as LLMTEAM_MIGRATION_URL says, which no other command uses, else as LLMTEAM_DATABASE_URL. Workers of the
    version before go on meanwhile and afterwards; where they could not, it refuses and asks for --stopped.
    """
    settings = load_settings()
    if print_roles:
        from llmteam.db import roles_sql

        running = login or _login_of(settings.database_url, "database_url", "--login")
        click.echo(roles_sql(running, migration_login or _migration_login(settings, running)), nl=False)
        return
    with installation(settings) as place:
        changed = place.migrate(stopped=stopped)
        database = place.database()
        version = database.current()
        database.check_login()
        database.close()
    if as_json:
        print_json({"version": version, "changed": changed})
    else:
        click.echo(f"the tables are at {version}{'' if changed else ', as they were'}")


@db.command()
@json_option
def current(as_json: bool) -> None:
    """Tell which version the tables have; exit code 1 unless this llmteam works on it."""
    with installation(load_settings()) as place:
        from llmteam.db.schema import HEAD

        database = place.database()
        version = database.current()
        problem = None
        try:
            database.check_schema()
        except MigrationsNotAppliedError as exc:
            problem = str(exc)
        database.close()
    if as_json:
        print_json({"version": version, "needed": HEAD, "works": problem is None})
    elif problem is None:
        click.echo(f"{version}, as needed" if version == HEAD else f"{version}, newer than {HEAD}, which works on it")
    else:
        click.echo(f"{version or 'no tables'}: {problem}")
    sys.exit(codes.DONE if problem is None else codes.FAILED)


def _migration_login(settings: Settings, running: str) -> str:
    if settings.migration_url is None:
        return f"{running}_migration"
    return _login_of(settings.migration_url, "migration_url", "--migration-login")


def _login_of(url: str | None, setting: str, option: str) -> str:
    from llmteam.embedded import LOGIN

    if url is None:
        return LOGIN
    name = urlsplit(url).username
    if not name:
        raise ConfigurationError(f"{variable(setting)} names no user: say which login is meant with {option} NAME")
    return unquote(name)
