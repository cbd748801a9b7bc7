"""Channels, those who watch them, and wake-ups within one process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol, Self, runtime_checkable

PREFIX = "llmteam:wake:"
#: What a channel's name ends with that tells of a run's end.
END = "/end"


def channel(tenant_id: str, run_id: str) -> str:
    """The name under which wake-ups of this run are published."""
    return f"{PREFIX}{tenant_id}:{run_id}"


def end_channel(tenant_id: str, run_id: str) -> str:
    """The name under which the end of this run is published: for those who wait for nothing else."""
    return channel(tenant_id, run_id) + END


def run_notifier(wakeup: Wakeup) -> Callable[[str, str, bool], None]:
    """Tells followers of a run that something happened to it, and those who wait for its end that it came."""

    def notify(tenant_id: str, run_id: str, ended: bool) -> None:
        name = channel(tenant_id, run_id)
        if ended:
            wakeup.notify(name, name + END)
        else:
            wakeup.notify(name)

    return notify


class Watch:
    """One waiter's flag on one channel: raised by each wake-up since the last wait, lowered by waiting.

    Begin to watch first, then look at the state, then wait: what happens in between raises the flag. One waiter a time.
    """

    def __init__(self, registry: Registry, name: str) -> None:
        self.channel = name
        self._registry = registry
        self._raised = threading.Event()
        self._lock = threading.Lock()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the next wake-up, at most ``timeout`` seconds; whether there was one."""
        self._raised.wait(timeout)
        with self._lock:
            return self._lower()

    async def wait_async(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # as `wait`
        """:meth:`wait` for coroutines; cancelling it leaves the watch usable."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._raised.is_set():
                return self._lower()
            future: asyncio.Future[None] = loop.create_future()
            self._waiter = (loop, future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiter = None
        with self._lock:
            return self._lower()

    def wake(self) -> None:
        """Raise the flag; from any thread."""
        with self._lock:
            self._raised.set()
            waiter = self._waiter
        if waiter is not None:
            with suppress(RuntimeError):  # the waiter's loop has been closed
                waiter[0].call_soon_threadsafe(_resolve, waiter[1])

    def close(self) -> None:
        """Stop watching. Safe to call twice."""
        self._registry.discard(self)

    def _lower(self) -> bool:
        """With the lock held, or a wake-up between looking and clearing would be lost."""
        raised = self._raised.is_set()
        self._raised.clear()
        return raised

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@runtime_checkable
class Wakeup(Protocol):
    """Publishes and receives wake-ups."""

    def notify(self, *channels: str) -> None:
        """Wake the watches on these channels, everywhere, soon. Never blocks, never raises."""

    def watch(self, tenant_id: str, run_id: str) -> Watch:
        """Begin to watch a run."""

    def subscribe(self, name: str) -> Watch:
        """Begin to watch a channel by its name (see :func:`channel`)."""

    def close(self) -> None:
        """Let go of threads and connections."""


class Registry:
    """The watches of this process, by channel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: dict[str, set[Watch]] = {}

    def add(self, watch: Watch) -> bool:
        """Take ``watch`` in; whether its channel is new."""
        with self._lock:
            known = watch.channel in self._watches
            self._watches.setdefault(watch.channel, set()).add(watch)
            return not known

    def discard(self, watch: Watch) -> None:
        with self._lock:
            watches = self._watches.get(watch.channel, set())
            watches.discard(watch)
            if not watches:
                self._watches.pop(watch.channel, None)

    def wake(self, names: Iterable[str]) -> None:
        for name in names:
            with self._lock:
                watches = tuple(self._watches.get(name, ()))
            for watch in watches:
                watch.wake()

    def channels(self) -> set[str]:
        with self._lock:
            return set(self._watches)


class MemoryWakeup:
    """Wake-ups within one process."""

    def __init__(self) -> None:
        self._registry = Registry()

    def notify(self, *channels: str) -> None:
        """Wake the watches of this process."""
        self._registry.wake(channels)

    def watch(self, tenant_id: str, run_id: str) -> Watch:
        """Begin to watch a run."""
        return self.subscribe(channel(tenant_id, run_id))

    def subscribe(self, name: str) -> Watch:
        """Begin to watch a channel by its name."""
        watch = Watch(self._registry, name)
        self._registry.add(watch)
        return watch

    def watched(self) -> set[str]:
        """The channels that have watches in this process now."""
        return self._registry.channels()

    def close(self) -> None:
        """Nothing to let go of."""
