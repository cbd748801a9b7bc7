"""One way in to what is limited: circuits first, then room in every limit at once; and what came of it on the way out.

A caller that is not let in is told how long to stay away, and keeps its place by asking again with the same ticket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.circuits.rules import outcome_of
from llmteam.ratelimit.decisions import (
    Ask,
    CircuitBackend,
    CircuitPermit,
    Decision,
    LimitBackend,
    LimitKey,
    Outcome,
)
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.models import CircuitBreakerConfig, RateLimitConfig, RateLimitStrategy
from llmteam.ratelimit.registry import Limit, LimitRegistry

#: Seconds that a permit lasts whose holder cannot be lost without its process.
_NEVER = 1e7
#: Seconds that a caller is sent away at least, as less would be a loop, and at most, as a limit may be lifted.
LEAST_HOLD, LONGEST_HOLD = 0.05, 3600.0


@dataclass(frozen=True, slots=True)
class Use:
    """That a call uses the limit ``name``; ``part`` divides it further, by a key of the call."""

    name: str
    part: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """Not now: ask again in ``seconds``. ``name`` is the limit, ``limited_by`` what of it: see :class:`Decision`, or
    ``circuit``. ``position`` is how many wait before.
    """

    name: str
    limited_by: str
    seconds: float
    position: int = 0


@dataclass(slots=True)
class Pass:
    """The call is let in; :meth:`Gate.leave` gives back what it holds, once."""

    asks: Sequence[Ask] = ()
    permit: str = ""
    circuits: Sequence[tuple[LimitKey, CircuitBreakerConfig, CircuitPermit]] = ()
    since: float = 0.0
    left: bool = field(default=False, compare=False)


class Gate:
    """Lets calls in to what is limited, for one process.

    Args:
        limits: where limits are counted.
        circuits: where circuits are kept.
        registry: the limits by name.
        lease_seconds: how long a permit lasts that nobody renews.
    """

    def __init__(
        self,
        limits: LimitBackend,
        circuits: CircuitBackend,
        registry: LimitRegistry | None = None,
        *,
        lease_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry or LimitRegistry.get_instance()
        self._limits = limits
        self._circuits = circuits
        self._lease = lease_seconds
        self._monotonic = monotonic

    def enter(self, tenant_id: str, uses: Sequence[Use], ticket: str) -> Pass | Hold:
        """Let a call in, or say how long it stays away. ``ticket`` is the same each time the same call asks.

        Raises :class:`LimitNotRegisteredError`.
        """
        named = [(use, self.registry.get(use.name)) for use in uses]
        circuits: list[tuple[LimitKey, CircuitBreakerConfig, CircuitPermit]] = []
        for use, limit in named:
            if limit.circuit is not None:
                key = LimitKey(use.name, tenant_id, use.part)
                permit = self._circuits.allow(key, limit.circuit, ticket)
                if not permit.admitted:
                    self._undo(circuits)
                    return Hold(use.name, "circuit", _held(permit.retry_after))
                circuits.append((key, limit.circuit, permit))
        asks = [ask for use, limit in named for ask in _asks(tenant_id, use, limit)]
        decision = self._ask(asks, ticket)
        if not decision.admitted:
            self._undo(circuits)
            name = decision.key.resource if decision.key is not None else uses[0].name
            return Hold(name, decision.limited_by, _held(decision.retry_after), decision.position)
        return Pass(asks, decision.permit, circuits, self._monotonic())

    def withdraw(self, tenant_id: str, uses: Sequence[Use], ticket: str) -> None:
        """Give up the place of a call that will not be made. Limits that are not known any more have none."""
        named = [(use, self.registry.find(use.name)) for use in uses]
        asks = [ask for use, limit in named if limit is not None for ask in _asks(tenant_id, use, limit)]
        if asks:
            self._limits.withdraw(asks, ticket)

    def renew(self, passed: Pass) -> None:
        """Hold the permit of a call that still runs, and the trials that it is."""
        if passed.left:
            return
        if passed.asks:
            self._limits.renew(passed.asks, passed.permit, lease_seconds=self._lease)
        for key, config, permit in passed.circuits:
            if permit.trial:
                kept = self._circuits.allow(key, config, permit.trial)
                if kept.trial and (passed.left or kept.generation != permit.generation):
                    # The call is over meanwhile, or this is a trial of a later period, which it cannot decide.
                    self._circuits.record(key, config, kept, Outcome.IGNORED)

    def leave(self, passed: Pass, error: BaseException | None = None, *, ignored: bool = False) -> None:
        """The call is over: its permit is free, and its circuits know of ``error``, unless it is ``ignored``.

        Unless ``is_failure`` of the circuit says otherwise, failures are errors that call themselves retryable and
        those of a connection: what else user code raises may be its own mistake. Twice is harmless.
        """
        if passed.left:
            return
        passed.left = True
        seconds = self._monotonic() - passed.since
        for key, config, permit in passed.circuits:
            outcome = Outcome.IGNORED if ignored else _outcome(config, error)
            self._circuits.record(key, config, permit, outcome, seconds)
        if passed.asks:
            self._limits.release(passed.asks, passed.permit)

    def _ask(self, asks: Sequence[Ask], ticket: str) -> Decision:
        if not asks:
            return Decision(admitted=True)
        return self._limits.ask(asks, ticket, queue=True, lease_seconds=self._lease)

    def _undo(self, circuits: Sequence[tuple[LimitKey, CircuitBreakerConfig, CircuitPermit]]) -> None:
        """Trials that are not made are given back."""
        for key, config, permit in circuits:
            if permit.trial:
                self._circuits.record(key, config, permit, Outcome.IGNORED)


def _held(seconds: float) -> float:
    return min(max(seconds, LEAST_HOLD), LONGEST_HOLD)


def _asks(tenant_id: str, use: Use, limit: Limit) -> Iterator[Ask]:
    if limit.rate is not None:
        yield Ask(LimitKey(use.name, tenant_id, use.part), _unbounded(limit.rate))
    if limit.total is not None:
        yield Ask(LimitKey(use.name, "", use.part), _unbounded(limit.total))


def _unbounded(config: RateLimitConfig) -> RateLimitConfig:
    """Any number may wait, whatever happens to those who cannot: nobody is held meanwhile."""
    return replace(config, strategy=RateLimitStrategy.WAIT)


def _outcome(config: CircuitBreakerConfig, error: BaseException | None) -> Outcome:
    known = config.is_failure is not None or getattr(error, "retryable", None) is not None
    if error is None or known or isinstance(error, ConnectionError | TimeoutError):
        return outcome_of(config, error)
    return Outcome.IGNORED


@cache
def process_gate() -> Gate:
    """The gate of runs inside this process: all its runners share it, and nobody else does."""
    return Gate(MemoryLimitBackend(), MemoryCircuitBackend(), lease_seconds=_NEVER)
