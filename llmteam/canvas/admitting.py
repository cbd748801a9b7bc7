"""Letting queued runs begin: when a run of their tenant ends, and by a sweep for whatever that missed."""

from __future__ import annotations

import logging
from datetime import datetime

from llmteam.canvas import queueing
from llmteam.canvas.execution import GraphCache, bounded
from llmteam.canvas.outbox import Outbox, hint_of
from llmteam.canvas.records import RunHeader, RunStore
from llmteam.canvas.state import Change, Slice
from llmteam.errors import LLMTeamError
from llmteam.ids import Clock
from llmteam.tenancy.exceptions import TenantError

logger = logging.getLogger(__name__)

#: Runs of one tenant that are admitted one after the other, before other tenants get their turn.
AT_ONCE = 20


class Admitting:
    """Admits the runs of one store."""

    def __init__(self, store: RunStore, graphs: GraphCache, outbox: Outbox, clock: Clock) -> None:
        self._store = store
        self._graphs = graphs
        self._outbox = outbox
        self._clock = clock
        #: Tenants whose starts wait for their turn, as far as this process has seen.
        self._queueing: set[str] = set()

    def note(self, header: RunHeader) -> None:
        """Remember whether the end of this run may let another one begin."""
        if header.queues:
            self._queueing.add(header.tenant_id)

    def run_ended(self, tenant_id: str) -> None:
        """A run of the tenant is over, and that is committed. Never raises: a sweep makes up for it."""
        if tenant_id not in self._queueing:
            return
        try:
            self.admit(tenant_id)
        except LLMTeamError as exc:
            logger.warning("queued runs of tenant %s not admitted (%s); a sweep does it", tenant_id, exc)

    def admit(self, tenant_id: str, most: int = AT_ONCE) -> int:
        """Let queued runs of the tenant begin, the oldest first, as long as there is room; how many did."""
        admitted = 0
        while admitted < most:
            run_id = self._store.queued(tenant_id)
            header = None if run_id is None else self._store.header(tenant_id, run_id)
            record = None if header is None else self._store.record(tenant_id, header.run_id)
            if header is None or record is None:
                break
            try:
                change = self._begin(header, record.created_at)
            except TenantError:
                break
            admitted += change.applied
        return admitted

    def _begin(self, header: RunHeader, queued_at: datetime) -> Change:
        now = self._clock()
        limit = header.options.timeout_seconds
        deadline = None if limit is None else now + bounded(limit)

        def transition(moment: Slice) -> Change:
            return queueing.admit(moment, queued_at, deadline)

        change = self._store.apply(header, [], transition, {}, now=now, door="admit")
        if change.applied:
            ident = (header.tenant_id, header.run_id)
            graph = self._graphs.get(header.tenant_id, header.definition_hash)
            self._outbox.tell(header.tenant_id, change)
            self._outbox.send_ready(header.tenant_id, change.run, graph, self._store.ready(*ident))
            if deadline is not None:
                self._outbox.alarm(deadline, hint_of(header.tenant_id, change.run, graph, (graph.entry, 1)))
        return change
