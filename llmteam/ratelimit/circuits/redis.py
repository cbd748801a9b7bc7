"""Circuits that all processes share, in Redis or Valkey."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

from llmteam.ratelimit.circuits import rules
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend, chance, tell
from llmteam.ratelimit.circuits.rules import Circuit
from llmteam.ratelimit.circuits.script import SCRIPT
from llmteam.ratelimit.decisions import ANY_GENERATION, CircuitChange, CircuitPermit, LimitKey, Outcome
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState, OnBackendError
from llmteam.ratelimit.redis import RETRY_SECONDS, SCAN, BackendState, SharedServer

#: What every key begins with that is stored here.
PREFIX = "llmteam:circuit:"
#: Milliseconds after which a circuit is forgotten that is closed and unused, or open and never tried.
KEEP_MILLIS = 24 * 3600 * 1000

_log = logging.getLogger(__name__)


class RedisCircuitBackend:
    """A :class:`~llmteam.ratelimit.decisions.CircuitBackend` for every process that knows the same server.

    Each call is one atomic script on the server's clock. While the server is away (see :class:`SharedServer`),
    ``on_backend_error`` of each circuit holds. A server that lost its data has all circuits closed. One object may
    serve several threads, and goes on in a forked child.

    Args:
        url: of Redis or Valkey; may be Celery's way to write it.
        now: a clock in whole milliseconds instead of the server's, for simulations.
        draw: a number in [0, 1) for the jitter of an opening circuit.
        on_change: told of every change of state that a call of this process made.
    """

    in_process = False

    def __init__(
        self,
        url: str,
        *,
        prefix: str = PREFIX,
        now: Callable[[], int] | None = None,
        draw: Callable[[], float] = chance,
        on_change: Callable[[CircuitChange], None] | None = None,
    ) -> None:
        self._prefix = prefix
        self._now = now
        self._draw = draw
        self._on_change = on_change
        self._server = SharedServer(url, "circuits", afresh=self._forget_local)
        self._forget_local()

    def _forget_local(self) -> None:
        self._local = MemoryCircuitBackend(draw=self._draw)

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        self._server.close()

    def backend_state(self) -> BackendState:
        """What the last use found."""
        return self._server.state

    def check(self) -> None:
        """Ask the server something that changes nothing, so that :meth:`backend_state` tells how it is now."""
        self.look(LimitKey("probe"), CircuitBreakerConfig())

    def allow(self, key: LimitKey, config: CircuitBreakerConfig, caller: str) -> CircuitPermit:
        answer = self._ask(key, config, "allow", who=caller)
        if answer is None:
            return self._alone(key, config, lambda local: local.allow(key, config, caller))
        return replace(answer, trial=caller) if answer.admitted and answer.state is not CircuitState.CLOSED else answer

    def record(
        self, key: LimitKey, config: CircuitBreakerConfig, permit: CircuitPermit, outcome: Outcome, seconds: float = 0.0
    ) -> CircuitState:
        outcome = rules.judged(config, outcome, seconds)
        if permit.local:
            return self._alone(key, config, lambda local: _recorded(local, key, config, permit, outcome)).state
        answer = self._ask(key, config, "record", who=permit.trial, generation=permit.generation, wanted=outcome.value)
        if answer is None:
            unbound = CircuitPermit(admitted=True, state=permit.state, generation=ANY_GENERATION)
            return self._alone(key, config, lambda local: _recorded(local, key, config, unbound, outcome)).state
        return answer.state

    def force(self, key: LimitKey, config: CircuitBreakerConfig, state: CircuitState) -> None:
        """Set the state by hand. While the server is away, only for this process."""
        if self._ask(key, config, "force", wanted=state.value) is None:
            self._local.force(key, config, state)

    def look(self, key: LimitKey, config: CircuitBreakerConfig) -> CircuitPermit:
        answer = self._ask(key, config, "look")
        return self._alone(key, config, lambda local: local.look(key, config)) if answer is None else answer

    def circuits(self) -> Iterator[tuple[LimitKey, Circuit, int]]:
        """Every circuit that is kept, with the moment at which it was read, on the server's clock.

        Found by SCAN, which lets others through. Raises :class:`InfrastructureError`.
        """
        with self._server.required() as client:
            for name in client.scan_iter(match=f"{self._prefix}{{*", count=SCAN):
                seconds, micros = client.time()
                stored: Any = client.hgetall(name)
                if stored:
                    yield self._key_of(name.decode()), _read(stored), seconds * 1000 + micros // 1000

    def _key_of(self, name: str) -> LimitKey:
        tenant_id, resource, part = name[len(self._prefix) + 1 : -1].split(":")
        return LimitKey(unquote(resource), unquote(tenant_id), unquote(part))

    def name_of(self, key: LimitKey) -> str:
        """Where a circuit is kept. The braces put all that one script touches into one slot of a cluster."""
        parts = (quote(part, safe="") for part in (key.tenant_id, key.resource, key.part))
        return f"{self._prefix}{{{':'.join(parts)}}}"

    def _ask(
        self,
        key: LimitKey,
        config: CircuitBreakerConfig,
        op: str,
        *,
        who: str = "",
        generation: int = ANY_GENERATION,
        wanted: str = "",
    ) -> CircuitPermit | None:
        """The server's answer; None while it is away."""
        now = "" if self._now is None else self._now()
        open_millis = rules.open_millis(config, self._draw())
        arguments = [op, now, KEEP_MILLIS + open_millis, who, generation, wanted, *_numbers(config, open_millis)]
        answer = self._server.run(SCRIPT, [self.name_of(key)], arguments)
        if answer is None:
            return None
        admitted, state, number, wait, lasted, before = answer
        after = CircuitState(state.decode())
        if after.value != before.decode():
            self._changed(CircuitChange(key, CircuitState(before.decode()), after, int(number)), op == "force")
        since = int(lasted)
        return CircuitPermit(
            admitted=bool(admitted),
            state=after,
            generation=int(number),
            retry_after=int(wait) / 1000,
            state_seconds=None if since < 0 else since / 1000,
        )

    def _changed(self, change: CircuitChange, by_hand: bool) -> None:
        level = logging.WARNING if change.after is CircuitState.OPEN and not by_hand else logging.INFO
        owner = f"tenant {change.key.tenant_id}" if change.key.tenant_id else "all tenants"
        _log.log(level, "circuits: that of %s for %s is %s now", change.key.resource, owner, change.after.value)
        tell(self._on_change, change)

    def _alone(
        self, key: LimitKey, config: CircuitBreakerConfig, decide: Callable[[MemoryCircuitBackend], CircuitPermit]
    ) -> CircuitPermit:
        """What holds for a circuit while the server is away."""
        if config.on_backend_error is OnBackendError.LOCAL:
            return replace(decide(self._local), local=True)
        passes = config.on_backend_error is OnBackendError.OPEN
        return CircuitPermit(
            admitted=passes,
            state=CircuitState.CLOSED if passes else CircuitState.OPEN,
            retry_after=0.0 if passes else RETRY_SECONDS,
            local=True,
        )


def _read(stored: Mapping[bytes, bytes]) -> Circuit:
    """A circuit as its hash has it."""
    fields = {name.decode(): value.decode() for name, value in stored.items()}
    numbers = {name: int(fields.get(name, "0")) for name in ("generation", "since", "until", "successes")}
    history = tuple((int(entry[:-1]), entry[-1] == "f") for entry in fields.get("history", "").split())
    trials = ((name.partition(":")[2], int(end)) for name, end in fields.items() if name.startswith("trial:"))
    state = CircuitState(fields.get("state", CircuitState.CLOSED))
    return Circuit(state, **numbers, history=history, trials=tuple(sorted(trials)))


def _numbers(config: CircuitBreakerConfig, open_millis: int) -> list[int | str]:
    return [
        config.failure_threshold,
        repr(float(config.failure_rate_threshold)),
        config.sample_size,
        config.half_open_max_requests,
        config.success_threshold,
        rules.millis(config.window_seconds),
        rules.millis(config.trial_seconds),
        rules.LATE_LEASES * rules.millis(config.trial_seconds),
        open_millis,
        rules.millis(rules.TRIAL_RETRY_SECONDS),
    ]


def _recorded(
    local: MemoryCircuitBackend, key: LimitKey, config: CircuitBreakerConfig, permit: CircuitPermit, outcome: Outcome
) -> CircuitPermit:
    return CircuitPermit(admitted=True, state=local.record(key, config, permit, outcome))
