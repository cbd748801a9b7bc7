"""The stores of attempts keep the same promises: memory and Postgres."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.actions import ActionResult, ActionStatus, AttemptStore, MemoryAttemptStore, PostgresAttemptStore
from llmteam.actions.stores import LOST, Begun, Call
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.db import Database
from llmteam.errors import NotJSONError
from llmteam.events.postgres import PostgresEventStore
from llmteam.ids import new_id
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CALL = Call("acme", "charge", "run-1:pay:1", "run-1", "pay", 1, "hash-a")


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[AttemptStore]:
    if request.param == "memory":
        yield MemoryAttemptStore()
        return
    yield PostgresAttemptStore(request.getfixturevalue("database"))


def completed(data: object = None) -> ActionResult:
    return ActionResult("charge", ActionStatus.COMPLETED, data, 200, started_at=NOW, completed_at=NOW)


def failed() -> ActionResult:
    return ActionResult.failure("charge", "HTTPStatusError", "HTTP 503", started_at=NOW)


def test_an_attempt_is_there_before_it_is_made(store: AttemptStore) -> None:
    assert store.begin(CALL, NOW) == Begun(1)

    (record,) = store.records("acme", "run-1")
    assert (record.call, record.attempt, record.status) == (CALL, 1, ActionStatus.RUNNING)
    assert (record.started_at, record.finished_at) == (NOW, None)


def test_a_completed_call_is_not_made_again(store: AttemptStore) -> None:
    store.begin(CALL, NOW)
    store.finish(CALL, 1, completed({"charge": "ä"}), NOW)

    begun = store.begin(CALL, NOW)

    assert begun.result is not None
    assert (begun.result.response_data, begun.result.response_code) == ({"charge": "ä"}, 200)
    assert begun.result.audit_metadata == {"replayed": True}
    assert len(store.records("acme", "run-1")) == 1


def test_a_failed_one_is(store: AttemptStore) -> None:
    store.begin(CALL, NOW)
    store.finish(CALL, 1, failed(), NOW)

    begun = store.begin(CALL, NOW + timedelta(seconds=1))

    assert (begun.attempt, begun.result) == (2, None)
    first, second = store.records("acme", "run-1")
    assert (first.status, first.error_type) == (ActionStatus.FAILED, "HTTPStatusError")
    assert second.status is ActionStatus.RUNNING


def test_an_attempt_of_which_nothing_was_heard_is_closed_as_lost(store: AttemptStore) -> None:
    store.begin(CALL, NOW)

    assert store.begin(CALL, NOW + timedelta(minutes=1)).attempt == 2

    lost = store.records("acme", "run-1")[0]
    assert (lost.status, lost.error_type) == (ActionStatus.FAILED, LOST)
    assert lost.finished_at == NOW + timedelta(minutes=1)


def test_what_a_lost_attempt_says_after_all_counts(store: AttemptStore) -> None:
    store.begin(CALL, NOW)
    store.begin(CALL, NOW)
    store.finish(CALL, 1, completed("late"), NOW)

    begun = store.begin(CALL, NOW)

    assert begun.result is not None
    assert begun.result.response_data == "late"


def test_a_key_stands_for_one_payload(store: AttemptStore) -> None:
    store.begin(CALL, NOW)
    store.finish(CALL, 1, completed(), NOW)

    other = store.begin(replace(CALL, payload_hash="hash-b"), NOW)

    assert (other.attempt, other.result) == (0, None)
    assert len(store.records("acme", "run-1")) == 1


@pytest.mark.parametrize("change", [{"tenant_id": "globex"}, {"action_id": "refund"}, {"idempotency_key": "other"}])
def test_calls_of_another_tenant_action_or_key_are_others(store: AttemptStore, change: dict[str, str]) -> None:
    store.begin(CALL, NOW)
    store.finish(CALL, 1, completed(), NOW)

    assert store.begin(replace(CALL, **change), NOW) == Begun(1)


def test_what_json_cannot_carry_is_not_kept(store: AttemptStore) -> None:
    store.begin(CALL, NOW)

    with pytest.raises(NotJSONError):
        store.finish(CALL, 1, completed({1, 2}), NOW)


def test_processes_that_begin_at_once_take_turns(store: AttemptStore) -> None:
    numbers: list[int] = []
    start = threading.Barrier(8, timeout=20)

    def begin() -> None:
        start.wait()
        numbers.append(store.begin(CALL, NOW).attempt)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(numbers) == list(range(1, 9))
    running = [one for one in store.records("acme", "run-1") if one.status is ActionStatus.RUNNING]
    assert [one.attempt for one in running] == [8]


@given(st.lists(st.tuples(st.sampled_from(["begin", "complete", "fail"]), st.sampled_from("ab"), st.integers(1, 4))))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_stores_agree_on_every_history(database: Database, history: list[tuple[str, str, int]]) -> None:
    run = new_id()
    memory, postgres = MemoryAttemptStore(), PostgresAttemptStore(database)
    made = dict.fromkeys("ab", 0)
    moment = NOW

    for what, key, number in history:
        moment += timedelta(seconds=1)
        call = replace(CALL, idempotency_key=f"{run}:{key}", run_id=run)
        if what == "begin":
            ours, theirs = memory.begin(call, moment), postgres.begin(call, moment)
            assert ours == theirs
            made[key] = max(made[key], ours.attempt)
        elif number <= made[key]:
            result = completed(number) if what == "complete" else failed()
            memory.finish(call, number, result, moment)
            postgres.finish(call, number, result, moment)

    def shown(store: AttemptStore) -> list[tuple[object, ...]]:
        return [
            (one.call, one.attempt, one.status, one.started_at, one.finished_at, one.error_type)
            for one in store.records("acme", run)
        ]

    assert shown(memory) == shown(postgres)


def test_attempts_go_with_their_run(database: Database) -> None:
    store, runs = PostgresAttemptStore(database), PostgresRunStore(database)
    desk = Desk(runs, PostgresEventStore(database))
    over, open_ = (desk.start(draw("a")) for _ in range(2))
    desk.do(over, "a")
    for run_id in (over, open_):
        store.begin(replace(CALL, tenant_id=TENANT, run_id=run_id, idempotency_key=run_id), NOW)

    PostgresSweeps(database).purge(timedelta(), 100)

    assert (store.records(TENANT, over), len(store.records(TENANT, open_))) == ([], 1)
