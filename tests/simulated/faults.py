"""What can go wrong, and where: at numbered points around each commit and each message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from llmteam.canvas.records import Holding, RunStore
from llmteam.canvas.sweeping import Expired, LateRun, Sweeps
from llmteam.dispatch import Chord, Hint
from llmteam.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulated.actors import Actor
    from tests.simulated.broker import Broker
    from tests.simulated.schedule import Schedule
    from tests.simulated.witness import Witness

T = TypeVar("T")

#: How deep operations may be held up within each other.
MAX_DEPTH = 3


class Crash(BaseException):
    """A process dies here and now; nothing in it may catch this."""

    def __init__(self, actor: Actor) -> None:
        super().__init__(f"{actor.name} dies")
        self.actor = actor
        self.life = actor.life


@dataclass(frozen=True, slots=True)
class Rates:
    """Probabilities, the first block per point, the second per message; ``freeze`` to ``deaf`` per minute."""

    crash: float = 0.0
    stall: float = 0.0
    outage: float = 0.0
    refuse: float = 0.0

    lose: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    shuffle: float = 0.0

    kill: float = 0.0
    freeze: float = 0.0
    shutdown: float = 0.0
    flush: float = 0.0
    deaf: float = 0.0
    no_sweep: float = 0.0

    @classmethod
    def draw(cls, chance: Random) -> Rates:
        """Some kinds of faults at some rate each; most histories lack most kinds, so that none hides another."""
        given = {one.name: _MOST[one.name] * chance.random() for one in fields(cls) if chance.random() < 0.4}
        return cls(**given)


_MOST = {
    "crash": 0.03,
    "stall": 0.03,
    "outage": 0.06,
    "refuse": 0.2,
    "lose": 0.6,
    "double": 0.4,
    "delay": 0.5,
    "shuffle": 1.0,
    "kill": 3.0,
    "freeze": 3.0,
    "shutdown": 3.0,
    "flush": 3.0,
    "deaf": 1.0,
    "no_sweep": 1.0,
}


#: Points where being held up is rarer than it matters.
_LIKELY = {"after take_expired": 10.0}


class Faults:
    """Decides at each point what happens there. ``crash_at`` is the number of the one point at which to crash."""

    def __init__(self, schedule: Schedule, chance: Random, rates: Rates, crash_at: int | None = None) -> None:
        self.schedule = schedule
        self.chance = chance
        self.rates = rates
        self.crash_at = crash_at
        self.on = True
        self.points: list[str] = []
        self._depth = 0

    def point(self, actor: Actor, name: str, broken: Callable[[], Exception]) -> None:
        """Pass this point, or crash at it, or be held up, or see what ``broken`` gives."""
        self.points.append(name)
        if len(self.points) == self.crash_at:
            raise Crash(actor)
        rates = self.rates
        if not self.on:
            return
        roll = self.chance.random()
        if roll < rates.crash:
            raise Crash(actor)
        roll -= rates.crash
        if roll < rates.stall * _LIKELY.get(name, 1.0):
            self.hold_up(actor, self.chance.choice((0.01, 0.5, 5.0, self.chance.uniform(20.0, 50.0))))
            return
        if self.chance.random() < (rates.refuse if name.startswith("publish") else rates.outage):
            raise broken()

    def hold_up(self, actor: Actor, seconds: float) -> bool:
        """The whole process of ``actor`` stands still here, while everybody else goes on; False when too many do."""
        if self._depth >= MAX_DEPTH:
            return False
        life, until = actor.life, self.schedule.now + seconds
        actor.frozen_until = max(actor.frozen_until, until)
        self._depth += 1
        try:
            self.schedule.run_until(until)
        finally:
            self._depth -= 1
        if actor.life != life:
            raise Crash(actor)
        return True


def _away() -> Exception:
    return InfrastructureError("the database did not answer, whatever it did")


def _refused() -> Exception:
    return ConnectionRefusedError("the broker refuses")


class FaultyStore:
    """The one store as one process reaches it; an error after a commit leaves its outcome unknown."""

    def __init__(self, store: RunStore, actor: Actor, faults: Faults, witness: Witness) -> None:
        self._store, self._actor, self._faults, self._witness = store, actor, faults, witness

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _commit(self, name: str, run: tuple[str, str], write: Callable[[], T]) -> T:
        self._faults.point(self._actor, f"before {name}", _away)
        done = write()
        self._witness.committed(*run)
        self._faults.point(self._actor, f"after {name}", _away)
        return done

    def gather(self, tenant_id: str, run_id: str, key: Any) -> Any:
        found = self._store.gather(tenant_id, run_id, key)
        self._faults.point(self._actor, "after gather", _away)
        return found

    def create(self, run: Any, change: Any, nodes: Any) -> bool:
        ident = (run.tenant_id, run.run_id)
        return self._commit("create", ident, lambda: self._store.create(run, change, nodes))

    def claim(self, work: Any, *given: Any) -> Any:
        header = work.header
        return self._commit("claim", (header.tenant_id, header.run_id), lambda: self._store.claim(work, *given))

    def apply(self, header: Any, *given: Any, **how: Any) -> Any:
        ident = (header.tenant_id, header.run_id)
        return self._commit("apply", ident, lambda: self._store.apply(header, *given, **how))

    def take_hold(self, header: Any, *given: Any, **how: Any) -> Any:
        ident = (header.tenant_id, header.run_id)
        return self._commit("hold", ident, lambda: self._store.take_hold(header, *given, **how))

    def renew(self, holdings: Sequence[Holding], lease: Any) -> set[Holding]:
        self._faults.point(self._actor, "before renew", _away)
        refused = self._store.renew(holdings, lease)
        self._witness.renewed(set(holdings) - refused)
        self._faults.point(self._actor, "after renew", _away)
        return refused


class FaultySweeps:
    """What a sweeper finds, with a point behind each look."""

    def __init__(self, sweeps: Sweeps, actor: Actor, faults: Faults, witness: Witness) -> None:
        self._sweeps, self._actor, self._faults, self._witness = sweeps, actor, faults, witness

    def take_due(self, limit: int, skip_queues: Sequence[str] = ()) -> list[Hint]:
        hints = self._sweeps.take_due(limit, skip_queues)
        assert len(hints) <= limit
        self._faults.point(self._actor, "after take_due", _away)
        return hints

    def take_expired(self, limit: int) -> list[Expired]:
        found = self._sweeps.take_expired(limit)
        self._witness.taken([one for one in found if one.lost])
        self._faults.point(self._actor, "after take_expired", _away)
        return found

    def late_runs(self, limit: int) -> list[LateRun]:
        found = self._sweeps.late_runs(limit)
        self._faults.point(self._actor, "after late_runs", _away)
        return found

    def queued_tenants(self, limit: int) -> list[str]:
        found = self._sweeps.queued_tenants(limit)
        self._faults.point(self._actor, "after queued_tenants", _away)
        return found

    def record(self, name: str, found: int) -> None:
        self._sweeps.record(name, found)


class FaultyDispatcher:
    """The broker as one process reaches it."""

    def __init__(self, broker: Broker, actor: Actor, faults: Faults) -> None:
        self._broker, self._actor, self._faults = broker, actor, faults

    def send(self, hints: Sequence[Hint]) -> None:
        for hint in self._one_by_one(hints):
            self._broker.publish(hint)

    def send_chord(self, chord: Chord) -> None:
        self._broker.begin_chord(chord)
        for hint in self._one_by_one(chord.heads):
            self._broker.publish(hint, chord.chord_id)

    def _one_by_one(self, hints: Sequence[Hint]) -> Iterator[Hint]:
        for hint in hints:
            self._faults.point(self._actor, "publish", _refused)
            yield hint
        self._faults.point(self._actor, "published", _refused)
