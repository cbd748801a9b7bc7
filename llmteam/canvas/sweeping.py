"""What sweeps look for, in every store of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from llmteam.canvas.state import Key

if TYPE_CHECKING:
    from llmteam.dispatch import Hint


@dataclass(frozen=True, slots=True)
class Expired:
    """A running step that a sweep found: its lease has run out (``lost``), or its deadline passed unnoticed."""

    tenant_id: str
    run_id: str
    key: Key
    fence: int
    lost: bool


@dataclass(frozen=True, slots=True)
class LateRun:
    """A run that a sweep found: its deadline has passed, or the grace of its pause."""

    tenant_id: str
    run_id: str
    pausing: bool = False


class Sweeps(Protocol):
    """Finding what is due and not moving, for every tenant. Each method costs next to nothing when nothing is."""

    def take_due(self, limit: int, skip_queues: Sequence[str] = ()) -> list[Hint]:
        """Ready steps whose moment has come, their next look pushed out; none of ``skip_queues``."""
        ...

    def take_expired(self, limit: int) -> list[Expired]:
        """Running steps whose lease has run out or whose deadline passed; such a lease can no longer be renewed."""
        ...

    def late_runs(self, limit: int) -> list[LateRun]:
        """Runs that should have ended, or whose pause should have taken hold."""
        ...

    def queued_tenants(self, limit: int) -> list[str]:
        """Tenants with runs that wait for their turn."""
        ...

    def purge(self, older_than: timedelta, limit: int) -> int:
        """Delete runs that ended so long ago, with all that is theirs; how many."""
        ...

    def record(self, name: str, found: int) -> None:
        """Note that a sweep has ended, and how much it found."""
        ...
