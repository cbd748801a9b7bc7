"""A small HTTP server for probes and scrapers: a few fixed pages, read only, on threads of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llmteam.errors import ConfigurationError

#: Seconds in which a client has to say what it wants, and to take the answer.
PATIENCE = 5.0
#: Clients that are served at once; further ones are hung up on.
MOST_CLIENTS = 16


@dataclass(frozen=True)
class Page:
    """One answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


#: What makes the page of a path, anew for each request.
Pages = Mapping[str, Callable[[], Page]]


@contextmanager
def listening(address: tuple[str, int], pages: Pages) -> Iterator[int]:
    """Serve ``pages`` at this host and port for the block; gives the port that was taken.

    Raises :class:`ConfigurationError` when the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        server = _Server(family, address, pages)
    except OSError as exc:
        where = f"{address[0]} port {address[1]}"
        raise ConfigurationError(f"nothing can listen on {where} ({exc.strerror}): name another address") from None
    thread = threading.Thread(target=partial(server.serve_forever, 0.1), name="llmteam-listener", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A client that holds on must not hold up the end of the process.
    block_on_close = False

    def __init__(self, family: int, address: tuple[str, int], pages: Pages) -> None:
        self.address_family = family
        self.pages = pages
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's concern."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE
    server_version = "llmteam"
    sys_version = ""

    def do_GET(self) -> None:  # the base class's name
        self._answer(body=True)

    def do_HEAD(self) -> None:  # the base class's name
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        page = Page(404, b"nothing here\n") if make is None else make()
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            with contextlib.suppress(OSError):
                self.wfile.write(page.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Probes come every few seconds."""
