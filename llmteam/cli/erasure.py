"""Deleting all that a tenant owns: begun once, gone on with after a crash, told in the tenant's audit trail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmteam.audit.models import AuditDraft, AuditEventType, AuditSeverity
from llmteam.tenancy.postgres import everything

if TYPE_CHECKING:
    from datetime import datetime

    from llmteam.audit.postgres import PostgresAuditStore
    from llmteam.canvas.runs import Runs
    from llmteam.db import Database
    from llmteam.ids import Clock

#: Runs that are looked at in one go.
_PAGE = 200


class Erasure:
    """Erases one tenant. Each part may be done again: whoever finds it half done goes on.

    ``destroy_key`` destroys the key under which the tenant's sealed values are kept, so that copies of them elsewhere
    cannot be read either; ``clear_values`` forgets what is kept outside the database.
    """

    def __init__(
        self,
        tenant_id: str,
        database: Database,
        audit: PostgresAuditStore,
        runs: Runs,
        *,
        actor_id: str,
        clock: Clock,
        destroy_key: Callable[[str], object] = lambda tenant_id: None,
        clear_values: Callable[[str], int] = lambda tenant_id: 0,
    ) -> None:
        self._tenant_id = tenant_id
        self._database = database
        self._audit = audit
        self._runs = runs
        self._actor_id = actor_id
        self._clock = clock
        self._destroy_key = destroy_key
        self._clear_values = clear_values

    def run(self) -> Iterator[tuple[str, int]]:
        """Erase, and tell after each batch of which table how many rows are gone."""
        since = everything.mark_erased(self._database, self._tenant_id, self._clock())
        self._tell("begun", since)
        yield "runs cancelled", cancel_all(self._runs, self._tenant_id, self._actor_id)
        self._destroy_key(self._tenant_id)
        yield "values", self._clear_values(self._tenant_id)
        for table in everything.erased_tables():
            while gone := everything.delete_batch(self._database, self._tenant_id, table):
                yield table.name, gone
        self._tell("done", since)
        while emptied := everything.empty_audit_batch(self._database, self._tenant_id):
            yield "audit_log", emptied

    def _tell(self, what: str, since: datetime) -> None:
        draft = AuditDraft(
            event_type=AuditEventType.DATA_DELETED,
            severity=AuditSeverity.WARNING,
            actor_type="user",
            actor_id=self._actor_id,
            action=f"erase.{what}",
            resource_type="tenant",
            resource_id=self._tenant_id,
            idempotency_key=f"erase {what} {since.isoformat()}",
        )
        self._audit.add(self._tenant_id, [draft])


def open_runs(runs: Runs, tenant_id: str) -> list[str]:
    """Some runs of the tenant that are not over."""
    from llmteam.canvas.state import SegmentStatus

    going = [status for status in SegmentStatus if not status.is_terminal]
    found = (runs.engine.store.records(tenant_id, status=status, limit=_PAGE) for status in going)
    return [record.run_id for records in found for record in records]


def cancel_all(runs: Runs, tenant_id: str, by: str) -> int:
    """Cancel every run of the tenant; how many."""
    cancelled = 0
    while known := open_runs(runs, tenant_id):
        ended = sum(runs.cancel(tenant_id, run_id, by=by) for run_id in known)
        cancelled += ended
        if not ended:
            break
    return cancelled


def pause_all(runs: Runs, tenant_id: str, by: str) -> int:
    """Pause every run of the tenant that is running, at once; how many. What was running begins again with the run."""
    from llmteam.canvas.state import SegmentStatus

    paused = 0
    while known := runs.engine.store.records(tenant_id, status=SegmentStatus.RUNNING, limit=_PAGE):
        done = sum(runs.surgery.pause(tenant_id, record.run_id, grace=0.0, by=by) is not None for record in known)
        paused += done
        if not done:
            break
    return paused
