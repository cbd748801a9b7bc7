"""Hosts as processes on the loopback address, for kernels that give no network namespaces.

Each host reaches each server through a forwarder of its own. One that is cut passes nothing on and tells nobody; the
kernel acknowledges what it has not passed on, which a cable that is out would not.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from hosts.network import SERVERS, Cut, inside
from llmteam.embedded.processes import Account

T = TypeVar("T")
_LOOPBACK = "127.0.0.1"
_CHUNK = 65536


class _Gates:
    """Open or shut in each direction; a gate that is shut lets nothing pass, the end of a connection neither."""

    def __init__(self) -> None:
        self.to, self.back = asyncio.Event(), asyncio.Event()
        self.to.set()
        self.back.set()


class Forwarders:
    """See the module."""

    words = "processes on the loopback address, each with forwarders of its own"
    address = _LOOPBACK

    def __init__(self, hosts: Sequence[str]) -> None:
        self._servers = {server: _free_port() for server in SERVERS}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hosts-forwarders", daemon=True)
        self._thread.start()
        self._gates: dict[tuple[str, str], _Gates] = {}
        self._ports: dict[tuple[str, str], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: list[asyncio.Server] = []
        for host in hosts:
            for server in SERVERS:
                self._ports[host, server] = self._call(self._open(host, server))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _open(self, host: str, server: str) -> int:
        gates = self._gates[host, server] = _Gates()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await _forward(reader, writer, gates, self._servers[server])

        listening = await asyncio.start_server(forward, _LOOPBACK, 0)
        self._listening.append(listening)
        port: int = listening.sockets[0].getsockname()[1]
        return port

    def listens(self, server: str) -> tuple[str, int]:
        return _LOOPBACK, self._servers[server]

    def reaches(self, host: str, server: str) -> tuple[str, int]:
        return _LOOPBACK, self._ports[host, server]

    def seen_as(self, host: str) -> str | None:
        return None

    def command(self, host: str, account: Account | None, number: signal.Signals, argv: Sequence[str]) -> list[str]:
        return inside("-", account, number, argv)

    def cut(self, host: str, cut: Cut) -> None:
        self._set(host, to=cut.to, back=cut.back)

    def join(self, host: str) -> None:
        self._set(host)

    def _set(self, host: str, to: Sequence[str] = (), back: Sequence[str] = ()) -> None:
        async def change() -> None:
            for server in SERVERS:
                gates = self._gates[host, server]
                for gate, shut in ((gates.to, server in to), (gates.back, server in back)):
                    gate.clear() if shut else gate.set()

        self._call(change())

    def close(self) -> None:
        async def end() -> None:
            for listening in self._listening:
                listening.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gates: _Gates, port: int) -> None:
    others: list[asyncio.StreamWriter] = [writer]
    try:
        await gates.to.wait()
        # A connection takes an answer, too.
        await gates.back.wait()
        there, back = await asyncio.open_connection(_LOOPBACK, port)
        others.append(back)
        await asyncio.gather(_pass_on(reader, back, gates.to), _pass_on(there, writer, gates.back))
    except OSError:
        pass
    finally:
        for one in others:
            one.close()
            with contextlib.suppress(OSError):
                await one.wait_closed()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    while chunk := await _read(source):
        await gate.wait()
        target.write(chunk)
        await target.drain()
    await gate.wait()
    with contextlib.suppress(OSError):
        target.write_eof()


async def _read(source: asyncio.StreamReader) -> bytes:
    # A reset is an end like any other; whoever waits behind the gate must not see it early.
    try:
        return await source.read(_CHUNK)
    except OSError:
        return b""


def _free_port() -> int:
    with socket.create_server((_LOOPBACK, 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
