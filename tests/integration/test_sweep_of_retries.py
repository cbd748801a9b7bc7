"""A retry whose wake-up got lost is due whenever a sweep has taken it: the next hint runs it."""

from __future__ import annotations

import pytest

from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.db import Database
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw


def past_its_time(database: Database) -> None:
    with database.hot(TENANT) as session:
        session.script("UPDATE llmteam.run_steps SET wake_at = now() - interval '1 second' WHERE state = 'ready'")


@pytest.mark.parametrize("lost_hints", [0, 1, 2])
def test_a_retry_that_a_sweep_has_taken_runs_at_the_next_hint(desk: Desk, database: Database, lost_hints: int) -> None:
    run_id = desk.start(draw("a"), max_retries=1)
    desk.engine.failed(desk.claim(run_id, "a"), ValueError("broken"))
    for _ in range(lost_hints + 1):
        past_its_time(database)
        assert [hint.step_id for hint in PostgresSweeps(database).take_due(10)] == ["a"]

    execution = desk.begin(run_id, "a")

    assert execution is not None
    assert execution.ctx.attempt == 2
