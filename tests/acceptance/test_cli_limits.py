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
from llmteam.ratelimit.decisions import Ask, LimitKey
from llmteam.ratelimit.exceptions import CircuitOpenError
from llmteam.ratelimit.limits.redis import RedisLimitBackend
from llmteam.ratelimit.models import CircuitBreakerConfig, RateLimitConfig
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
    everything = line.json("limits", "list")["circuits"]
    shown = line.json("limits", "show", "vendor")["circuits"]

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


LIMITS = """
from llmteam.ratelimit import CircuitBreakerConfig, RateLimitConfig, register_limit

register_limit(
    "vendor",
    RateLimitConfig(None, 5, 100, burst_size=9, max_concurrent=2),
    total=RateLimitConfig(None, 50, None),
    circuit=CircuitBreakerConfig(),
)
register_limit("translator", RateLimitConfig(None, 7, None))
"""
OWN = RateLimitConfig(None, 5, 100, burst_size=9, max_concurrent=2)
TOTAL = RateLimitConfig(None, 50, None)


def test_limits_are_shown_with_the_room_that_they_have_and_reset(
    line: CommandLine, clean_valkey: str, database_url: str
) -> None:
    (line.folder / "mylimits.py").write_text(LIMITS)
    nothing = line("limits", "list")
    asks = [Ask(LimitKey("vendor", "acme"), OWN), Ask(LimitKey("vendor"), TOTAL)]
    with closing(RedisLimitBackend(clean_valkey)) as backend:
        for ticket in "abc":
            backend.ask(asks, ticket, queue=True, lease_seconds=600, grace_seconds=600)
        backend.ask([Ask(LimitKey("elsewhere", "acme", "eu"), OWN)], "d", queue=True)

    table = line("limits", "list", "--import", "mylimits")
    everything = line.json("limits", "list", "--import", "mylimits")["limits"]
    unknown = line.json("limits", "show", "vendor")["limits"]
    reset = line.json("limits", "reset", "vendor", "--tenant", "acme", "--by", "ada")
    again = line.json("limits", "reset", "nothing", "--tenant", "acme")
    after = line.json("limits", "show", "vendor", "--import", "mylimits")["limits"]

    assert "no limit is registered here or in use" in nothing.stdout + nothing.stderr
    assert "3 a minute, 98 a hour" in table.stdout
    assert "(not registered here: --import its module)" in table.stdout
    seen = {(one["name"], one["tenant_id"]): (one["room"], one["in_flight"], one["waiting"]) for one in everything}
    assert seen == {
        ("elsewhere", "acme"): (None, None, None),
        ("vendor", ""): ({"minute": 48}, 2, 0),
        ("vendor", "acme"): ({"minute": 3, "hour": 98}, 2, 1),
        ("translator", None): ({"minute": 7}, 0, 0),
    }
    assert [(one["tenant_id"], one["known"]) for one in unknown] == [("", False), ("acme", False)]
    assert (reset["counts_anew"], again["counts_anew"]) == (True, False)
    assert [(one["tenant_id"], one["room"]["minute"], one["in_flight"]) for one in after] == [
        ("", 48, 2),
        ("acme", 5, 2),
    ]
    with closing(Database(database_url)) as database:
        store = PostgresAuditStore(database)
        records = store.select(AuditQuery(tenant_id="acme", resource_type="limit"))
    assert [(record.action, record.actor_id, record.resource_id) for record in records] == [
        ("limit.reset", "ada", "vendor")
    ]


def test_what_cannot_be_done_says_so(line: CommandLine) -> None:
    away = "redis://127.0.0.1:1/0"

    listed = line("limits", "list", LLMTEAM_REDIS_URL=away)
    opened = line("limits", "open", "vendor", LLMTEAM_REDIS_URL=away)
    named = line("limits", "open", "vendor", "--tenant", "no tenant")

    assert [listed.returncode, opened.returncode, named.returncode] == [UNREACHABLE, UNREACHABLE, USAGE]
    assert "does not answer" in listed.stderr
    assert "is as it was" in opened.stderr
