"""Every statement about notifications finds its rows by an index, in a table of 50,000 of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from llmteam.db import Database
from llmteam.db.hot import HotRole
from llmteam.human.postgres import deliveries as sql
from tests.integration.test_query_plans import explain, found_by, scans_of
from tests.services import PostgresService, owner_transaction

FILL = """
INSERT INTO llmteam.notifications (tenant_id, notification_id, request_id, kind, channel, recipients, state, attempts,
                                   wake_at, created_at)
SELECT 'acme', 'n-' || n, 'r-' || n, 'requested', 'webhook', '{ada}',
       CASE WHEN n %% 1000 = 0 THEN 'pending' WHEN n %% 1000 = 1 THEN 'dead' ELSE 'delivered' END, 1,
       CASE WHEN n %% 1000 = 0 THEN now() END, now() - n * interval '1 second'
  FROM generate_series(1, 50000) n;
"""
ONE = ("acme", "n-77", 1)
STATEMENTS: dict[str, tuple[str, tuple[Any, ...], HotRole]] = {
    "take": (sql.TAKE, (40, 120.0), "llmteam_sweeper"),
    "given up": (sql.GIVEN_UP, (), "llmteam_sweeper"),
    "begin": (sql.BEGIN, (120.0, *ONE), "llmteam_app"),
    "direct": (sql.DIRECT, (*ONE, ["n-a"], ["webhook"], ['["ada"]']), "llmteam_app"),
    "delivered": (sql.DELIVERED, ONE, "llmteam_app"),
    "failed": (sql.FAILED, (8, 8, 0.0, 8, "no", *ONE), "llmteam_app"),
    "drop": (sql.DROP, ONE, "llmteam_app"),
    "list": (sql.RECORDS, ("acme", ["pending", "dead"], 20), "llmteam_app"),
    "retry": (sql.RETRY, ("acme", ["n-77"], ["n-77"]), "llmteam_app"),
}


@pytest.fixture(scope="module")
def full(postgres: PostgresService) -> Iterator[Database]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    with database.hot("acme") as hot:
        hot.script(FILL)
    with owner_transaction(database) as connection:
        connection.execute(text("ANALYZE llmteam.notifications"))
    yield database
    database.close()
    own.drop_all()


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_about_notifications_reads_an_index(full: Database, name: str) -> None:
    statement, values, role = STATEMENTS[name]

    plan = explain(full, statement, values, role=role)

    scans = list(scans_of(plan, {"notifications"}))
    assert scans
    for scan in scans:
        # A partial index has its condition in itself.
        assert found_by(scan) or scan.get("Index Name") in {"notifications_dead", "notifications_wake_at"}, scan
