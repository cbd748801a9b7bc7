"""The safety net: finds what is due and not moving, and moves it. Safe to run twice at once, or half."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

from llmteam import metrics
from llmteam.canvas.engine import Engine
from llmteam.canvas.recovery import Recovery
from llmteam.canvas.surgery import Surgery
from llmteam.canvas.sweeping import Sweeps
from llmteam.dispatch import Dispatcher
from llmteam.errors import LLMTeamError
from llmteam.human.deadlines import catch_up
from llmteam.human.rulings import Case, Ruling

logger = logging.getLogger(__name__)

#: Rows that one sweep moves at most.
BATCH = 500
#: Runs that one transaction of the retention deletes at most: it must not hold locks for long.
PURGE_BATCH = 200
#: Seconds after which a sweep of the retention leaves the rest to the next one.
PURGE_SECONDS = 20.0

#: Sweeps that must not stop, by name. Beside them: ``notifications``, which waits for receivers, ``storage``, and what
#: has been kept long enough: ``retention`` and ``audit``.
ESSENTIAL = ("due", "expired", "runs", "starts", "people")


class Sweeper:
    """One sweep is one look, and one transaction per run for what it found; each records its end.

    Args:
        busy_queues: names the queues that are long and being worked off, which need no more hints.
        retention: how long runs are kept that are over; None keeps them.
        deliver: tells people what they are to be told; how much was due. It may wait for receivers.
        prune: removes audit records that have been kept long enough; how many.
        meter: reads anew what tenants store whose figure is old; of how many.
    """

    def __init__(
        self,
        engine: Engine,
        sweeps: Sweeps,
        dispatcher: Dispatcher,
        surgery: Surgery,
        *,
        busy_queues: Callable[[], Sequence[str]] = tuple,
        retention: timedelta | None = None,
        deliver: Callable[[], int] = lambda: 0,
        prune: Callable[[], int] = lambda: 0,
        meter: Callable[[], int] = lambda: 0,
    ) -> None:
        self._engine = engine
        self._sweeps = sweeps
        self._dispatcher = dispatcher
        self._surgery = surgery
        self._recovery = Recovery(engine)
        self._busy_queues = busy_queues
        self._retention = retention
        self._deliver = deliver
        self._prune = prune
        self._meter = meter

    def sweep(self, name: str) -> int:
        """Run the sweep of this name; how much it found."""
        found = _SWEEPS[name](self)
        self._sweeps.record(name, found)
        metrics.SWEEPS.add(name)
        metrics.SWEEP_FOUND.add(name, value=found)
        return found

    def sweep_all(self) -> int:
        """Every sweep that must not stop, one after the other; how much they found."""
        return sum(self.sweep(name) for name in ESSENTIAL)

    def _due(self) -> int:
        """Hint again at ready steps: lost hints, retries and joins whose moment has come."""
        hints = self._sweeps.take_due(BATCH, self._busy_queues())
        if hints:
            self._dispatcher.send(hints)
        return len(hints)

    def _expired(self) -> int:
        """Take steps from workers that vanished, and end those that outlived their deadline."""
        found = self._sweeps.take_expired(BATCH)
        for one in found:
            move = self._recovery.lose if one.lost else self._recovery.overdue
            self._careful(f"run {one.run_id}", partial(move, one.tenant_id, one.run_id, one.key, one.fence))
        return len(found)

    def _runs(self) -> int:
        """End runs that are over time, and let pauses take hold whose drain has taken long enough."""
        found = self._sweeps.late_runs(BATCH)
        for one in found:
            move = self._surgery.take_hold if one.pausing else self._engine.expire
            self._careful(f"run {one.run_id}", partial(move, one.tenant_id, one.run_id))
        return len(found)

    def _starts(self) -> int:
        """Let runs begin that wait for their turn: tenant by tenant, some of each, as long as one of them has room."""
        tenants, admitted = self._sweeps.queued_tenants(BATCH), 0
        while tenants and admitted < BATCH:
            tenants = [
                tenant for tenant in tenants if (found := self._admitted(tenant)) and (admitted := admitted + found)
            ]
        return admitted

    def _admitted(self, tenant_id: str) -> int:
        try:
            return self._engine.admitting.admit(tenant_id)
        except LLMTeamError as exc:
            logger.warning("queued runs of tenant %s not admitted (%s); the next sweep tries again", tenant_id, exc)
            return 0

    def _people(self) -> int:
        """Remind people, escalate and time out what they are asked."""
        interactions = self._engine.store.interactions
        found = interactions.take_due(BATCH)
        for one in found:
            self._careful(
                f"request {one.request_id}", partial(interactions.apply, one.tenant_id, one.request_id, self._catch_up)
            )
        return len(found)

    def _catch_up(self, case: Case) -> Ruling:
        return catch_up(case, self._engine.clock())

    def _notifications(self) -> int:
        """Deliver what people are to be told."""
        return self._deliver()

    def _storage(self) -> int:
        """Meter what tenants store."""
        return self._meter()

    def _purge(self) -> int:
        """Delete runs that have been over for longer than they are kept, and what people were asked."""
        if self._retention is None:
            return 0
        purged, ends = 0, self._engine.clock() + timedelta(seconds=PURGE_SECONDS)
        while True:
            asked = self._engine.store.interactions.purge(self._retention, PURGE_BATCH)
            runs = self._sweeps.purge(self._retention, PURGE_BATCH)
            purged += asked + runs
            if max(asked, runs) < PURGE_BATCH or self._engine.clock() >= ends:
                return purged

    def _audit(self) -> int:
        """Remove audit records that have been kept long enough."""
        return self._prune()

    def _careful(self, what: str, move: Callable[[], object]) -> None:
        """One run or request that cannot be moved must not keep the others from it; the next sweep tries it again."""
        try:
            move()
        except LLMTeamError as exc:
            logger.warning("%s could not be moved on (%s); the next sweep tries again", what, exc)


_SWEEPS: dict[str, Callable[[Sweeper], int]] = {
    "due": Sweeper._due,
    "expired": Sweeper._expired,
    "runs": Sweeper._runs,
    "starts": Sweeper._starts,
    "people": Sweeper._people,
    "notifications": Sweeper._notifications,
    "retention": Sweeper._purge,
    "audit": Sweeper._audit,
    "storage": Sweeper._storage,
}
