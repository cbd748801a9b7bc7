"""Limits and circuits that answer as a test says, and remember what they were asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmteam.ratelimit.decisions import Ask, CircuitPermit, Decision, LimitKey, Outcome
from llmteam.ratelimit.gate import Gate
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState, RateLimitConfig
from llmteam.ratelimit.registry import Limit, LimitRegistry

#: The limit that tests put steps under.
NAME = "crm"


@dataclass
class Turnstile:
    """A limit: lets in as many as ``room`` says; others wait ``seconds``, unless they are inside already."""

    room: int = 0
    seconds: float = 60.0
    limited_by: str = "minute"
    inside: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    keys: list[LimitKey] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)

    def ask(self, asks: Sequence[Ask], ticket: str, *, queue: bool, lease_seconds: float = 60.0) -> Decision:
        self.asked.append(ticket)
        self.keys = [one.key for one in asks]
        if ticket in self.inside:
            return Decision(admitted=True, permit=ticket)
        if self.room > 0:
            self.room -= 1
            self.inside.append(ticket)
            return Decision(admitted=True, permit=ticket)
        waiting = list(dict.fromkeys(one for one in self.asked if one not in self.inside))
        return Decision(
            admitted=False,
            retry_after=self.seconds,
            position=waiting.index(ticket),
            limited_by=self.limited_by,
            key=asks[0].key,
        )

    def renew(self, asks: Sequence[Ask], permit: str, *, lease_seconds: float = 60.0) -> bool:
        self.renewed.append(permit)
        return True

    def release(self, asks: Sequence[Ask], permit: str) -> None:
        self.released.append(permit)

    def withdraw(self, asks: Sequence[Ask], ticket: str) -> None:
        self.asked = [one for one in self.asked if one != ticket]


@dataclass
class Fuse:
    """A circuit that is in ``state`` until a test says otherwise."""

    state: CircuitState = CircuitState.CLOSED
    seconds: float = 30.0
    outcomes: list[Outcome] = field(default_factory=list)

    def allow(self, key: LimitKey, config: CircuitBreakerConfig, caller: str) -> CircuitPermit:
        if self.state is CircuitState.OPEN:
            return CircuitPermit(admitted=False, state=self.state, retry_after=self.seconds)
        trial = caller if self.state is CircuitState.HALF_OPEN else ""
        return CircuitPermit(admitted=True, state=self.state, trial=trial)

    def record(
        self, key: LimitKey, config: CircuitBreakerConfig, permit: CircuitPermit, outcome: Outcome, seconds: float = 0.0
    ) -> CircuitState:
        self.outcomes.append(outcome)
        return self.state

    def force(self, key: LimitKey, config: CircuitBreakerConfig, state: CircuitState) -> None:
        self.state = state

    def look(self, key: LimitKey, config: CircuitBreakerConfig) -> CircuitPermit:
        return self.allow(key, config, "")


def gate_of(turnstile: Turnstile, fuse: Fuse | None = None, *names: str) -> Gate:
    """A gate that knows ``names`` (:data:`NAME` when none are given)."""
    registry = LimitRegistry()
    for name in names or (NAME,):
        registry.register(Limit(name, rate=RateLimitConfig(), circuit=CircuitBreakerConfig()))
    return Gate(turnstile, fuse or Fuse(), registry)
