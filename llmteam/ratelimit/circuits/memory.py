"""Circuits of one process."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable

from llmteam import metrics
from llmteam.ids import random_bytes
from llmteam.ratelimit.circuits import rules
from llmteam.ratelimit.circuits.rules import Circuit
from llmteam.ratelimit.decisions import CircuitChange, CircuitPermit, LimitKey, Outcome
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState

_log = logging.getLogger(__name__)

#: Circuits that are kept; of more, those forgotten first that were not used for longest.
MAX_CIRCUITS = 10_000


def chance() -> float:
    """A number in [0, 1)."""
    return int.from_bytes(random_bytes(4)) / 2**32


def monotonic_millis() -> int:
    """A clock for one process that is never set back, in whole milliseconds."""
    return time.monotonic_ns() // 1_000_000


def tell(listener: Callable[[CircuitChange], None] | None, change: CircuitChange) -> None:
    """Count a change and tell ``listener``, whose failure is the log's, and not that of the call that made it."""
    metrics.CIRCUIT_CHANGES.add(change.key.resource, change.after.value)
    if listener is None:
        return
    try:
        listener(change)
    except Exception:  # noqa: BLE001  # whatever it is
        _log.exception("circuits: the listener to changes failed")


class MemoryCircuitBackend:
    """A :class:`~llmteam.ratelimit.decisions.CircuitBackend` for the threads of one process.

    Args:
        now: the present moment in whole milliseconds.
        draw: a number in [0, 1) for the jitter of an opening circuit.
        on_change: told of every change of state, from the thread whose call made it.
    """

    in_process = True

    def __init__(
        self,
        *,
        now: Callable[[], int] = monotonic_millis,
        draw: Callable[[], float] = chance,
        on_change: Callable[[CircuitChange], None] | None = None,
    ) -> None:
        self._now = now
        self._draw = draw
        self._on_change = on_change
        self._lock = threading.Lock()
        self._circuits: dict[LimitKey, Circuit] = {}
        _instances.add(self)

    def _after_fork(self) -> None:
        """In a child no thread holds the lock, though it may be locked."""
        self._lock = threading.Lock()

    def allow(self, key: LimitKey, config: CircuitBreakerConfig, caller: str) -> CircuitPermit:
        with self._lock:
            before = self._circuits.get(key, Circuit())
            after, permit = rules.allow(before, config, caller, self._now())
            self._keep(key, before, after)
        self._tell(key, before, after)
        return permit

    def record(
        self, key: LimitKey, config: CircuitBreakerConfig, permit: CircuitPermit, outcome: Outcome, seconds: float = 0.0
    ) -> CircuitState:
        outcome = rules.judged(config, outcome, seconds)
        with self._lock:
            before = self._circuits.get(key, Circuit())
            after = rules.record(before, config, permit, outcome, self._now(), self._draw())
            self._keep(key, before, after)
        self._tell(key, before, after)
        return after.state

    def force(self, key: LimitKey, config: CircuitBreakerConfig, state: CircuitState) -> None:
        with self._lock:
            before = self._circuits.get(key, Circuit())
            after = rules.force(before, config, state, self._now(), self._draw())
            self._keep(key, before, after)
        self._tell(key, before, after)

    def look(self, key: LimitKey, config: CircuitBreakerConfig) -> CircuitPermit:
        with self._lock:
            return rules.look(self._circuits.get(key, Circuit()), self._now())

    def _keep(self, key: LimitKey, before: Circuit, after: Circuit) -> None:
        if after is before:
            return
        self._circuits.pop(key, None)
        self._circuits[key] = after
        while len(self._circuits) > MAX_CIRCUITS:
            del self._circuits[next(iter(self._circuits))]

    def _tell(self, key: LimitKey, before: Circuit, after: Circuit) -> None:
        if before.state is not after.state:
            tell(self._on_change, CircuitChange(key, before.state, after.state, after.generation))


_instances: weakref.WeakSet[MemoryCircuitBackend] = weakref.WeakSet()


def _after_fork() -> None:
    for instance in tuple(_instances):
        instance._after_fork()


os.register_at_fork(after_in_child=_after_fork)
