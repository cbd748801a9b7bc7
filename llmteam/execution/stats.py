"""What an executor has done so far, and what it is doing. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["ExecutionStats", "Throttle"]

#: Finished agents whose outcomes say whether too much fails.
RECENT = 20


@dataclass
class ExecutionStats:
    """Counts of agents. Durations are in milliseconds and cover those that succeeded."""

    total_tasks: int = 0
    completed_tasks: int = 0
    failed_tasks: int = 0
    total_duration_ms: int = 0
    current_queue_size: int = 0
    current_running: int = 0
    backpressure_events: int = 0
    avg_duration_ms: float = 0.0

    def update_avg_duration(self) -> None:
        """Compute the average anew; it stays while nothing has succeeded."""
        if self.completed_tasks > 0:
            self.avg_duration_ms = self.total_duration_ms / self.completed_tasks


class Throttle:
    """How many agents an adaptive executor runs at once: half as many in trouble, then one more with each success.

    Additive increase and multiplicative decrease, as of TCP (Jacobson, "Congestion Avoidance and Control", 1988).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self.allowed = limit

    @property
    def fails_often(self) -> bool:
        """Whether more than half of the last :data:`RECENT` have failed; of few nothing follows."""
        return len(self._recent) == RECENT and self._recent.count(False) * 2 > RECENT

    def finished(self, success: bool, *, pressed: bool) -> None:
        """Take note of an outcome. ``pressed``: too much is waiting."""
        self._recent.append(success)
        if pressed or self.fails_often:
            self.allowed = max(1, self._limit // 2)
        elif self.allowed < self._limit:
            self.allowed += 1

    def pressed(self) -> None:
        """Take note that too much is waiting."""
        self.allowed = max(1, self._limit // 2)

    def reset(self) -> None:
        self._recent.clear()
        self.allowed = self._limit
