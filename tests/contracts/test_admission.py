"""How many runs a tenant may have, start and begin; in memory and in Postgres alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from llmteam.audit import AuditRecord
from llmteam.canvas.execution import MAX_RETRY_AFTER
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.checks import PostgresChecks
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.results import RunConfig
from llmteam.canvas.runs import Start, StartRules
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.stores import MemoryRunStore
from llmteam.db import Database
from llmteam.events import MemoryEventStore
from llmteam.events.models import EventType
from llmteam.events.postgres import PostgresEventStore
from llmteam.tenancy import (
    TenantConfig,
    TenantError,
    TenantInactiveError,
    TenantLimitExceededError,
    TenantNotFoundError,
    TenantTier,
)
from llmteam.tenancy.admission import StartLimits, limits_of_tier
from llmteam.tenancy.postgres import PostgresTenantStore
from llmteam.tenancy.stores import MemoryTenantStore, TenantStoreFace
from tests.conformance.desk import TENANT, at_once
from tests.conformance.ward import Ward, in_memory_passes, in_postgres_passes
from tests.drawing import draw

ROW = draw("a -> b")


@dataclass
class Gate:
    """A ward with the tenants whose limits hold in it."""

    ward: Ward
    tenants: TenantStoreFace

    def tenant(self, tenant_id: str = TENANT, **given: Any) -> TenantConfig:
        """Its tenant from now on; what is not given is not limited."""
        config = TenantConfig(tenant_id, tenant_id, **{"tier": TenantTier.ENTERPRISE, **given})
        known = self.tenants.find(tenant_id)
        return self.tenants.add(config) if known is None else self.tenants.put(config)

    def start(self, tenant_id: str = TENANT, segment: SegmentDefinition = ROW, **how: Any) -> str:
        return self.ward.runs.start(Start(tenant_id, segment, 1, **how))

    def status(self, run_id: str, tenant_id: str = TENANT) -> SegmentStatus:
        record = self.ward.store.record(tenant_id, run_id)
        assert record is not None
        return record.status

    def end(self, run_id: str, tenant_id: str = TENANT) -> None:
        assert self.ward.engine.end(tenant_id, run_id, SegmentStatus.CANCELLED)

    def refuses(self, tenant_id: str = TENANT, **how: Any) -> TenantLimitExceededError:
        with pytest.raises(TenantLimitExceededError) as raised:
            self.start(tenant_id, **how)
        return raised.value

    def count(self, tenant_id: str = TENANT) -> int:
        return len(self.ward.store.records(tenant_id, limit=1000))


def gate_of(request: pytest.FixtureRequest, unknown: StartLimits | None = None) -> Gate:
    if request.param == "memory":
        events, tenants = MemoryEventStore(), MemoryTenantStore()
        memory = MemoryRunStore(sink=events.add, limits_of=lambda one: tenants.start_limits(one) or unknown)
        return Gate(Ward(memory, events, memory.sweeps, in_memory_passes(memory)), tenants)
    database: Database = request.getfixturevalue("database")
    store = PostgresRunStore(database, unknown_tenants=unknown)
    ward = Ward(store, PostgresEventStore(database), PostgresSweeps(database), in_postgres_passes(database))
    return Gate(ward, PostgresTenantStore(database))


@pytest.fixture(params=["memory", "postgres"])
def gate(request: pytest.FixtureRequest) -> Iterator[Gate]:
    """Each store in turn; no row is left that breaks a rule."""
    yield gate_of(request)
    if request.param == "postgres":
        database: Database = request.getfixturevalue("database")
        found = PostgresChecks(database, lease=timedelta(seconds=30), retry=MAX_RETRY_AFTER).check()
        assert found.counts == {}, found.rows


@pytest.fixture(params=["memory", "postgres"])
def strict_gate(request: pytest.FixtureRequest) -> Gate:
    """Each store in turn, where tenants without a record have the limits of the free tier."""
    return gate_of(request, limits_of_tier(TenantTier.FREE))


# -- how many at once


def test_a_tenant_without_a_record_is_not_counted(gate: Gate) -> None:
    runs = [gate.start("nobody-knows") for _ in range(3)]

    assert {gate.status(run_id, "nobody-knows") for run_id in runs} == {SegmentStatus.RUNNING}


def test_a_tenant_without_a_record_has_the_limits_of_the_default_tier(strict_gate: Gate) -> None:
    strict_gate.start()

    error = strict_gate.refuses()

    assert (error.limit_type, error.current, error.maximum) == ("concurrent_pipelines", 1, 1)
    strict_gate.tenant(tier=TenantTier.STARTER)
    strict_gate.start()


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "timeout"])
def test_a_run_that_ends_makes_room_however_it_ends(gate: Gate, how: str) -> None:
    gate.tenant(max_concurrent_pipelines=1)
    first = gate.start(segment=draw("a"))
    assert gate.refuses().limit_type == "concurrent_pipelines"

    if how == "completed":
        gate.ward.do(first, "a")
    elif how == "failed":
        gate.ward.engine.failed(gate.ward.claim(first, "a"), TenantNotFoundError("x"))
    else:
        gate.ward.engine.end(TENANT, first, SegmentStatus(how))

    assert gate.status(first) == how
    gate.start()


def test_a_paused_run_and_one_that_lost_its_worker_keep_their_place(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=2)
    paused, lost = gate.start(), gate.start()
    gate.ward.surgery.pause(TENANT, paused, grace=0)
    claimed = gate.ward.claim(lost, "a")
    gate.ward.lose(claimed)

    assert gate.refuses().current == 2
    gate.end(lost)
    gate.start()


def test_a_limit_of_zero_lets_nothing_start(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=0)

    assert (gate.refuses().current, gate.count()) == (0, 0)


def test_a_start_that_was_made_before_gives_its_run_also_at_the_limit(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1)
    first = gate.start(idempotency_key="order-17")

    assert gate.start(idempotency_key="order-17") == first
    assert gate.start(run_id=first) == first


def test_a_restart_takes_the_place_of_the_run_that_it_replaces(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1)
    first = gate.start(idempotency_key="order-17")

    second = gate.start(idempotency_key="order-17", rules=StartRules(if_open="restart"))

    assert second != first
    assert (gate.status(first), gate.status(second)) == (SegmentStatus.CANCELLED, SegmentStatus.RUNNING)


def test_a_retry_and_a_fork_need_a_place_too(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1)
    over = gate.start()
    gate.ward.do(over, "a")
    gate.end(over)
    gate.start()

    for again in (lambda: gate.ward.surgery.retry(TENANT, over), lambda: gate.ward.surgery.fork(TENANT, over, "a")):
        with pytest.raises(TenantLimitExceededError):
            again()
    assert gate.count() == 2


def test_other_tenants_are_not_counted(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1)
    gate.tenant("globex", max_concurrent_pipelines=1)
    gate.start("globex")

    gate.start()

    assert (gate.refuses().tenant_id, gate.refuses("globex").tenant_id) == (TENANT, "globex")


def test_of_many_who_start_at_once_as_many_get_in_as_there_is_room(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=5)

    def start() -> bool:
        try:
            gate.start()
        except TenantLimitExceededError:
            return False
        return True

    assert sum(at_once([start] * 16)) == gate.count() == 5


# -- how many over time, and how large


def test_starts_of_a_minute_are_counted_and_those_that_are_refused_are_not(gate: Gate) -> None:
    gate.tenant(max_requests_per_minute=2)
    gate.end(gate.start())
    gate.start()
    for _ in range(3):
        assert (gate.refuses().limit_type, gate.count()) == ("requests_per_minute", 2)

    gate.ward.pass_time(61.0)

    gate.start()
    gate.start()
    assert gate.refuses().maximum == 2


def test_starts_of_a_day_are_counted_also_when_they_are_over(gate: Gate) -> None:
    gate.tenant(max_runs_per_day=2)
    for _ in range(2):
        gate.end(gate.start())

    error = gate.refuses()

    assert (error.limit_type, error.current, error.maximum) == ("runs_per_day", 2, 2)
    assert gate.refuses().current == 2, "what is refused is not counted"


def test_a_segment_may_have_so_many_agents(gate: Gate) -> None:
    gate.tenant(max_agents_per_pipeline=1)
    two = SegmentDefinition.from_dict(
        {
            "segment_id": "two",
            "name": "Two",
            "steps": [
                {"step_id": "x", "step_type": "llm_agent", "config": {"llm_ref": "offline", "prompt": "?"}},
                {"step_id": "y", "step_type": "llm_agent", "config": {"llm_ref": "offline", "prompt": "?"}},
            ],
            "edges": [{"source_step": "x", "target_step": "y"}],
        }
    )

    error = gate.refuses(segment=two)

    assert (error.limit_type, error.current, error.maximum) == ("agents_per_pipeline", 2, 1)
    gate.start()


def test_a_tenant_that_is_not_active_starts_nothing(gate: Gate) -> None:
    gate.tenant(is_active=False)

    with pytest.raises(TenantInactiveError):
        gate.start()
    gate.tenants.remove(TENANT)
    with pytest.raises(TenantNotFoundError):
        gate.start()

    assert gate.count() == 0


# -- waiting for one's turn


def test_one_too_many_waits_if_the_tenant_says_so_and_nothing_of_it_moves(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    gate.start()
    gate.ward.hinted()

    waiting = gate.start()

    record = gate.ward.record(waiting)
    assert (record.status, record.started_at, record.wake_at) == (SegmentStatus.PENDING, None, None)
    assert gate.ward.hinted() == []
    assert gate.ward.begin(waiting, "a") is None
    gate.ward.pass_time(3600.0)
    assert gate.ward.sweeper.sweep("due") == 1, "the first run's step, and not the one that waits"
    assert gate.ward.sweeper.sweep("starts") == 0
    assert gate.ward.kinds(waiting) == [EventType.SEGMENT_QUEUED]
    assert gate.ward.told(waiting)[0].payload == {"input": 1}


def test_the_end_of_a_run_lets_the_one_begin_that_waited_longest(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    first, second, third = (gate.start() for _ in range(3))
    gate.ward.hinted()

    gate.ward.do(first, "a", "b")

    assert gate.status(second) is SegmentStatus.RUNNING
    assert gate.status(third) is SegmentStatus.PENDING
    assert gate.ward.hinted() == ["b", "a"]
    assert gate.ward.kinds(second) == [EventType.SEGMENT_QUEUED, EventType.SEGMENT_STARTED]
    gate.ward.do(second, "a", "b")
    gate.ward.do(third, "a", "b")
    assert gate.status(third) is SegmentStatus.COMPLETED


def test_nobody_overtakes_those_who_wait(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    gate.start()
    waiting = gate.start()
    gate.tenant(max_concurrent_pipelines=2, when_full="queue")

    late = gate.start()

    assert gate.status(waiting) is SegmentStatus.RUNNING, "the start that came later let it begin"
    assert gate.status(late) is SegmentStatus.PENDING


def test_a_sweep_admits_what_got_room_otherwise_from_each_tenant_in_turn(gate: Gate) -> None:
    runs = {}
    for tenant_id in ("acme", "globex", "initech"):
        gate.tenant(tenant_id, max_concurrent_pipelines=1, when_full="queue")
        runs[tenant_id] = [gate.start(tenant_id) for _ in range(4)]
    gate.tenant("acme", max_concurrent_pipelines=3, when_full="queue")
    gate.tenant("globex", max_concurrent_pipelines=2, when_full="queue")

    found = gate.ward.sweeper.sweep("starts")

    begun = {
        tenant_id: [gate.status(run_id, tenant_id) for run_id in known].count(SegmentStatus.RUNNING)
        for tenant_id, known in runs.items()
    }
    assert (found, begun) == (3, {"acme": 3, "globex": 2, "initech": 1})
    assert gate.status(runs["acme"][3]) is SegmentStatus.PENDING


def test_a_queued_run_can_be_cancelled_and_never_begins(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    first, waiting, other = (gate.start() for _ in range(3))

    gate.end(waiting)
    gate.end(first)

    assert (gate.status(waiting), gate.status(other)) == (SegmentStatus.CANCELLED, SegmentStatus.RUNNING)


def test_the_time_of_a_queued_run_begins_when_it_does(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    first = gate.ward.start(draw("a"))
    waiting = gate.ward.start(draw("a"), timeout_seconds=60.0)
    assert gate.ward.record(waiting).deadline is None
    gate.ward.pass_time(3600.0)
    assert gate.ward.sweeper.sweep("runs") == 0

    gate.end(first)

    record = gate.ward.record(waiting)
    assert record.started_at is not None
    assert record.deadline == record.wake_at == record.started_at + timedelta(seconds=60)
    assert gate.ward.told(waiting)[1].payload["queued_seconds"] >= 3600


def test_a_retry_and_a_fork_wait_for_their_turn_with_all_that_they_took_over(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    over = gate.start(segment=draw("s -> split_1 -> a -> all_1 -> e", "split_1 -> b -> all_1"))
    gate.ward.do(over, "s", "split_1", "a")
    gate.end(over)
    blocking = gate.start()
    made = gate.ward.surgery.retry(TENANT, over)
    assert gate.status(made) is SegmentStatus.PENDING
    gate.ward.hinted()

    gate.end(blocking)

    assert (gate.status(made), gate.ward.hinted()) == (SegmentStatus.RUNNING, ["b"])
    gate.ward.do(made, "b", "all_1", "e")
    assert gate.status(made) is SegmentStatus.COMPLETED


def test_queued_runs_of_a_tenant_that_is_deactivated_stay_where_they_are(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    first, waiting = gate.start(), gate.start()
    gate.tenant(is_active=False)

    gate.end(first)

    assert gate.ward.sweeper.sweep("starts") == 0
    assert gate.status(waiting) is SegmentStatus.PENDING


def test_however_many_end_and_start_at_once_the_limit_holds_and_all_get_their_turn(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=2, when_full="queue")
    one = draw("a")
    runs = [gate.start(segment=one) for _ in range(12)]

    def work() -> None:
        for run_id in runs:
            execution = gate.ward.begin(run_id, "a")
            if execution is not None:
                assert running() <= 2
                gate.ward.engine.answered(execution, 1)

    def running() -> int:
        return len(gate.ward.store.records(TENANT, status=SegmentStatus.RUNNING, limit=100))

    for _ in range(12):
        at_once([work] * 4)

    assert {gate.status(run_id) for run_id in runs} == {SegmentStatus.COMPLETED}


def test_only_refusals_of_this_package_reach_the_caller(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=0)

    with pytest.raises(TenantError) as raised:
        gate.start()

    assert "concurrent_pipelines" in str(raised.value)
    assert "llmteam tenants update acme" in str(raised.value)


def test_a_run_that_waits_for_its_turn_is_told_as_created_and_then_as_started(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    first = gate.start()
    second = gate.start()

    gate.ward.engine.end(TENANT, first, SegmentStatus.CANCELLED)

    told = gate.ward.store.audit.links(TENANT, 1, 99)
    of_second = [one for one in told if isinstance(one, AuditRecord) and one.run_id == second]
    assert [(one.event_type.value, one.action) for one in of_second] == [
        ("pipeline.created", "start"),
        ("pipeline.started", "admit"),
    ]


def denials(gate: Gate) -> list[tuple[str, str, str]]:
    """Person, action and reason of what was refused."""
    told = gate.ward.store.audit.links(TENANT, 1, 999)
    denied = [one for one in told if isinstance(one, AuditRecord) and one.event_type.value == "security.access_denied"]
    assert not any(one.success for one in denied)
    return [(one.actor_id, one.action, one.error_message) for one in denied]


def test_a_start_that_is_refused_is_told_and_a_flood_of_them_once(gate: Gate) -> None:
    gate.tenant(is_active=False)
    for person in ("ann", "ann", "bob"):
        with pytest.raises(TenantInactiveError):
            gate.start(config=RunConfig(started_by=person))
    gate.tenant(max_concurrent_pipelines=0)
    for _ in range(50):
        with pytest.raises(TenantLimitExceededError):
            gate.start()

    assert denials(gate) == [
        ("ann", "start", "TenantInactiveError"),
        ("bob", "start", "TenantInactiveError"),
        ("", "start", "limit: concurrent_pipelines"),
    ]


def test_a_start_that_is_answered_by_the_run_that_is_there_was_not_refused(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1)
    first = gate.start(idempotency_key="order-17")

    assert gate.start(idempotency_key="order-17") == first

    assert denials(gate) == []


def test_a_retry_that_is_refused_is_told(gate: Gate) -> None:
    gate.tenant()
    old = gate.start()
    gate.ward.engine.end(TENANT, old, SegmentStatus.CANCELLED)
    gate.tenant(is_active=False)

    with pytest.raises(TenantInactiveError):
        gate.ward.surgery.retry(TENANT, old, by="bob")

    assert denials(gate) == [("bob", "retry", "TenantInactiveError")]


def test_a_resume_that_is_refused_is_told(gate: Gate) -> None:
    gate.tenant()
    run_id = gate.start()
    gate.ward.surgery.pause(TENANT, run_id, 0.0)
    gate.tenant(is_active=False)

    with pytest.raises(TenantInactiveError):
        gate.ward.surgery.resume(TENANT, run_id, by="bob")

    assert denials(gate) == [("bob", "resume", "TenantInactiveError")]
