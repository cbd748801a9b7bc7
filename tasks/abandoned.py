"""Handlers that outlive their deadline: a thread cannot be stopped, so a process with too many of them is replaced."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

#: The part of a pool that may be held by abandoned handlers before its process is replaced.
SHARE = 0.1
#: Seconds that a handler has to return after it was told that its time is over, before it counts.
GRACE_SECONDS = 2.0


class Call:
    """One call of a handler. It counts as abandoned from :meth:`outlived` to :meth:`returned`."""

    def __init__(self, owner: Abandoned) -> None:
        self._owner = owner
        self.over = False

    def outlived(self) -> None:
        """Its step went on without it. Does nothing when the handler has returned by now."""
        self._owner.add(self)

    def returned(self) -> None:
        """The handler returned or raised, in time or late."""
        self._owner.remove(self)


class Abandoned:
    """The abandoned calls of one process. ``too_many`` is called once, when they hold a tenth of the pool."""

    def __init__(self, pool_size: int, too_many: Callable[[], None]) -> None:
        self.limit = max(1, math.ceil(pool_size * SHARE))
        self._too_many = too_many
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._told = False

    @property
    def count(self) -> int:
        return len(self._calls)

    def begin(self) -> Call:
        """A handler is about to be called."""
        return Call(self)

    def add(self, call: Call) -> None:
        """Count a call that outlived its deadline, unless it is over."""
        with self._lock:
            if call.over:
                return
            self._calls.add(call)
            tell = not self._told and len(self._calls) >= self.limit
            self._told = self._told or tell
        if tell:
            self._too_many()

    def remove(self, call: Call) -> None:
        """The call is over."""
        with self._lock:
            call.over = True
            self._calls.discard(call)
