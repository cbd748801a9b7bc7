"""A tenant's standing at every door: its region, its features, what it stores, and whether it is active."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from llmteam.canvas import transitions
from llmteam.canvas.execution import MAX_RETRY_AFTER
from llmteam.canvas.models import SegmentDefinition, StepDefinition
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.checks import PostgresChecks
from llmteam.canvas.postgres.claiming import Claim, claim_many
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.records import Work
from llmteam.canvas.registry.postgres import PostgresSegmentRegistry
from llmteam.canvas.state import SegmentStatus, StepRow
from llmteam.db import Database
from llmteam.dispatch import Hint
from llmteam.events.models import EventDraft, EventType
from llmteam.events.postgres import PostgresEventStore
from llmteam.tenancy import (
    TenantConfig,
    TenantFeatureDisabledError,
    TenantInactiveError,
    TenantNotFoundError,
    TenantTier,
)
from llmteam.tenancy.postgres import PostgresTenantStore
from tests.conformance.desk import TENANT
from tests.conformance.ward import Ward, in_postgres_passes
from tests.contracts.test_admission import Gate, gate_of
from tests.contracts.test_people_in_runs import ASKS, answer, ask
from tests.drawing import draw

EU = "eu-west-1"
LOOP = draw("a -> b -> if_1", "if_1.true -> a", "if_1.false -> c")
DIAMOND = draw("s -> split_1 -> a -> all_1 -> e", "split_1 -> b -> all_1")


@pytest.fixture(params=["memory", "postgres"])
def gate(request: pytest.FixtureRequest) -> Iterator[Gate]:
    """Each store in turn; no row is left that breaks a rule."""
    yield gate_of(request)
    if request.param == "postgres":
        database: Database = request.getfixturevalue("database")
        found = PostgresChecks(database, lease=timedelta(seconds=30), retry=MAX_RETRY_AFTER).check()
        assert found.counts == {}, found.rows


def step(step_type: str, **config: Any) -> SegmentDefinition:
    """A segment of one step."""
    given = {"step_id": "x", "step_type": step_type, "config": config}
    return SegmentDefinition.from_dict({"segment_id": "one", "name": "One", "steps": [given]})


def queues(gate: Gate, run_id: str) -> set[str]:
    return {record.queue for record in gate.ward.store.steps(TENANT, run_id)}


def sent_to(gate: Gate) -> set[str]:
    """Where hints were sent since the last look."""
    outbox = gate.ward.outbox
    hints = [*outbox.hints, *(hint for chord in outbox.chords for hint in (*chord.heads, chord.body))]
    outbox.hints.clear()
    outbox.chords.clear()
    return {hint.queue for hint in hints}


def reading(gate: Gate, run_id: str, step_id: str) -> tuple[Work, StepRow, EventDraft]:
    """What a worker of the right region knows just before it claims a step."""
    work = gate.ward.store.gather(TENANT, run_id, (step_id, 1))
    assert work is not None
    claimed = transitions.claim(work.run, work.row, gate.ward.engine.clock(), None)
    assert claimed is not None
    return work, claimed, EventDraft(EventType.STEP_STARTED, step_id=step_id, visit=1, attempt=1)


# -- where steps run


def test_a_run_and_all_its_hints_belong_to_the_region_of_its_tenant(gate: Gate) -> None:
    gate.tenant(data_region=EU)
    gate.ward.store.region = EU

    first, second = gate.start(segment=DIAMOND), gate.start(segment=DIAMOND)

    assert gate.ward.record(first).region == EU
    assert queues(gate, first) == queues(gate, second) == {"llmteam.eu-west-1.default", "llmteam.eu-west-1.io"}
    for steps in (["s"], ["split_1"], ["a", "b"], ["all_1", "e"]):
        assert all(queue.startswith("llmteam.eu-west-1.") for queue in sent_to(gate))
        gate.ward.do(first, *steps)
    assert gate.status(first) is SegmentStatus.COMPLETED


def test_visits_of_a_loop_stay_in_the_region(gate: Gate) -> None:
    gate.tenant(data_region=EU)
    gate.ward.store.region = EU
    run_id = gate.start(segment=LOOP)

    gate.ward.do(run_id, "a", "b")
    gate.ward.engine.answered(gate.ward.claim(run_id, "if_1"), {"true": 1})

    assert {(one.row.step_id, one.row.visit) for one in gate.ward.store.steps(TENANT, run_id)} >= {("a", 2), ("b", 2)}
    assert all(queue.startswith("llmteam.eu-west-1.") for queue in queues(gate, run_id))


def test_a_worker_of_another_region_claims_nothing_and_nothing_is_lost(gate: Gate) -> None:
    gate.tenant(data_region=EU)
    run_id = gate.start()
    gate.ward.store.region = "us-east-1"

    for queue in ("llmteam.default", "llmteam.us-east-1.default", "llmteam.eu-west-1.default", ""):
        assert gate.ward.engine.begin(Hint(TENANT, run_id, "a", 1, queue)) is None

    assert gate.ward.states(run_id) == {"a": "ready", "b": "pending"}
    gate.ward.pass_time(11.0)
    sent_to(gate)
    assert gate.ward.sweeper.sweep("due") == 1
    assert sent_to(gate) == {"llmteam.eu-west-1.default"}
    gate.ward.store.region = EU
    gate.ward.do(run_id, "a", "b")
    assert gate.status(run_id) is SegmentStatus.COMPLETED


def test_the_claim_itself_refuses_what_was_read_before(gate: Gate) -> None:
    gate.tenant(data_region=EU)
    gate.ward.store.region = EU
    run_id = gate.start()
    work, claimed, event = reading(gate, run_id, "a")
    lease = timedelta(seconds=30)

    gate.ward.store.region = "us-east-1"
    assert gate.ward.store.claim(work, claimed, event, lease, "elsewhere") is None
    assert gate.ward.states(run_id)["a"] == "ready"

    gate.ward.store.region = EU
    assert gate.ward.store.claim(work, claimed, event, lease, "here") is not None


def test_claims_that_share_a_transaction_are_refused_too(database: Database) -> None:
    store, tenants = PostgresRunStore(database, region=EU), PostgresTenantStore(database)
    tenants.add(TenantConfig(TENANT, TENANT, TenantTier.ENTERPRISE, data_region=EU))
    events = PostgresEventStore(database)
    gate = Gate(Ward(store, events, PostgresSweeps(database), in_postgres_passes(database)), tenants)
    run_id = gate.start(segment=DIAMOND)
    gate.ward.do(run_id, "s", "split_1")
    read = [reading(gate, run_id, step_id) for step_id in ("a", "b")]

    def taken(region: str) -> list[bool]:
        asks = [Claim(*one, timedelta(seconds=30), "somebody", None, region) for one in read]
        return [found is not None for found in claim_many(database, asks)]

    assert (taken("us-east-1"), taken(EU)) == ([False, False], [True, True])


def test_a_run_keeps_its_region_and_what_is_made_of_it_has_the_tenants_present_one(gate: Gate) -> None:
    gate.tenant(data_region=EU)
    gate.ward.store.region = EU
    run_id = gate.start()
    gate.ward.do(run_id, "a")

    gate.tenant(data_region="us-east-1")
    assert gate.ward.record(run_id).region == EU
    assert gate.ward.begin(run_id, "b") is not None
    gate.end(run_id)
    made = [gate.ward.surgery.retry(TENANT, run_id), gate.ward.surgery.fork(TENANT, run_id, "a")]

    assert [gate.ward.record(one).region for one in made] == ["us-east-1"] * 2
    assert {queue for one in made for queue in queues(gate, one)} == {"llmteam.us-east-1.default"}


def test_a_step_that_takes_its_workers_with_it_goes_to_the_quarantine_of_its_region(gate: Gate) -> None:
    gate.tenant(data_region=EU)
    gate.ward.store.region = EU
    run_id = gate.start(segment=draw("a"))
    for _ in range(2):
        gate.ward.lose(gate.ward.claim(run_id, "a"))
    assert "llmteam.eu-west-1.quarantine" in sent_to(gate)

    assert gate.ward.engine.begin(Hint(TENANT, run_id, "a", 1, "llmteam.eu-west-1.default")) is None
    gate.ward.pass_time(11.0)
    gate.ward.sweeper.sweep("due")

    assert sent_to(gate) == {"llmteam.eu-west-1.quarantine"}
    assert gate.ward.engine.begin(Hint(TENANT, run_id, "a", 1, "llmteam.eu-west-1.quarantine")) is not None


def test_a_queued_run_that_begins_and_one_that_is_resumed_are_hinted_at_in_their_region(gate: Gate) -> None:
    gate.tenant(data_region=EU, max_concurrent_pipelines=1, when_full="queue")
    first = gate.start()
    waiting = gate.start()
    sent_to(gate)

    gate.end(first)
    assert gate.status(waiting) is SegmentStatus.RUNNING
    assert sent_to(gate) == {"llmteam.eu-west-1.default"}
    gate.ward.surgery.pause(TENANT, waiting, grace=0)
    gate.ward.surgery.resume(TENANT, waiting)

    assert sent_to(gate) == {"llmteam.eu-west-1.default"}


# -- what the tier gives


NEEDS = {
    "parallel_execution": draw("split_1 -> a -> all_1", "split_1 -> b -> all_1"),
    "external_actions": step("http_action", url="https://example.com/"),
    "human_interaction": draw("human_1"),
    "basic_agents": step("llm_agent", llm_ref="offline", prompt="?"),
}
GIVEN = {
    TenantTier.FREE: {"basic_agents"},
    TenantTier.STARTER: {"basic_agents", "parallel_execution"},
    TenantTier.PROFESSIONAL: set(NEEDS),
    TenantTier.ENTERPRISE: set(NEEDS),
}


def refused(gate: Gate, **segments: SegmentDefinition) -> set[str]:
    """The features for lack of which these segments are not started."""
    missing = set()
    for segment in segments.values():
        try:
            gate.end(gate.start(segment=segment))
        except TenantFeatureDisabledError as exc:
            missing.add(exc.feature)
    return missing


@pytest.mark.parametrize("tier", list(TenantTier), ids=lambda tier: tier.value)
def test_a_segment_starts_if_the_tier_gives_what_its_steps_need(gate: Gate, tier: TenantTier) -> None:
    gate.tenant(tier=tier)

    assert refused(gate, **NEEDS) == set(NEEDS) - GIVEN[tier]
    assert gate.count() == len(GIVEN[tier])


def test_a_feature_that_is_enabled_is_there_and_one_that_is_disabled_is_not_whatever_the_tier(gate: Gate) -> None:
    gate.tenant(tier=TenantTier.FREE, features_enabled={"human_interaction"}, features_disabled={"basic_agents"})
    assert refused(gate, **NEEDS) == set(NEEDS) - {"human_interaction"}

    gate.tenant(features_disabled={"external_actions"})
    assert refused(gate, **NEEDS) == {"external_actions"}

    gate.tenant(features_disabled={"*"})
    assert refused(gate, **NEEDS) == set(NEEDS)


def test_a_tenant_without_a_record_has_every_feature(gate: Gate) -> None:
    gate.tenant("globex", tier=TenantTier.FREE)

    assert refused(gate, **NEEDS) == set()


def test_a_refusal_says_which_feature_and_how_to_get_it(gate: Gate) -> None:
    gate.tenant(tier=TenantTier.FREE)

    with pytest.raises(TenantFeatureDisabledError) as raised:
        gate.start(segment=NEEDS["human_interaction"])

    assert "--enable human_interaction" in str(raised.value)
    assert gate.count() == 0


def test_a_run_that_waited_for_its_turn_begins_although_a_feature_was_taken_away(gate: Gate) -> None:
    gate.tenant(max_concurrent_pipelines=1, when_full="queue")
    first, waiting = gate.start(), gate.start(segment=DIAMOND)
    gate.tenant(max_concurrent_pipelines=1, when_full="queue", features_disabled={"parallel_execution"})

    gate.end(first)

    assert gate.status(waiting) is SegmentStatus.RUNNING


# -- what it stores


def test_a_tenant_that_may_store_nothing_starts_nothing(gate: Gate) -> None:
    gate.tenant(max_storage_gb=0)

    error = gate.refuses()

    assert (error.limit_type, error.current, error.maximum) == ("storage_gb", 0, 0)
    gate.tenant(max_storage_gb=0.001)
    gate.start()


# -- whether it is active


def retry(gate: Gate, over: str, paused: str) -> object:
    return gate.ward.surgery.retry(TENANT, over)


def fork(gate: Gate, over: str, paused: str) -> object:
    return gate.ward.surgery.fork(TENANT, over, "a")


def start(gate: Gate, over: str, paused: str) -> object:
    return gate.start()


def resume(gate: Gate, over: str, paused: str) -> object:
    return gate.ward.surgery.resume(TENANT, paused)


def resume_by_snapshot(gate: Gate, over: str, paused: str) -> object:
    return gate.ward.surgery.resume(TENANT, str(gate.ward.record(paused).snapshot_id))


@pytest.mark.parametrize("door", [start, retry, fork, resume, resume_by_snapshot], ids=lambda door: door.__name__)
def test_a_deactivated_tenant_sets_nothing_in_motion(gate: Gate, door: Callable[[Gate, str, str], object]) -> None:
    over, paused = gate.start(), gate.start()
    gate.ward.do(over, "a")
    gate.end(over)
    gate.ward.surgery.pause(TENANT, paused, grace=0)
    gate.tenant(is_active=False)

    with pytest.raises(TenantInactiveError, match="--active"):
        door(gate, over, paused)

    assert (gate.count(), gate.status(paused)) == (2, SegmentStatus.PAUSED)
    gate.tenants.remove(TENANT)
    with pytest.raises(TenantNotFoundError):
        door(gate, over, paused)


def test_what_is_under_way_goes_on_to_its_end_and_can_be_paused_or_cancelled(gate: Gate) -> None:
    runs = [gate.start() for _ in range(3)]
    gate.ward.do(runs[0], "a")
    gate.tenant(is_active=False)

    gate.ward.do(runs[0], "b")
    gate.end(runs[1])
    snapshot = gate.ward.surgery.pause(TENANT, runs[2], grace=0)

    assert [gate.status(run_id) for run_id in runs] == ["completed", "cancelled", "paused"]
    gate.tenant(is_active=True)
    assert gate.ward.surgery.resume(TENANT, str(snapshot)) == runs[2]


def test_an_answer_of_a_person_is_taken_and_the_run_goes_on(gate: Gate) -> None:
    run_id = gate.ward.start(ASKS)
    asked = ask(gate.ward, run_id)
    gate.tenant(is_active=False)

    answer(gate.ward, asked)
    gate.ward.begin(run_id, "a")

    assert gate.ward.states(run_id)["a"] == "completed"
    assert gate.ward.begin(run_id, "b") is not None, "which asks somebody else"


def test_a_deactivated_tenant_publishes_nothing(database: Database) -> None:
    registry, tenants = PostgresSegmentRegistry(database), PostgresTenantStore(database)
    segment = SegmentDefinition(
        segment_id="one", name="One", steps=[StepDefinition(step_id="a", step_type="transform", config={})]
    )
    registry.put(TENANT, segment)
    tenants.add(TenantConfig(TENANT, "Acme", is_active=False))

    with pytest.raises(TenantInactiveError):
        registry.put(TENANT, segment.model_copy(update={"version": "2.0"}))

    assert [one.version for one in registry.versions(TENANT)] == [segment.version]
    assert registry.retire(TENANT, "one", segment.version) is not None
