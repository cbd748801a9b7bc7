"""Looking at runs in Postgres: one round trip each, without a lock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from llmteam.canvas.exceptions import UnknownSegmentError
from llmteam.canvas.models import SegmentDefinition, StepTypeFacts
from llmteam.canvas.postgres import holds, leases, rows
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.records import Holding, PinnedDefinition, RunHeader, RunRecord, StepRecord, Taken, Work
from llmteam.canvas.routing import StepOutput, run_outputs
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import Key, SegmentStatus, StepRow
from llmteam.db.engine import Database
from llmteam.db.hot import Prepared, Script


class PostgresReads:
    """The part of :class:`~llmteam.canvas.records.RunStore` that changes no run."""

    def __init__(self, database: Database, region: str) -> None:
        self._database = database
        self.region = region

    def _read(self, tenant_id: str, statement: str | Prepared, *params: Any) -> list[tuple[Any, ...]]:
        with self._database.hot(tenant_id) as connection:
            return Script().add(statement, *params).run(connection) or []

    def definition(self, tenant_id: str, definition_hash: str) -> PinnedDefinition:
        """As :meth:`RunStore.definition`."""
        found = self._read(tenant_id, sql.READ_DEFINITION, tenant_id, definition_hash)
        if not found:
            raise UnknownSegmentError(definition_hash)
        document, types = found[0]
        facts = {type_id: StepTypeFacts(**value) for type_id, value in types.items()}
        return PinnedDefinition(definition_hash, SegmentDefinition.from_dict(document), facts)

    def gather(self, tenant_id: str, run_id: str, key: Key) -> Work | None:
        """As :meth:`RunStore.gather`: one round trip."""
        found = self._read(tenant_id, sql.GATHER, tenant_id, run_id, *key, self.region)
        return rows.work(tenant_id, run_id, found[0]) if found else None

    def snapshot(self, tenant_id: str, snapshot_id: str) -> SegmentSnapshot | None:
        """As :meth:`RunStore.snapshot`. Raises :class:`SnapshotIntegrityError`."""
        found = self._read(tenant_id, holds.READ_SNAPSHOT, tenant_id, snapshot_id)
        return holds.read_snapshot(snapshot_id, found[0][0]) if found else None

    def renew(self, holdings: Sequence[Holding], lease: timedelta) -> set[Holding]:
        """As :meth:`RunStore.renew`: one statement for all."""
        return leases.renew(self._database, holdings, lease)

    def lost(self, holdings: Sequence[Holding]) -> set[Holding]:
        """As :meth:`RunStore.lost`: one statement for all."""
        return leases.lost(self._database, holdings)

    def queued(self, tenant_id: str) -> str | None:
        """As :meth:`RunStore.queued`."""
        found = self._read(tenant_id, sql.READ_QUEUED, tenant_id)
        return str(found[0][0]) if found else None

    def ready(self, tenant_id: str, run_id: str) -> list[StepRow]:
        """As :meth:`RunStore.ready`."""
        return [rows.step_row(row) for row in self._read(tenant_id, sql.READ_READY, tenant_id, run_id)]

    def taken(self, tenant_id: str, run_id: str | None, idempotency_key: str | None) -> Taken | None:
        """As :meth:`RunStore.taken`."""
        found = self._read(tenant_id, sql.READ_TAKEN, tenant_id, run_id, idempotency_key, idempotency_key)
        return Taken(found[0][0], SegmentStatus(found[0][1]), found[0][2]) if found else None

    def input(self, tenant_id: str, run_id: str) -> str | None:
        """As :meth:`RunStore.input`."""
        found = self._read(tenant_id, sql.READ_INPUT, tenant_id, run_id)
        return found[0][0] if found else None

    def header(self, tenant_id: str, run_id: str) -> RunHeader | None:
        """As :meth:`RunStore.header`."""
        found = self._read(tenant_id, sql.READ_HEADER, tenant_id, run_id)
        return rows.header(tenant_id, run_id, found[0]) if found else None

    def record(self, tenant_id: str, run_id: str) -> RunRecord | None:
        """As :meth:`RunStore.record`."""
        found = self._read(tenant_id, sql.READ_RECORD, tenant_id, run_id)
        return rows.run_record(found[0]) if found else None

    def records(
        self,
        tenant_id: str,
        *,
        status: SegmentStatus | None = None,
        segment_id: str | None = None,
        limit: int = 50,
        before: tuple[datetime, str] | None = None,
    ) -> list[RunRecord]:
        """As :meth:`RunStore.records`."""
        moment, run_id = before or (None, None)
        params = (tenant_id, status, status, segment_id, segment_id, moment, moment, run_id, limit)
        return [rows.run_record(row) for row in self._read(tenant_id, sql.READ_RECORDS, *params)]

    def steps(self, tenant_id: str, run_id: str, *, outputs: bool = True) -> list[StepRecord]:
        """As :meth:`RunStore.steps`."""
        statement = sql.READ_STEPS if outputs else sql.READ_STEPS_WITHOUT_OUTPUTS
        return [rows.step_record(row) for row in self._read(tenant_id, statement, tenant_id, run_id)]

    def outputs(self, tenant_id: str, run_id: str) -> dict[str, Any]:
        """As :meth:`RunStore.outputs`."""
        found = self._read(tenant_id, sql.READ_OUTPUTS, tenant_id, run_id)
        return run_outputs({step_id: StepOutput(body or {}, whole) for step_id, whole, body in found})
