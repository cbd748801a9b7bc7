"""The processes under test: workers and beat as users start them, each under its own supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.servers import ROOT
from llmteam.errors import LLMTeamError

_READY_SECONDS = 90.0
#: What running steps get when a worker is asked to end.
GRACE = 5.0
_STOP_SECONDS = GRACE + 15.0
#: How long a service stays away that has ended.
_PAUSE_SECONDS = 1.0


class NotReadyError(LLMTeamError, RuntimeError):
    """A worker did not come up, so that nothing could be tried."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(f"{name} does not come up; its log ends with:\n{words}")


class Service:
    """One ``llmteam worker`` or ``llmteam beat``: started, and started again when it was ended.

    ``wrap`` makes of its command line the one that starts it elsewhere.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        wrap: Callable[[Sequence[str]], list[str]] = list,
    ) -> None:
        self.name = name
        self._wrap = wrap
        self._log = folder / f"{name}.log"
        self._arguments = list(arguments)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._gone_since: float | None = None
        self.wanted = True
        # Of an earlier trial in the same folder: it said that it was ready, too.
        self._log.unlink(missing_ok=True)
        self.start()

    def start(self) -> None:
        """Start the supervisor; the one before must be gone."""
        self._gone_since = None
        clean = {key: value for key, value in os.environ.items() if not key.startswith("LLMTEAM_")}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._wrap([sys.executable, "-P", "-m", "chaos.leashed", *self._arguments]),
                env={**clean, "PYTHONPATH": path, **self._environment},
                cwd=self._log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the harness, which ends them.
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")

    def last_words(self) -> str:
        """The end of its log."""
        return self.log()[-3000:]

    def is_ready(self) -> bool:
        """Whether it has said so. Raises :class:`NotReadyError` when it has ended instead."""
        if not self.is_running:
            raise NotReadyError(self.name, self.last_words())
        return "ready" in self.log()

    def supervisor(self) -> psutil.Process | None:
        return _process(self._process.pid) if self._process is not None and self.is_running else None

    def workers(self) -> list[psutil.Process]:
        """Celery's main processes that are up right now, the oldest first."""
        supervisor = self.supervisor()
        return [] if supervisor is None else children(supervisor)

    def pool(self) -> list[psutil.Process]:
        """The processes of prefork pools, the oldest first."""
        return [child for worker in self.workers() for child in children(worker)]

    def family(self) -> list[psutil.Process]:
        """The supervisor, its workers and their pools, as far as they live."""
        supervisor = self.supervisor()
        return [*([] if supervisor is None else [supervisor]), *self.workers(), *self.pool()]

    def look_after(self) -> bool:
        """Start it again a moment after it ended, whatever ended it, as a container's restart policy does."""
        if self.is_running or not self.wanted:
            return False
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        if now - self._gone_since < _PAUSE_SECONDS:
            return False
        self.start()
        return True

    def ask_to_end(self) -> None:
        if self.is_running and self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Wait until it is gone, after it was asked or killed; by force if it takes too long."""
        if self._process is None:
            return
        family = self.family()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for one in reversed(family):
                with contextlib.suppress(psutil.Error):
                    one.kill()
            self._process.wait()


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def children(parent: psutil.Process) -> list[psutil.Process]:
    """The children of a process, the oldest first; none of one that is gone."""
    try:
        return sorted(parent.children(), key=lambda one: (one.create_time(), one.pid))
    except psutil.Error:
        return []


class Fleet:
    """All services; ``workers`` take turns between threads and prefork."""

    def __init__(self, environment: Mapping[str, str], folder: Path, pairs: int) -> None:
        grace = ("--grace", str(GRACE))
        self.workers: list[Service] = []
        self.preforks: list[Service] = []
        self.beat = Service("beat", ["beat"], environment, folder)
        for number in range(1, pairs + 1):
            for pool, concurrency in (("threads", "16"), ("prefork", "3")):
                arguments = ["worker", "--pool", pool, "--concurrency", concurrency, *grace]
                service = Service(f"{pool}-{number}", arguments, environment, folder)
                self.workers.append(service)
                if pool == "prefork":
                    self.preforks.append(service)

    @property
    def all(self) -> list[Service]:
        return [self.beat, *self.workers]

    def wait_until_ready(self) -> None:
        """Raises :class:`NotReadyError`."""
        give_up = time.monotonic() + _READY_SECONDS
        for service in self.all:
            while not service.is_ready():
                if time.monotonic() > give_up:
                    raise NotReadyError(service.name, service.last_words())
                time.sleep(0.1)

    def look_after(self) -> int:
        """Start again what has ended; how many."""
        return sum(service.look_after() for service in self.all)

    def stop(self) -> None:
        """End everything, what is frozen too."""
        for service in self.all:
            service.ask_to_end()
        for service in self.all:
            service.end()


@contextmanager
def fleet(environment: Mapping[str, str], folder: Path, pairs: int) -> Iterator[Fleet]:
    """Two workers for each of ``pairs``, and beat; all gone afterwards."""
    started = Fleet(environment, folder, pairs)
    try:
        yield started
    finally:
        started.stop()
