"""`llmteam limits`: what it shows of circuits, how it sets them, and what it leaves in the audit trail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta

import pytest

from llmteam.audit import AuditQuery, PostgresAuditStore
from llmteam.db import Database
from llmteam.ratelimit.breaker import CircuitBreaker
from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
from llmteam.ratelimit.exceptions import CircuitOpenError
from llmteam.ratelimit.models import CircuitBreakerConfig
from tests.acceptance.command_line import DONE, UNREACHABLE, USAGE, CommandLine

pytestmark = pytest.mark.timeout(120)

CONFIG = CircuitBreakerConfig(failure_threshold=2, open_timeout=timedelta(seconds=600))


@pytest.fixture
def line(database_url: str, clean_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(
        tmp_path_factory.mktemp("limits"), LLMTEAM_DATABASE_URL=database_url, LLMTEAM_BROKER_URL=clean_valkey
    )


@pytest.fixture
def backend(clean_valkey: str) -> Iterator[RedisCircuitBackend]:
    """Circuits as a worker has them."""
    backend = RedisCircuitBackend(clean_valkey)
    yield backend
    backend.close()


def use(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        asyncio.run(breaker.record_failure())


def test_circuits_are_shown_with_their_state(line: CommandLine, backend: RedisCircuitBackend) -> None:
    nothing = line("limits", "list")
    use(CircuitBreaker("crm", CONFIG, backend=backend, tenant_id="acme"), 1)
    use(CircuitBreaker("vendor", CONFIG, backend=backend, tenant_id="acme", part="eu"), 2)
    use(CircuitBreaker("vendor", CONFIG, backend=backend, tenant_id=""), 2)

    table = line("limits", "list")
    everything = line.json("limits", "list")
    shown = line.json("limits", "show", "vendor")

    assert "no circuit was used" in nothing.stdout + nothing.stderr
    assert (table.returncode, "vendor" in table.stdout, "(all)" in table.stdout) == (DONE, True, True)
    places = [(one["name"], one["tenant_id"], one["part"], one["state"]) for one in everything]
    assert places == [("vendor", "", "", "open"), ("vendor", "acme", "eu", "open"), ("crm", "acme", "", "closed")]
    assert shown == [
        {**one, "retry_after": again["retry_after"]} for one, again in zip(everything, shown, strict=False)
    ]
    assert 0 < shown[0]["retry_after"] <= 660
    assert datetime.fromisoformat(shown[0]["since"]).tzinfo is not None
    assert (everything[2]["failures"], everything[2]["outcomes"], everything[2]["since"]) == (1, 1, None)


def test_a_circuit_is_opened_and_reset_for_all_processes_and_the_trail_tells_by_whom(
    line: CommandLine, backend: RedisCircuitBackend, database_url: str
) -> None:
    breaker = CircuitBreaker("vendor", CONFIG, backend=backend, tenant_id="acme")

    opened = line("limits", "open", "vendor", "--tenant", "acme", "--seconds", "600", "--by", "ada")
    with pytest.raises(CircuitOpenError):
        asyncio.run(breaker.allow_request())
    reset = line.json("limits", "reset", "vendor", "--tenant", "acme", "--by", "bob")

    assert (opened.returncode, opened.stderr) == (DONE, "the circuit of vendor was closed and is open\n")
    assert (reset["before"], reset["state"], breaker.is_closed) == ("open", "closed", True)
    with closing(Database(database_url)) as database:
        store = PostgresAuditStore(database)
        records = store.select(AuditQuery(tenant_id="acme", resource_type="circuit", order_by="sequence_number"))
    told = {record.action: (record.actor_id, record.resource_id, record.metadata["before"]) for record in records}
    assert told == {"circuit.open": ("ada", "vendor", "closed"), "circuit.closed": ("bob", "vendor", "open")}


def test_the_circuit_of_all_tenants_is_another_one(line: CommandLine, backend: RedisCircuitBackend) -> None:
    done = line.json("limits", "open", "vendor", "--all-tenants", "--part", "eu")

    assert (done["tenant_id"], done["part"]) == ("", "eu")
    assert CircuitBreaker("vendor", CONFIG, backend=backend, tenant_id="", part="eu").is_open
    assert CircuitBreaker("vendor", CONFIG, backend=backend, tenant_id="default").is_closed


def test_what_cannot_be_done_says_so(line: CommandLine) -> None:
    away = "redis://127.0.0.1:1/0"

    listed = line("limits", "list", LLMTEAM_REDIS_URL=away)
    opened = line("limits", "open", "vendor", LLMTEAM_REDIS_URL=away)
    named = line("limits", "open", "vendor", "--tenant", "no tenant")

    assert [listed.returncode, opened.returncode, named.returncode] == [UNREACHABLE, UNREACHABLE, USAGE]
    assert "does not answer" in listed.stderr
    assert "is as it was" in opened.stderr
