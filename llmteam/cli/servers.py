"""Where Postgres and the broker are: as the settings say, else embedded under the home, started or joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmteam.cli.child import Orders
from llmteam.errors import ConfigurationError, InfrastructureError
from llmteam.settings import Settings, variable
from llmteam.variables import encryption_keys_text

if TYPE_CHECKING:
    from llmteam.canvas.runs import Runs
    from llmteam.db import Database
    from llmteam.embedded import EmbeddedServers


@dataclass(frozen=True)
class Installation:
    """Settings with every server's URL. ``servers`` are the embedded ones that this process keeps running."""

    settings: Settings
    servers: EmbeddedServers | None = None

    @property
    def embedded(self) -> bool:
        """Whether any server is embedded, so that only processes of this machine can serve its runs."""
        return self.servers is not None

    @property
    def home(self) -> Path:
        return self.settings.home

    def orders(self, **extra: str) -> Orders:
        """What children must know. Embedded servers go with us, so that steps could not be finished without."""
        return Orders({**self.environment(), **extra}, 1.0 if self.embedded else 10.0)

    def environment(self) -> dict[str, str]:
        """The servers and modules, as variables; nothing that runs is told the login of migrations."""
        settings = self.settings
        given = {
            "database_url": settings.database_url,
            "broker_url": settings.broker_url,
            "result_backend": settings.result_backend,
            "redis_url": settings.redis_url,
            "home": str(settings.home),
            "imports": ",".join(settings.imports),
            "region": settings.region,
            "encryption_keys": encryption_keys_text(settings.encryption_keys) or None,
            "web_keys": ",".join(key.decode("utf-8", "surrogateescape") for key in settings.web_keys) or None,
        }
        return {variable(name): value for name, value in given.items() if value is not None}

    def database(self, application_name: str = "llmteam-cli") -> Database:
        """A small pool for commands."""
        from llmteam.db import Database

        assert self.settings.database_url is not None
        return Database(self.settings.database_url, application_name=application_name, pool_size=4)

    def migrate(self, *, stopped: bool) -> bool:
        """Bring the tables to this version with the login of migrations; True when there was something to do.

        That login is not needed when there is nothing to do. ``stopped``: nothing of another version runs on them.
        Raises :class:`ConfigurationError` when the two logins turn out to be of different databases,
        :class:`InfrastructureError` kinds.
        """
        from llmteam.db import Database
        from llmteam.db.errors import MIGRATION_SETTING
        from llmteam.db.schema import HEAD

        with closing(self.database()) as database:
            if (database.current() or "") >= HEAD:
                database.check_schema()
                return False
            url = self.settings.migration_url
            if url is None:
                return database.upgrade(stopped=stopped)
            with closing(Database(url, application_name="llmteam-cli", setting=MIGRATION_SETTING)) as migrations:
                changed = migrations.upgrade(stopped=stopped)
            if database.current() != HEAD:
                raise ConfigurationError(f"{variable('migration_url')} names another database than {database.server}")
            return changed

    def runs(self) -> Runs:
        """Starting runs and asking after them."""
        from llmteam.canvas.fleet import connect

        return connect(self.settings, application_name="llmteam-cli")


def is_embedded(settings: Settings) -> bool:
    """Whether these settings leave a server to us."""
    return settings.database_url is None or settings.broker_url is None


@contextmanager
def installation(settings: Settings) -> Iterator[Installation]:
    """The servers for the block. Embedded ones are started or joined and have their tables when it begins.

    Raises :class:`InfrastructureError` kinds.
    """
    if not is_embedded(settings):
        yield Installation(settings)
        return
    from llmteam.embedded import home_key, home_master_key, start

    postgres, valkey = settings.database_url is None, settings.broker_url is None
    with start(settings.home, postgres=postgres, valkey=valkey) as servers:
        found = settings.with_servers(
            database_url=servers.database_url if postgres else "",
            broker_url=servers.broker_url if valkey else "",
            migration_url=servers.migration_url if postgres else None,
        )
        found = found if found.web_keys else found.with_web_key(home_key(servers.home))
        if postgres and not found.encryption_keys:
            found = found.with_encryption_key(home_master_key(servers.home))
        place = Installation(replace(found, home=servers.home), servers)
        if postgres:
            _set_up(place, servers)
        yield place


def _set_up(place: Installation, servers: EmbeddedServers) -> None:
    """Make roles, logins, database and tables of the embedded Postgres, unless they are there and as they should be.

    A home whose one login could become the owner gets the second login, and the first loses that right.
    """
    from llmteam.db import provision
    from llmteam.embedded import DATABASE, LOGIN, MIGRATION_LOGIN

    with closing(place.database()) as database:
        try:
            database.check_schema()
            fit = database.owner_risk() is None
        except InfrastructureError:
            fit = False
    if not fit:
        provision(servers.superuser_url, LOGIN, DATABASE, migration_login=MIGRATION_LOGIN)
        place.migrate(stopped=True)
