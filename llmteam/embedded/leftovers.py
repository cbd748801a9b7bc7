"""Server processes that an earlier guardian left behind: found by their command line, and ended.

A process is only ever signalled after its command line has shown that it is ours; psutil refuses to signal a pid
that has been given to another process meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from llmteam.embedded.errors import EmbeddedStartError
from llmteam.embedded.processes import StopSignals, tail

_POLL = 0.005


def command_line(pid: int) -> list[str]:
    """The command line of process ``pid``; empty when there is none or it is not for us to see."""
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def exists(pid: int) -> bool:
    """Whether the number ``pid`` is taken, be it by a process that has ended and that nobody has collected."""
    return psutil.pid_exists(pid)


def find(ours: Callable[[list[str]], bool]) -> list[psutil.Process]:
    """Every living process whose command line ``ours`` accepts."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (argv := process.cmdline()) and ours(argv):
                found.append(process)
    return found


def end(processes: Sequence[psutil.Process], signals: StopSignals) -> list[psutil.Process]:
    """End ``processes``: each signal in turn, with its patience in seconds. Returns those that still live."""
    alive = list(processes)
    for number, patience in signals:
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        until = time.monotonic() + patience
        while alive := [process for process in alive if _lives(process)]:
            if time.monotonic() >= until:
                break
            time.sleep(_POLL)
    return alive


def clear(label: str, log: Path, ours: Callable[[list[str]], bool], signals: StopSignals) -> None:
    """End every process that ``ours`` accepts. Raises EmbeddedStartError when one survives all ``signals``."""
    alive = end(find(ours), signals)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        reason = f"of an earlier start does not end (process {pids})"
        raise EmbeddedStartError(label, reason, str(log), tail(log))


def _lives(process: psutil.Process) -> bool:
    # A zombie holds nothing any more; where nobody reaps orphans it would stay for ever.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
