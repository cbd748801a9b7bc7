"""One server process under the guardian: started until it answers, started again when it ends unasked, stopped."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from llmteam.embedded.errors import EmbeddedServerError, EmbeddedStartError
from llmteam.embedded.processes import Account, StopSignals, spawn, tail, wait_for

#: Recovery after a crash replays the log, which can take a while.
_START_SECONDS = 120.0
_PORT_ATTEMPTS = 5
#: A server that ends this often in a row, each time within _STABLE_SECONDS, is left alone.
_RESTARTS_IN_A_ROW = 10
_STABLE_SECONDS = 10.0
_LOG_LIMIT = 8 * 1024 * 1024

_logger = logging.getLogger(__name__)


class Server(Protocol):
    """What the supervisor needs to know about a kind of server."""

    name: str
    label: str
    log: Path
    death_signal: signal.Signals
    stop_signals: StopSignals

    def clear_leftovers(self, thorough: bool) -> None: ...

    def prepare(self, wanted: Callable[[], None]) -> None: ...

    def command(self) -> list[str]: ...

    def ready(self, pid: int) -> bool: ...

    def retry_elsewhere(self, log_tail: str) -> bool: ...

    def addresses(self) -> dict[str, str]: ...


class Supervised:
    """A server and its process."""

    def __init__(self, server: Server, account: Account | None) -> None:
        self.server = server
        self.restarts = 0
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._failures = 0
        self._next_try: float | None = None

    @property
    def pid(self) -> int | None:
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and running else None

    def ended(self) -> bool:
        """Whether the process has ended unasked and nobody has looked after it yet."""
        return self._process is not None and self._process.poll() is not None

    def start(self, wanted: Callable[[], None], *, thorough: bool) -> None:
        """Start the server and return when it answers. Raises EmbeddedServerError kinds, and what ``wanted`` raises."""
        self.server.clear_leftovers(thorough)
        self.server.prepare(wanted)
        _shorten(self.server.log)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            offset = self.server.log.stat().st_size if self.server.log.exists() else 0
            process = self._spawn()
            if self._comes_up(process, wanted):
                return
            ended = process.poll()
            self.stop()
            log_tail = tail(self.server.log, offset)
            if ended is not None and attempt < _PORT_ATTEMPTS and self.server.retry_elsewhere(log_tail):
                continue
            reason = f"did not answer in {_START_SECONDS:.0f} s" if ended is None else f"ended with code {ended}"
            raise EmbeddedStartError(self.server.label, reason, str(self.server.log), log_tail)

    def _comes_up(self, process: subprocess.Popen[bytes], wanted: Callable[[], None]) -> bool:
        try:
            return wait_for(process, lambda: self.server.ready(process.pid), _START_SECONDS, wanted)
        except BaseException:
            self.stop()
            raise

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._process = spawn(
            self.server.command(), account=self._account, log=self.server.log, death_signal=self.server.death_signal
        )
        self._began = time.monotonic()
        return self._process

    def care(self) -> float | None:
        """Start the process again if it ended unasked; returns in how many seconds to look again, None for never.

        The wait grows with each failure, and the port stays: owners hold its address.
        """
        if not self.ended():
            return None
        now = time.monotonic()
        if self._next_try is None:
            self._plan(now)
        if self._next_try is None or self._next_try > now:
            return None if self._next_try is None else self._next_try - now
        self._next_try = None
        self.restarts += 1
        try:
            self.server.clear_leftovers(thorough=True)
            self._spawn()
        except (OSError, EmbeddedServerError):
            _logger.exception("%s could not be started again", self.server.label)
            return 1.0
        _logger.info("%s started again as process %s", self.server.label, self.pid)
        return None

    def _plan(self, now: float) -> None:
        assert self._process is not None
        self._failures = 1 if now - self._began > _STABLE_SECONDS else self._failures + 1
        _logger.warning("%s ended unasked with code %s", self.server.label, self._process.returncode)
        if self._failures > _RESTARTS_IN_A_ROW:
            _logger.error("%s ends at once each time: it stays down", self.server.label)
            self._process = None
            return
        self._next_try = now + min(5.0, 0.1 * 2 ** (self._failures - 1))

    def ask_to_stop(self) -> None:
        """Send the first of the stop signals, without waiting."""
        if self._process is not None:
            self._process.send_signal(self.server.stop_signals[0][0])

    def stop(self) -> None:
        """End the process, with ever harder signals, and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        for number, patience in self.server.stop_signals:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return
            _logger.warning("%s did not end within %s s of %s", self.server.label, patience, number.name)


def _shorten(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
