"""SIGTERM: what runs may finish for a while, the rest is handed back, so that another worker goes on with it at once.

Celery's own warm shutdown waits for running tasks without an end. Here a thread watches it: when the time is over, the
steps that still run are given up by the process that runs them, and the worker ends. Pool processes are told by the end
of a pipe that they inherited; it also ends when their main process dies.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.signals import worker_process_init, worker_ready, worker_shutting_down
from celery.worker import state

from llmteam import tracing

if TYPE_CHECKING:
    from llmteam.tasks.worker import StepWorker

logger = logging.getLogger(__name__)

#: Seconds that pool processes get to hand back, and that Celery gets to end by itself once nothing runs.
_CHILD_SECONDS, _END_SECONDS = 3.0, 5.0
_LOOK_SECONDS = 0.05
#: The drain of a process whose worker was not prepared.
DEFAULT_SECONDS = 25.0


class Drain:
    """The end of one worker. Made in its main process before the pool is forked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._pid = os.getpid()
        self._begun = threading.Event()
        self._pipe = os.pipe()
        self._pool: Any = None

    def connect(self) -> None:
        """Watch for the shutdown of this worker and for the start of its pool processes."""
        worker_ready.connect(self._ready, weak=False, dispatch_uid="llmteam.drain")
        worker_shutting_down.connect(self._begin, weak=False, dispatch_uid="llmteam.drain")
        worker_process_init.connect(self._in_child, weak=False, dispatch_uid="llmteam.drain")

    def within(self, seconds: float) -> None:
        """Leave running steps no more than this."""
        self.seconds = min(self.seconds, seconds)

    def _ready(self, sender: Any, **_: Any) -> None:
        self._pool = sender.pool

    def _children(self) -> list[Any]:
        """Processes of the pool that still live."""
        processes = getattr(getattr(self._pool, "_pool", None), "_pool", None) or ()
        return [one for one in processes if one.is_alive()]

    def _begin(self, exitcode: int | None = None, **_: Any) -> None:
        if os.getpid() == self._pid and not self._begun.is_set():
            self._begun.set()
            threading.Thread(target=self._run, args=(exitcode or 0,), name="llmteam-drain", daemon=True).start()

    def _run(self, code: int) -> None:
        if not _until(lambda: not state.reserved_requests, self.seconds):
            self._hand_back()
        else:
            # Celery's pool may take half a minute to notice that nothing is left.
            _until(lambda: False, _END_SECONDS)
        _leave(code)

    def _hand_back(self) -> None:
        worker = _step_worker()
        given_up = 0 if worker is None else worker.hand_back()
        os.close(self._pipe[1])
        _until(lambda: not self._children(), _CHILD_SECONDS)
        logger.warning("stopping after %g s; steps still running are handed back (%d here)", self.seconds, given_up)

    def _in_child(self, **_: Any) -> None:
        os.close(self._pipe[1])
        threading.Thread(target=self._watch, name="llmteam-drain", daemon=True).start()

    def _watch(self) -> None:
        os.read(self._pipe[0], 1)
        worker = _step_worker()
        if worker is not None:
            worker.hand_back()
        _leave(0)


def _step_worker() -> StepWorker | None:
    """The step worker of this process, if it ever had a task."""
    from llmteam.tasks.worker import step_worker_if_any

    return step_worker_if_any()


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= give_up:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _leave(code: int) -> None:
    """End this process although threads of it may still run: nothing of theirs counts any more."""
    tracing.flush()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_drain: Drain | None = None


def prepare(seconds: float) -> Drain:
    """Set up the end of this worker; once per main process."""
    global _drain  # noqa: PLW0603  # one worker per process
    if _drain is None or _drain._pid != os.getpid():
        _drain = Drain(seconds)
        _drain.connect()
    return _drain


def seconds() -> float:
    """What running steps get when this process's worker stops."""
    return DEFAULT_SECONDS if _drain is None else _drain.seconds


def within(seconds: float) -> None:
    """Leave the running steps of this process's worker no more than this, whenever it stops."""
    if _drain is not None:
        _drain.within(seconds)
