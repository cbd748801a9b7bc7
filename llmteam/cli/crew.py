"""The processes that a command keeps running beside itself: started, watched, started again, stopped with it.

Single-threaded: whoever has a crew calls :meth:`Crew.tick` now and then, always from the same thread, because the
kernel ends the children with the thread that started them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from llmteam.cli.child import STOP, Orders
from llmteam.dispatch import PROCESS_QUEUES, QUARANTINE_QUEUE, THREAD_QUEUES, queues_in
from llmteam.regions import DEFAULT_REGION
from llmteam.settings import file_variable, variable

logger = logging.getLogger(__name__)

#: Seconds between a child's end and its next start: the first, and the most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
#: A child that lived this many seconds has got over whatever ended the one before.
_STABLE_SECONDS = 60.0
#: Only the supervisor may change tables.
_KEPT_BACK = (variable("migration_url"), file_variable("migration_url"))
_LOG_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Program:
    """One of Celery's programs with its arguments, and the queues that it serves."""

    name: str
    arguments: tuple[str, ...]
    queues: tuple[str, ...] = ()


def threads_worker(concurrency: int | None = None, *, region: str = DEFAULT_REGION, lean: bool = False) -> Program:
    """Our own steps: they wait much and compute little."""
    return _worker("threads", queues_in(region, THREAD_QUEUES), concurrency or 16, lean)


def prefork_worker(
    concurrency: int | None = None, *, region: str = DEFAULT_REGION, lean: bool = False, apart: bool = False
) -> Program:
    """Users' steps, one process each. ``apart`` says that another worker serves the quarantine."""
    queues = tuple(queue for queue in PROCESS_QUEUES if not apart or queue != QUARANTINE_QUEUE)
    return _worker("prefork", queues_in(region, queues), concurrency or os.cpu_count() or 1, lean)


def quarantine_worker(region: str = DEFAULT_REGION) -> Program:
    """Steps that took their worker with them: one at a time, and each in a process that ends with it."""
    program = _worker("prefork", queues_in(region, (QUARANTINE_QUEUE,)), 1, lean=False, name="quarantine")
    return replace(program, arguments=(*program.arguments, "--max-tasks-per-child", "1"))


def _worker(pool: str, queues: Sequence[str], concurrency: int, lean: bool, name: str = "") -> Program:
    """``lean`` leaves out heartbeats, which only Flower reads. Nobody reads gossip, and mingling takes a second."""
    arguments = ["worker", "--pool", pool, "--concurrency", str(concurrency), "--queues", ",".join(queues)]
    arguments += ["--hostname", f"{name or pool}.{os.getpid()}@%h", "--without-gossip", "--without-mingle"]
    arguments += ["--without-heartbeat"] if lean else []
    return Program(name or pool, tuple(arguments), tuple(queues))


def beat() -> Program:
    """The clock behind sweeps. Intervals need no memory, so none is kept on disk."""
    return Program("beat", ("beat", "--scheduler", "celery.beat:Scheduler"))


def flower(address: str, port: int) -> Program:
    """Flower; its credentials come by ``FLOWER_BASIC_AUTH``, which other users cannot see."""
    return Program("flower", ("flower", f"--address={address}", f"--port={port}"))


@dataclass(frozen=True)
class Refusal:
    """Why a child will not start however often it is tried."""

    code: int
    message: str


@dataclass
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    lifeline: IO[bytes] | None = None
    status: int = -1
    heard: bytes = b""
    began: float = 0.0
    failures: int = 0
    next_start: float | None = None
    ready: bool = False
    was_ready: bool = False
    refusal: Refusal | None = None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.lifeline is not None:
                self.lifeline.close()
        if self.status >= 0:
            os.close(self.status)
        self.lifeline, self.status, self.process = None, -1, None


@dataclass
class Crew:
    """Children with the same orders. Before :meth:`release` they import and wait.

    ``log`` is a folder for what they write; without one it goes where ours goes.
    """

    log: Path | None = None
    #: Variables that children have from their first moment on.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: When the children were last looked after, by the clock that never goes back.
    looked: float = field(default_factory=time.monotonic)
    _children: list[_Child] = field(default_factory=list)
    _orders: Orders | None = None

    def add(self, program: Program) -> None:
        """Start a program beside those that run."""
        child = _Child(program)
        self._children.append(child)
        self._start(child)

    def release(self, orders: Orders) -> None:
        """Give the children what they wait for, to those of later too."""
        self._orders = orders
        for child in self._children:
            self._tell(child, orders.line())

    @property
    def names(self) -> list[str]:
        return [child.program.name for child in self._children]

    @property
    def queues(self) -> set[str]:
        """What the crew serves, or will in a moment."""
        return {queue for child in self._children for queue in child.program.queues}

    @property
    def ready(self) -> bool:
        """Whether every worker and beat has said that it works."""
        return all(child.ready or child.program.name == "flower" for child in self._children)

    @property
    def starting(self) -> list[str]:
        """The names of those that do not run, or have not said yet that they work. From any thread."""
        return [child.program.name for child in self._children if child.process is None or not child.ready]

    @property
    def refusal(self) -> Refusal | None:
        """Why the crew cannot do its work; known only after a :meth:`tick`."""
        return next((child.refusal for child in self._children if child.refusal is not None), None)

    def hopeless(self, attempts: int) -> str | None:
        """The name of a child that ended so many times and never came up."""
        failing = (one for one in self._children if one.failures >= attempts and not one.was_ready)
        return next((one.program.name for one in failing), None)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children that run, by name."""
        return {one.program.name: one.process.pid for one in self._children if one.process is not None}

    def log_of(self, name: str) -> Path | None:
        return None if self.log is None else self.log / f"{name}.log"

    def _start(self, child: _Child) -> None:
        child.next_start = None
        child.ready = False
        child.heard = b""
        child.began = time.monotonic()
        child.status, theirs = os.pipe()
        os.set_blocking(child.status, False)
        argv = [sys.executable, "-P", "-m", "llmteam.cli.child", child.program.name, str(theirs)]
        try:
            with self._output(child.program.name) as output:
                child.process = subprocess.Popen(
                    [*argv, *child.program.arguments],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs],
                    # What runs steps has no business with the login that may change the tables.
                    env={name: value for name, value in os.environ.items() if name not in _KEPT_BACK}
                    | dict(self.environment),
                    # Out of reach of the terminal's Ctrl-C: we say when it ends, and its group is its own.
                    start_new_session=True,
                )
        finally:
            os.close(theirs)
        child.lifeline = child.process.stdin
        if self._orders is not None:
            self._tell(child, self._orders.line())

    @contextlib.contextmanager
    def _output(self, name: str) -> Iterator[IO[bytes] | None]:
        path = self.log_of(name)
        if path is None:
            yield None
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as stream:
            yield stream

    def _tell(self, child: _Child, line: bytes) -> None:
        with contextlib.suppress(OSError):
            if child.lifeline is not None:
                child.lifeline.write(line)
                child.lifeline.flush()

    def tick(self) -> None:
        """Look after the children: hear what they say, and start again those that ended."""
        self.looked = time.monotonic()
        for child in self._children:
            self._hear(child)
            if child.process is not None and child.process.poll() is not None:
                self._ended(child)
            elif child.next_start is not None and child.next_start <= time.monotonic():
                self._start(child)

    def _hear(self, child: _Child) -> None:
        with contextlib.suppress(BlockingIOError):
            while child.status >= 0 and (part := os.read(child.status, 4096)):
                child.heard += part
        *lines, child.heard = child.heard.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message.get("ready"):
                child.ready = child.was_ready = True
                logger.info("%s is ready", child.program.name)
            elif not child.was_ready:
                child.refusal = Refusal(message["refused"], message["message"])
            else:
                logger.error("%s: %s", child.program.name, message["message"])

    def _ended(self, child: _Child) -> None:
        assert child.process is not None
        code = child.process.returncode
        now = time.monotonic()
        child.failures = 1 if now - child.began > _STABLE_SECONDS else child.failures + 1
        child.close()
        if child.refusal is not None:
            return
        pause = min(_FIRST_PAUSE * 2 ** (child.failures - 1), _LONGEST_PAUSE)
        child.next_start = now + pause
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        logger.warning("%s ended %s; it starts again in %.1f s", child.program.name, how, pause)

    def stop(
        self, patience: float = 60.0, *, hasty: bool = False, impatient: Callable[[], bool] = lambda: False
    ) -> None:
        """End every child: let running steps finish for ``patience`` seconds, then kill.

        ``hasty`` ends those at once that have nothing to do, without users' own clean-up. ``impatient`` ends the wait.
        """
        running = [child for child in self._children if child.process is not None]
        for child in running:
            if self._orders is None:
                self._kill(child)
            elif hasty:
                self._tell(child, STOP)
            else:
                self._signal(child, signal.SIGTERM)
        give_up = time.monotonic() + patience
        while any(_runs(child) for child in running) and time.monotonic() < give_up and not impatient():
            time.sleep(0.02)
        for child in running:
            self._kill(child)
            child.close()
        self._children.clear()

    def _signal(self, child: _Child, number: signal.Signals) -> None:
        assert child.process is not None
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)

    def _kill(self, child: _Child) -> None:
        """Kill the child's process group, which has nobody else in it."""
        assert child.process is not None
        if child.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()


def _runs(child: _Child) -> bool:
    return child.process is not None and child.process.poll() is None


def tail(path: Path | None, lines: int = 12) -> str:
    """The last lines of a log."""
    if path is None or not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 8192))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
