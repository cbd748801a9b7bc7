"""A loopback server that speaks the chat-completions and the messages protocol, as far as a test scripts it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    #: The reply waits for this.
    gate: threading.Event | None = None


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    json: dict[str, Any]


class ModelServer:
    """Answers from ``script`` in order, its last entry for ever; keeps what it received."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.received: list[Received] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = outer._next(Received(self.path, headers, json.loads(body)))
                if reply.gate is not None:
                    reply.gate.wait(20)
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in {"content-type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

            def handle(self) -> None:
                with suppress(ConnectionError):
                    super().handle()

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def _next(self, received: Received) -> Reply:
        with self._lock:
            self.received.append(received)
            return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[ModelServer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def chat_completion(text: str | None, *, reason: str = "stop", tokens: tuple[int, int] | None = (3, 5)) -> Reply:
    """What the chat-completions API answers."""
    usage = tokens and {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": reason, "message": message}
    return Reply(
        {"id": "c1", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": usage}
    )


def message(text: str, *, reason: str = "end_turn") -> Reply:
    """What the messages API answers."""
    usage = {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0}
    content = [{"type": "text", "text": text}] if text else []
    base = {"id": "m1", "type": "message", "role": "assistant", "model": "c-1", "stop_sequence": None}
    return Reply({**base, "content": content, "stop_reason": reason, "usage": usage})


def openai_error(status: int, sentence: str, **headers: str) -> Reply:
    """How the chat-completions API refuses; keywords become headers, and ``code``, ``param`` part of the error."""
    error = {"message": sentence, "type": "some_error", "code": headers.pop("code", None)}
    error["param"] = headers.pop("param", None)
    return Reply({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})


def anthropic_error(status: int, kind: str, sentence: str, **headers: str) -> Reply:
    """How the messages API refuses."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"type": "error", "error": {"type": kind, "message": sentence}}, status, named)
