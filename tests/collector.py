"""A collector of traces on loopback that keeps what it receives, answers nothing for a while, or goes away."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Told:
    """One span as it was sent. ``worker`` is the process that sent it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]
    worker: str

    def said(self, *names: str) -> tuple[Any, ...]:
        return tuple(self.attributes.get(name, self.attributes.get(f"llmteam.{name}")) for name in names)


class Collector(ThreadingHTTPServer):
    """The server; ``hung`` while it answers nobody."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        self.spans: list[Told] = []
        self.waiting = 0
        self.answers = threading.Event()
        self.answers.set()

    @cached_property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of_run(self, run_id: str) -> list[Told]:
        """All spans that name this run, or stand in its trace, in the order in which they began."""
        every = list(self.spans)
        traces = {span.trace_id for span in every if span.attributes.get("llmteam.run_id") == run_id}
        return sorted((span for span in every if span.trace_id in traces), key=lambda span: span.start)

    def names_of(self, run_id: str) -> Counter[str]:
        return Counter(span.name for span in self.of_run(run_id))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.server.answers.is_set():
            self.server.waiting += 1
            self.server.answers.wait()
        assert self.path == "/v1/traces"
        self.server.spans.extend(_spans(body))
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Requests are no news."""


def _spans(body: bytes) -> Iterator[Told]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        worker = _values(resource.resource.attributes)["service.instance.id"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Told(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    _values(span.attributes),
                    worker,
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector for the block."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, name="collector", daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.answers.set()
        collector.shutdown()
        collector.server_close()
        thread.join()
