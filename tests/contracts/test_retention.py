"""Runs that are over for long enough are deleted with all that is theirs; in memory and in Postgres alike."""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmteam.canvas import sweeper
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.runs import Start
from llmteam.canvas.state import SegmentStatus
from llmteam.db import Database
from llmteam.events.postgres import PostgresEventStore
from tests.conformance.desk import TENANT, new_run
from tests.conformance.ward import Ward, in_postgres_passes
from tests.drawing import draw

ROW = draw("a -> b")
DAY = 86_400
LARGE = "x" * 20_000


def left(ward: Ward) -> set[str]:
    return {record.run_id for record in ward.store.records(TENANT)}


def test_what_is_over_for_long_enough_is_gone_and_nothing_else(ward: Ward) -> None:
    old, cancelled, open_, paused = (ward.start(ROW) for _ in range(4))
    ward.do(old, "a", "b")
    ward.engine.end(TENANT, cancelled, SegmentStatus.CANCELLED)
    ward.surgery.pause(TENANT, paused, grace=0.0)
    ward.pass_time(8 * DAY)
    young = ward.start(ROW)
    ward.do(young, "a", "b")

    assert ward.sweeps.purge(timedelta(days=7), 100) == 2

    assert left(ward) == {open_, paused, young}
    assert ward.sweeps.purge(timedelta(days=7), 100) == 0
    assert ward.store.outputs(TENANT, young) == {"output": 1}
    ward.do(open_, "a", "b")
    assert ward.status(open_) is SegmentStatus.COMPLETED


def test_a_run_goes_with_its_steps_and_its_snapshots(ward: Ward) -> None:
    old, paused = ward.start(ROW), ward.start(ROW)
    gone, kept = (ward.surgery.pause(TENANT, run_id, grace=0.0) for run_id in (old, paused))
    assert gone is not None
    assert kept is not None
    ward.surgery.resume(TENANT, old)
    ward.do(old, "a", "b")
    ward.pass_time(8 * DAY)

    ward.sweeps.purge(timedelta(days=7), 100)

    assert ward.store.record(TENANT, old) is None
    assert ward.store.header(TENANT, old) is None
    assert (ward.store.steps(TENANT, old), ward.store.outputs(TENANT, old)) == ([], {})
    assert ward.store.snapshot(TENANT, gone) is None
    assert ward.store.snapshot(TENANT, kept) is not None
    assert ward.begin(old, "a") is None


def test_a_purge_takes_no_more_than_it_is_told_and_first_what_ended_first(ward: Ward) -> None:
    names = []
    for _ in range(5):
        names.append(ward.start(draw("a")))
        ward.do(names[-1], "a")
        ward.pass_time(DAY)
    ward.pass_time(30 * DAY)

    assert [ward.sweeps.purge(timedelta(days=7), 2) for _ in range(4)] == [2, 2, 1, 0]

    assert left(ward) == set()


def test_a_sweep_goes_on_until_nothing_is_left_to_delete(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else more runs could be started than are ever deleted."""
    monkeypatch.setattr(sweeper, "PURGE_BATCH", 2)
    for _ in range(5):
        ward.do(ward.start(draw("a")), "a")
    ward.pass_time(8 * DAY)
    sweeping = sweeper.Sweeper(ward.engine, ward.sweeps, ward.outbox, ward.surgery, retention=timedelta(days=7))

    assert sweeping.sweep("retention") == 5

    assert left(ward) == set()


def test_a_sweep_leaves_to_the_next_one_what_takes_too_long(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "PURGE_BATCH", 2)
    monkeypatch.setattr(sweeper, "PURGE_SECONDS", 0.0)
    for _ in range(5):
        ward.do(ward.start(draw("a")), "a")
    ward.pass_time(8 * DAY)
    sweeping = sweeper.Sweeper(ward.engine, ward.sweeps, ward.outbox, ward.surgery, retention=timedelta(days=7))

    assert [sweeping.sweep("retention") for _ in range(3)] == [2, 2, 1]


def test_the_first_to_go_are_those_that_ended_first(ward: Ward) -> None:
    late, early = ward.start(draw("a")), ward.start(draw("a"))
    ward.do(early, "a")
    ward.pass_time(DAY)
    ward.do(late, "a")
    ward.pass_time(30 * DAY)

    ward.sweeps.purge(timedelta(days=7), 1)

    assert left(ward) == {late}


def test_a_name_is_free_again_when_its_run_is_gone(ward: Ward) -> None:
    start = Start(TENANT, ROW, 1, idempotency_key="order-17")
    first = ward.runs.start(start)
    ward.do(first, "a", "b")
    ward.pass_time(8 * DAY)
    ward.sweeps.purge(timedelta(days=7), 100)

    second = ward.runs.start(start)

    assert second != first
    assert left(ward) == {second}


def test_what_a_retry_took_over_outlives_the_run_that_it_came_from(ward: Ward) -> None:
    old = ward.start(ROW)
    ward.do(old, "a", answer=LARGE)
    ward.engine.failed(ward.claim(old, "b"), ValueError("broken"))
    new = ward.surgery.retry(TENANT, old)
    ward.pass_time(8 * DAY)

    ward.sweeps.purge(timedelta(days=7), 100)

    assert left(ward) == {new}
    assert ward.claim(new, "b").input == {"input": LARGE}
    assert ward.rows(new)["a"].output == LARGE


def test_payloads_and_events_go_once_nobody_needs_them(database: Database) -> None:
    store, sweeps = PostgresRunStore(database), PostgresSweeps(database)
    ward = Ward(store, PostgresEventStore(database), sweeps, in_postgres_passes(database))
    given = f'"{LARGE}y"'
    for run_id in ("old", "open"):
        assert ward.engine.submit(new_run(ROW, run_id, input_text=given))
        ward.do(run_id, "a", answer=LARGE)
    ward.do("old", "b", answer=LARGE * 2)
    ward.pass_time(8 * DAY)

    sweeps.purge(timedelta(days=7), 100)

    assert sizes(database) == sorted((len(given), payload(LARGE)))
    assert ward.told("old") == []
    assert len(ward.told("open")) == 3
    ward.do("open", "b")
    ward.pass_time(8 * DAY)
    sweeps.purge(timedelta(days=7), 100)
    assert sizes(database) == []


def sizes(database: Database) -> list[int]:
    with database.hot(TENANT) as connection:
        found = connection.script("SELECT size FROM llmteam.payloads ORDER BY size", ()) or []
    return [size for (size,) in found]


def payload(text: str) -> int:
    """Bytes of an answer as it is stored."""
    return len(f'{{"output":"{text}"}}')


def test_a_payload_that_a_retry_is_about_to_refer_to_counts_as_used_just_now(database: Database) -> None:
    store = PostgresRunStore(database)
    ward = Ward(store, PostgresEventStore(database), PostgresSweeps(database), in_postgres_passes(database))
    old = ward.start(ROW)
    ward.do(old, "a", answer=LARGE)
    ward.engine.failed(ward.claim(old, "b"), ValueError("broken"))
    ward.pass_time(8 * DAY)

    ward.surgery.retry(TENANT, old)

    with database.hot(TENANT) as connection:
        found = connection.script("SELECT now() - created_at FROM llmteam.payloads", ()) or []
    assert [age < timedelta(hours=1) for (age,) in found] == [True]


def test_a_run_goes_with_the_contexts_of_its_agents(ward: Ward) -> None:
    old, open_ = ward.start(ROW), ward.start(ROW)
    for run_id in (old, open_):
        with ward.store.contexts.open(TENANT, run_id, "a") as context:
            context.set_data("note", 1)
    ward.do(old, "a", "b")
    ward.pass_time(8 * DAY)

    ward.sweeps.purge(timedelta(days=7), 100)

    assert ward.store.contexts.views(TENANT, old) == {}
    assert set(ward.store.contexts.views(TENANT, open_)) == {"a"}
