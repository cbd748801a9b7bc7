"""Virtual time: what is to happen, in order, in one thread."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Schedule:
    """A clock that jumps from one event to the next. ``now`` is in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def clock(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now)

    def monotonic(self) -> float:
        return self.now

    def seconds(self, moment: datetime) -> float:
        """When ``moment`` is, on this clock."""
        return (moment - EPOCH).total_seconds()

    def at(self, due: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(due, self.now), next(self._numbers), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + seconds, call)

    def run_until(self, until: float) -> None:
        """Let everything happen that is due until then. May be called from within an event: others go on meanwhile."""
        while self._heap and self._heap[0][0] <= until:
            due, _, call = heapq.heappop(self._heap)
            self.now = max(self.now, due)
            call()
        self.now = max(self.now, until)
