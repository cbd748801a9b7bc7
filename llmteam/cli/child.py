"""The process in which a supervisor runs one of Celery's programs: ``python -m llmteam.cli.child NAME FD ARGS…``.

What it needs to know comes as one line of JSON on standard input, :class:`Orders`, after the slow imports that need
none of it. Standard input stays open as the life line: its end means that the supervisor is gone, whatever ended it,
and the program drains for a moment and ends too. ``FD`` takes lines of JSON about readiness or refusal.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmteam import metrics
from llmteam.errors import LLMTeamError

#: On the life line: end now if nothing is being worked on, else drain.
STOP = b"stop\n"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Orders:
    """Variables to set, and what running steps get after the supervisor has died, in seconds.

    ``counts`` says that metrics are asked for; where they are written, a variable told before.
    """

    environment: dict[str, str]
    orphan_seconds: float = 10.0
    counts: bool = False

    def line(self) -> bytes:
        """What the supervisor writes first."""
        return json.dumps(asdict(self)).encode() + b"\n"


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send ``number`` to this process when its parent ends, however that ends (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def main(argv: Sequence[str]) -> None:
    """Run the program; the exit code is the program's."""
    name, status, arguments = argv[0], int(argv[1]), list(argv[2:])
    os.set_inheritable(status, False)
    parent = os.getppid()
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        return
    _look_in_working_directory()
    _import_slow_parts(arguments[0])
    orders = _first_line()
    if orders is None:
        return
    for variable in orders.environment:
        # What came from a file is told as a value: both would be one too many.
        os.environ.pop(f"{variable}_FILE", None)
    os.environ.update(orders.environment)
    sys.exit(_run(name, arguments, _Reporter(status), orders))


def _look_in_working_directory() -> None:
    """Users' modules may stand in the working directory; it comes last, so that none hides a library's."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def _import_slow_parts(program: str) -> None:
    names = ["celery.bin.celery", "llmteam.tasks"]
    if program == "worker":
        names += ["celery.apps.worker", "celery.worker.consumer", "llmteam.canvas.handlers"]
        names += ["celery.concurrency.prefork", "celery.concurrency.thread"]
    for name in names:
        importlib.import_module(name)


def _first_line() -> Orders | None:
    """What the supervisor says first; nothing when it is gone already."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            return None
        line += part
    return Orders(**json.loads(line))


class _Reporter:
    """Tells the supervisor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, **message: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, json.dumps(message).encode() + b"\n")

    def refused(self, exc: LLMTeamError) -> None:
        from llmteam.tasks.startup import exit_code

        self(refused=exit_code(exc), message=str(exc))


def _run(name: str, arguments: list[str], report: _Reporter, orders: Orders) -> int:
    from llmteam.settings import Settings
    from llmteam.tasks import startup

    watch = functools.partial(_watch_lifeline, orders.orphan_seconds)
    threading.Thread(target=watch, name="llmteam-lifeline", daemon=True).start()
    try:
        settings = Settings.load()
        startup.take_logging(name, settings)
        if orders.counts:
            metrics.enable()
        startup.on_refusal = report.refused
        _connect(report)
        from llmteam.tasks.celery import app
    except LLMTeamError as exc:
        report.refused(exc)
        return startup.exit_code(exc)
    # Celery advises against root; containers and demos are often nothing else, and only JSON is accepted.
    warnings.filterwarnings("ignore", message=".*superuser privileges")
    try:
        app.start(["--quiet", *arguments])
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    return 0


def _connect(report: _Reporter) -> None:
    from celery.signals import beat_init, worker_process_init, worker_ready

    worker_ready.connect(lambda **_: report(ready=True), weak=False)
    beat_init.connect(lambda **_: report(ready=True), weak=False)
    worker_process_init.connect(_in_pool_process, weak=False)


def _in_pool_process(**_: Any) -> None:
    """A process of the pool must not outlive the main one that was killed."""
    die_with_parent(signal.SIGKILL)


def _watch_lifeline(orphan_seconds: float) -> None:
    pending = b""
    while part := os.read(0, 4096):
        pending += part
        if STOP in pending:
            break
    else:
        _end_soon(orphan_seconds)
    if not _is_busy():
        # Nothing is lost: a hint that arrives right now is one that a sweep sends again.
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_soon(seconds: float) -> None:
    """Drain, then end, by force when it takes longer than ``seconds``."""
    if (shutdown := sys.modules.get("llmteam.tasks.shutdown")) is not None:
        shutdown.within(seconds / 2)
    os.kill(os.getpid(), signal.SIGTERM)
    give_up = time.monotonic() + seconds
    while _is_busy() and time.monotonic() < give_up:
        time.sleep(0.05)
    os._exit(1)


def _is_busy() -> bool:
    state: Any = sys.modules.get("celery.worker.state")
    return bool(state and state.reserved_requests)


if __name__ == "__main__":
    main(sys.argv[1:])
