"""What a tenant stores is read from its rows, now and then, and starts are refused by the figure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.runs import Start
from llmteam.canvas.state import SegmentStatus
from llmteam.db import Database
from llmteam.db.tables import metadata
from llmteam.events.postgres import PostgresEventStore
from llmteam.tenancy import TenantConfig, TenantLimitExceededError, TenantTier
from llmteam.tenancy.postgres import PostgresTenantStore
from llmteam.tenancy.postgres.storage import StorageMeter, counted_tables
from tests.conformance.ward import Ward, in_postgres_passes
from tests.drawing import draw

KB = 1_000


@pytest.fixture
def ward(database: Database) -> Ward:
    store, events = PostgresRunStore(database), PostgresEventStore(database)
    return Ward(store, events, PostgresSweeps(database), in_postgres_passes(database))


@pytest.fixture
def meter(database: Database) -> StorageMeter:
    return StorageMeter(database)


def tenant(database: Database, tenant_id: str = "acme", **given: Any) -> None:
    PostgresTenantStore(database).add(TenantConfig(tenant_id, tenant_id, TenantTier.ENTERPRISE, **given))


def start(ward: Ward, tenant_id: str = "acme", kilobytes: int = 1) -> str:
    """A run whose input takes so much also when it is compressed."""
    noise = "".join(f"{number * 2_654_435_761 % 2**32:08x}" for number in range(kilobytes * 125))
    return ward.runs.start(Start(tenant_id, draw("a"), noise))


def age(database: Database) -> None:
    """All figures are two hours old from now on."""
    with database.tenant_transaction("acme") as connection:
        connection.exec_driver_sql("UPDATE llmteam.tenant_storage SET metered_at = metered_at - interval '2 hours'")


def test_a_row_counts_about_what_was_put_into_it_and_only_for_its_tenant(ward: Ward, meter: StorageMeter) -> None:
    empty = meter.meter("acme").size
    start(ward, "globex", kilobytes=500)
    assert (empty, meter.meter("acme").size) == (0, 0)

    start(ward, kilobytes=4)
    small = meter.meter("acme").size
    start(ward, kilobytes=300)

    assert 4 * KB < small < 40 * KB
    # Hex digits are packed to a bit more than the half.
    assert 150 * KB < meter.meter("acme").size - small < 700 * KB


def test_the_rows_of_every_table_of_a_tenants_data_count() -> None:
    left_out = {table.name for table in metadata.sorted_tables} - {table.name for table in counted_tables()}

    assert left_out == {"sweeps", "tenants", "tenant_starts", "tenant_storage"}


def test_starts_are_refused_from_the_next_metering_on_until_what_was_stored_is_gone(
    database: Database, ward: Ward, meter: StorageMeter
) -> None:
    tenant(database, max_storage_gb=0.0002)
    runs = [start(ward, kilobytes=6) for _ in range(40)]
    start(ward)

    stored = meter.meter("acme").size
    with pytest.raises(TenantLimitExceededError) as raised:
        start(ward)

    error = raised.value
    assert (error.limit_type, error.current, error.maximum) == ("storage_gb", stored / 1e9, 0.0002)
    for run_id in runs:
        ward.engine.end("acme", run_id, SegmentStatus.CANCELLED)
    ward.pass_time(1.0)
    assert ward.sweeps.purge(timedelta(0), 100) == len(runs)
    with pytest.raises(TenantLimitExceededError):
        start(ward)
    meter.meter("acme")
    start(ward)


def test_a_sweep_meters_tenants_with_a_limit_whose_figure_is_old(database: Database, meter: StorageMeter) -> None:
    tenant(database, max_storage_gb=1)
    tenant(database, "globex")
    tenant(database, "initech", max_storage_gb=1)

    assert meter.meter_due(limit=1) == 1
    assert meter.meter_due() == 1
    assert meter.meter_due() == 0, "an hour has not passed, and of the third nothing is asked"
    age(database)
    assert meter.meter_due() == 1


def test_a_figure_is_seen_by_its_tenant_alone(database: Database, meter: StorageMeter) -> None:
    tenant(database, max_storage_gb=1)
    meter.meter("acme")

    with database.tenant_transaction("acme") as connection:
        found = connection.exec_driver_sql("SELECT tenant_id FROM llmteam.tenant_storage").scalars().all()
    with database.tenant_transaction("globex") as connection:
        others = connection.exec_driver_sql("SELECT tenant_id FROM llmteam.tenant_storage").scalars().all()

    assert (found, others) == (["acme"], [])
