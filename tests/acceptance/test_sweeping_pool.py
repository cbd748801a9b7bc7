"""A pool of processes alone, without beat, sweeps too, even if none of them ever had a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmteam.canvas import SegmentClient, SegmentDefinition, StepDefinition
from llmteam.settings import Settings
from tests import stubborn
from tests.acceptance.command_line import CommandLine
from tests.services import PostgresService, redis_client

pytestmark = pytest.mark.timeout(120)


def test_a_lost_first_hint_is_sent_again_by_processes_that_never_had_a_step(
    postgres: PostgresService, clean_valkey: str, tmp_path: Path
) -> None:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    variables = {
        "LLMTEAM_DATABASE_URL": own.create(),
        "LLMTEAM_BROKER_URL": clean_valkey,
        "LLMTEAM_SWEEP_SECONDS": "0.3",
        "LLMTEAM_IMPORTS": "tests.stubborn",
    }
    step = StepDefinition(step_id="one", step_type="pid_default")
    segment = SegmentDefinition(segment_id="alone", name="Alone", steps=[step], edges=[])
    with SegmentClient.connect(settings=Settings.load(variables), catalog=stubborn.register()) as client:
        run_id = client.start(segment)
        with redis_client(clean_valkey) as broker:
            assert broker.llen("llmteam.default") == 1
            broker.flushdb()

        with CommandLine(tmp_path, **variables).started("worker", "--pool", "prefork", "--concurrency", "1") as worker:
            result = client.result(run_id, 60)
            worker.wait_for("is beat running? This worker sweeps")

    assert result.status == "completed"
    own.drop_all()
