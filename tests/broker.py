"""A Valkey of one test's own, which the test kills, freezes and starts again, empty, at the same address."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmteam.embedded.programs import find_valkey
from tests.services import redis_client
from tests.waiting import wait_until


class Broker:
    """Listens on loopback and keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(find_valkey()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly"]
        with (self._folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen([*command, "no"], cwd=self._folder, stdout=log, stderr=log)
        wait_until(self._answers, "Valkey to answer")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once; all that it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def depth(self, queue: str) -> int:
        with redis_client(self.url) as client:
            return int(client.llen(queue))

    def flush(self) -> None:
        """Forget everything."""
        with redis_client(self.url) as client:
            client.flushall()

    def limit_memory(self, size: int) -> None:
        """Refuse to take anything beyond so many bytes; 0 takes whatever comes."""
        with redis_client(self.url) as client:
            client.config_set("maxmemory", size)

    def drop_connections(self) -> int:
        """Close every connection of everybody else; how many there were."""
        with redis_client(self.url) as client:
            return sum(int(client.execute_command("CLIENT", "KILL", "TYPE", kind)) for kind in ("normal", "pubsub"))


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """A :class:`Broker` that runs, and ends with the block."""
    one = Broker(folder)
    one.start()
    try:
        yield one
    finally:
        one.kill()
