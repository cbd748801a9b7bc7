"""A Postgres that restarts, is full, has no place or lets others wait, under a real fleet with servers of its own.

Ids are those of the failure catalogue in docs/reliability.md.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psycopg2
import pytest

from llmteam.db import Database, provision
from llmteam.embedded import DATABASE, LOGIN, MIGRATION_LOGIN, EmbeddedServers, start, status
from llmteam.errors import InfrastructureError
from tests import failpoints
from tests.acceptance.command_line import UNREACHABLE, Started
from tests.acceptance.place import Place, place, told
from tests.drawing import draw
from tests.embedding import short_folder
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

CHAIN = draw("a -> b", work="traced", segment_id="chain")
GATED = draw("a -> b", work="traced", config={"a": {"gate": True}}, segment_id="gated")

LOCK_RUN = "SELECT 1 FROM llmteam.runs WHERE run_id = %s FOR NO KEY UPDATE"
LOCK_STEP = "SELECT 1 FROM llmteam.run_steps WHERE run_id = %s AND step_id = 'a' FOR UPDATE"


@pytest.fixture(scope="module")
def servers() -> Iterator[EmbeddedServers]:
    """Servers of this module's own: what happens to them must not happen to other tests."""
    with short_folder() as folder, start(folder / "home") as servers:
        provision(servers.superuser_url, LOGIN, DATABASE, migration_login=MIGRATION_LOGIN)
        database = Database(servers.migration_url)
        database.upgrade()
        database.close()
        yield servers


@pytest.fixture(scope="module")
def here(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("postgres"), servers.database_url, servers.broker_url) as here:
        yield here


@pytest.fixture(scope="module", autouse=True)
def fleet(here: Place) -> Iterator[Started]:
    """A fleet that lasts as long as this module."""
    with here.line.started("worker", "--concurrency", "3") as worker:
        worker.wait_for("ready: llmteam.control", timeout=60)
        yield worker


@pytest.fixture(autouse=True)
def nothing_waits_on(here: Place) -> Iterator[None]:
    yield
    here.open_all()


@contextmanager
def superuser(servers: EmbeddedServers) -> Iterator[Any]:
    """A cursor of somebody who may everything; what it does is undone at the end unless it commits."""
    url = servers.superuser_url.replace("+psycopg2", "").replace("/postgres?", f"/{DATABASE}?")
    connection = psycopg2.connect(url)
    try:
        yield connection.cursor()
    finally:
        connection.close()


def postmaster(servers: EmbeddedServers, before: int | None = None) -> int:
    """The process of the server, another one than ``before``, once it answers."""

    def answering() -> int | None:
        with suppress(psycopg2.OperationalError), superuser(servers):
            pids = {one.name: one.pid for one in status(servers.home).servers}
            return None if pids.get("postgres") == before else pids.get("postgres")
        return None

    return wait_until(answering, "Postgres to answer", timeout=30) or 0


#: What happens when Postgres is restarted: the point, and the step that passes it; a sweep passes it for none.
RESTARTS = {"claim": ("claim.before", "a"), "commit": ("apply.before", "a"), "sweep": ("apply.before", "")}


@pytest.fixture(scope="module")
def restarted(here: Place, servers: EmbeddedServers, fleet: Started) -> dict[str, str]:
    """A run for each restart; every one of them is over before the first run is looked at."""
    for run_id, (point, step_id) in RESTARTS.items():
        before = postmaster(servers)
        if run_id == "sweep":  # it takes the step from a process that was killed
            here.arm("claim.after", run_id, "a")
        here.arm(point, run_id, step_id, failpoints.SIGNAL, pid=before, signal=signal.SIGQUIT)
        here.start(CHAIN, run_id)
        happened = partial(here.passed, point, run_id, step_id)
        wait_until(happened, f"the restart in a {run_id}", timeout=30)
        postmaster(servers, before)
    return {name: name for name in RESTARTS}


@pytest.mark.parametrize("name", RESTARTS)
def test_p22_a_restart_in_the_middle_of_a_claim_a_commit_or_a_sweep(
    here: Place, restarted: dict[str, str], name: str
) -> None:
    run_id = restarted[name]

    result = here.ended(run_id)

    assert result.outputs == {"output": "b(a)"}
    assert [told(result)[step, "step.completed"] for step in "ab"] == [1, 1]
    assert [here.rows(run_id)[step].row.attempt for step in "ab"] == [0, 0]


def test_p25_a_result_that_waits_longer_than_a_lease_keeps_it(here: Place, servers: EmbeddedServers) -> None:
    run_id = here.start(GATED)
    here.wait_for(run_id, "a")
    first = here.rows(run_id)["a"].lease_until
    assert first is not None

    with superuser(servers) as other:
        other.execute(LOCK_RUN, (run_id,))
        here.open(run_id)
        wait_until(lambda: blocked(servers), "the result to wait for the run")
        wait_until(lambda: renewed_after(here, run_id, first), "the lease to be renewed past its first end")

    result = here.ended(run_id)
    assert (result.outputs, here.rows(run_id)["a"].row.losses) == ({"output": "b(a)"}, 0)
    assert told(result)["a", "step.started"] == 1


def renewed_after(here: Place, run_id: str, first: Any) -> bool:
    until = here.rows(run_id)["a"].lease_until
    return until is not None and (until - first).total_seconds() > here.lease


def blocked(servers: EmbeddedServers) -> bool:
    """Whether somebody waits for a lock."""
    with superuser(servers) as other:
        other.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(other.fetchone()[0])


def test_p27_a_result_that_lost_a_deadlock_is_handed_in_again(
    here: Place, servers: EmbeddedServers, fleet: Started
) -> None:
    run_id = here.start(GATED)
    here.wait_for(run_id, "a")

    with superuser(servers) as other, ThreadPoolExecutor(1) as background:
        other.execute("SET deadlock_timeout = '1min'")  # so that the worker is the one that gives up
        other.execute(LOCK_STEP, (run_id,))
        here.open(run_id)
        wait_until(lambda: blocked(servers), "the worker to hold the run and wait for the step")
        background.submit(other.execute, LOCK_RUN, (run_id,)).result(20)

    result = here.ended(run_id)
    assert "another transaction was first" in fleet.output()
    assert (result.outputs, here.rows(run_id)["a"].row.attempt) == ({"output": "b(a)"}, 0)
    assert told(result)["a", "step.started"] == 1


@contextmanager
def without_places(servers: EmbeddedServers) -> Iterator[None]:
    """No connection to the database is left, and no new one is allowed."""
    with superuser(servers) as other:
        other.connection.autocommit = True
        limit = f"ALTER DATABASE {DATABASE} CONNECTION LIMIT"
        other.execute(f"{limit} 0")
        try:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                (DATABASE,),
            )
            yield
        finally:
            other.execute(f"{limit} -1")


def test_p26_while_postgres_has_no_place_work_waits_and_nothing_fails(
    here: Place, servers: EmbeddedServers, fleet: Started
) -> None:
    run_id = here.start(GATED)
    here.wait_for(run_id, "a")

    with without_places(servers):
        here.open(run_id)
        fleet.wait_for("too many connections")
        with pytest.raises(InfrastructureError, match="too many connections"):
            here.start(CHAIN)

    assert here.ended(run_id).outputs == {"output": "b(a)"}
    assert here.rows(run_id)["a"].row.attempt == 0


FULL = """
CREATE FUNCTION pg_temp.full_disk() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE UPDATE ON llmteam.run_steps EXECUTE FUNCTION pg_temp.full_disk();
CREATE TRIGGER full_disk BEFORE INSERT ON llmteam.runs EXECUTE FUNCTION pg_temp.full_disk();
"""


def test_p28_while_the_disk_is_full_nothing_counts_as_done(
    here: Place, servers: EmbeddedServers, fleet: Started
) -> None:
    run_id = here.start(GATED)
    here.wait_for(run_id, "a")

    with superuser(servers) as other:
        other.connection.autocommit = True
        other.execute(FULL.replace("pg_temp", "public"))
        here.open(run_id)
        fleet.wait_for("No space left on device")
        assert here.states(run_id)["a"] == "running"
        with pytest.raises(InfrastructureError, match="No space left"):
            here.start(CHAIN)
        other.execute("DROP FUNCTION public.full_disk() CASCADE")

    assert here.ended(run_id).outputs == {"output": "b(a)"}
    assert here.rows(run_id)["a"].row.attempt == 0


@pytest.mark.parametrize(("version", "says"), [("0000", "run: llmteam db upgrade"), ("9999", "update llmteam here")])
def test_p38_a_worker_refuses_tables_that_are_not_those_of_its_version(
    here: Place, servers: EmbeddedServers, version: str, says: str
) -> None:
    with superuser(servers) as other:
        other.connection.autocommit = True
        other.execute("SELECT version_num FROM llmteam.alembic_version")
        (right,) = other.fetchone()
        other.execute("UPDATE llmteam.alembic_version SET version_num = %s, works_with = %s", (version, version))
        try:
            refused = here.line("worker")
        finally:
            other.execute("UPDATE llmteam.alembic_version SET version_num = %s, works_with = %s", (right, right))

    assert (refused.returncode, says in refused.stderr) == (UNREACHABLE, True), refused.stderr
