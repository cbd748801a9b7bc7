"""Reading server-sent events as a browser does (HTML standard, section 9.2.6), over a real connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import requests

from tests.site import Api


@dataclass
class Told:
    """One event as it came: its number, its type and its document."""

    number: int
    kind: str
    document: dict[str, Any]


@dataclass
class Follower:
    """One connection that follows a run; ``comments`` are its heartbeats so far."""

    api: Api
    run_id: str
    after: int | None = None
    last_event_id: str | None = None
    comments: list[str] = field(default_factory=list)
    retry: int | None = None

    def __enter__(self) -> Self:
        query = "" if self.after is None else f"?after={self.after}"
        headers = {} if self.last_event_id is None else {"Last-Event-ID": self.last_event_id}
        self.response = self.api.get(f"/runs/{self.run_id}/events{query}", headers=headers, stream=True)
        self._lines = self.response.iter_lines(chunk_size=None)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.response.close()

    def __iter__(self) -> Iterator[Told]:
        fields: dict[str, str] = {}
        for raw in self._lines:
            line = raw.decode()
            if line.startswith(":"):
                self.comments.append(line[1:].strip())
            elif line:
                name, _, value = line.partition(":")
                assert name not in fields, f"an event has {name} twice"
                fields[name] = value.removeprefix(" ")
            else:
                if "data" in fields:
                    yield Told(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                elif "retry" in fields:
                    self.retry = int(fields["retry"])
                fields = {}

    def take(self, count: int) -> list[Told]:
        """The next events, in the order in which they come."""
        found = iter(self)
        return [next(found) for _ in range(count)]


def refused(response: requests.Response, status: int) -> dict[str, Any]:
    """The document of a refusal."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    return document
