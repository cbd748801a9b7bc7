"""The one outbound guard: decides which addresses may be reached, and makes the connection to just the one it checked.

The host is resolved once, when the connection is made, and the socket goes to an address of that very answer. A name
that changes its mind between check and use (DNS rebinding) therefore gains nothing, and neither does a redirect, since
each hop needs a connection of its own.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from llmteam.net.addresses import NEVER, Allowance, Endpoint, IPAddress, address_class, normal_host, plain
from llmteam.net.errors import ALLOW_SETTING, ConnectError, OutboundRefusedError
from llmteam.net.sockets import Limit, LimitedSocket

#: Family and socket address, as ``socket.getaddrinfo`` gives them.
Resolved = tuple[int, tuple[Any, ...]]
Resolver = Callable[[str, int], Sequence[Resolved]]

#: No single attempt to connect takes longer, in seconds.
CONNECT_SECONDS = 10.0
#: How long the address of one of our own servers is remembered, in seconds.
_OWN_SECONDS = 60.0

OWN_SERVER = "one of this system's own servers"


def system_resolver(host: str, port: int) -> list[Resolved]:
    """All stream addresses that the operating system knows for ``host``, in its order of preference."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(int(family), tuple(address)) for family, _, _, _, address in found]


class OutboundGuard:
    """Refuses connections to addresses that are not public.

    ``allow_private`` opens private ones (``host:port``, ``cidr:port``); ``trusted`` opens exact endpoints that the
    operator registered; ``refuse_always`` names this system's own servers. Cloud metadata, multicast and unspecified
    addresses and those servers stay closed whatever the other two say. Safe for many threads.
    """

    def __init__(
        self,
        *,
        allow_private: Sequence[str] = (),
        refuse_always: Sequence[str] = (),
        trusted: Sequence[str] = (),
        resolver: Resolver = system_resolver,
    ) -> None:
        self._allow_private = tuple(allow_private)
        self._refuse_always = tuple(refuse_always)
        self._trusted = tuple(trusted)
        self._resolver = resolver
        self._allowances = tuple(Allowance.parse(text) for text in self._allow_private)
        self._trusted_endpoints = frozenset(Endpoint.parse(text) for text in self._trusted)
        self._own = tuple(OwnServer(Endpoint.parse(text), resolver) for text in self._refuse_always)

    def trusting(self, *endpoints: str) -> OutboundGuard:
        """A guard that opens ``endpoints`` (``host:port``) too. Give it only to the resource that they belong to."""
        return OutboundGuard(
            allow_private=self._allow_private,
            refuse_always=self._refuse_always,
            trusted=(*self._trusted, *endpoints),
            resolver=self._resolver,
        )

    def refusing(self, *endpoints: str) -> OutboundGuard:
        """A guard that refuses ``endpoints`` (``host:port``) too, as servers of this system."""
        return OutboundGuard(
            allow_private=self._allow_private,
            refuse_always=(*self._refuse_always, *endpoints),
            trusted=self._trusted,
            resolver=self._resolver,
        )

    def check(self, host: str, address: IPAddress, port: int) -> None:
        """Raise :class:`OutboundRefusedError` unless a request to ``host`` may connect to ``address`` and ``port``."""
        host = normal_host(host)
        endpoint = Endpoint(host, port)
        if any(own.is_at(host, address, port) for own in self._own):
            raise OutboundRefusedError(str(endpoint), f"it is {OWN_SERVER}", "no setting allows that")
        label = address_class(address)
        if label is None:
            return
        if label in NEVER:
            raise OutboundRefusedError(str(endpoint), f"it is at {label}", "no setting allows that")
        if endpoint in self._trusted_endpoints:
            return
        if any(allowance.covers(host, address, port) for allowance in self._allowances):
            return
        raise OutboundRefusedError(
            str(endpoint), f"it is at {label}", f"if that is wanted, the operator adds {endpoint} to {ALLOW_SETTING}"
        )

    def resolve(self, host: str, port: int, limit: Limit) -> list[Resolved]:
        """The checked addresses of ``host``, at least one.

        Refused addresses are left out; when none is left, or one is never allowed, the request is refused.
        """
        allowed: list[Resolved] = []
        refusal: OutboundRefusedError | None = None
        for family, sockaddr in self._look_up(host, port, limit):
            address = ipaddress.ip_address(sockaddr[0])
            try:
                self.check(host, address, port)
            except OutboundRefusedError as exc:
                if address_class(address) in NEVER:
                    raise
                refusal = refusal or exc
            else:
                allowed.append((family, sockaddr))
        if not allowed:
            raise refusal or ConnectError(str(Endpoint(host, port)), "the name has no address")
        return allowed

    def connect(self, host: str, port: int, limit: Limit) -> LimitedSocket:
        """A connected socket to a checked address of ``host``.

        Raises :class:`OutboundRefusedError`, :class:`ConnectError`, or ``TimeoutError`` when ``limit`` is over.
        """
        reason = "no address"
        for family, sockaddr in self.resolve(host, port, limit):
            sock = LimitedSocket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(min(limit.remaining(), CONNECT_SECONDS))
                sock.connect(sockaddr)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(limit.remaining())
            except OSError as exc:
                sock.close()
                limit.remaining()
                reason = exc.strerror or "no connection within the time allowed"
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise ConnectError(str(Endpoint(host, port)), reason)

    def _look_up(self, host: str, port: int, limit: Limit) -> Sequence[Resolved]:
        literal = Endpoint(normal_host(host), port).address
        if literal is not None:
            family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
            return [(int(family), (str(literal), port) if literal.version == 4 else (str(literal), port, 0, 0))]
        return _in_thread(self._resolver, normal_host(host), port, limit)


class OwnServer:
    """One of this system's own servers, known by name and by the addresses behind it."""

    def __init__(self, endpoint: Endpoint, resolver: Resolver) -> None:
        self.endpoint = endpoint
        self._resolver = resolver
        self._known: frozenset[IPAddress] = frozenset()
        self._until = 0.0

    def is_at(self, host: str, address: IPAddress, port: int) -> bool:
        """Whether a connection to ``address`` and ``port`` could end at this server.

        A server on this machine is met on every address of the machine. While its name cannot be resolved, its port is
        closed on all addresses that are not public.
        """
        if port != self.endpoint.port:
            return False
        if host == self.endpoint.host:
            return True
        known = self._addresses()
        address = plain(address)
        if not known:
            return address_class(address) is not None
        return address in known or (_is_local(address) and any(_is_local(one) for one in known))

    def _addresses(self) -> frozenset[IPAddress]:
        literal = self.endpoint.address
        if literal is not None:
            return frozenset({literal})
        if time.monotonic() >= self._until:
            with suppress(OSError):
                found = self._resolver(self.endpoint.host, self.endpoint.port)
                self._known = frozenset(plain(ipaddress.ip_address(sockaddr[0])) for _, sockaddr in found)
            self._until = time.monotonic() + _OWN_SECONDS
        return self._known


def _is_local(address: IPAddress) -> bool:
    """Whether ``address`` belongs to this machine: only then can a socket be bound to it."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _in_thread(resolver: Resolver, host: str, port: int, limit: Limit) -> Sequence[Resolved]:
    """Resolve with a time limit, which the operating system's resolver does not take."""
    found: list[Sequence[Resolved]] = []

    def work() -> None:
        # ValueError: names that the operating system's encoding of names refuses.
        with suppress(OSError, ValueError):
            found.append(resolver(host, port))

    thread = threading.Thread(target=work, name="llmteam-resolve", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(limit.pause())
    if not found:
        raise ConnectError(str(Endpoint(host, port)), "the name cannot be resolved")
    return found[0]
