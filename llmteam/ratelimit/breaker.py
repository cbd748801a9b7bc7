"""A circuit breaker as callers see it: ask, call, say what came of it."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from llmteam.ids import Clock, new_id, utc_now
from llmteam.ratelimit.apart import apart, to_the_end
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.circuits.rules import outcome_of
from llmteam.ratelimit.decisions import ANY_GENERATION, CircuitBackend, CircuitPermit, LimitKey, Outcome
from llmteam.ratelimit.exceptions import CircuitOpenError
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitBreakerStats, CircuitState
from llmteam.tenancy.context import get_current_tenant

#: Admitted calls that a breaker remembers whose outcome nobody told yet.
MAX_UNTOLD = 1_000


@dataclass(slots=True, eq=False)
class AdmittedCall:
    """One call that a breaker let through. ``since`` is on the breaker's monotonic clock; ``told``: nothing is due."""

    key: LimitKey
    permit: CircuitPermit
    since: float
    told: bool = False


#: Admitted calls of the running code, newest last.
_admitted: ContextVar[tuple[AdmittedCall, ...]] = ContextVar("admitted_calls", default=())


class CircuitBreaker:
    """Leaves a resource alone for a while when its calls fail.

    ``with`` or ``async with breaker.calling()`` does all of it; :meth:`allow_request` and ``record_…`` are its parts.
    Properties and ``get_…`` ask the backend too, so that they tell what every process knows; statistics are of this
    object. One object may serve several threads, tasks and loops.

    Args:
        name: the resource.
        backend: where the circuit is kept; by default with this object alone.
        tenant_id: whose circuit it is, empty for one of all tenants; by default the current tenant's at each call.
        part: divides the resource further.
    """

    def __init__(
        self,
        name: str,
        config: CircuitBreakerConfig | None = None,
        *,
        backend: CircuitBackend | None = None,
        tenant_id: str | None = None,
        part: str = "",
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.config = config or CircuitBreakerConfig()
        self._backend = backend or MemoryCircuitBackend(now=lambda: round(monotonic() * 1000))
        self._tenant_id = tenant_id
        self._part = part
        self._clock = clock
        self._monotonic = monotonic
        self._made = monotonic()
        self._lock = threading.Lock()
        self._stats = CircuitBreakerStats()
        #: Circuits that were not closed when last seen: their state, and since when this object knows.
        self._ajar: dict[LimitKey, tuple[CircuitState, float]] = {}
        self._untold: dict[AdmittedCall, None] = {}

    @property
    def key(self) -> LimitKey:
        """Which circuit the running code's calls belong to."""
        tenant_id = get_current_tenant() if self._tenant_id is None else self._tenant_id
        return LimitKey(self.name, tenant_id, self._part)

    @property
    def state(self) -> CircuitState:
        return self._look().state

    @property
    def is_closed(self) -> bool:
        return self.state is CircuitState.CLOSED

    @property
    def is_open(self) -> bool:
        return self.state is CircuitState.OPEN

    @property
    def is_half_open(self) -> bool:
        return self.state is CircuitState.HALF_OPEN

    def enter(self) -> AdmittedCall:
        """Ask for one call; :meth:`leave` must follow. Blocks as long as the backend. Raises CircuitOpenError."""
        key = self.key
        permit = self._backend.allow(key, self.config, new_id())
        with self._lock:
            self._stats.total_requests += 1
            self._stats.rejected_requests += not permit.admitted
            self._saw(key, permit.state)
        if not permit.admitted:
            raise CircuitOpenError(self.name, permit.retry_after)
        return AdmittedCall(key, permit, self._monotonic())

    def leave(self, call: AdmittedCall, outcome: Outcome, seconds: float | None = None) -> None:
        """Tell what came of a call; without ``seconds`` it took until now."""
        took = self._monotonic() - call.since if seconds is None else seconds
        state = self._backend.record(call.key, self.config, call.permit, outcome, took)
        with self._lock:
            if outcome is Outcome.SUCCESS:
                self._stats.successful_requests += 1
                self._stats.last_success_time = self._clock()
            elif outcome is Outcome.FAILURE:
                self._stats.failed_requests += 1
                self._stats.last_failure_time = self._clock()
            self._saw(call.key, state)

    async def entered(self) -> AdmittedCall:
        """:meth:`enter` apart from the loop. A call that is granted to a task cancelled meanwhile is given back."""
        return await apart(
            self.enter, here=self._backend.in_process, undo=lambda call: self.leave(call, Outcome.IGNORED)
        )

    async def left(self, call: AdmittedCall, outcome: Outcome, seconds: float | None = None) -> None:
        """:meth:`leave` apart from the loop, to its end even if this task is cancelled."""
        took = self._monotonic() - call.since if seconds is None else seconds
        await to_the_end(lambda: self.leave(call, outcome, took), here=self._backend.in_process)

    def calling(self) -> Calling:
        """A ``with`` or ``async with`` block around one call."""
        return Calling(self)

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What ``function`` gives back, awaited when it can be. Raises CircuitOpenError, and what it raises."""
        async with self.calling() as calling:
            value = function(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
            calling.returned(value)
            return value

    async def allow_request(self) -> bool:
        """Ask for one call: True, or CircuitOpenError. The next ``record_…`` of this task tells its outcome."""
        call = await self.entered()
        with self._lock:
            self._untold[call] = None
            while len(self._untold) > MAX_UNTOLD:
                self._take(next(iter(self._untold)))
        _admitted.set((*(known for known in _admitted.get() if not known.told), call))
        return True

    async def record_success(self) -> None:
        """The call of this task succeeded; without one, a call that nobody asked for."""
        await self._told(Outcome.SUCCESS)

    async def record_failure(self) -> None:
        """The call of this task failed; without one, a call that nobody asked for."""
        await self._told(Outcome.FAILURE)

    async def record_ignored(self) -> None:
        """The call of this task says nothing of the resource: it was cancelled, or never made."""
        await self._told(Outcome.IGNORED)

    async def force_open(self) -> None:
        """Refuse calls for ``open_timeout`` from now on."""
        await self._forced(CircuitState.OPEN)

    async def force_close(self) -> None:
        """Let calls through, with no failure remembered."""
        await self._forced(CircuitState.CLOSED)

    async def reset(self) -> None:
        """As if it had never failed; statistics stay."""
        await self._forced(CircuitState.CLOSED)

    def get_stats(self) -> CircuitBreakerStats:
        """What this object saw since it was made, or since :meth:`reset_stats`."""
        with self._lock:
            now = self._monotonic()
            running = sum(now - since for state, since in self._ajar.values() if state is CircuitState.OPEN)
            return replace(self._stats, time_in_open=self._stats.time_in_open + running)

    def reset_stats(self) -> None:
        with self._lock:
            self._stats = CircuitBreakerStats()
            now = self._monotonic()
            self._ajar = {key: (state, now) for key, (state, _) in self._ajar.items()}

    def get_state_duration(self) -> float:
        """Seconds since the state began; of a circuit that never changed, since this object was made."""
        lasted = self._look().state_seconds
        return self._monotonic() - self._made if lasted is None else lasted

    def get_retry_after(self) -> float | None:
        """Seconds until an open circuit is tried; None unless it is open."""
        seen = self._look()
        return seen.retry_after if seen.state is CircuitState.OPEN else None

    def _look(self) -> CircuitPermit:
        key = self.key
        seen = self._backend.look(key, self.config)
        with self._lock:
            self._saw(key, seen.state)
        return seen

    def _saw(self, key: LimitKey, state: CircuitState) -> None:
        known, since = self._ajar.get(key, (CircuitState.CLOSED, 0.0))
        if known is state:
            return
        now = self._monotonic()
        self._stats.state_changes += 1
        if known is CircuitState.OPEN:
            self._stats.time_in_open += now - since
        if state is CircuitState.CLOSED:
            del self._ajar[key]
        else:
            self._ajar[key] = (state, now)

    async def _told(self, outcome: Outcome) -> None:
        with self._lock:
            key = self.key
            mine = (call for call in reversed(_admitted.get()) if call in self._untold)
            others = (call for call in reversed(self._untold) if call.key == key)
            call = next(mine, None) or next(others, None)
            if call is not None:
                self._take(call)
        if call is None:
            unasked = CircuitPermit(admitted=True, state=CircuitState.CLOSED, generation=ANY_GENERATION)
            call = AdmittedCall(key, unasked, self._monotonic())
        await self.left(call, outcome)

    def _take(self, call: AdmittedCall) -> None:
        call.told = True
        del self._untold[call]

    async def _forced(self, state: CircuitState) -> None:
        key = self.key
        await to_the_end(lambda: self._backend.force(key, self.config, state), here=self._backend.in_process)
        with self._lock:
            self._saw(key, state)


class Calling:
    """One call through a breaker: refused at the beginning of the block, or told of at its end.

    What the block raises decides the outcome, or what it hands to :meth:`returned`.
    """

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._value: Any = None
        self._outcome: Outcome | None = None
        self._call: AdmittedCall | None = None

    def returned(self, value: Any) -> None:
        """The call gave ``value`` back, of which ``is_failure`` may think ill."""
        self._value = value

    def ended(self, outcome: Outcome) -> None:
        """Say the outcome outright."""
        self._outcome = outcome

    def __enter__(self) -> Self:
        self._call = self._breaker.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._breaker.leave(self._taken(), self._judged(exc))

    async def __aenter__(self) -> Self:
        self._call = await self._breaker.entered()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._breaker.left(self._taken(), self._judged(exc))

    def _taken(self) -> AdmittedCall:
        call, self._call = self._call, None
        if call is None:
            raise RuntimeError("This block was not entered: use one calling() for each call")
        return call

    def _judged(self, exc: BaseException | None) -> Outcome:
        return self._outcome or outcome_of(self._breaker.config, exc, self._value)
