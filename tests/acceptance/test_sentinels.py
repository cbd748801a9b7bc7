"""Redis behind Sentinels: the fleet follows from a primary that dies to the one that takes its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from llmteam.canvas import RunConfig, SegmentClient, SegmentDefinition, StepDefinition
from llmteam.canvas.models import EdgeDefinition
from llmteam.canvas.state import SegmentStatus
from llmteam.ratelimit.decisions import Ask, LimitKey
from llmteam.ratelimit.limits.redis import RedisLimitBackend
from llmteam.ratelimit.models import RateLimitConfig
from llmteam.wakeup import RedisWakeup
from tests.acceptance.command_line import CommandLine, Started
from tests.acceptance.stubborn_fleet import stubborn_fleet
from tests.sentinels import Replicated, replicated
from tests.services import PostgresService
from tests.waiting import wait_until

_ASKS = [Ask(LimitKey("vendor"), RateLimitConfig())]


@dataclass
class Place:
    """An installation whose broker, result backend and shared Redis are what the Sentinels say."""

    redis: Replicated
    client: SegmentClient
    line: CommandLine
    worker: Started

    def start(self) -> str:
        """A run with a step in each pool."""
        kinds = ("pid_io", "pid_default", "pid_io")
        steps = [StepDefinition(step_id=f"step_{n}", step_type=kind) for n, kind in enumerate(kinds)]
        edges = [EdgeDefinition(source_step=one.step_id, target_step=two.step_id) for one, two in pairwise(steps)]
        segment = SegmentDefinition(segment_id="followed", name="Followed", steps=steps, edges=edges)
        return self.client.start(segment, config=RunConfig(max_retries=0))

    def finish(self, runs: list[str]) -> None:
        """Each step of each run began and ended once."""
        for run_id in runs:
            result = self.client.result(run_id, 60, events=True)
            assert result.status is SegmentStatus.COMPLETED, (result, self.worker.output())
            told = [event.event_type.value for event in result.events]
            assert (told.count("step.started"), told.count("step.completed")) == (3, 3)


@pytest.fixture
def place(postgres: PostgresService, tmp_path: Path) -> Iterator[Place]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    with (
        replicated(tmp_path) as redis,
        stubborn_fleet(tmp_path, own.create(), redis.url) as (line, client, worker),
    ):
        yield Place(redis, client, line, worker)
    own.drop_all()


@pytest.mark.timeout(180)
def test_when_the_primary_dies_runs_go_on_over_the_one_that_takes_its_place(place: Place) -> None:
    before = [place.start() for _ in range(5)]
    place.finish(before[:1])

    place.redis.kill_primary()
    after = [place.start() for _ in range(5)]

    place.finish(before + after)
    assert place.redis.listeners() >= 2, "the worker and this process listen for wake-ups"
    assert place.redis.takers() >= 1, "a worker takes hints"
    checks = {check["name"]: check["outcome"] for check in place.line.json("doctor")["checks"]}
    assert {checks[name] for name in ("broker", "result backend", "limits", "circuits")} == {"ok"}


@pytest.mark.timeout(120)
def test_limits_and_wake_ups_follow_the_primary(tmp_path: Path) -> None:
    with replicated(tmp_path) as redis:
        limits, hears, tells = RedisLimitBackend(redis.url), RedisWakeup(redis.url), RedisWakeup(redis.url)
        with closing(limits), closing(hears), closing(tells), hears.watch("acme", "run-1") as watch:
            assert limits.ask(_ASKS, "before", queue=False).admitted

            redis.kill_primary()

            wait_until(lambda: limits.ask(_ASKS, "after", queue=False).admitted and limits.backend_state().shared, "it")
            wait_until(lambda: (tells.notify(watch.channel), watch.wait(0.2))[1], "a wake-up to come through")
            assert [key for key, _ in limits.used()] == [_ASKS[0].key]
