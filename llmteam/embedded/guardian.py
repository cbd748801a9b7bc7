"""The process that starts the servers of one home, watches them and their owners, and ends them with the last owner.

Each owner holds a connection to it; the kernel closes that when the owner dies, whatever ends it. If the guardian
itself is killed, the kernel ends the servers (Linux), or the next start does.

    python -m llmteam.embedded.guardian HOME FILENO

``FILENO`` is the inherited connection of the owner that started it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import selectors
import signal
import sys
from dataclasses import replace
from pathlib import Path

from llmteam.codec import JSON
from llmteam.embedded import errors, places, wire
from llmteam.embedded.errors import EmbeddedServerError
from llmteam.embedded.places import Place
from llmteam.embedded.postgres_server import PostgresServer
from llmteam.embedded.state import Control, Lock, State
from llmteam.embedded.supervisor import Supervised
from llmteam.embedded.valkey_server import ValkeyServer
from llmteam.ids import utc_now

#: How long an earlier guardian of the same home may take to stop its servers.
_LOCK_SECONDS = 90.0

_logger = logging.getLogger("llmteam.embedded.guardian")


class _NobodyLeftError(Exception):
    """Every owner went away during a start, or a signal asked for the end."""


class Guardian:
    """Owners on one side, servers on the other."""

    def __init__(self, control: Control, first: wire.Line) -> None:
        self._control = control
        self._lock = Lock(control.guardian_lock)
        self._lines = {first}
        #: Callers that have not said yet what they want; like owners they keep the guardian alive.
        self._undecided = {first}
        self._owners: dict[wire.Line, JSON] = {}
        self._servers: dict[str, Supervised] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(first, selectors.EVENT_READ, first)
        self._listener: wire.Listener | None = None
        self._state = State("", "", 0, "", clean=True)
        self._place: Place | None = None
        self._thorough = True
        self._asked_to_end = False

    def run(self) -> None:
        """Serve until nobody is left; the servers are down when this returns."""
        wake = self._wake_on_signals()
        try:
            self._open()
            self._serve(wake)
        except _NobodyLeftError:
            pass
        except Exception as exc:
            _logger.exception("cannot go on")
            self._tell_all({"error": errors.to_json(_as_error(exc, self._control))})
        finally:
            self._close()

    def _wake_on_signals(self) -> int:
        wake, poke = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(poke, False)
        signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end_on_signal)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(wake, selectors.EVENT_READ)
        return wake

    def _end_on_signal(self, number: int, frame: object) -> None:
        self._asked_to_end = True

    def _wanted(self) -> None:
        if self._asked_to_end or all(line.is_closed() for line in (*self._owners, *self._undecided)):
            raise _NobodyLeftError

    def _open(self) -> None:
        """Take the home and listen. Raises EmbeddedServerError kinds, _NobodyLeftError."""
        if not self._lock.acquire(_LOCK_SECONDS, self._wanted):
            raise EmbeddedServerError(
                f"an earlier guardian of {self._control.folder} has not ended after {_LOCK_SECONDS:.0f} s: "
                f"see {self._control.log}"
            )
        known = self._control.load()
        self._thorough = known is None or not known.clean
        self._place = places.prepare(self._control, known)
        port, password = (known.port, known.password) if known else (0, secrets.token_urlsafe(24))
        self._save(State(str(self._place.root), str(self._place.run), port, password, clean=False))
        self._listener = wire.Listener(self._place.guardian_socket)
        self._selector.register(self._listener, selectors.EVENT_READ, self._listener)

    def _save(self, state: State) -> None:
        self._state = state
        self._control.save(state)

    def _serve(self, wake: int) -> None:
        while (self._owners or self._undecided) and not self._asked_to_end:
            pauses = [pause for server in self._servers.values() if (pause := self._care(server)) is not None]
            for key, _ in self._selector.select(min(pauses, default=None)):
                if key.fd == wake:
                    os.read(wake, 4096)
                elif isinstance(key.data, wire.Listener):
                    self._accept(key.data)
                elif isinstance(key.data, wire.Line):
                    self._hear(key.data)

    def _care(self, server: Supervised) -> float | None:
        if server.ended() and not self._lock.still_there():
            # The home was deleted, and perhaps made anew by another guardian.
            raise _NobodyLeftError
        return server.care()

    def _accept(self, listener: wire.Listener) -> None:
        if line := listener.accept():
            self._lines.add(line)
            self._undecided.add(line)
            self._selector.register(line, selectors.EVENT_READ, line)

    def _hear(self, line: wire.Line) -> None:
        try:
            for message in line.arrived():
                self._answer(line, message)
                self._undecided.discard(line)
        except (OSError, ValueError) as exc:
            _logger.warning("a caller was dropped: %s", exc)
            line.peer_gone = True
        if line.peer_gone:
            self._drop(line)

    def _drop(self, line: wire.Line) -> None:
        if line in self._lines:
            self._lines.remove(line)
            self._undecided.discard(line)
            self._selector.unregister(line)
            line.close()
        if owner := self._owners.pop(line, None):
            _logger.info("owner %s left, %s remain", owner["pid"], len(self._owners))

    def _answer(self, line: wire.Line, message: JSON) -> None:
        if not isinstance(message, dict):
            raise ValueError("a message is an object")
        match message.get("do"):
            case "own":
                self._own(line, message)
            case "status":
                line.send(self._status())
            case "leave":
                self._leave(line)

    def _own(self, line: wire.Line, message: JSON) -> None:
        try:
            for name in message["servers"]:
                if name not in self._servers:
                    self._start(name)
        except _NobodyLeftError:
            raise
        except Exception as exc:
            _logger.exception("cannot serve owner %s", message["pid"])
            line.send({"error": errors.to_json(_as_error(exc, self._control))})
            return
        self._owners[line] = {"pid": message["pid"], "command": message["command"], "since": utc_now().isoformat()}
        _logger.info("owner %s came, %s in all", message["pid"], len(self._owners))
        addresses: dict[str, str] = {}
        for name in message["servers"]:
            addresses |= self._servers[name].server.addresses()
        line.send({"addresses": addresses, "notes": list(self._require_place().notes)})

    def _start(self, name: str) -> None:
        place, state = self._require_place(), self._state
        server = PostgresServer(place) if name == "postgres" else ValkeyServer(place, state.port, state.password)
        supervised = Supervised(server, place.account)
        supervised.start(self._wanted, thorough=self._thorough)
        self._servers[name] = supervised
        _logger.info("%s runs as process %s", server.label, supervised.pid)
        if isinstance(server, ValkeyServer) and server.port != state.port:
            self._save(replace(state, port=server.port))

    def _require_place(self) -> Place:
        assert self._place is not None
        return self._place

    def _leave(self, line: wire.Line) -> None:
        self._owners.pop(line, None)
        last = not self._owners
        if last:
            self._stop_servers()
        with contextlib.suppress(OSError):
            line.send({"stopped": last, "pid": os.getpid()})
        if not last:
            self._drop(line)

    def _status(self) -> JSON:
        servers = {name: {"pid": one.pid, "restarts": one.restarts} for name, one in self._servers.items()}
        return {
            "pid": os.getpid(),
            "owners": list(self._owners.values()),
            "servers": servers,
            "notes": list(self._require_place().notes),
        }

    def _tell_all(self, message: JSON) -> None:
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.send(message)

    def _stop_servers(self) -> None:
        """End the servers; whoever comes from now on must start a guardian of its own."""
        self._asked_to_end = True
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        for server in self._servers.values():
            server.ask_to_stop()
        for server in self._servers.values():
            server.stop()
        self._servers = {}
        if not self._state.clean and self._lock.still_there():
            self._save(replace(self._state, clean=True))
            places.clear_sockets(self._require_place())
            _logger.info("all stopped")

    def _close(self) -> None:
        """Only the end of this process closes the connections and releases the lock."""
        self._stop_servers()


def _as_error(exc: Exception, control: Control) -> EmbeddedServerError:
    if isinstance(exc, EmbeddedServerError):
        return exc
    return EmbeddedServerError(f"the embedded servers could not be started: {exc}; see {control.log}")


def main(argv: list[str]) -> None:
    """Entry point; the standard error stream is the guardian's log."""
    home, fileno = Path(argv[1]), int(argv[2])
    logging.basicConfig(format="%(asctime)s [%(process)d] %(message)s", level=logging.INFO)
    os.chdir("/")
    # The caller's umask or blocked signals must not reach the servers: their user needs to pass folders made here.
    os.umask(0o022)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.set_inheritable(fileno, False)
    Guardian(Control(home), wire.inherited(fileno)).run()


if __name__ == "__main__":
    main(sys.argv)
    logging.shutdown()
    # No tidying up by the interpreter: the connections close when the process is really over.
    os._exit(0)
