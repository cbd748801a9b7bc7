"""One thread per process that calls back at moments that lie a little ahead. Losing it costs one sweep."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass(order=True, slots=True)
class Timer:
    """A call to come; :meth:`cancel` takes it back."""

    due: float
    number: int
    callback: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        self.callback = None


#: Cancelled timers are thrown out when they are more than half of at least this many.
_CROWDED = 1024


class Timers:
    """Call-backs by delay. They run one after the other on the thread, so they must be short."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._heap: list[Timer] = []
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._pid = 0
        self._crowded = _CROWDED

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` in ``seconds``."""
        if self._pid and self._pid != os.getpid():
            self._forget()
        timer = Timer(time.monotonic() + seconds, next(self._numbers), callback)
        with self._changed:
            self._throw_out()
            heapq.heappush(self._heap, timer)
            if not self._pid:
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="llmteam-timers", daemon=True).start()
            elif self._heap[0] is timer:
                self._changed.notify()
        return timer

    def _throw_out(self) -> None:
        if len(self._heap) < self._crowded:
            return
        self._heap = [timer for timer in self._heap if timer.callback is not None]
        heapq.heapify(self._heap)
        self._crowded = max(_CROWDED, 2 * len(self._heap))

    def _run(self) -> None:
        while True:
            callback = self._next()
            if callback is not None:
                try:
                    callback()
                except Exception:
                    logger.exception("a timer's call-back failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while self._heap and self._heap[0].callback is None:
                heapq.heappop(self._heap)
            wait = self._heap[0].due - time.monotonic() if self._heap else None
            if wait is None or wait > 0:
                self._changed.wait(wait)
                return None
            return heapq.heappop(self._heap).callback
