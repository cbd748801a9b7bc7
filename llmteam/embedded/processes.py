"""Server processes: started so that they die with their parent, as a user that may run them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Signals with which to end a process, each with the seconds that it is given before the next.
StopSignals = tuple[tuple[signal.Signals, float], ...]

_PR_SET_PDEATHSIG = 1
_POLL = 0.005


@dataclass(frozen=True, slots=True)
class Account:
    """The user as which the servers run when this process is root."""

    name: str
    uid: int
    gid: int


def spawn(
    argv: Sequence[str], *, account: Account | None, log: Path, death_signal: signal.Signals
) -> subprocess.Popen[bytes]:
    """Start ``argv`` as ``account`` with its output appended to ``log``.

    On Linux the kernel sends it ``death_signal`` when the calling thread ends, however it ends; elsewhere nothing
    does. The environment is bare: PG* variables of the caller must not move a server.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            umask=0o077,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with_parent(death_signal),  # noqa: PLW1509 - the guardian has one thread
        )


def _environment() -> dict[str, str]:
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}


def _die_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def succeeds(argv: Sequence[str], account: Account | None) -> bool:
    """Whether ``argv``, run as ``account``, exits with 0 within ten seconds."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            env=_environment(),
            timeout=10,
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def wait_for(
    process: subprocess.Popen[bytes], until: Callable[[], bool], timeout: float, wanted: Callable[[], None]
) -> bool:
    """Wait until ``until()`` holds (True), or the process has ended or ``timeout`` seconds are over (False).

    ``wanted`` is called all along and raises to give up.
    """
    end = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < end:
        if until():
            return True
        wanted()
        time.sleep(_POLL)
    return False


def tail(log: Path, offset: int = 0, limit: int = 2000) -> str:
    """The last ``limit`` bytes that were written to ``log`` behind ``offset``."""
    try:
        with log.open("rb") as lines:
            size = lines.seek(0, os.SEEK_END)
            lines.seek(max(offset, size - limit))
            return lines.read().decode(errors="replace")
    except OSError:
        return ""
