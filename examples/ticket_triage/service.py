"""The service that the segment talks to: serves tickets, takes outcomes. ``python -m`` runs it by itself.

=========================  ====================================================================
``GET /tickets?status=…``  ``{"tickets": […]}``, oldest first; every query field must match
``POST /outcomes``         files an outcome for ``ticket_id``; the ticket is then ``triaged``
``GET /outcomes``          ``{"outcomes": […]}`` in the order in which they came
=========================  ====================================================================

A second ``POST`` with the same ``Idempotency-Key`` gets the answer of the first and files nothing.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HOST = "127.0.0.1"


class TicketService(ThreadingHTTPServer):
    """Tickets from the file beside this one, outcomes in memory."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__((HOST, port), _Requests)
        text = files(__package__).joinpath("tickets.json").read_text(encoding="utf-8")
        self.tickets: list[dict[str, Any]] = json.loads(text)
        self.outcomes: list[dict[str, Any]] = []
        self._by_key: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.server_address[1]}"

    def find(self, wanted: dict[str, str]) -> list[dict[str, Any]]:
        """Tickets whose fields have these values."""
        return [one for one in self.tickets if all(str(one.get(name)) == value for name, value in wanted.items())]

    def file(self, outcome: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        """Keep an outcome; the status and document to answer with."""
        with self._lock:
            if key and key in self._by_key:
                return 200, self._by_key[key]
            ticket = next((one for one in self.tickets if one["id"] == outcome.get("ticket_id")), None)
            if ticket is None:
                return 404, {"error": "there is no ticket with this ticket_id"}
            filed = {"id": f"O-{len(self.outcomes) + 1}", **outcome}
            ticket["status"] = "triaged"
            self.outcomes.append(filed)
            if key:
                self._by_key[key] = filed
            return 201, filed


class _Requests(BaseHTTPRequestHandler):
    server: TicketService

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/tickets":
            self._answer(200, {"tickets": self.server.find(dict(parse_qsl(url.query)))})
        elif url.path == "/outcomes":
            self._answer(200, {"outcomes": self.server.outcomes})
        else:
            self._answer(404, {"error": "there are /tickets and /outcomes"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path != "/outcomes":
            return self._answer(404, {"error": "outcomes are posted to /outcomes"})
        try:
            outcome = json.loads(body)
        except ValueError:
            outcome = None
        if not isinstance(outcome, dict):
            return self._answer(400, {"error": "an outcome is a JSON object"})
        return self._answer(*self.server.file(outcome, self.headers.get("idempotency-key", "")))

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document, ensure_ascii=False).encode()
        self.send_response_only(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal belongs to the run."""


@contextmanager
def serving(port: int = 0) -> Iterator[TicketService]:
    """The service in a thread, for the block; port 0 is any that is free."""
    with TicketService(port) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.05,), name="ticket-service", daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


if __name__ == "__main__":
    with TicketService(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as forever:
        print(f"{forever.url} serves {len(forever.tickets)} tickets", flush=True)
        try:
            forever.serve_forever()
        except KeyboardInterrupt:
            sys.exit(130)
