"""A fleet that runs the step types of ``tests.stubborn``, swept often, with workers that soon count as deaf."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmteam.canvas import SegmentClient
from llmteam.settings import Settings
from tests import stubborn
from tests.acceptance.command_line import CommandLine, Started


@contextmanager
def stubborn_fleet(
    folder: Path, database_url: str, broker_url: str
) -> Iterator[tuple[CommandLine, SegmentClient, Started]]:
    """The command line, a client and the worker, which is ready; beat is there too."""
    variables = {
        "LLMTEAM_DATABASE_URL": database_url,
        "LLMTEAM_BROKER_URL": broker_url,
        "LLMTEAM_SWEEP_SECONDS": "0.5",
        "LLMTEAM_DEAF_SECONDS": "3",
        "LLMTEAM_IMPORTS": "tests.stubborn",
    }
    line = CommandLine(folder, **variables)
    with (
        SegmentClient.connect(settings=Settings.load(variables), catalog=stubborn.register()) as client,
        line.started("worker", "--concurrency", "2") as worker,
        line.started("beat") as beat,
    ):
        worker.wait_for("ready: ")
        beat.wait_for("ready")
        yield line, client, worker
