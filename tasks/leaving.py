"""How a worker's process ends itself, so that whoever supervises it starts a new one.

The main process shuts down warmly: it takes nothing more, lets running steps finish, and goes. What holds it up, a
hung thread or a main loop that no longer turns, is left behind after a while. A pool's child just goes: its main
process replaces it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.bootsteps import RUN
from celery.signals import worker_process_init, worker_shutting_down
from celery.worker import state

from llmteam import tracing
from llmteam.tasks import shutdown

logger = logging.getLogger(__name__)

#: Seconds beyond the drain, which itself ends the process, after which this does.
_BEYOND_DRAIN_SECONDS = 10.0
#: Seconds that the way out takes at most once nothing runs any more.
_WAY_OUT_SECONDS = 10.0
#: Seconds between two looks at what still runs.
_LOOK_SECONDS = 0.05
#: Not 0: a supervisor may take that for an end that was asked for.
_EXIT_CODE = 1
#: What a pool takes for a child that has served its time, and replaces without an error.
_RECYCLED = 0x9B

_main: tuple[int, Any] | None = None
_leaving = threading.Event()
_child_pid = 0


def remember(consumer: Any) -> None:
    """Take note that this is the main process of a worker, and of its consumer."""
    global _main  # noqa: PLW0603  # one worker per process
    _main = (os.getpid(), consumer)


def pool_size() -> int:
    """How many tasks this process runs at once; 1 in a pool's child, and where no worker is known."""
    return int(_main[1].pool.num_processes) if _main is not None and _main[0] == os.getpid() else 1


def ending() -> bool:
    """Whether this worker is shutting down already."""
    return any(flag is not None and flag is not False for flag in (state.should_stop, state.should_terminate))


@worker_process_init.connect(weak=False, dispatch_uid="llmteam.leaving")  # type: ignore[untyped-decorator]
def _in_pool_child(**_: Any) -> None:
    global _child_pid  # noqa: PLW0603  # once, in a child that has just begun
    _child_pid = os.getpid()


def leave(hung: Callable[[], int] = lambda: 0, last: Callable[[], object] = lambda: None) -> None:
    """Begin the end of this process. A second call does nothing.

    ``hung`` says for how many running tasks not to wait, ``last`` is called before an end by force.
    """
    if _child_pid == os.getpid():
        _go(last, _RECYCLED)
    if _leaving.is_set():
        return
    _leaving.set()
    threading.Thread(target=_see_out, args=(hung, last), name="llmteam-leaving", daemon=True).start()
    consumer = None if _main is None else _main[1]
    if not ending():
        sender = None if consumer is None else consumer.hostname
        worker_shutting_down.send(sender=sender, sig="SIGTERM", how="Warm", exitcode=_EXIT_CODE)
        state.should_stop = _EXIT_CODE
    if consumer is not None and consumer.hub is not None:
        # The loop looks at the flag when something wakes it.
        consumer.hub.call_soon(lambda: None)


def _see_out(hung: Callable[[], int], last: Callable[[], object]) -> None:
    """Wait for the tasks that may finish, then for Celery's own end, which hung ones would hold up for ever.

    Those that take longer than the drain are handed back by it, and the process ends with that.
    """
    drained = time.monotonic() + shutdown.seconds() + _BEYOND_DRAIN_SECONDS
    while (_consumes() or len(state.active_requests) > hung()) and time.monotonic() < drained:
        time.sleep(_LOOK_SECONDS)
    way_out = time.monotonic() + _WAY_OUT_SECONDS
    while not hung() and not state.active_requests and time.monotonic() < way_out:
        time.sleep(_LOOK_SECONDS)
    if left := len(state.active_requests):
        logger.warning("this process ends now; %d tasks still run and are left behind", left)
    if _main is not None and (beat := getattr(_main[1].controller, "beat", None)) is not None:
        # A process that Celery may not have come to.
        with suppress(Exception):
            beat.stop()
    _go(last, _EXIT_CODE)


def _consumes() -> bool:
    """Whether more may come: a task that has just begun would be lost until its lease is over."""
    return _main is not None and _main[1].blueprint.state == RUN


def _go(last: Callable[[], object], code: int) -> None:
    try:
        tracing.flush()
        last()
    finally:
        os._exit(code)
