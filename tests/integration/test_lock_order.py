"""The run's row is locked before any of its steps' rows: each change is made to wait, and its locks are looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.state import SegmentStatus
from llmteam.db import Database
from llmteam.events import EventType
from llmteam.events.postgres import PostgresEventStore
from llmteam.tenancy import TenantConfig, TenantTier
from llmteam.tenancy.postgres import PostgresTenantStore
from tests.conformance.desk import TENANT, Desk
from tests.conformance.ward import Ward, in_postgres_passes
from tests.drawing import draw
from tests.integration.locks import LOCK_HEAD, LOCK_RUN, LOCK_STEP, holding, in_background, waits
from tests.unit.events.samples import event
from tests.waiting import wait_until

SPLIT = draw("s -> split_1 -> a -> all_1 -> end", "split_1 -> b -> all_1")


@pytest.fixture
def ward_of_rows(database: Database) -> Ward:
    """Runs in Postgres with what pauses them."""
    store, sweeps = PostgresRunStore(database), PostgresSweeps(database)
    return Ward(store, PostgresEventStore(database), sweeps, in_postgres_passes(database))


def moves(desk: Desk) -> dict[str, Callable[[], Any]]:
    """Every way in which a run changes, ready to be made. The run stands at its two branches, ``b`` is running."""
    run_id = desk.start(SPLIT, run_id="r", max_retries=1)
    desk.do(run_id, "s", "split_1")
    b = desk.claim(run_id, "b")
    return {
        "claim": lambda: desk.claim(run_id, "a"),
        "answer": lambda: desk.engine.answered(b, 1),
        "failure": lambda: desk.engine.failed(b, ValueError("broken")),
        "cancel": lambda: desk.engine.end(TENANT, run_id, SegmentStatus.CANCELLED),
        "event": lambda: desk.events.add([event(run_id, event_type=EventType.CUSTOM, tenant_id=TENANT)]),
    }


@pytest.mark.parametrize("kind", ["claim", "answer", "failure", "cancel", "event"])
def test_a_change_waits_for_the_run_before_it_locks_a_step(desk: Desk, other: Database, kind: str) -> None:
    move = moves(desk)[kind]

    with holding(other, LOCK_RUN, "r") as session, in_background(move) as moved:
        wait_until(lambda: waits(other), "the change to wait for the run")
        for step_id in desk.states("r"):
            assert session.script(f"{LOCK_STEP} NOWAIT", (TENANT, "r", step_id)), f"{step_id} is locked already"
        session.rollback()

        assert moved.result(10)


def limited(database: Database) -> None:
    """Its tenant has room for one run at once; others wait for their turn."""
    config = TenantConfig(TENANT, "Acme", TenantTier.ENTERPRISE, max_concurrent_pipelines=1, when_full="queue")
    PostgresTenantStore(database).add(config)


def test_a_start_and_an_admission_wait_for_the_tenant_before_they_lock_a_run(
    desk: Desk, database: Database, other: Database
) -> None:
    limited(database)
    desk.start(draw("a"), run_id="first")
    desk.start(draw("a"), run_id="r")
    slot = "SELECT 1 FROM llmteam.tenant_starts WHERE tenant_id = %s FOR UPDATE"

    for move in (
        lambda: desk.start(draw("a"), run_id="late"),
        lambda: desk.engine.end(TENANT, "first", SegmentStatus.CANCELLED),
    ):
        with holding(other, slot) as session, in_background(move) as moved:
            wait_until(lambda: waits(other), "the move to wait for the tenant")
            assert session.script(f"{LOCK_RUN} NOWAIT", (TENANT, "r"))
            session.rollback()
            moved.result(10)

    assert desk.status("r") is SegmentStatus.RUNNING
    assert desk.status("late") is SegmentStatus.PENDING


def test_the_end_of_a_run_does_not_wait_for_the_starts_of_its_tenant(
    desk: Desk, database: Database, other: Database
) -> None:
    config = TenantConfig(TENANT, "Acme", TenantTier.ENTERPRISE, max_concurrent_pipelines=1)
    PostgresTenantStore(database).add(config)
    run_id = desk.start(draw("a"))

    with holding(other, "SELECT 1 FROM llmteam.tenant_starts WHERE tenant_id = %s FOR UPDATE"):
        desk.do(run_id, "a")

    assert desk.status(run_id) is SegmentStatus.COMPLETED


def test_an_answer_in_one_statement_waits_for_the_run_first_too(desk: Desk, other: Database) -> None:
    run_id = desk.start(draw("a -> b"), run_id="r")
    execution = desk.claim(run_id, "a")
    assert execution.seen is not None, "nothing else moves in this run"

    with (
        holding(other, LOCK_RUN, "r") as session,
        in_background(lambda: desk.engine.answered(execution, 1)) as answered,
    ):
        wait_until(lambda: waits(other), "the answer to wait for the run")
        for step_id in ("a", "b"):
            assert session.script(f"{LOCK_STEP} NOWAIT", (TENANT, "r", step_id))
        session.rollback()

        assert answered.result(10).applied
    assert desk.states("r") == {"a": "completed", "b": "ready"}


def test_an_answer_in_one_statement_minds_what_happened_while_it_waited(desk: Desk, other: Database) -> None:
    run_id = desk.start(draw("a -> b"), run_id="r")
    execution = desk.claim(run_id, "a")

    with (
        holding(other, LOCK_RUN, "r") as session,
        in_background(lambda: desk.engine.answered(execution, 1)) as answered,
    ):
        wait_until(lambda: waits(other), "the answer to wait for the run")
        session.script(
            "UPDATE llmteam.runs SET status = 'cancelled', next_seq = next_seq + 1 WHERE run_id = 'r';"
            "UPDATE llmteam.run_steps SET state = 'cancelled' WHERE run_id = 'r'; COMMIT"
        )

        assert not answered.result(10).applied
    assert desk.states("r") == {"a": "cancelled", "b": "cancelled"}


def test_an_end_in_one_statement_that_came_too_late_is_not_in_the_audit_trail(desk: Desk, other: Database) -> None:
    run_id = desk.start(draw("a"), run_id="r")
    execution = desk.claim(run_id, "a")

    with (
        holding(other, LOCK_RUN, "r") as session,
        in_background(lambda: desk.engine.answered(execution, 1)) as answered,
    ):
        wait_until(lambda: waits(other), "the answer to wait for the run")
        session.script(
            "UPDATE llmteam.runs SET status = 'cancelled', next_seq = next_seq + 2 WHERE run_id = 'r';"
            "UPDATE llmteam.run_steps SET state = 'cancelled' WHERE run_id = 'r'; COMMIT"
        )

        assert not answered.result(10).applied
    assert desk.store.audit.total(TENANT) == 1, "the start alone"


@pytest.mark.parametrize("kind", ["end", "cancel", "pause", "resume"])
def test_the_head_of_the_audit_trail_is_the_last_lock(ward_of_rows: Ward, other: Database, kind: str) -> None:
    ward, run_id = ward_of_rows, ward_of_rows.start(draw("a"), run_id="r")
    if kind == "resume":
        ward.surgery.pause(TENANT, run_id, 0.0)
    if kind == "end":
        execution = ward.claim(run_id, "a")
    move: dict[str, Callable[[], object]] = {
        "end": lambda: ward.engine.answered(execution, 1).applied,
        "cancel": lambda: ward.runs.cancel(TENANT, run_id),
        "pause": lambda: ward.surgery.pause(TENANT, run_id, 0.0),
        "resume": lambda: ward.surgery.resume(TENANT, run_id),
    }

    with holding(other, LOCK_HEAD) as session, in_background(move[kind]) as moved:
        wait_until(lambda: waits(other), "the change to wait for the head of the chain")
        with other.hot(TENANT) as third, pytest.raises(Exception, match="lock"):
            third.script(f"{LOCK_RUN} NOWAIT", (TENANT, "r"))
        assert [record.run_id for record in ward.store.records(TENANT)] == ["r"], "nobody who looks waits"
        session.rollback()

        assert moved.result(10)
    assert ward.store.audit.check(TENANT).valid


def test_steps_do_not_wait_for_the_head_of_the_audit_trail(desk: Desk, other: Database) -> None:
    run_id = desk.start(draw("a -> b -> c"))

    with holding(other, LOCK_HEAD):
        desk.do(run_id, "a", "b")

    assert desk.states(run_id)["c"] == "ready"


@pytest.mark.parametrize("kind", ["claim", "answer", "failure", "cancel"])
def test_a_change_and_a_sweep_never_block_each_other_for_good(desk: Desk, other: Database, kind: str) -> None:
    """The sweep holds a step's row and asks for no run; whoever holds the run waits until the sweep is done."""
    move = moves(desk)[kind]
    step_id = {"claim": "a", "cancel": "a"}.get(kind, "b")

    with holding(other, LOCK_STEP, "r", step_id) as sweep, in_background(move) as moved:
        wait_until(lambda: waits(other), "the change to wait for the step")
        with other.hot(TENANT) as third, pytest.raises(Exception, match="lock"):
            third.script(f"{LOCK_RUN} NOWAIT", (TENANT, "r"))
        sweep.rollback()

        assert moved.result(10)


def test_a_sweep_goes_round_rows_that_a_change_holds(desk: Desk, other: Database) -> None:
    desk.start(SPLIT, run_id="r")
    desk.start(SPLIT, run_id="q")
    with other.hot(TENANT) as hot:
        hot.script("UPDATE llmteam.run_steps SET wake_at = now() - interval '1 second' WHERE state = 'ready'")

    with holding(other, LOCK_STEP, "r", "s"):
        found = PostgresSweeps(other).take_due(500)

    assert [(hint.run_id, hint.step_id) for hint in found] == [("q", "s")]


def test_changes_of_different_runs_do_not_wait_for_each_other(desk: Desk, other: Database) -> None:
    move = moves(desk)["answer"]
    desk.start(SPLIT, run_id="q")

    with holding(other, LOCK_RUN, "q"):
        assert move().applied


def test_every_mixture_of_changes_comes_to_an_end(desk: Desk, database_url: str) -> None:
    """All kinds at once, many times: a deadlock would be an error of one of them, and end within a second."""
    sweeping = Database(database_url, application_name="sweep", pool_size=1)
    done = threading.Event()

    def sweep() -> int:
        rounds = 0
        while not done.is_set():
            PostgresSweeps(sweeping).take_due(500)
            PostgresSweeps(sweeping).take_expired(500)
            rounds += 1
        return rounds

    with in_background(sweep) as swept:
        for number in range(15):
            run_id = desk.start(SPLIT, run_id=f"r{number}")
            desk.do(run_id, "s", "split_1")
            a, b = desk.claim(run_id, "a"), desk.claim(run_id, "b")
            calls: list[Callable[[], Any]] = [
                lambda a=a: desk.engine.answered(a, 1),
                lambda b=b: desk.engine.answered(b, 2),
                lambda r=run_id: desk.events.add([event(r, event_type=EventType.CUSTOM, tenant_id=TENANT)]),
                lambda r=run_id: desk.begin(r, "all_1"),
            ]
            if number % 3 == 0:
                calls.append(lambda r=run_id: desk.engine.end(TENANT, r, SegmentStatus.CANCELLED))
            with ThreadPoolExecutor(len(calls)) as pool:
                for call in [pool.submit(call) for call in calls]:
                    call.result(10)
            seen = [one.seq for one in desk.told(run_id)]
            assert seen == list(range(1, len(seen) + 1))
        done.set()
        assert swept.result(10) > 0
    sweeping.close()
