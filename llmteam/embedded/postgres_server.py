"""The embedded Postgres: its cluster, its command line, and how to tell that it is ready and ours.

It listens on a Unix socket only, in a folder of its own user, and lets in that user, the one who started it, and
root, whatever role they name (peer authentication). Roles and the database are made by ``llmteam.db``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from llmteam.embedded import leftovers, places, programs
from llmteam.embedded.errors import EmbeddedPlaceError, EmbeddedStartError
from llmteam.embedded.names import DATABASE, LOGIN, PORT, SUPERUSER
from llmteam.embedded.places import Place
from llmteam.embedded.processes import StopSignals, spawn, tail, wait_for

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "512MB",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    # Steps are many small statements; compiling them costs more than it saves.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Failed statements and their details carry payloads.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_INITDB_SECONDS = 120.0
#: Line of postmaster.pid that says how far the start is (LOCK_FILE_LINE_PM_STATUS in Postgres's miscadmin.h).
_STATUS_LINE = 7


class PostgresServer:
    """See the module. ``prepare`` first, then ``command``."""

    name = "postgres"
    label = "Postgres"
    #: Fast shutdown: sessions are ended, everything is checkpointed.
    death_signal = signal.SIGINT
    stop_signals: StopSignals = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, place: Place) -> None:
        self._place = place
        self._installation = programs.find_postgres()
        self.log = place.log(self.name)
        self.data = place.folder(self.name) / "data"
        self._marker = f"llmteam-{place.digest()}"

    def prepare(self, wanted: Callable[[], None]) -> None:
        """Make the cluster if there is none, and write who may connect. Raises EmbeddedServerError kinds."""
        version = self.data / "PG_VERSION"
        major = int(version.read_text().strip()) if version.exists() else None
        self._installation = programs.reachable_postgres(
            programs.find_postgres(major), self._place.account, self._place.programs
        )
        if major is None:
            self._make_cluster(wanted)
        self._write_access_rules()

    def _make_cluster(self, wanted: Callable[[], None]) -> None:
        places.require_space(self._place.folder(self.name))
        draft = self.data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        offset = self.log.stat().st_size if self.log.exists() else 0
        argv = [self._installation.program("initdb"), "--pgdata", str(draft), "--username", SUPERUSER]
        argv += ["--encoding=UTF8", "--locale=C", "--auth-local=peer", "--auth-host=reject", "--no-instructions"]
        if self._installation.major >= 17:
            argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        process = spawn(argv, account=self._place.account, log=self.log, death_signal=signal.SIGKILL)
        try:
            wait_for(process, lambda: False, _INITDB_SECONDS, wanted)
        finally:
            process.kill()
            failed = process.wait() != 0
        if failed:
            raise EmbeddedStartError(self.label, "could not make its data", str(self.log), tail(self.log, offset))
        # Only a cluster that is complete and on disk ever has this name.
        draft.rename(self.data)

    def _write_access_rules(self) -> None:
        users = [_user_name(os.geteuid())]
        with contextlib.suppress(EmbeddedPlaceError):
            users.append(_user_name(0))
        rules = {
            "pg_hba.conf": "local all all peer map=llmteam\n",
            "pg_ident.conf": "".join(f'llmteam "{user}" all\n' for user in dict.fromkeys(users)),
        }
        for name, text in rules.items():
            self._place.config(name).write_text(text)
            self._place.config(name).chmod(0o644)

    def command(self) -> list[str]:
        settings = _SETTINGS | {
            "unix_socket_directories": str(self._place.postgres_sockets),
            "hba_file": str(self._place.config("pg_hba.conf")),
            "ident_file": str(self._place.config("pg_ident.conf")),
            # Stands in the title of each of its processes: this is how they are known as ours.
            "cluster_name": self._marker,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._installation.program("postgres"), "-D", str(self.data), *options]

    def ready(self, pid: int) -> bool:
        """Whether server ``pid`` takes connections, as ``pg_ctl -w`` tells it."""
        lines = self._pid_file()
        return len(lines) > _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE].strip() == "ready"

    def retry_elsewhere(self, log_tail: str) -> bool:
        return False

    def clear_leftovers(self, thorough: bool) -> None:
        """End what an earlier guardian left running on these data, looking at every process if ``thorough``.

        Raises EmbeddedStartError when that fails, or when somebody else runs a server on them.
        """
        postmaster = self._recorded_pid()
        argv = leftovers.command_line(postmaster) if postmaster is not None else []
        if str(self.data) in argv and not self._is_ours(argv):
            reason = f"cannot start: process {postmaster} is a Postgres on the same data that llmteam did not start"
            raise EmbeddedStartError(self.label, reason, str(self.log), tail(self.log))
        if thorough or postmaster is not None:
            leftovers.clear(self.label, self.log, self._is_ours, self.stop_signals)
        # The number in a lock file may be a zombie's, or another process's by now: Postgres would take it for a server.
        if postmaster is not None and leftovers.exists(postmaster):
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        for lock in self._place.postgres_sockets.glob(".s.PGSQL.*.lock"):
            lock.unlink(missing_ok=True)

    def _is_ours(self, argv: list[str]) -> bool:
        if not argv:
            return False
        started_by_us = Path(argv[0]).name == "postgres" and f"cluster_name={self._marker}" in argv
        return started_by_us or argv[0].startswith(f"postgres: {self._marker}: ")

    def _recorded_pid(self) -> int | None:
        lines = self._pid_file()
        return int(lines[0]) if lines and lines[0].isdecimal() else None

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def addresses(self) -> dict[str, str]:
        return {
            "database_url": self._url(LOGIN, DATABASE),
            "superuser_url": self._url(SUPERUSER, "postgres"),
        }

    def _url(self, user: str, database: str) -> str:
        sockets = quote(str(self._place.postgres_sockets), safe="/")
        # The port is written out, because PGPORT of a client's environment would move it.
        return f"postgresql+psycopg2://{user}@/{database}?host={sockets}&port={PORT}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise EmbeddedPlaceError(
            f"user id {uid} has no name on this system, and Postgres needs one: add the user, or run as another"
        ) from None
