"""Wake-ups between processes, over the publish and subscribe of Redis or Valkey."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from llmteam.ids import new_id
from llmteam.wakeup.clients import client_of, redis_url
from llmteam.wakeup.watches import END, PREFIX, MemoryWakeup, Registry, Wakeup, Watch

if TYPE_CHECKING:
    from redis import Redis

#: Seconds in which wake-ups for the same run become one message.
COALESCE_SECONDS = 0.01
#: Channels that may wait to be published; further ones are dropped while the server is away.
MAX_PENDING = 50_000
#: Messages in one pipeline.
BATCH = 1_000
#: Seconds between two attempts to reach a server that is away.
RETRY_SECONDS = 0.5
#: Seconds of silence after which the listener asks its server whether it is still there, and as many until it gives up.
IDLE_SECONDS = 15.0
#: Seconds for connecting and for one pipeline.
SOCKET_SECONDS = 2.0

_log = logging.getLogger(__name__)


class RedisWakeup(MemoryWakeup):
    """Wake-ups over Redis or Valkey publish/subscribe, for every process that knows the same server.

    One thread publishes, one receives for all watches over one connection; each starts when first needed, and again in
    a forked child. While the server is away wake-ups reach only this process, and the log says so once. Raises
    :class:`ConfigurationError` for an address that is no Redis.
    """

    def __init__(self, url: str) -> None:
        self._url = redis_url(url)
        self._reset()
        _instances.add(self)

    def _reset(self) -> None:
        """Begin anew: at construction, and in a forked child, where the threads are gone and locks may be held."""
        self._lock = threading.Lock()
        self._registry = Registry()
        self._pending: dict[str, None] = {}
        self._due = threading.Event()
        self._closing = threading.Event()
        self._urgent = threading.Event()
        self._publisher: threading.Thread | None = None
        self._listener: threading.Thread | None = None
        self._control = f"{PREFIX}control:{new_id()}"
        self._failing: set[str] = set()

    def notify(self, *channels: str) -> None:
        """Wake the watches of this process now and those of others within milliseconds."""
        self._registry.wake(channels)
        if not self._closing.is_set():
            self._publish(channels)

    def subscribe(self, name: str) -> Watch:
        """Begin to watch a channel by its name; the flag is raised once the server has confirmed the subscription.

        A channel without watches is left when the connection has something else to do, or after a pause.
        """
        watch = Watch(self._registry, name)
        if self._registry.add(watch):
            with self._lock:
                if self._listener is None and not self._closing.is_set():
                    self._listener = _started(self._listen)
            self.notify(self._control)
        return watch

    def close(self) -> None:
        """Publish what is due, then end both threads. Safe to call twice."""
        with self._lock:
            self._closing.set()
            if self._listener is not None:
                self._pending[self._control] = None
        self._due.set()
        for thread in (self._publisher, self._listener):
            if thread is not None and thread is not threading.current_thread():
                thread.join(2 * SOCKET_SECONDS)

    def _publish(self, channels: Iterable[str]) -> None:
        with self._lock:
            for name in channels:
                if len(self._pending) < MAX_PENDING:
                    self._pending[name] = None
            if self._publisher is None:
                self._publisher = _started(self._send_for_ever)
        self._due.set()
        if any(name.endswith(END) for name in channels):
            self._urgent.set()

    def _client(self) -> Redis:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return client_of(
            self._url,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def _send_for_ever(self) -> None:
        client = self._client()
        try:
            while not self._closing.is_set():
                self._due.wait()
                self._due.clear()
                sent = self._send(client)
                if sent:
                    self._urgent.wait(COALESCE_SECONDS)
                    self._urgent.clear()
                else:
                    self._closing.wait(RETRY_SECONDS)
            self._send(client)
        finally:
            client.close()

    def _send(self, client: Redis) -> bool:
        """Publish everything that is pending, or drop it; whether the server took it."""
        with self._lock:
            names, self._pending = list(self._pending), {}
        try:
            for start in range(0, len(names), BATCH):
                _publish_all(client, names[start : start + BATCH])
        except Exception as exc:  # noqa: BLE001  # whatever it is, a publisher must not notice
            self._lost("publish", exc)
            return False
        self._back("publish")
        return True

    def _listen(self) -> None:
        while not self._closing.is_set():
            client = self._client()
            try:
                with _pubsub(client) as pubsub:
                    self._receive(pubsub)
            except Exception as exc:  # noqa: BLE001  # waiters poll on; the thread must live
                self._lost("receive", exc)
                self._closing.wait(RETRY_SECONDS)
            finally:
                client.close()

    def _receive(self, pubsub: _PubSub) -> None:
        """Keep the server's subscriptions equal to the watched channels and pass on what comes, until closed."""
        pubsub.subscribe(self._control)
        held: set[str] = set()
        asked = False
        while not self._closing.is_set():
            wanted = self._registry.channels()
            if wanted - held:
                pubsub.subscribe(*(wanted - held))
            if held - wanted:
                pubsub.unsubscribe(*(held - wanted))
            held = wanted
            message = pubsub.get_message(timeout=IDLE_SECONDS)
            if message is not None:
                asked = False
                self._back("receive")
                if message["type"] in {"message", "subscribe"}:
                    self._registry.wake((message["channel"].decode(),))
            elif asked:
                raise TimeoutError(f"no answer within {IDLE_SECONDS:g} s")
            else:
                pubsub.ping()
                asked = True

    def _lost(self, what: str, exc: Exception) -> None:
        if what not in self._failing and not self._closing.is_set():
            self._failing.add(what)
            place = urlsplit(self._url)
            _log.warning(
                "wake-ups: cannot %s through %s (%s: %s); waiting processes look on their own until it works again",
                what,
                place.hostname or place.path,
                type(exc).__name__,
                str(exc)[:200],
            )

    def _back(self, what: str) -> None:
        if what in self._failing:
            self._failing.discard(what)
            _log.info("wake-ups: can %s again", what)


def _publish_all(client: Redis, names: Sequence[str]) -> None:
    """PUBLISH with an empty message to each channel, in one round trip; written out by hand since it is all we say."""
    connection = client.connection_pool.get_connection()
    try:
        parts = (name.encode() for name in names)
        connection.send_packed_command(  # type: ignore[no-untyped-call]
            [b"".join(b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$0\r\n\r\n" % (len(part), part) for part in parts)]
        )
        for _ in names:
            connection.read_response()
    except BaseException:
        connection.disconnect()  # type: ignore[no-untyped-call]
        raise
    finally:
        client.connection_pool.release(connection)


def _started(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name="llmteam-wakeup", daemon=True)
    thread.start()
    return thread


class _PubSub(Protocol):
    """What is used of redis-py's class, which has no types of its own."""

    def subscribe(self, *names: str) -> None: ...
    def unsubscribe(self, *names: str) -> None: ...
    def ping(self) -> object: ...
    def get_message(self, *, timeout: float) -> dict[str, Any] | None: ...
    def close(self) -> None: ...


@contextmanager
def _pubsub(client: Redis) -> Iterator[_PubSub]:
    from redis.client import PubSub

    pubsub: _PubSub = PubSub(client.connection_pool)
    with closing(pubsub):
        yield pubsub


_instances: weakref.WeakSet[RedisWakeup] = weakref.WeakSet()


def _after_fork() -> None:
    for instance in tuple(_instances):
        instance._reset()


os.register_at_fork(after_in_child=_after_fork)


def shared_wakeup(url: str | None) -> Wakeup:
    """Wake-ups over that Redis; without one they reach this process alone, and others look on their own."""
    return MemoryWakeup() if url is None else RedisWakeup(url)
