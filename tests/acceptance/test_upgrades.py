"""A version that replaces the one before while runs go on."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmteam.db.schema import HEAD
from tests.acceptance.command_line import DONE, UNREACHABLE, CommandLine
from tests.acceptance.test_health import ask, failing
from tests.composing import free_port
from tests.embedding import ROOT
from tests.services import PostgresService, migration_url_of, redis_client
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

#: More than one table on the way of every step gets a column, an index and a default.
ADDS = """
ALTER TABLE llmteam.runs ADD COLUMN colour text NOT NULL DEFAULT 'blue';
ALTER TABLE llmteam.run_steps ADD COLUMN colour text NOT NULL DEFAULT 'blue';
ALTER TABLE llmteam.events ADD COLUMN colour text;
CREATE INDEX runs_colour ON llmteam.runs (tenant_id, colour);
"""

_MIGRATION = """
from alembic import op

revision = {revision!r}
down_revision = {before!r}
branch_labels = None
depends_on = None
works_with = {works_with!r}


def upgrade():
    op.execute({statements!r})
"""


def next_version(line: CommandLine, revision: str, before: str, works_with: str, statements: str) -> CommandLine:
    """``llmteam`` of a later version in the same place: a copy of the package with one migration more."""
    tree = line.folder / f"version-{revision}"
    of = Path(line.env["PYTHONPATH"].partition(os.pathsep)[0]) if before != HEAD else ROOT
    shutil.copytree(of / "llmteam", tree / "llmteam", ignore=shutil.ignore_patterns("__pycache__"))
    migration = _MIGRATION.format(revision=revision, before=before, works_with=works_with, statements=statements)
    (tree / "llmteam/db/migrations/versions" / f"{revision}_next.py").write_text(migration)
    schema = tree / "llmteam/db/schema.py"
    text = schema.read_text()
    assert f'HEAD = "{before}"' in text
    schema.write_text(text.replace(f'HEAD = "{before}"', f'HEAD = "{revision}"'))
    later = CommandLine(line.folder)
    later.env = line.env | {"PYTHONPATH": os.pathsep.join([str(tree), *filter(None, sys.path)])}
    return later


@pytest.fixture(scope="module")
def old(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with redis_client(valkey) as client:
        client.flushdb()
    url = postgres.create()
    settings = {"LLMTEAM_DATABASE_URL": url, "LLMTEAM_BROKER_URL": valkey, "LLMTEAM_SWEEP_SECONDS": "1"}
    line = CommandLine(tmp_path_factory.mktemp("upgrades"), **settings, LLMTEAM_MIGRATION_URL=migration_url_of(url))
    yield line
    postgres.drop_all()


def outcome(line: CommandLine, run_id: str) -> str:
    return str(line.json("runs", "show", run_id)["status"])


def test_the_next_version_replaces_this_one_while_a_run_goes_on_and_a_breaking_one_asks_for_a_stop(
    old: CommandLine,
) -> None:
    new = next_version(old, "9001", HEAD, HEAD, ADDS)
    breaking = next_version(new, "9002", "9001", "9002", "ALTER TABLE llmteam.runs DROP COLUMN colour")
    first, second = old.folder / "first", old.folder / "second"
    long = old.segment("long", ("hold", {"until": str(first)}), ("pid", {}), ("hold", {"until": str(second)}))
    flags, port = ("--import", "steps_of_tests", "--concurrency", "1"), free_port()

    with old.started("worker", *flags, "--health", f"127.0.0.1:{port}") as of_before:
        wait_until(lambda: failing(port) == [], "the worker to be ready", timeout=40)
        with old.started("run", long, "--import", "steps_of_tests", "--run-id", "long") as run:
            wait_until(first.with_suffix(".began").exists, "the first step to begin", timeout=30)

            assert new("db", "current").returncode == 1
            done = new("db", "upgrade")
            assert (done.returncode, done.stdout) == (DONE, "the tables are at 9001\n"), done.stderr
            assert old("db", "current").stdout == f"9001, newer than {HEAD}, which works on it\n"
            assert failing(port) == []
            first.touch()
            wait_until(second.with_suffix(".began").exists, "the step after the upgrade to begin", timeout=30)

            with new.started("worker", *flags) as of_after:
                of_after.wait_for("ready", timeout=40)
                assert of_before.process.poll() is None
                second.touch()
                assert run.process.wait(40) == DONE, run.output()
                assert of_before.end(signal.SIGTERM, 40) == DONE
                of_before.wait_until_gone()

                alone = new("run", new.hello(), "--input", '{"name": "you"}', "--run-id", "alone")
                assert (alone.returncode, outcome(new, "alone")) == (DONE, "completed"), alone.stderr
                assert outcome(old, "long") == "completed"

                refused = breaking("db", "upgrade")
                assert (refused.returncode, "llmteam db upgrade --stopped" in refused.stderr) == (UNREACHABLE, True)
                assert of_after.end(signal.SIGTERM, 40) == DONE

    assert breaking("db", "upgrade", "--stopped").stdout == "the tables are at 9002\n"
    refused = new("worker", *flags)
    assert (refused.returncode, "update llmteam here" in refused.stderr) == (UNREACHABLE, True), refused.stderr
    assert breaking.json("db", "current") == {"version": "9002", "needed": "9002", "works": True}
    assert ask(port, "/livez")[0] == 0
