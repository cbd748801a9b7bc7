"""A limit and a circuit on the virtual clock, as busy as a history says, and open for everybody once it is healed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from llmteam.ratelimit.decisions import Ask, CircuitPermit, Decision, LimitKey
from llmteam.ratelimit.gate import Gate
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState
from tests.conformance.turnstiles import Fuse, Turnstile, gate_of

if TYPE_CHECKING:
    from tests.simulated.faults import Faults

#: How long somebody is sent away, in seconds: less than a timer is exact, as far as one reaches, and further.
_HOLDS = (0.05, 1.0, 7.0, 9.0, 30.0)


class BusyLimit(Turnstile):
    """Sends away as often as ``busy`` says; whoever was let in and has not left is let in again."""

    def __init__(self, faults: Faults, chance: Random, busy: float) -> None:
        super().__init__()
        self._faults, self._chance, self._busy = faults, chance, busy

    def ask(self, asks: Sequence[Ask], ticket: str, *, queue: bool, lease_seconds: float = 60.0) -> Decision:
        if ticket not in self.inside and self._faults.on and self._chance.random() < self._busy:
            self.room, self.seconds = 0, self._chance.choice(_HOLDS)
        else:
            self.room = 1
        return super().ask(asks, ticket, queue=queue, lease_seconds=lease_seconds)

    def release(self, asks: Sequence[Ask], permit: str) -> None:
        super().release(asks, permit)
        if permit in self.inside:
            self.inside.remove(permit)


class FlickeringCircuit(Fuse):
    """Is open now and then."""

    def __init__(self, faults: Faults, chance: Random, busy: float) -> None:
        super().__init__()
        self._faults, self._chance, self._busy = faults, chance, busy

    def allow(self, key: LimitKey, config: CircuitBreakerConfig, caller: str) -> CircuitPermit:
        opens = self._faults.on and self._chance.random() < self._busy / 4
        self.state = CircuitState.OPEN if opens else CircuitState.CLOSED
        self.seconds = self._chance.choice(_HOLDS)
        return super().allow(key, config, caller)


def gate(faults: Faults, seed: int | str) -> Gate:
    """The gate that all processes of a world share."""
    chance = Random(f"limits {seed}")
    busy = chance.choice((0.0, 0.3, 0.8))
    return gate_of(BusyLimit(faults, chance, busy), FlickeringCircuit(faults, chance, busy))
