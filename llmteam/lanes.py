"""Which hints go ahead and which behind, so that one tenant's thousands do not stand before another's one. Pure.

A queue has two lanes, and workers take from the one behind only when the one ahead is empty. Each process lets at most
:data:`AHEAD` hints of one tenant lie ahead; what is more goes behind. It needs no count that processes share: a queue
is served in order, so that of the hints that a process sent ahead no more can be left than lie there now.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

#: Hints of one tenant that one process lets lie ahead in one queue.
AHEAD = 16
#: Seconds until a process looks again how many lie ahead, once they were too many.
LOOK_SECONDS = 0.1
#: Tenants and queues that are remembered.
_KNOWN = 10_000

#: How many hints lie ahead in a queue; None when that cannot be told.
Depth = Callable[[str], "int | None"]


class Lanes:
    """The lanes of one process. ``depth`` is asked once a tenant has sent :data:`AHEAD` hints, never before."""

    def __init__(self, depth: Depth, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._depth = depth
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._left: dict[tuple[str, str], int] = {}
        self._look_at: dict[tuple[str, str], float] = {}

    def behind(self, hints: Sequence[tuple[str, str]]) -> list[bool]:
        """Of each hint, a tenant and a queue, whether it goes behind; they are about to be sent in this order."""
        with self._lock:
            unsent: Counter[str] = Counter()
            found = []
            for hint in hints:
                goes_behind = self._is_too_many(hint, unsent[hint[1]])
                found.append(goes_behind)
                unsent[hint[1]] += not goes_behind
            if len(self._left) > _KNOWN:
                self._left.clear()
                self._look_at.clear()
            return found

    def _is_too_many(self, hint: tuple[str, str], unsent: int) -> bool:
        left = self._left.get(hint, 0)
        if left >= AHEAD:
            now = self._monotonic()
            if now < self._look_at.get(hint, now):
                return True
            depth = self._depth(hint[1])
            left = 0 if depth is None else min(left, depth + unsent)
            if left >= AHEAD:
                self._look_at[hint] = now + LOOK_SECONDS
                return True
        self._left[hint] = left + 1
        return False
