"""The embedded Valkey: its configuration, its port and password, and how to tell that it is ready and ours.

It listens on the loopback address with a password, so that one ``redis://`` URL serves Celery's broker and result
backend, Flower and redis-py alike; port and password stay the same from start to start.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from llmteam import codec
from llmteam.embedded import leftovers, programs, wire
from llmteam.embedded.errors import EmbeddedServerError
from llmteam.embedded.names import BROKER_DATABASES
from llmteam.embedded.places import Place
from llmteam.embedded.processes import StopSignals

#: Below the ports that Linux and macOS hand out for outgoing connections.
_PORTS = range(20_000, 30_000)
_CONFIG = """\
bind {loopback}
protected-mode yes
port {port}
dir {folder}
daemonize no
supervised no
set-proc-title no
logfile ""
databases {databases}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
tcp-keepalive 60
client-output-buffer-limit pubsub 64mb 16mb 60
user default on sanitize-payload #{digest} ~* &* +@all
"""


class ValkeyServer:
    """See the module. ``prepare`` first, then ``command``; ``port`` may be another one afterwards."""

    name = "valkey"
    label = "Valkey"
    #: Orderly shutdown: the append-only file is written out and synchronised.
    death_signal = signal.SIGTERM
    stop_signals: StopSignals = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))

    def __init__(self, place: Place, port: int, password: str) -> None:
        self._place = place
        self._password = password
        self._program = programs.find_valkey()
        self.port = port
        self.log = place.log(self.name)
        self.data = place.folder(self.name)
        self._config = place.config("valkey.conf")

    def prepare(self, wanted: Callable[[], None]) -> None:
        """Choose a free port, the known one if possible, and write the configuration."""
        self._program = programs.reachable_valkey(programs.find_valkey(), self._place.account, self._place.programs)
        self.port = next((port for port in self._candidates() if wire.port_is_free(port)), 0)
        if not self.port:
            raise EmbeddedServerError(
                f"every port from {_PORTS.start} to {_PORTS.stop - 1} is taken on {wire.LOOPBACK}"
            )
        self._write_config()

    def _candidates(self) -> Iterator[int]:
        if self.port:
            yield self.port
        first = int(self._place.digest(), 16)
        yield from (_PORTS[(first + step) % len(_PORTS)] for step in range(len(_PORTS)))

    def _write_config(self) -> None:
        text = _CONFIG.format(
            loopback=wire.LOOPBACK,
            port=self.port,
            folder=_quoted(self.data),
            databases=BROKER_DATABASES,
            digest=codec.digest(self._password),
        )
        self._config.write_text(text, encoding="utf-8")
        self._config.chmod(0o644)

    def command(self) -> list[str]:
        return [str(self._program), str(self._config)]

    def ready(self, pid: int) -> bool:
        """Whether it answers to our password and has loaded its data."""
        return wire.redis_answers(self.port, self._password)

    def retry_elsewhere(self, log_tail: str) -> bool:
        """Whether the start failed because somebody took the port in between; then another one is chosen."""
        if "Address already in use" not in log_tail:
            return False
        self.port = 0
        self.prepare(lambda: None)
        return True

    def clear_leftovers(self, thorough: bool) -> None:
        """End what an earlier guardian left running on these data. Raises EmbeddedStartError when that fails."""
        if thorough:
            leftovers.clear(self.label, self.log, self._is_ours, self.stop_signals)

    def _is_ours(self, argv: list[str]) -> bool:
        # Its title is left as it was started (set-proc-title), so the configuration's path stays readable.
        return len(argv) > 1 and Path(argv[0]).name == "valkey-server" and argv[1] == str(self._config)

    def addresses(self) -> dict[str, str]:
        url = f"redis://:{self._password}@{wire.LOOPBACK}:{self.port}/0"
        return {"broker_url": url, "result_backend_url": url, "redis_url": url}


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
