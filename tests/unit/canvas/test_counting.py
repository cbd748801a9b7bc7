"""What runs inside one process count as, once somebody asks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmteam.canvas import RunConfig, SegmentRunner, counting
from llmteam.canvas.state import StepRow, StepState
from llmteam.runtime import default_manager
from llmteam.runtime.context import StepContext
from tests.drawing import draw
from tests.scraping import Scrape, counted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUICK = RunConfig(retry_delay=0.01, max_retries=2)


@pytest.fixture
def told() -> Iterator[Callable[[], Scrape]]:
    with counted() as told:
        yield told


def played(*lines: str, **config: dict[str, Any]) -> dict[str, int]:
    """How many events of each kind a run of this segment had."""
    runner = SegmentRunner()

    async def work(ctx: StepContext, config: dict[str, Any], given: Any) -> Any:
        if ctx.attempt <= config.get("fails", 0):
            raise ValueError("canary")
        return {"canary": given}

    runner.register_handler("work", work)
    runtime = default_manager().create_runtime("tenant-canary", "", run_id="run-canary")
    result = asyncio.run(runner.run(draw(*lines, config=config), runtime, {"canary": 1}, config=QUICK))
    return Counter(str(event.event_type) for event in result.events)


def test_branches_joins_and_retries_count_as_their_events(told: Callable[[], Scrape]) -> None:
    events = played("a -> if", "if.true -> b", "if.false -> c", "b -> any", "c -> any", "any -> d", b={"fails": 2})

    found = told()

    assert found.of("llmteam_runs_started_total") == 1
    assert found.by("llmteam_runs_ended_total", "status") == {("completed",): 1}
    assert found.of("llmteam_step_attempts_total") == events["step.started"]
    assert found.by("llmteam_steps_total", "outcome") == {
        ("completed",): events["step.completed"],
        ("skipped",): events["step.skipped"],
    }
    assert found.by("llmteam_step_retries_total", "step_type") == {("work",): 2}
    assert found.of("llmteam_step_seconds_count") == events["step.completed"] + 2
    assert found.of("llmteam_claim_delay_seconds_count") == events["step.started"]
    assert found.of("llmteam_audit_records_total") == 2
    assert "canary" not in found.text


def test_a_run_that_fails_counts_as_that(told: Callable[[], Scrape]) -> None:
    played("a -> b", a={"fails": 9})

    found = told()
    assert found.by("llmteam_runs_ended_total", "status") == {("failed",): 1}
    assert found.by("llmteam_steps_total", "step_type", "outcome") == {("work", "failed"): 1}
    assert found.of("llmteam_step_attempts_total") == 3


@pytest.mark.parametrize(
    ("row", "seconds"),
    [
        (StepRow("a", owner="queue", ready_at=NOW - timedelta(seconds=3)), 3),
        (StepRow("a", owner="timer", attempt=1, ready_at=NOW - timedelta(9), wake_at=NOW - timedelta(seconds=2)), 2),
        (StepRow("a", owner="limit", wake_at=NOW - timedelta(seconds=1)), 1),
        (StepRow("a", owner="limit", wake_at=NOW + timedelta(seconds=10)), None),
        (StepRow("a", owner="queue", attempt=1, ready_at=NOW - timedelta(9)), None),
        (StepRow("a", owner="queue", losses=1, ready_at=NOW - timedelta(9)), None),
    ],
)
def test_the_delay_of_a_claim_is_told_where_it_can_be_known(
    told: Callable[[], Scrape], row: StepRow, seconds: int | None
) -> None:
    counting.claimed("work", "llmteam.eu-west-1.io", replace(row, state=StepState.READY), NOW)

    found = told()
    assert found.of("llmteam_step_attempts_total") == 1
    assert found.of("llmteam_claim_delay_seconds_count", queue="llmteam.io") == (seconds is not None)
    assert found.of("llmteam_claim_delay_seconds_sum", queue="llmteam.io") == (seconds or 0)
