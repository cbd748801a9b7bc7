"""The outside world: a service on loopback that notes whoever asked it to do something, under which key, how often."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Effects by run label and name, each with its keys and how often each came; no key counts as the empty one.
Effects = Mapping[tuple[str, str], Mapping[str, int]]


@dataclass
class Ledger:
    """What was done so far; ``url`` is where."""

    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _done: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def note(self, label: str, name: str, key: str) -> None:
        with self._lock:
            self._done[label, name][key] += 1

    def entries(self) -> Effects:
        """A copy of everything."""
        with self._lock:
            return {effect: Counter(keys) for effect, keys in self._done.items()}


@contextmanager
def service(address: str = "127.0.0.1") -> Iterator[Ledger]:
    """The service, on a free port."""
    ledger = Ledger()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """``/effects/LABEL/NAME``; answers with the document that came."""
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            _, _, label, name = self.path.split("/")
            ledger.note(label, name, self.headers.get("Idempotency-Key", ""))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the ledger says it all."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that was killed in the middle is what this is about."""

    server = Server((address, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="chaos-effects", daemon=True)
    thread.start()
    try:
        ledger.url = f"http://{address}:{server.server_address[1]}/effects"
        yield ledger
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
