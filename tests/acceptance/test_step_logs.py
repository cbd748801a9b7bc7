"""Logs as JSON: what a handler logs says whose step it works on, whatever it is called by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.command_line import CommandLine
from tests.services import PostgresService

pytestmark = pytest.mark.timeout(120)

_TALKATIVE = """
import asyncio, logging
from llmteam.canvas import step_type

@step_type("plain")
def plain(ctx, config, data):
    logging.getLogger("shop").info("plain")

@step_type("on_a_loop")
async def on_a_loop(ctx, config, data):
    logging.getLogger("shop").info("on a loop")
    await asyncio.to_thread(logging.getLogger("shop").info, "beside the loop")

@step_type("waits", queue="llmteam.io")
async def waits(ctx, config, data):
    logging.getLogger("shop").info("in the other pool")
"""


@pytest.fixture
def llmteam(postgres: PostgresService, clean_valkey: str, tmp_path: Path) -> Iterator[CommandLine]:
    (tmp_path / "talkative.py").write_text(_TALKATIVE)
    yield CommandLine(
        tmp_path,
        LLMTEAM_DATABASE_URL=postgres.create(),
        LLMTEAM_BROKER_URL=clean_valkey,
        LLMTEAM_IMPORTS="talkative",
        LLMTEAM_LOG_FORMAT="json",
    )
    postgres.drop_all()


def test_every_line_of_a_handler_names_its_tenant_its_run_and_its_step(llmteam: CommandLine) -> None:
    segment = llmteam.segment("talk", ("plain", {}), ("on_a_loop", {}), ("waits", {}))

    with llmteam.started("worker", "--concurrency", "2") as worker:
        worker.wait_for("ready: llmteam.control", timeout=60)
        run = llmteam.json("run", segment, "--tenant", "acme")

    lines = [json.loads(line) for line in worker.output().splitlines() if '"shop"' in line]
    assert [(one["message"], one["step_id"], one["program"]) for one in lines] == [
        ("plain", "step_1", "prefork"),
        ("on a loop", "step_2", "prefork"),
        ("beside the loop", "step_2", "prefork"),
        ("in the other pool", "step_3", "threads"),
    ]
    assert {(one["tenant_id"], one["run_id"]) for one in lines} == {("acme", run["run_id"])}
