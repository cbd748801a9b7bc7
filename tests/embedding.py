"""Homes for the tests of the embedded servers, and the processes that belong to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

import llmteam
from llmteam import codec
from llmteam.embedded import start
from tests.waiting import wait_until

ROOT = Path(llmteam.__path__[0]).parent

#: With it, any interpreter of this version finds what this one has.
PYTHONPATH = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

_OWNER = """
import sys
from pathlib import Path
from llmteam.embedded import start
servers = start(Path(sys.argv[1]))
print("started" if servers.started else "joined", servers.database_url, servers.broker_url, flush=True)
sys.stdin.read()
servers.stop()
"""


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path that every user can enter; what runs in it is killed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="llmteam-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        kill_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def kill_all(folder: Path) -> None:
    """Kill whatever runs in ``folder``."""

    def none_left() -> bool:
        for process in (found := processes_of(folder)):
            with contextlib.suppress(psutil.Error):
                process.kill()
        return not found

    wait_until(none_left, f"the killed processes of {folder} to be gone")


def make_seed(folder: Path) -> Path:
    """A cluster in ``folder`` that :func:`plant` copies, because making one takes most of a second."""
    with start(folder / "seed", valkey=False):
        pass
    return folder / "seed" / "embedded" / "postgres"


def plant(seed: Path, home: Path) -> Path:
    """``home`` with the data of ``seed``, as an earlier version of itself might have left it."""
    (home / "embedded").mkdir(parents=True)
    subprocess.run(["cp", "-a", str(seed), str(home / "embedded" / "postgres")], check=True)
    return home


def processes_of(folder: Path) -> list[psutil.Process]:
    """Living processes of the homes in ``folder``: guardians, servers and the servers' children."""
    roots = [folder, *folder.glob("**/embedded")]
    titles = tuple(f"postgres: llmteam-{codec.digest(os.fsencode(root))[:12]}: " for root in roots)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            argv = process.cmdline()
            named = any(part == str(folder) or f"{folder}/" in part for part in argv) and "-c" not in argv[1:2]
            if (named or (argv and argv[0].startswith(titles))) and lives(process):
                found.append(process)
    return found


def lives(process: psutil.Process) -> bool:
    """Whether ``process`` runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def wait_until_gone(folder: Path) -> None:
    """Wait until no process of ``folder`` lives."""
    wait_until(lambda: not processes_of(folder), f"every process of {folder} to be gone")


class Owner:
    """Another process that owns the servers of ``home`` until it leaves or is killed."""

    def __init__(
        self, home: Path, program: str = _OWNER, user: int | None = None, python: str = sys.executable
    ) -> None:
        self._process = subprocess.Popen(
            [python, "-c", program, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | PYTHONPATH,
            user=user,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def answer(self) -> list[str]:
        """What it said once the servers were there: started or joined, database URL, broker URL."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise AssertionError(self._process.stderr.read())
        return line.split()

    def kill(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self._process.communicate(timeout=20)

    def leave(self) -> None:
        """Have it stop properly; returns when it has ended."""
        _, errors = self._process.communicate(timeout=20)
        assert self._process.returncode == 0, errors
        assert not errors


@contextmanager
def owner(home: Path, program: str = _OWNER, user: int | None = None, python: str = sys.executable) -> Iterator[Owner]:
    """An :class:`Owner` that is killed at the end if it is still there."""
    one = Owner(home, program, user, python)
    try:
        yield one
    finally:
        one.kill(signal.SIGKILL)
