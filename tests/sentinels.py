"""Valkeys that replicate, and the Sentinels that watch over them: processes of one test's own."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from llmteam.embedded.programs import find_valkey
from tests.services import redis_client
from tests.waiting import wait_until

#: What the Sentinels call the primary.
NAME = "primary"


class Replicated:
    """A primary, a replica of it, and three Sentinels that make the replica the primary when the primary is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.primary, self.replica, *self.sentinels = _free_ports(5)

    @property
    def url(self) -> str:
        """As ``LLMTEAM_BROKER_URL`` has it."""
        parts = [f"sentinel://127.0.0.1:{port}" for port in self.sentinels]
        return f"{';'.join(parts)}/0?master_name={NAME}"

    def start(self) -> None:
        """Start all, and wait until the Sentinels know each other and the replica follows."""
        self._server(self.primary)
        self._server(self.replica, "--replicaof", f"127.0.0.1 {self.primary}")
        wait_until(lambda: self._told(self.replica).get("master_link_status") == "up", "the replica to follow")
        for port in self.sentinels:
            self._sentinel(port)
        wait_until(lambda: all(self._watches(port) for port in self.sentinels), "the Sentinels to find each other")

    def kill_primary(self) -> None:
        """End the primary at once, and wait until the replica has taken its place."""
        self._kill(self.primary)
        wait_until(
            lambda: self._told(self.replica).get("role") == "master", "the replica to be the primary", timeout=30
        )

    def listeners(self) -> int:
        """How many connections listen to what is published at the former replica."""
        return sum(one["sub"] != "0" for one in self._clients())

    def takers(self) -> int:
        """How many connections wait for a message in a queue there."""
        return sum(one["cmd"] == "brpop" for one in self._clients())

    def _clients(self) -> list[dict[str, str]]:
        with redis_client(f"redis://127.0.0.1:{self.replica}/0") as client:
            return list(client.client_list())

    def stop(self) -> None:
        for port in list(self._processes):
            self._kill(port)

    def _kill(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        process.wait()

    def _server(self, port: int, *more: str) -> None:
        self._run(port, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *more)
        wait_until(lambda: _answers(port), "Valkey to answer")

    def _sentinel(self, port: int) -> None:
        settings = self._folder / f"sentinel-{port}.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor {NAME} 127.0.0.1 {self.primary} 2\n"
            f"sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 5000\n"
        )
        self._run(port, str(settings), "--sentinel")
        wait_until(lambda: _answers(port), "a Sentinel to answer")

    def _run(self, port: int, *arguments: str) -> None:
        with (self._folder / f"valkey-{port}.log").open("ab") as log:
            self._processes[port] = subprocess.Popen(
                [str(find_valkey()), *arguments], cwd=self._folder, stdout=log, stderr=log
            )

    def _told(self, port: int) -> dict[str, Any]:
        """What it says of its part; nothing while it changes that, which closes all connections."""
        with redis_client(f"redis://127.0.0.1:{port}/0") as client, suppress(redis.ConnectionError):
            return dict(client.info("replication"))
        return {}

    def _watches(self, port: int) -> bool:
        with redis_client(f"redis://127.0.0.1:{port}/0") as client:
            told = client.sentinel_master(NAME)
            return (int(told["num-slaves"]), int(told["num-other-sentinels"])) == (1, 2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def replicated(folder: Path) -> Iterator[Replicated]:
    """A :class:`Replicated` that runs, and ends with the block."""
    one = Replicated(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()
