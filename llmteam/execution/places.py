"""Places that are taken in the order of asking, by tasks of any event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Places"]

Limit = Callable[[], int]


@dataclass(slots=True, eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    told: asyncio.Future[None]
    limit: Limit
    granted: bool = False


class Places:
    """A semaphore whose limit may change while others wait. Not bound to a loop, and safe for threads.

    A place is handed over: whoever comes later cannot take what somebody waits for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Waiter] = deque()
        self.taken = 0

    async def take(self, limit: Limit) -> None:
        """Take a place as soon as fewer than ``limit()`` are taken and it is one's turn."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._waiting and self.taken < limit():
                self.taken += 1
                return
            waiter = _Waiter(loop, loop.create_future(), limit)
            self._waiting.append(waiter)
        try:
            await waiter.told
        except asyncio.CancelledError:
            with self._lock:
                if waiter.granted:
                    self.taken -= 1
                else:
                    self._waiting.remove(waiter)
            self.look()
            raise

    def give_back(self) -> None:
        """Give a place back."""
        with self._lock:
            self.taken -= 1
        self.look()

    def look(self) -> None:
        """Let in who may come in by now: for a limit that has grown."""
        with self._lock:
            while self._waiting and self.taken < self._waiting[0].limit():
                waiter = self._waiting.popleft()
                try:
                    waiter.loop.call_soon_threadsafe(_tell, waiter.told)
                except RuntimeError:
                    continue  # its loop is closed: nobody waits any more
                waiter.granted = True
                self.taken += 1


def _tell(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)
