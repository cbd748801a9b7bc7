"""The rows of a paused run, read in one statement and written in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from llmteam import codec
from llmteam.audit.models import AuditDraft
from llmteam.audit.postgres import append_in
from llmteam.canvas.exceptions import AlreadyRunningError
from llmteam.canvas.features import features_needed
from llmteam.canvas.portable import TABLES, Carried, Rows
from llmteam.canvas.postgres import statements as sql
from llmteam.db import tables
from llmteam.db.engine import Database
from llmteam.db.errors import RefusedError, StatementError, constraint_of
from llmteam.db.hot import Script
from llmteam.persistence.exceptions import SnapshotFormatError
from llmteam.regions import DEFAULT_REGION, queue_in
from llmteam.tenancy.admission import StartLimits
from llmteam.tenancy.postgres.admission import ADMIT, QUEUES, REGION, admit_values, refusal_of

_OF_RUN = "t.tenant_id = %(tenant)s AND t.run_id = %(run)s"
_OF_REQUESTS = """t.tenant_id = %(tenant)s AND t.request_id IN (
    SELECT i.request_id FROM llmteam.interactions i WHERE i.tenant_id = %(tenant)s AND i.run_id = %(run)s)"""
_WHICH = {
    "definitions": """t.tenant_id = %(tenant)s AND t.definition_hash = (
    SELECT r.definition_hash FROM llmteam.runs r WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run)s)""",
    "payloads": """t.tenant_id = %(tenant)s AND t.hash IN (
    SELECT r.input_ref FROM llmteam.runs r WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run)s
    UNION ALL
    SELECT s.output_ref FROM llmteam.run_steps s WHERE s.tenant_id = %(tenant)s AND s.run_id = %(run)s)""",
    "interaction_responses": _OF_REQUESTS,
    "interaction_messages": _OF_REQUESTS,
    "snapshots": f"""{_OF_RUN} AND t.snapshot_id = (
    SELECT r.snapshot_id FROM llmteam.runs r WHERE r.tenant_id = %(tenant)s AND r.run_id = %(run)s)""",
}
#: One statement, so that all of it is as of one moment.
_READ = "SELECT json_build_object({})".format(
    ", ".join(
        f"'{table}', COALESCE((SELECT json_agg(row_to_json(t)) FROM llmteam.{table} t "
        f"WHERE {_WHICH.get(table, _OF_RUN)}), '[]')"
        for table in TABLES
    )
)

#: Values that are the same wherever they stand, under a key made of them.
_SHARED = ("definitions", "payloads")
_INSERT = """
INSERT INTO llmteam.{table} ({columns})
SELECT {columns} FROM json_populate_recordset(NULL::llmteam.{table}, %s::json) {known};
"""
_ARRIVED = f"""
UPDATE llmteam.runs SET queues = {QUEUES}, region = {REGION}, wake_at = NULL WHERE tenant_id = %s AND run_id = %s;
"""


class PostgresCarrying:
    """Reads runs to be carried elsewhere, and writes those that came."""

    def __init__(self, database: Database, unknown_tenants: StartLimits) -> None:
        self._database = database
        self._unknown = unknown_tenants

    def read(self, tenant_id: str, run_id: str) -> Rows:
        """Every row of a run, by table; a run that is unknown has none."""
        with self._database.hot(tenant_id) as connection:
            found = connection.script(_READ, {"tenant": tenant_id, "run": run_id}) or []
        rows: Rows = found[0][0]
        return rows

    def write(self, tenant_id: str, run: Carried, told: AuditDraft, now: datetime) -> None:
        """Write a paused run and what the trail says of that.

        Raises :class:`AlreadyRunningError` when it is there, :class:`TenantError` kinds when its tenant may not have
        it, :class:`SnapshotFormatError` when it has what the tables here have not.
        """
        script = Script()
        features = features_needed(run.graph.nodes.values())
        values = admit_values(tenant_id, now, "start", self._unknown, agents=run.agents, features=features)
        script.add(ADMIT, *values)
        for table in TABLES:
            self._add(script, table, run, tenant_id)
        script.add(_ARRIVED, tenant_id, run.run_id)
        script.add(sql.MOVE_STEPS, tenant_id, run.run_id, DEFAULT_REGION)
        try:
            with self._database.hot(tenant_id) as connection:
                script.run(connection, begin=True)
                append_in(connection, tenant_id, [told], now=now)
                connection.script("COMMIT")
        except RefusedError as exc:
            raise refusal_of(tenant_id, exc) from None
        except Exception as exc:
            constraint = constraint_of(exc) or ""
            if constraint.endswith(("_pkey", "_idempotency_key")):
                raise AlreadyRunningError(run.run_id, "here, in whole or in part") from None
            if constraint or isinstance(exc, StatementError):
                raise SnapshotFormatError(run.snapshot.snapshot_id, "its rows do not fit the tables here") from None
            raise

    def _add(self, script: Script, table: str, run: Carried, tenant_id: str) -> None:
        rows = [_own(table, row, run, tenant_id) for row in run.rows[table]]
        if not rows:
            return
        columns = _columns(table, rows, run.snapshot.snapshot_id)
        known = "ON CONFLICT DO NOTHING" if table in _SHARED else ""
        statement = _INSERT.format(table=table, columns=", ".join(columns), known=known)
        script.add(statement, codec.dumps(rows))


def _own(table: str, row: Mapping[str, Any], run: Carried, tenant_id: str) -> dict[str, Any]:
    """A row as it is written here, whatever it says itself about whose it is and where it runs."""
    own = {**row, "tenant_id": tenant_id}
    if table == "run_steps":
        own["queue"] = queue_in(run.graph.nodes[own["step_id"]].facts.queue, DEFAULT_REGION)
    if table == "snapshots":
        own.pop("number", None)
        own["digest"] = None
    return own


def _columns(table: str, rows: Sequence[Mapping[str, Any]], snapshot_id: str) -> list[str]:
    known = {column.name for column in tables.metadata.tables[f"llmteam.{table}"].columns}
    columns = list(rows[0])
    if not set(columns) <= known or any(set(row) != set(columns) for row in rows):
        raise SnapshotFormatError(snapshot_id, f"its {table} have columns that are not known here: upgrade llmteam")
    return columns
