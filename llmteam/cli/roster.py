"""Who serves the queues of one home on this machine: a file per supervisor, locked as long as it lives.

The kernel gives up the lock when the supervisor ends, whatever ends it, so that nobody waits for the dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from llmteam.ids import utc_now


@dataclass(frozen=True)
class Member:
    """A supervisor, the programs that it runs and the modules that their workers imported. ``since`` is ISO 8601."""

    pid: int
    command: str
    programs: tuple[str, ...]
    imports: tuple[str, ...] = ()
    since: str = ""


def members(home: Path) -> list[Member]:
    """The living supervisors of ``home`` but for this process; files of dead ones are removed."""
    found = []
    for path in sorted(_folder(home).glob("*.json")):
        if path.stem == str(os.getpid()):
            continue
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            member = _read(path)
            if member is not None:
                found.append(member)
    return found


def _read(path: Path) -> Member | None:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            data = json.load(file)
            return Member(**{**data, "programs": tuple(data["programs"]), "imports": tuple(data["imports"])})
        path.unlink(missing_ok=True)
        return None


class Enlistment:
    """This process in the roster, from the first :meth:`write` to :meth:`close`."""

    def __init__(self, home: Path, command: str, imports: Iterable[str] = ()) -> None:
        self._path = _folder(home) / f"{os.getpid()}.json"
        self._command = command
        self._imports = tuple(imports)
        self._file: IO[str] | None = None

    def write(self, programs: Iterable[str]) -> None:
        """Say which programs run now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        since = utc_now().isoformat(timespec="seconds")
        member = Member(os.getpid(), self._command, tuple(programs), self._imports, since)
        draft = self._path.with_suffix(".new")
        file = draft.open("w", encoding="utf-8")
        # flock, not lockf: closing another handle of the file in this process must not give up the lock.
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(asdict(member), file)
        file.flush()
        # Only now can it be found, and it is locked.
        draft.replace(self._path)
        if self._file is not None:
            self._file.close()
        self._file = file

    def close(self) -> None:
        """Leave the roster. Safe to call twice."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def _folder(home: Path) -> Path:
    return home / "workers"
