"""How a command is asked for at the process of which commands are forked (``tests.forking``); quick to import."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence


def command(
    address: str,
    arguments: Sequence[str],
    streams: Sequence[int],
    *,
    cwd: str,
    env: Mapping[str, str],
    timeout: float | None = None,
) -> int:
    """Have ``llmteam`` run with these three streams; its exit code, negative for a signal.

    What takes more than ``timeout`` seconds is killed and ends with TimeoutError.
    """
    here, there = socket.socketpair()
    with here:
        with there, tempfile.TemporaryFile("w+") as order, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            json.dump({"arguments": list(arguments), "cwd": cwd, "environment": dict(env)}, order)
            order.seek(0)
            asking.connect(address)
            socket.send_fds(asking, [b"run"], [there.fileno(), order.fileno(), *streams])
        # The first command waits until all is imported.
        pid = _told(here)
        here.settimeout(timeout)
        try:
            return _told(here)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise


def _told(here: socket.socket) -> int:
    answer = here.recv(8)
    assert len(answer) == 8, "the process of which commands are forked has ended; it says why on standard error"
    return int.from_bytes(answer, "big", signed=True)


def main(address: str) -> None:
    """Stand in for ``llmteam`` on the path."""
    code = command(address, sys.argv[1:], (0, 1, 2), cwd=os.getcwd(), env=os.environ)
    sys.exit(code if code >= 0 else 128 - code)
