"""What an append and the common questions cost does not grow with the trail: each finds its rows by an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from llmteam.audit import AuditCheckpoint, AuditQuery
from llmteam.audit.postgres import records_wanted
from llmteam.audit.postgres.appending import _READ_HEAD
from llmteam.audit.postgres.retention import _REMOVE, release_in
from llmteam.db import Database
from tests.services import PostgresService, owner_transaction

START = datetime(2026, 1, 1, tzinfo=UTC)

#: 50,000 records of acme, a minute apart, by 500 people, and as many of another tenant.
FILL = """
INSERT INTO llmteam.audit_log (tenant_id, sequence_number, record_id, timestamp, event_type, severity, run_id, actor_id,
                               resource_id, old_value, metadata, checksum, previous_checksum, hash_version,
                               idempotency_key)
SELECT %(tenant)s, n, 'r' || n, timestamptz '2026-01-01 00:00Z' + n * interval '1 minute', 'data.updated', 'info',
       'run-' || n / 10, 'actor-' || n %% 500, 'doc-' || n %% 5000, '{"a": 1}', '{}', 'c', 'c', 1, 'key-' || n
  FROM generate_series(1, 50000) n;
INSERT INTO llmteam.audit_heads VALUES (%(tenant)s, 50000, 'c')
"""


@pytest.fixture(scope="module")
def full(postgres: PostgresService) -> Iterator[Database]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    for tenant in ("acme", "globex"):
        with database.hot(tenant) as hot:
            hot.script(FILL, {"tenant": tenant})
    with owner_transaction(database) as connection:
        connection.execute(text("ANALYZE llmteam.audit_log, llmteam.audit_heads"))
    yield database
    database.close()
    own.drop_all()


def rows_read(plan: dict[str, Any]) -> tuple[set[str], int]:
    """The kinds of scans of a plan that was run, and how many rows they gave and dropped."""
    kinds, rows = set(), 0
    if "Scan" in plan["Node Type"]:
        kinds.add(plan["Node Type"])
        rows += (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    for part in plan.get("Plans", []):
        below, more = rows_read(part)
        kinds |= below
        rows += more
    return kinds, rows


def explained(found: Any) -> tuple[set[str], int]:
    document = found[0][0]
    return rows_read((json.loads(document) if isinstance(document, str) else document)[0]["Plan"])


@pytest.mark.parametrize(
    ("conditions", "most"),
    [
        ({}, 300),
        ({"order_by": "sequence_number"}, 300),
        ({"run_id": "run-77"}, 50),
        ({"actor_id": "actor-7"}, 300),
        ({"resource_id": "doc-7"}, 100),
        ({"start_time": START + timedelta(hours=5), "end_time": START + timedelta(hours=6)}, 200),
    ],
)
def test_a_common_question_reads_little_more_than_it_answers(
    full: Database, conditions: dict[str, Any], most: int
) -> None:
    statement = records_wanted(AuditQuery(tenant_id="acme", **conditions))

    with full.tenant_transaction("acme") as connection:
        compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
        sql = f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}"
        kinds, rows = explained(connection.exec_driver_sql(sql, compiled.params).all())

    assert "Seq Scan" not in kinds
    assert rows <= most


def test_an_append_reads_the_head_and_the_records_of_its_keys_alone(full: Database) -> None:
    with full.hot("acme") as hot:
        sql = f"EXPLAIN (ANALYZE, FORMAT JSON) {_READ_HEAD.text}"
        _, rows = explained(hot.script(sql, (["key-5", "key-50000", "none"], "acme")))

    assert rows <= 10


def test_a_batch_of_a_removal_reads_the_batch_alone(full: Database) -> None:
    checkpoint = AuditCheckpoint("acme", 20_000, "c", START, "key", "signature", removes=True)
    setting, removal = _REMOVE.split(";")
    with full.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
        assert release_in(hot, checkpoint)

        sql = f"{setting};EXPLAIN (ANALYZE, FORMAT JSON) {removal}"
        kinds, rows = explained(hot.script(sql, {"tenant": "acme", "limit": 100}, role="llmteam_sweeper"))

    assert "Seq Scan" not in kinds
    assert rows <= 310
