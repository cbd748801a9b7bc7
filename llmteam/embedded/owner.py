"""The face of the embedded servers: start or attach, hold on, let go."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from llmteam.codec import JSON
from llmteam.embedded import errors, programs, wire
from llmteam.embedded.errors import (
    EmbeddedNotInstalledError,
    EmbeddedPlaceError,
    EmbeddedServerError,
    EmbeddedStartError,
)
from llmteam.embedded.names import LOGIN, MIGRATION_LOGIN
from llmteam.embedded.places import guardian_socket
from llmteam.embedded.processes import tail
from llmteam.embedded.state import Control, locked

#: A first start makes a cluster, and one after a crash replays its log.
_START_SECONDS = 180.0
_STOP_SECONDS = 60.0

_starting = threading.Lock()
_letting_go = threading.Lock()
#: Every connection that makes this process an owner; being here keeps one open even if nobody keeps its object.
_lines: set[wire.Line] = set()
_guardians: list[subprocess.Popen[bytes]] = []


class EmbeddedServers:
    """Ownership of the running servers of one home; they stop when the last owner has let go or died.

    Held until :meth:`stop`, the end of a ``with`` block, or the end of this process; a forked child does not hold it.

    - ``database_url``: login role ``llmteam``, no superuser, database ``llmteam``. Both exist only once
      ``llmteam.db.provision`` has made them.
    - ``migration_url``: the same database with the login role ``llmteam_migration``, which may change its tables.
    - ``superuser_url``: the bootstrap superuser, database ``postgres``; by local socket only.
    - ``broker_url``, ``result_backend_url``, ``redis_url``: one address, good for Celery, Flower and redis-py. It
      holds a password: do not print it.
    - ``notes``: what a person should know, for example that the data had to go to another folder.
    - ``started``: True when this call started the servers, False when it joined others.

    An address that was not asked for raises EmbeddedServerError.
    """

    def __init__(self, home: Path, line: wire.Line, answer: JSON, started: bool) -> None:
        self.home = home
        self.started = started
        self.notes: tuple[str, ...] = tuple(answer["notes"])
        self._addresses: dict[str, str] = answer["addresses"]
        self._line: wire.Line | None = line

    @property
    def database_url(self) -> str:
        return self._address("database_url", "Postgres")

    @property
    def migration_url(self) -> str:
        return self.database_url.replace(f"//{LOGIN}@", f"//{MIGRATION_LOGIN}@", 1)

    @property
    def superuser_url(self) -> str:
        return self._address("superuser_url", "Postgres")

    @property
    def broker_url(self) -> str:
        return self._address("broker_url", "Valkey")

    @property
    def result_backend_url(self) -> str:
        return self._address("result_backend_url", "Valkey")

    @property
    def redis_url(self) -> str:
        return self._address("redis_url", "Valkey")

    def _address(self, name: str, server: str) -> str:
        try:
            return self._addresses[name]
        except KeyError:
            raise EmbeddedServerError(f"the embedded {server} was not asked for in start()") from None

    def stop(self) -> None:
        """Let go. The last owner's call returns when the servers are down; a second call does nothing."""
        with _letting_go:
            line, self._line = self._line, None
        if line is None:
            return
        # A guardian that is gone has taken the servers with it.
        ended = None
        with contextlib.suppress(OSError):
            line.send({"do": "leave"})
            answer = line.receive(_STOP_SECONDS)
            if answer is not None and answer["stopped"]:
                ended = answer["pid"]
                # Its end closes the connection.
                line.receive(_STOP_SECONDS)
        _close(line)
        _reap(ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(home: Path, *, postgres: bool = True, valkey: bool = True) -> EmbeddedServers:
    """Start the servers whose data are under ``home`` (made if missing), or join those that already run.

    Blocks until they answer: a fraction of a second, about one more on the very first start. Raises
    EmbeddedNotInstalledError, EmbeddedPlaceError, EmbeddedStartError, EmbeddedServerError.
    """
    _check_installed(postgres=postgres, valkey=valkey)
    home = Path(home).expanduser().resolve()
    _check_path(home)
    servers = [name for name, asked in (("postgres", postgres), ("valkey", valkey)) if asked]
    control = Control(home)
    control.create()
    with _starting, locked(control.start_lock, _START_SECONDS) as got:
        if not got:
            raise EmbeddedServerError(f"another process has been starting the servers of {home} for too long")
        _reap()
        return _attach(control, servers) or _launch(control, servers)


def _check_installed(*, postgres: bool, valkey: bool) -> None:
    if postgres:
        programs.find_postgres()
    if valkey:
        programs.find_valkey()
    if importlib.util.find_spec("psutil") is None:
        raise EmbeddedNotInstalledError("guardian", "psutil")


def _check_path(home: Path) -> None:
    try:
        str(home).encode()
    except UnicodeEncodeError:
        raise EmbeddedPlaceError(f"{os.fsencode(home)!r} is not UTF-8: set LLMTEAM_HOME elsewhere") from None


def _attach(control: Control, servers: Sequence[str]) -> EmbeddedServers | None:
    """Join a running guardian; None when there is none, or it is on its way out."""
    state = control.load()
    if state is None:
        return None
    try:
        line = wire.connect(guardian_socket(Path(state.run)), 5.0)
    except OSError:
        return None
    _lines.add(line)
    answer = _ask_to_own(line, servers, control)
    return None if answer is None else EmbeddedServers(control.home, line, answer, started=False)


def _launch(control: Control, servers: Sequence[str]) -> EmbeddedServers:
    line, theirs = wire.pair()
    _lines.add(line)
    with theirs, control.log.open("ab") as log:
        offset = log.tell()
        control.log.chmod(0o600)
        _guardians.append(
            subprocess.Popen(
                [sys.executable, "-P", "-m", "llmteam.embedded.guardian", str(control.home), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": _import_path()},
                # Out of reach of the terminal's Ctrl-C: it ends when its owners have.
                start_new_session=True,
            )
        )
    answer = _ask_to_own(line, servers, control)
    if answer is None:
        raise EmbeddedStartError("guardian", "ended", str(control.log), tail(control.log, offset))
    return EmbeddedServers(control.home, line, answer, started=True)


def _import_path() -> str:
    """Where this very package is found, however this process found it."""
    package = Path(__file__).resolve().parents[2]
    return os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))


def _ask_to_own(line: wire.Line, servers: Sequence[str], control: Control) -> JSON | None:
    """The guardian's answer; None when it went away instead. The line is closed unless there is an answer."""
    kept = False
    try:
        line.send({"do": "own", "pid": os.getpid(), "command": _command(), "servers": list(servers)})
        answer = line.receive(_START_SECONDS)
        if answer is not None and "error" in answer:
            raise errors.from_json(answer["error"])
        kept = answer is not None
    except TimeoutError:
        raise EmbeddedServerError(
            f"the guardian of the embedded servers of {control.home} does not answer: see {control.log}"
        ) from None
    except OSError:
        return None
    finally:
        if not kept:
            _close(line)
    return answer


def _close(line: wire.Line) -> None:
    _lines.discard(line)
    line.close()


def _command() -> str:
    """How this process is shown to others. Arguments stay out: they may hold secrets."""
    return Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"


def _reap(ending: int | None = None) -> None:
    """Collect guardians that this process started and that have ended; ``ending`` is just about to."""
    for guardian in list(_guardians):
        # Another thread may collect the same one.
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
            guardian.wait(5.0 if guardian.pid == ending else 0.0)
            _guardians.remove(guardian)


def _let_go_in_child() -> None:
    """A forked child must not keep the servers of its parent alive."""
    global _starting, _letting_go
    _starting, _letting_go = threading.Lock(), threading.Lock()
    _let_go()


def _let_go() -> None:
    for line in list(_lines):
        _close(line)
    for guardian in _guardians:
        # Not ours to wait for any more, and nothing to warn about.
        guardian.returncode = guardian.returncode or 0
    _guardians.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
atexit.register(_let_go)
