"""Sockets that know when the whole request has to be over.

Per-read timeouts do not bound a server that sends one byte a second. Each socket here is bound to the :class:`Limit` of
the request that uses it, and every read and write waits no longer than what is left of it.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llmteam.net.errors import RequestCancelledError

#: How long a blocked read goes without looking whether the work was cancelled, in seconds.
_LOOK = 1.0

_current: ContextVar[Limit | None] = ContextVar("llmteam_net_limit", default=None)


class Limit:
    """When a request has to be over: ``seconds`` from now, and as soon as ``cancelled`` is set."""

    def __init__(self, seconds: float, cancelled: threading.Event | None = None) -> None:
        self.seconds = seconds
        self.ends = time.monotonic() + seconds
        self.cancelled = cancelled

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.ends

    def remaining(self) -> float:
        """Seconds left, above 0. Raises ``TimeoutError`` or :class:`RequestCancelledError` when there are none."""
        if self.cancelled is not None and self.cancelled.is_set():
            raise RequestCancelledError
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request's time is over")
        return left

    def pause(self) -> float:
        """How long one blocking call may wait before it looks again."""
        left = self.remaining()
        return left if self.cancelled is None else min(left, _LOOK)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Bind the sockets that this thread uses inside the block to this limit."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


def current_limit() -> Limit | None:
    """The limit that is active in this thread."""
    return _current.get()


class LimitedSocket(socket.socket):
    """A TCP socket whose reads and writes end with its :class:`Limit`."""

    limit: Limit | None = None

    def recv_into(self, *args: Any) -> int:
        return _within_limit(self, super().recv_into, args)

    def sendall(self, *args: Any) -> None:
        if self.limit is not None:
            self.settimeout(self.limit.remaining())
        super().sendall(*args)


class LimitedTLSSocket(ssl.SSLSocket):
    """A TLS socket whose reads and writes end with its :class:`Limit`."""

    limit: Limit | None = None

    def recv_into(self, *args: Any) -> int:
        return _within_limit(self, super().recv_into, args)

    def send(self, *args: Any) -> int:
        if self.limit is not None:
            self.settimeout(self.limit.remaining())
        return super().send(*args)


def _within_limit(sock: LimitedSocket | LimitedTLSSocket, receive: Callable[..., int], args: tuple[Any, ...]) -> int:
    """What ``receive`` gives, asked again after each pause until the socket's limit ends it."""
    limit = sock.limit
    if limit is None:
        return receive(*args)
    while True:
        sock.settimeout(limit.pause())
        try:
            return receive(*args)
        except TimeoutError:
            continue


def bind(sock: object, limit: Limit | None) -> None:
    """Let ``limit`` govern ``sock`` from now on, when it is one of the sockets of this module."""
    if isinstance(sock, LimitedSocket | LimitedTLSSocket):
        sock.limit = limit
