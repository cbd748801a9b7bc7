"""What ``llmteam doctor`` says about the embedded servers; looking starts nothing and changes nothing."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from llmteam.codec import JSON
from llmteam.embedded import programs, wire
from llmteam.embedded.errors import EmbeddedServerError
from llmteam.embedded.places import guardian_socket
from llmteam.embedded.state import Control, State

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class OwnerStatus:
    """A process that keeps the servers running. ``since`` is ISO 8601, UTC."""

    pid: int
    command: str
    since: str


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server. ``pid`` is None when it is down; ``version`` is ``not installed`` without its wheel.

    ``restarts`` counts how often it had ended unasked since its guardian started.
    """

    name: str
    pid: int | None
    restarts: int
    version: str
    data: Path
    data_bytes: int


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """The servers of one home. ``guardian_pid`` is None when none runs."""

    home: Path
    guardian_pid: int | None
    owners: tuple[OwnerStatus, ...]
    servers: tuple[ServerStatus, ...]
    notes: tuple[str, ...]

    @property
    def running(self) -> bool:
        return self.guardian_pid is not None


def status(home: Path) -> EmbeddedStatus:
    """How the servers of ``home`` are. Raises EmbeddedPlaceError when their state cannot be read."""
    control = Control(Path(home).expanduser().resolve())
    state = control.load()
    answer = _ask(state) if state else {}
    root = Path(state.root) if state else control.folder
    return EmbeddedStatus(
        home=control.home,
        guardian_pid=answer.get("pid"),
        owners=tuple(OwnerStatus(**owner) for owner in answer.get("owners", [])),
        servers=tuple(_server(name, root / name, answer.get("servers", {})) for name in ("postgres", "valkey")),
        notes=tuple(answer.get("notes", [])),
    )


def _ask(state: State) -> JSON:
    try:
        line = wire.connect(guardian_socket(Path(state.run)), _SECONDS)
    except OSError:
        return {}
    with contextlib.closing(line), contextlib.suppress(OSError):
        line.send({"do": "status"})
        return line.receive(_SECONDS) or {}
    return {}


def _server(name: str, data: Path, running: JSON) -> ServerStatus:
    found = running.get(name, {"pid": None, "restarts": 0})
    return ServerStatus(name, found["pid"], found["restarts"], _version(name), data, _size(data))


def _version(name: str) -> str:
    try:
        program = programs.find_postgres().program("postgres") if name == "postgres" else programs.find_valkey()
    except EmbeddedServerError:
        return "not installed"
    return programs.version(program)


def _size(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            # Files come and go under a running server.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
