"""What a limit and a circuit answer, and the protocols of the places that answer: memory, and Redis for all workers.

Backends are synchronous and safe between threads: one decision is one short, atomic step. Asynchronous callers
ask from a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState, RateLimitConfig


@dataclass(frozen=True, slots=True)
class LimitKey:
    """What is limited: ``resource``, for one tenant or (``tenant_id`` empty) for all together.

    ``part`` divides it further, by whatever key the call has: a customer, a model, a region.
    """

    resource: str
    tenant_id: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One limit that a call needs room in."""

    key: LimitKey
    config: RateLimitConfig


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a ticket. Admitted: ``permit`` is held until released, or until its lease ends.

    Otherwise ``retry_after`` (seconds, infinite when there will never be room) is when its turn is expected,
    ``position`` how many wait before it, and ``limited_by`` what it waits for: ``bucket``, ``second``, ``minute``,
    ``hour``, ``in_flight``, ``queue`` (which is full) or ``backend`` (which is away, and the limit fails closed).
    """

    admitted: bool
    permit: str = ""
    retry_after: float = 0.0
    position: int = 0
    limited_by: str = ""
    key: LimitKey | None = None


@dataclass(frozen=True, slots=True)
class LimitView:
    """One limit as it stands.

    ``retry_after`` (seconds) and ``limited_by`` are what one more call would be told, ``room`` how many calls
    each window still takes, by its name, shortest first.
    """

    key: LimitKey
    tokens: float
    in_flight: int
    waiting: int
    retry_after: float = 0.0
    limited_by: str = ""
    room: tuple[tuple[str, int], ...] = ()


#: How long a permit is held without being renewed, in seconds.
LEASE_SECONDS = 60.0
#: How long a ticket keeps its place when its caller does not ask again at its turn, in seconds.
GRACE_SECONDS = 2.0


@runtime_checkable
class LimitBackend(Protocol):
    """Where limits are counted."""

    #: Whether it only counts for this process: it answers at once, and its permits need no renewal.
    in_process: bool

    def ask(
        self,
        asks: Sequence[Ask],
        ticket: str,
        *,
        queue: bool,
        lease_seconds: float = LEASE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Decision:
        """Room in every limit of ``asks`` for ``ticket``, or none taken anywhere.

        Asking again keeps the ticket's place, unless it comes later than ``grace_seconds`` after its expected turn; a
        ticket that has to wait longer than that may be late for as long as it waits, up to 15 seconds. A ticket is one
        call: admitted again, it is counted again.
        ``queue`` False leaves no ticket behind (strategies REJECT and FALLBACK).
        """
        ...

    def renew(self, asks: Sequence[Ask], permit: str, *, lease_seconds: float = LEASE_SECONDS) -> bool:
        """Hold a permit longer; False when its lease has ended."""
        ...

    def release(self, asks: Sequence[Ask], permit: str) -> None:
        """Give a permit back. Twice is harmless."""
        ...

    def withdraw(self, asks: Sequence[Ask], ticket: str) -> None:
        """Leave the queue."""
        ...

    def look(self, asks: Sequence[Ask]) -> list[LimitView]:
        """Each limit as it stands, without asking for a call."""
        ...


class Outcome(StrEnum):
    """How an admitted call ended, as far as its circuit is concerned."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class CircuitPermit:
    """The circuit's answer to one call.

    ``generation`` is the state's number: an outcome of an older one changes nothing. ``trial`` is the id of a leased
    trial call while the circuit is half open. Not admitted: ``retry_after`` is in seconds. ``state_seconds`` is how
    long the state has lasted, None when it never changed. ``local``: the shared server was away, and this process
    decided alone.
    """

    admitted: bool
    state: CircuitState
    generation: int = 0
    trial: str = ""
    retry_after: float = 0.0
    state_seconds: float | None = None
    local: bool = False


#: The generation of a permit that nobody gave: its outcome counts in whatever state the circuit is.
ANY_GENERATION = -1


@dataclass(frozen=True, slots=True)
class CircuitChange:
    """A circuit went from one state to another. One process tells it, the one whose call made the change."""

    key: LimitKey
    before: CircuitState
    after: CircuitState
    generation: int


@runtime_checkable
class CircuitBackend(Protocol):
    """Where circuits are kept."""

    #: Whether it only knows this process: it answers at once.
    in_process: bool

    def allow(self, key: LimitKey, config: CircuitBreakerConfig, caller: str) -> CircuitPermit:
        """Whether ``caller`` (any unique text) may call now."""
        ...

    def record(
        self, key: LimitKey, config: CircuitBreakerConfig, permit: CircuitPermit, outcome: Outcome, seconds: float = 0.0
    ) -> CircuitState:
        """What became of an admitted call that took ``seconds``; gives its trial back. Returns the state after it."""
        ...

    def force(self, key: LimitKey, config: CircuitBreakerConfig, state: CircuitState) -> None:
        """Set the state by hand."""
        ...

    def look(self, key: LimitKey, config: CircuitBreakerConfig) -> CircuitPermit:
        """The state, and the seconds until an open circuit is tried, without asking for a call."""
        ...
