"""Fleets whose metrics are read, with names in all places that must not stand in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from llmteam.dispatch import CONTROL_QUEUE, START_RUN, celery_app
from llmteam.settings import Settings
from tests.acceptance.command_line import CommandLine, Started
from tests.scraping import Scrape, scrape
from tests.services import PostgresService, url_of

#: Stands in names, inputs and messages of errors, and must not stand in any metric.
CANARY = "canary4711"
TENANTS = (f"one-{CANARY}", f"two-{CANARY}")

_STEPS = f"""
import os, pathlib, signal, time
from llmteam.canvas import step_type

@step_type("works")
def works(ctx, config, data):
    return os.getpid()

@step_type("fails_once")
def fails_once(ctx, config, data):
    if ctx.attempt == 1:
        raise ValueError("{CANARY}")
    return "done"

@step_type("fails")
def fails(ctx, config, data):
    raise ValueError("{CANARY}")

@step_type("held")
def held(ctx, config, data):
    path = pathlib.Path(config["until"])
    path.with_suffix(".pid").write_text(str(os.getpid()))
    while not path.exists() and not ctx.cancelled.is_set():
        time.sleep(0.02)
    return "held"
"""

EVENTS = """
SELECT event_type, step_type, count(*) FROM llmteam.events GROUP BY event_type, step_type
"""


@dataclass
class Fleet:
    """Workers, what is asked of them, and what they tell. ``ports`` are where they do."""

    line: CommandLine
    database: str
    ports: tuple[int, ...]
    workers: tuple[Started, ...]
    started: dict[str, list[str]] = field(default_factory=dict)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What stands in the tables, of all tenants."""
        connection = psycopg2.connect(self.database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()
        finally:
            connection.close()

    def start(self, name: str, *steps: tuple[str, dict[str, Any]], tenant: str = TENANTS[0], count: int = 1) -> None:
        """Start runs by message, so that workers are who starts them."""
        segment = json.loads(self.line.segment(name, *steps).read_text())
        settings = Settings.load({name: self.line.env[name] for name in ("LLMTEAM_BROKER_URL", "LLMTEAM_DATABASE_URL")})
        app = celery_app(settings)
        self.started[name] = [f"{CANARY}-{name}-{number}" for number in range(count)]
        for run_id in self.started[name]:
            message = {"tenant_id": tenant, "segment": segment, "input": {"text": CANARY}, "run_id": run_id}
            app.send_task(START_RUN, kwargs=message, queue=CONTROL_QUEUE)

    def ended(self, *names: str) -> bool:
        """Whether all runs that were started under these names are over."""
        found = {run_id for (run_id,) in self.rows("SELECT run_id FROM llmteam.runs WHERE finished_at IS NOT NULL")}
        return all(run_id in found for name in names for run_id in self.started[name])

    def events(self, kind: str) -> dict[tuple[str, ...], float]:
        return {(step_type,): count for name, step_type, count in self.rows(EVENTS) if name == kind}

    def scrape(self) -> Scrape:
        return scrape(*self.ports)

    @property
    def folders(self) -> list[Path]:
        return folders(self.line)


@contextmanager
def command_line(folder: Path, postgres: PostgresService, broker_url: str) -> Iterator[CommandLine]:
    """The command line with tables and temporary files of its own, and workers that know the steps above."""
    (folder / "counted_steps.py").write_text(_STEPS)
    (folder / "temporary").mkdir()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    yield CommandLine(
        folder,
        LLMTEAM_DATABASE_URL=own.create(),
        LLMTEAM_BROKER_URL=broker_url,
        LLMTEAM_IMPORTS="counted_steps",
        LLMTEAM_LEASE_SECONDS="2",
        LLMTEAM_SWEEP_SECONDS="0.5",
        TMPDIR=str(folder / "temporary"),
    )
    own.drop_all()


def folders(line: CommandLine) -> list[Path]:
    """Where supervisors have their children count."""
    return list((line.folder / "temporary").glob("llmteam-metrics-*"))


def superuser_url(postgres: PostgresService, line: CommandLine) -> str:
    """The database of ``line`` as seen by somebody whom no row security binds."""
    name = line.env["LLMTEAM_DATABASE_URL"].rpartition("/")[2].partition("?")[0]
    return url_of(postgres.superuser_url, name).replace("+psycopg2", "")
