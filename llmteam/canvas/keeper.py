"""One thread per process that keeps the leases of all steps it runs, and tells those that lost theirs to stop."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from llmteam.canvas.execution import Execution
from llmteam.canvas.records import Holding, RunStore
from llmteam.errors import LLMTeamError

logger = logging.getLogger(__name__)

#: Renewals within one lease: two may be lost before the lease is.
RENEWALS_PER_LEASE = 3
#: Seconds between two looks whether a run was cancelled or paused, or a claim lost.
LOOK_SECONDS = 1.0


class Keeper:
    """Holds claims while their handlers run.

    Every third of a lease one statement renews all of them; in between, one look each second finds those whose run was
    cancelled or paused. A claim that is refused has its context cancelled: its result would not count any more.
    ``stopped`` is told of it, so that a handler that can be stopped is. ``renewed`` is called with the executions whose
    leases were renewed, for whatever else has to last as long.
    """

    def __init__(
        self,
        store: RunStore,
        lease: timedelta,
        *,
        stopped: Callable[[Execution], None] = lambda execution: None,
        renewed: Callable[[Iterable[Execution]], None] = lambda executions: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lease = lease
        self._stopped = stopped
        self._also_renew = renewed
        self._monotonic = monotonic
        self._renew_every = lease.total_seconds() / RENEWALS_PER_LEASE
        self._forget()

    def _forget(self) -> None:
        self._held: dict[Holding, Execution] = {}
        self._changed = threading.Condition()
        self._pid = 0
        self._renewed = 0.0

    @contextmanager
    def holding(self, execution: Execution) -> Iterator[None]:
        """Keep the claim of ``execution`` for the block."""
        holding = holding_of(execution)
        if self._pid and self._pid != os.getpid():  # after a fork, which threads do not survive
            self._forget()
        with self._changed:
            self._held[holding] = execution
            if not self._pid:
                self._pid, self._renewed = os.getpid(), self._monotonic()
                threading.Thread(target=self._run, name="llmteam-keeper", daemon=True).start()
            elif len(self._held) == 1:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._held.pop(holding, None)

    @property
    def held(self) -> list[Execution]:
        """The executions that are held right now."""
        with self._changed:
            return list(self._held.values())

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._held:
                    self._changed.wait()
            time.sleep(min(LOOK_SECONDS, self._renew_every))
            try:
                self.look()
            except Exception:
                # Whatever it is: without this thread every step of the process would lose its lease.
                logger.exception("looking after %d leases failed; trying again", len(self._held))

    def look(self) -> None:
        """Renew what is due for it, and cancel the contexts of claims that are refused."""
        with self._changed:
            holdings = list(self._held)
        if not holdings:
            return
        now = self._monotonic()
        try:
            if now - self._renewed >= self._renew_every:
                refused = self._store.renew(holdings, self._lease)
                self._renewed = now
                self._also_renew(self.held)
            else:
                refused = self._store.lost(holdings)
        except LLMTeamError as exc:
            logger.warning("the leases of %d steps could not be looked at (%s); trying again", len(holdings), exc)
            return
        for holding in refused:
            self._stop(holding)

    def _stop(self, holding: Holding) -> None:
        with self._changed:
            execution = self._held.pop(holding, None)
        if execution is None:
            return
        logger.info("run %s, step %s: the claim is gone, so it stops", holding.run_id, holding.key[0])
        execution.revoked.set()
        execution.ctx.cancelled.set()
        self._stopped(execution)


def holding_of(execution: Execution) -> Holding:
    """The claim behind an execution."""
    header = execution.header
    return Holding(header.tenant_id, header.run_id, execution.key, execution.fence)
