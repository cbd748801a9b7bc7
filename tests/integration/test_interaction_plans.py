"""Every statement about requests finds its rows by an index, in tables of 50,000 requests and their answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from llmteam.db import Database
from llmteam.db.hot import HotRole
from llmteam.human.postgres import statements as sql
from llmteam.ids import utc_now
from tests.integration.test_query_plans import explain, found_by, scans_of
from tests.services import PostgresService, owner_transaction

TABLES = {"interactions", "interaction_responses", "interaction_messages", "notifications", "used_links", "runs"}

#: Requests of 10,000 runs: one in fifty is open, one in five hundred is due.
FILL = """
INSERT INTO llmteam.runs (tenant_id, run_id, instance_id, segment_id, definition_hash, status, open, total, next_seq,
                          input, config, context, root_run_id, created_at, finished_at)
SELECT 'acme', 'run-' || n, '', 'seg', 'h', 'completed', 0, 20, 21, '1', '{}', '{}', 'run-' || n, now(), now()
  FROM generate_series(1, 10000) n;
INSERT INTO llmteam.interactions (tenant_id, request_id, run_id, step_id, visit, parked, interaction_type, status,
                                  asked, document, deadline, wake_at, created_at, updated_at, closed_at)
SELECT 'acme', 'req-' || n, 'run-' || (n / 5), 's', n % 5, true, 'approval',
       CASE WHEN n % 50 = 0 THEN 'pending' ELSE 'completed' END, ARRAY['p' || (n % 100)], '{}',
       now() + n * interval '1 second',
       CASE WHEN n % 500 = 0 THEN now() WHEN n % 50 = 0 THEN now() + interval '1 hour' END, now(), now(),
       CASE WHEN n % 50 > 0 THEN now() - n * interval '1 minute' END
  FROM generate_series(1, 50000) n;
INSERT INTO llmteam.interaction_responses
SELECT 'acme', 'req-' || n, 'p' || (n % 100), true, '{}', now() FROM generate_series(1, 50000) n;
INSERT INTO llmteam.interaction_messages
SELECT 'acme', 'req-' || n, 1, 'ann', 'hello', now() FROM generate_series(1, 50000) n;
INSERT INTO llmteam.notifications (tenant_id, notification_id, request_id, kind, created_at)
SELECT 'acme', 'n-' || n, 'req-' || n, 'requested', now() FROM generate_series(1, 50000) n;
INSERT INTO llmteam.used_links
SELECT 'acme', 'l-' || n, now() + n * interval '1 minute' - interval '1 day' FROM generate_series(1, 20000) n;
"""
NOW, HOUR = utc_now(), timedelta(hours=1)
ONE, RUN = ("acme", "req-77"), ("acme", "run-77")
ROW = ("pending", ["ann"], None, "{}", NOW, NOW, None, 0.0, NOW, None)
STATEMENTS: dict[str, tuple[str, tuple[Any, ...], HotRole]] = {
    "lock the run": (sql.LOCK_RUN, RUN, "llmteam_app"),
    "lock the run of a request": (sql.LOCK_RUN_OF_REQUEST, ("acme", *ONE), "llmteam_app"),
    "lock": (sql.LOCK_REQUEST, ONE, "llmteam_app"),
    "case": (sql.READ_CASE, ONE, "llmteam_app"),
    "case of a step": (sql.READ_CASE_OF_STEP, (*RUN, "s", 3), "llmteam_app"),
    "all open": (sql.READ_OPEN, ("acme", None, None, [], 200), "llmteam_app"),
    "open for a person": (sql.READ_OPEN, ("acme", "ann", "ann", ["finance"], 200), "llmteam_app"),
    "of a run": (sql.READ_OF_RUN, RUN, "llmteam_app"),
    "messages": (sql.READ_MESSAGES, (*ONE, 0), "llmteam_app"),
    "update": (sql.UPDATE_REQUEST, (*ROW, *ONE), "llmteam_app"),
    "replace": (sql.REPLACE_REQUEST, (*ROW, *ONE), "llmteam_app"),
    "final answer": (sql.PUT_FINAL, (*ONE, "ann", "{}", NOW, *ONE), "llmteam_app"),
    "withdraw all": (sql.WITHDRAW, (NOW, NOW, *RUN, None, None, None), "llmteam_app"),
    "withdraw some": (sql.WITHDRAW, (NOW, NOW, *RUN, ["s"], ["s"], [1]), "llmteam_app"),
    "freeze": (sql.FREEZE, (NOW, *RUN), "llmteam_app"),
    "thaw": (sql.THAW, (HOUR, HOUR, *RUN), "llmteam_app"),
    "take due": (sql.TAKE_DUE, (500,), "llmteam_sweeper"),
    "purge": (sql.PURGE, (timedelta(days=30), 200), "llmteam_sweeper"),
    "purge links": (sql.PURGE_LINKS, (200,), "llmteam_sweeper"),
}


@pytest.fixture(scope="module", params=["counted", "never counted"])
def full(request: pytest.FixtureRequest, postgres: PostgresService) -> Iterator[Database]:
    """With the statistics of ANALYZE, and as on the first day."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    with database.hot("acme") as hot:
        hot.script(FILL.replace("%", "%%"))
    if request.param == "counted":
        with owner_transaction(database) as connection:
            connection.execute(text(f"ANALYZE {', '.join(f'llmteam.{table}' for table in sorted(TABLES))}"))
    yield database
    database.close()
    own.drop_all()


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_about_requests_reads_an_index(full: Database, name: str) -> None:
    statement, values, role = STATEMENTS[name]

    setting = sql.BY_INDEX if statement in (sql.PURGE, sql.PURGE_LINKS) else ""
    plan = explain(full, statement, values, role=role, setting=setting)

    scans = list(scans_of(plan, TABLES))
    assert scans
    for scan in scans:
        # A partial index has its condition in itself.
        whole = {"interactions_wake_at", "interactions_open"}
        assert found_by(scan) or scan.get("Index Name") in whole, f"{scan['Node Type']} on {scan['Relation Name']}"


def test_the_inbox_reads_the_open_requests_of_its_tenant_only(full: Database) -> None:
    plan = explain(full, *STATEMENTS["open for a person"][:2])

    (scan,) = scans_of(plan, {"interactions"})
    names = {part.get("Index Name") for part in (scan, *scan.get("Plans", ()))}
    assert "interactions_open" in names
    assert "tenant_id" in found_by(scan)


def test_no_statement_of_requests_is_left_out() -> None:
    """Those that only insert find no rows."""
    every = {name for name, value in vars(sql).items() if name.isupper() and isinstance(value, str)}
    inserting = {"INSERT_REQUEST", "INSERT_MESSAGE", "INSERT_NOTIFICATION", "PUT_RESPONSE", "USE_LINK"}
    others = {"_COLUMNS", "_CASE", "_UPDATE_REQUEST", "BY_INDEX", "COMMIT", "SET_NEXT_SEQ"}

    looked_at = {statement for statement, _, _ in STATEMENTS.values()}

    assert {name for name in every - inserting - others if getattr(sql, name) not in looked_at} == set()
