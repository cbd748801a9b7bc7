"""Rows of licences: what the table itself refuses, whoever writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from llmteam.db import Database, RefusedError, StatementError
from llmteam.licensing import LICENSE_LIMITS, License, LicenseTier
from llmteam.licensing.postgres import PostgresLicenseStore

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DAY = timedelta(days=1)

_INSERT = """
INSERT INTO llmteam.tenant_licenses
  (tenant_id, version, tier, license_id, document, valid_from, valid_to, seen_at, set_by)
VALUES (%s, %s, 'enterprise', '', '{}', %s, %s, now(), '')
"""


def insert(database: Database, tenant_id: str, version: int, start: datetime, end: datetime | None) -> None:
    with database.hot(tenant_id) as hot:
        hot.script(_INSERT + "; COMMIT", (tenant_id, version, start, end), begin=True)


@pytest.mark.parametrize(
    ("start", "end"),
    [(NOW, None), (NOW + DAY, None), (NOW - DAY, NOW + timedelta(seconds=1)), (NOW + DAY, NOW + 2 * DAY)],
)
def test_two_licences_of_a_tenant_never_hold_at_the_same_time(
    database: Database, start: datetime, end: datetime | None
) -> None:
    insert(database, "acme", 1, NOW, None)

    with pytest.raises(StatementError, match=r"tenant_licenses_one_at_a_time|tenant_licenses_current"):
        insert(database, "acme", 2, start, end)

    insert(database, "globex", 2, start, end)
    insert(database, "acme", 2, NOW - DAY, NOW)


def test_what_held_is_not_changed_and_what_was_revoked_does_not_come_back(database: Database) -> None:
    store = PostgresLicenseStore(database)
    for tier in (LicenseTier.COMMUNITY, LicenseTier.ENTERPRISE):
        store.put("acme", License.of_operator(tier, NOW), "ann", NOW)
    store.revoke("acme", "lic-1", "ann", NOW)
    before = store.history("acme")

    for statement in (
        "UPDATE llmteam.tenant_licenses SET tier = 'enterprise'",
        "UPDATE llmteam.tenant_licenses SET grace_until = NULL",
        "DELETE FROM llmteam.tenant_licenses",
        "UPDATE llmteam.revoked_licenses SET license_id = ''",
        "DELETE FROM llmteam.revoked_licenses",
    ):
        with database.hot("acme") as hot, pytest.raises(StatementError, match="permission denied"):
            hot.script(statement)
    with database.hot("acme") as hot:
        hot.script("UPDATE llmteam.tenant_licenses SET valid_to = NULL WHERE valid_to IS NOT NULL; COMMIT", begin=True)
    assert store.history("acme") == before


def test_the_lowest_tier_in_the_database_is_that_of_the_table_of_tiers(database: Database) -> None:
    lowest = LICENSE_LIMITS[LicenseTier.COMMUNITY]
    store = PostgresLicenseStore(database)
    store.put("acme", License.of_operator(LicenseTier.ENTERPRISE, NOW, NOW + DAY), "ann", NOW)
    admit = "SELECT llmteam.admit_start('acme', %s, %s, '{}', 'start', NULL, NULL, NULL, NULL, false)"

    for moment, most in ((NOW + DAY, None), (NOW + DAY + timedelta(microseconds=1), lowest.max_agents_per_pipeline)):
        with database.hot("acme") as hot:
            hot.script(admit, (moment, most or 1000))
        if most is not None:
            with (
                database.hot("acme") as hot,
                pytest.raises(RefusedError, match=f"agents_per_pipeline {most + 1} {most}"),
            ):
                hot.script(admit, (moment, most + 1))


def test_admission_reads_a_licence_by_its_index(database: Database) -> None:
    for number in range(200):
        insert(database, f"tenant-{number}", 1, NOW, None)

    with database.hot("tenant-7") as hot:
        hot.script("SET LOCAL enable_seqscan TO off", begin=True)
        plan = hot.script(
            "EXPLAIN SELECT * FROM llmteam.tenant_licenses WHERE tenant_id = 'tenant-7' AND valid_to IS NULL"
        )
        hot.rollback()

    assert "tenant_licenses_current" in str(plan)
