"""Keeps a saturated ``threads`` worker awake: the moment a thread is free, the consumer asks for the next hint.

With ``worker_disable_prefetch`` Celery stops asking while all threads are busy, and nothing tells its event loop when
one is free again; it would sleep until its next timer, up to a second.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from celery import bootsteps
from celery.signals import task_postrun
from celery.worker import state

#: Seconds until another look, while the thread that just finished has not yet been counted as free.
_AGAIN = 0.001


class Pickup(bootsteps.StartStopStep):  # type: ignore[misc]
    """A pipe into the consumer's event loop, written when a task ends while all threads were busy."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._pipe: tuple[int, int] | None = None
        self._hub: Any = None
        self._limit = 0

    def start(self, consumer: Any) -> None:
        """Begin to listen, once the consumer has a loop."""
        if consumer.hub is None or consumer.pool is None or not consumer.app.conf.worker_disable_prefetch:
            return
        self._hub = consumer.hub
        self._limit = consumer.pool.num_processes
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._hub.add_reader(self._pipe[0], self._woken)
        task_postrun.connect(self._ended, weak=False, dispatch_uid="llmteam.pickup")

    def stop(self, consumer: Any) -> None:
        """Stop listening; the connection to the broker is being closed."""
        task_postrun.disconnect(dispatch_uid="llmteam.pickup")
        if self._pipe is not None:
            self._hub.remove_reader(self._pipe[0])
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def _ended(self, **_: Any) -> None:
        if self._pipe is not None and len(state.reserved_requests) >= self._limit:
            with suppress(OSError):
                os.write(self._pipe[1], b".")

    def _woken(self) -> None:
        if self._pipe is None:
            return
        with suppress(BlockingIOError):
            os.read(self._pipe[0], 4096)
        if len(state.reserved_requests) >= self._limit:
            self._hub.call_later(_AGAIN, _nothing)


def _nothing() -> None:
    """The loop looks for work after each timer; that is all it is for."""
