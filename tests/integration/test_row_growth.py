"""Rows that a run leaves behind and rows that a step touches: neither grows with what the step has no part in."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from llmteam.canvas.ports import Broadcast
from llmteam.db import Database
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw

TABLES = ("runs", "run_steps", "events", "payloads", "definitions")


def counts(database: Database) -> dict[str, int]:
    with database.tenant_transaction(TENANT) as connection:
        return {t: connection.execute(text(f"SELECT count(*) FROM llmteam.{t}")).scalar_one() for t in TABLES}


def test_a_run_leaves_one_row_per_step_and_two_events_per_step(desk: Desk, database: Database) -> None:
    run_id = desk.start(draw("a -> b -> c"))
    desk.do(run_id, "a", "b", "c")

    assert counts(database) == {"runs": 1, "run_steps": 3, "events": 2 + 2 * 3, "payloads": 0, "definitions": 1}


def test_many_runs_of_one_segment_share_its_definition(desk: Desk, database: Database) -> None:
    for _ in range(5):
        desk.start(draw("a -> b"))
    Desk(desk.store, desk.events).start(draw("a -> b"))

    assert counts(database)["definitions"] == 1


def test_equal_large_answers_are_stored_once(desk: Desk, database: Database) -> None:
    text_ = "x" * 50_000
    for _ in range(3):
        run_id = desk.start(draw("a -> b"))
        desk.do(run_id, "a", answer=text_)
        desk.do(run_id, "b", answer="small")
        assert desk.rows(run_id)["a"].output == text_

    assert counts(database)["payloads"] == 1


def test_what_a_split_hands_on_is_stored_once_for_all_branches(desk: Desk, database: Database) -> None:
    lines = [f"split_1 -> b{number} -> all_1" for number in range(30)]
    run_id = desk.start(draw("s -> split_1", *lines))
    desk.do(run_id, "s", answer="y" * 5_000)
    desk.do(run_id, "split_1", answer=Broadcast("z" * 5_000))

    with database.tenant_transaction(TENANT) as connection:
        size = "SELECT sum(pg_column_size(output)) FROM llmteam.run_steps"
        assert connection.execute(text(size)).scalar_one() < 15_000
    assert desk.claim(run_id, "b7").input == {"input": "z" * 5_000}


@pytest.mark.parametrize("branches", [5, 200])
def test_finishing_a_branch_writes_three_rows_however_many_there_are(
    desk: Desk, database: Database, branches: int
) -> None:
    lines = [f"split_1 -> b{number} -> all_1" for number in range(branches)]
    run_id = desk.start(draw("s -> split_1", *lines))
    desk.do(run_id, "s", "split_1", "b0")
    versions = row_versions(database, run_id)

    desk.do(run_id, "b1")

    after = row_versions(database, run_id)
    changed = {key for key in after if after[key] != versions[key]}
    assert changed == {"run", "b1", "all_1"}


def row_versions(database: Database, run_id: str) -> dict[str, str]:
    """The transaction that wrote each row of the run last."""
    with database.tenant_transaction(TENANT) as connection:
        runs = "SELECT 'run', xmin::text FROM llmteam.runs WHERE run_id = :run"
        steps = "SELECT step_id, xmin::text FROM llmteam.run_steps WHERE run_id = :run"
        found = [*connection.execute(text(runs), {"run": run_id}), *connection.execute(text(steps), {"run": run_id})]
    return dict(found)


def test_each_iteration_of_a_loop_adds_the_rows_of_its_body_only(desk: Desk, database: Database) -> None:
    run_id = desk.start(draw("s -> count_1 -> a -[n < 4]-> count_1", "a -> end -> far"))
    desk.do(run_id, "s")
    before = counts(database)["run_steps"]

    for visit in (1, 2, 3):
        for step_id in ("count_1", "a"):
            desk.engine.answered(desk.claim(run_id, step_id, visit), {"n": visit})

    assert counts(database)["run_steps"] == before + 3 * 2
