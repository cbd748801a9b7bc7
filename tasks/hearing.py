"""When a worker is deaf: messages lie in its queues, it could take some, and it receives none.

Decided from what the worker sees of itself now and then; no clock, no server.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment: messages that wait, messages received so far, places free in the pool.

    ``at`` is in seconds of a clock that never goes back.
    """

    at: float
    waiting: int
    received: int
    free: int

    @property
    def suspicious(self) -> bool:
        return self.waiting > 0 and self.free > 0


class Verdict(Enum):
    """What a look says. ``STILL_DEAF`` follows ``DEAF`` when it has not recovered since."""

    WELL = "well"
    DEAF = "deaf"
    STILL_DEAF = "still deaf"
    RECOVERED = "recovered"


class Hearing:
    """Judges one look after the other.

    A worker is deaf when every look of ``deaf_seconds`` was suspicious and nothing was received between them. Looks
    that lie further apart than ``largest_gap`` say nothing together: worker or broker stood still meanwhile. One that
    was deaf has recovered when two looks found something received: the first may be what its lost connection held.
    """

    def __init__(self, deaf_seconds: float, largest_gap: float) -> None:
        self._deaf_seconds = deaf_seconds
        self._largest_gap = largest_gap
        self._before: Look | None = None
        self._since: float | None = None
        self._signs_wanted = 0

    def judge(self, look: Look) -> Verdict:
        """What this look says, after those before it."""
        before, self._before = self._before, look
        if before is not None and look.received != before.received:
            self._since = look.at if look.suspicious else None
            return self._heard()
        if not look.suspicious:
            self._since = None
        elif before is None or self._since is None or look.at - before.at > self._largest_gap:
            self._since = look.at
        elif look.at - self._since >= self._deaf_seconds:
            return self._deaf(look)
        return Verdict.WELL

    def _deaf(self, look: Look) -> Verdict:
        verdict = Verdict.STILL_DEAF if self._signs_wanted else Verdict.DEAF
        self._signs_wanted = 2
        self._since = look.at
        return verdict

    def _heard(self) -> Verdict:
        if not self._signs_wanted:
            return Verdict.WELL
        self._signs_wanted -= 1
        return Verdict.WELL if self._signs_wanted else Verdict.RECOVERED
