"""Every statement that a step, a sweep or a listing costs finds its rows by an index, in tables of 100,000 rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text

from llmteam.canvas.postgres import checks, gauges, holds, leases, links, rows, sweeps
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.state import StepRow
from llmteam.db import Database, Prepared
from llmteam.db.hot import HotConnection, HotRole, Params
from llmteam.db.tables import events
from llmteam.events.models import EventQuery, EventType
from llmteam.events.postgres import _conditions
from tests.services import PostgresService, owner_transaction

#: 5,000 runs of 20 steps, all but some of them over, and one run with a join of 1,000 branches.
FILL = """
INSERT INTO llmteam.runs (tenant_id, run_id, instance_id, segment_id, definition_hash, status, open, total, next_seq,
                          input, config, context, root_run_id, created_at, wake_at, finished_at)
SELECT 'acme', 'run-' || n, '', 'seg', 'h', CASE WHEN n %% 500 = 0 THEN 'running' ELSE 'completed' END, 0, 20, 21,
       '1', '{}', '{}', 'run-' || n, now() - n * interval '1 second', CASE WHEN n %% 500 = 0 THEN now() END,
       CASE WHEN n %% 500 > 0 THEN now() END
  FROM generate_series(1, 5000) n;
INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, visit, state, undecided, live, queue, owner, wake_at,
                               sources, output, whole, decisions)
SELECT 'acme', 'run-' || n, 's' || m, 1, 'completed', 0, 1, 'q', NULL, NULL, ARRAY['s' || (m - 1)], '{"output": 1}',
       true, '{1}'
  FROM generate_series(1, 5000) n, generate_series(1, 20) m;
INSERT INTO llmteam.events (tenant_id, run_id, seq, event_type, ts, instance_id, segment_id, step_id, severity, payload)
SELECT 'acme', 'run-' || n, m, 'step.completed', now(), '', 'seg', 's' || m, 'info', '{}'
  FROM generate_series(1, 5000) n, generate_series(1, 20) m;
INSERT INTO llmteam.payloads SELECT 'acme', 'hash-' || n, '1', 1, now() FROM generate_series(1, 20000) n;
INSERT INTO llmteam.runs (tenant_id, run_id, instance_id, segment_id, definition_hash, status, open, total, next_seq,
                          input, config, context, root_run_id, created_at)
VALUES ('acme', 'wide', '', 'seg', 'h', 'running', 1, 3001, 21, '1', '{}', '{}', 'wide', now());
INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, visit, state, undecided, live, queue, owner, sources, output,
                               whole, decisions)
SELECT 'acme', 'wide', 'b' || m, 1, 'completed', 0, 1, 'q', NULL, ARRAY['split'], '{"output": 1}', true, '{1}'
  FROM generate_series(1, 3000) m;
INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, visit, state, undecided, live, queue, owner, wake_at,
                               sources)
SELECT 'acme', 'wide', 'join', 1, 'ready', 0, 1000, 'q', 'queue', now(), array_agg('b' || m)
  FROM generate_series(1, 1000) m;
"""
SOME = StepRow("s3")
ONE_RUN = ("acme", "run-77")
CLAIMS = (["acme"], ["run-77"], ["s3"], [1], [1])
LEASE = timedelta(seconds=30)

#: Statement by name, with values where it is sent without being prepared.
OF_A_RUN: dict[str, tuple[Prepared | str, tuple[Any, ...] | None]] = {
    "lock": (sql.LOCK_RUN, None),
    "slice": (sql.READ_SLICE, None),
    "gather": (sql.GATHER, None),
    "claim": (sql.CLAIM, None),
    "claims": (sql.CLAIM_MANY, None),
    "update run": (sql.UPDATE_RUN, None),
    "update step": (sql.UPDATE_STEP, None),
    "update other": (sql.UPDATE_OTHER, None),
    "settle": (sql.settle(3, 2), None),
    "event": (sql.INSERT_EVENT, None),
    "update steps": (
        sql.UPDATE_STEPS_HEAD + ",".join([sql.UPDATE_STEPS_ROW] * 20) + sql.UPDATE_STEPS_TAIL,
        (*(value for number in range(20) for value in (f"s{number}", 1, *rows.step_values(SOME))), *ONE_RUN),
    ),
    "cancel": (sql.CANCEL_OPEN, (None, *ONE_RUN)),
    "header": (sql.READ_HEADER, ONE_RUN),
    "record": (sql.READ_RECORD, ONE_RUN),
    "steps": (sql.READ_STEPS, ONE_RUN),
    "steps without outputs": (sql.READ_STEPS_WITHOUT_OUTPUTS, ONE_RUN),
    "outputs": (sql.READ_OUTPUTS, ONE_RUN),
    "next number": (sql.READ_NEXT_SEQ, ONE_RUN),
    "ready": (sql.READ_READY, ONE_RUN),
    "input": (sql.READ_INPUT, ONE_RUN),
    "freeze": (holds.FREEZE, ONE_RUN),
    "thaw": (holds.THAW, (None, LEASE, LEASE, *ONE_RUN)),
    "copy": (links.COPY, (*ONE_RUN, "run-77")),
}
PAGE_END = datetime.now(UTC) - timedelta(minutes=30)
PAGE = {"tenant": "acme", "run": "run-3", "runs": 50, "steps": 50_000, "named": 100}
BOUNDS = dict.fromkeys(("lease", "retry", "hint", "apart", "grace"), timedelta(minutes=1))
OF_MANY: dict[str, tuple[str, Params, HotRole]] = {
    "runs": (sql.READ_RECORDS, ("acme", None, None, None, None, None, None, None, 50), "llmteam_app"),
    "runs by status": (
        sql.READ_RECORDS,
        ("acme", "running", "running", None, None, None, None, None, 50),
        "llmteam_app",
    ),
    "a further page of runs": (sql.READ_RECORDS, ("acme", *[None] * 4, PAGE_END, PAGE_END, "run-9", 50), "llmteam_app"),
    "due steps": (sweeps.TAKE_DUE, (["llmteam.io"], 500), "llmteam_sweeper"),
    "expired leases": (sweeps.TAKE_EXPIRED, (500,), "llmteam_sweeper"),
    "late runs": (sweeps.LATE_RUNS, (500,), "llmteam_sweeper"),
    "a page of the check": (checks.PAGE, PAGE | BOUNDS, "llmteam_sweeper"),
    "events of the check": (checks.EVENTS, ("acme", "run-3", "acme", "run-4", "acme"), "llmteam_app"),
    "purge": (sweeps.PURGE, (timedelta(days=1), 200), "llmteam_sweeper"),
    "renewal": (leases.RENEW, (*CLAIMS, LEASE, LEASE, LEASE), "llmteam_sweeper"),
    "lost claims": (leases.LOST, CLAIMS, "llmteam_sweeper"),
    "queued run": (sql.READ_QUEUED, ("acme",), "llmteam_app"),
    "tenants with queued runs": (sweeps.QUEUED_TENANTS, (500,), "llmteam_sweeper"),
    "idempotency key": (sql.READ_TAKEN, ("acme", "run-77", "key-77", "key-77"), "llmteam_app"),
}


@pytest.fixture(scope="module", params=["counted", "never counted"])
def full(request: pytest.FixtureRequest, postgres: PostgresService) -> Iterator[Database]:
    """With the statistics of ANALYZE, and as on the first day."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    with database.hot("acme") as hot:
        hot.script(FILL, ())
    if request.param == "counted":
        with owner_transaction(database) as connection:
            connection.execute(text("ANALYZE llmteam.runs, llmteam.run_steps, llmteam.events, llmteam.payloads"))
    yield database
    database.close()
    own.drop_all()


@pytest.fixture(scope="module")
def new(postgres: PostgresService) -> Iterator[Database]:
    """In which there was never a row."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    yield database
    database.close()
    own.drop_all()


@pytest.mark.parametrize("name", OF_A_RUN)
@pytest.mark.parametrize("run_id", ["run-77", "wide"])
def test_what_concerns_one_run_is_found_by_its_key(full: Database, name: str, run_id: str) -> None:
    statement, values = OF_A_RUN[name]
    if isinstance(values, tuple):
        values = tuple(run_id if value == "run-77" else value for value in values)

    plan = explain(full, statement, values)

    scans = list(scans_of(plan, {"runs", "run_steps", "events", "payloads"}))
    assert scans or name == "event"
    for scan in scans:
        key = "hash" if scan["Relation Name"] == "payloads" else "run_id"
        assert key in found_by(scan), f"{scan['Node Type']} on {scan['Relation Name']} by {found_by(scan)}"


@pytest.mark.parametrize("name", OF_MANY)
def test_what_concerns_many_runs_reads_an_index(full: Database, name: str) -> None:
    statement, values, role = OF_MANY[name]

    setting = sweeps.BY_INDEX if statement is sweeps.PURGE else ""
    plan = explain(full, statement, values, role=role, setting=setting)

    assert all(found_by(scan) for scan in scans_of(plan, {"runs", "run_steps", "events"}))


def test_how_an_installation_stands_is_read_from_indexes_of_what_is_open(full: Database) -> None:
    plan = explain(full, gauges.READ, (), role="llmteam_sweeper", setting=sweeps.BY_INDEX)

    assert "Seq Scan" not in {scan["Node Type"] for scan in scans_of(plan, {"runs", "run_steps", "interactions"})}
    assert set(indexes_of(plan)) >= {
        "runs_admitted",
        "runs_queued",
        "run_steps_wake_at",
        "interactions_open",
        "notifications_wake_at",
        "notifications_dead",
    }


@pytest.mark.parametrize("name", [name for name, (statement, _) in OF_A_RUN.items() if isinstance(statement, Prepared)])
def test_what_is_planned_on_new_tables_finds_a_run_by_its_key(new: Database, name: str) -> None:
    """Such a plan is kept until there are statistics, and there may be many runs by then."""
    plan = explain(new, OF_A_RUN[name][0], None)

    for scan in scans_of(plan, {"runs", "run_steps", "events"}):
        assert "run_id" in found_by(scan), f"{scan['Node Type']} on {scan['Relation Name']} by {found_by(scan)}"


def plan_of_events(database: Database, query: EventQuery) -> str:
    with database.tenant_transaction(query.tenant_id) as connection:
        statement = select(events).where(*_conditions(query)).order_by(events.c.run_id, events.c.seq).limit(query.limit)
        shown = statement.compile(connection, compile_kwargs={"literal_binds": True})
        return json.dumps(connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {shown}").scalar_one()[0]["Plan"])


def test_events_of_one_run_are_read_in_order_by_the_primary_key(full: Database) -> None:
    plan = plan_of_events(full, EventQuery("acme", "run-77", after_seq=5, limit=200))

    assert "events_pkey" in plan
    assert "Sort" not in plan


def test_rare_events_of_a_tenant_are_found_by_their_type(full: Database) -> None:
    types = frozenset({EventType.STEP_FAILED, EventType.SEGMENT_FAILED})

    assert "events_rare" in plan_of_events(full, EventQuery("acme", event_types=types, limit=100))


def test_a_start_counts_the_open_runs_of_its_tenant_by_an_index_of_their_own(full: Database) -> None:
    """A function has no plan that could be asked for; how it read is in the counters of the transaction."""
    with full.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
        hot.script(
            "INSERT INTO llmteam.tenants (tenant_id, name, tier, data_region, document, max_concurrent, max_per_minute,"
            " created_at, updated_at) VALUES ('acme', 'Acme', 'free', 'default', '{}', 99999, 99999, now(), now())"
        )
        read = "SELECT idx_scan, seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'runs'"
        before = hot.script(read) or []
        hot.script("SELECT llmteam.admit_start('acme', now(), 0, '{}', 'start', NULL, NULL, NULL, NULL, false)")
        after = hot.script(read) or []
        hot.rollback()

    assert after[0][1] == before[0][1], "no row was read without an index"
    assert after[0][0] > before[0][0]


def test_a_wide_join_looks_up_its_sources_by_key(full: Database) -> None:
    """Else it would read every step of its run, however few it waits for."""
    plan = explain(full, sql.GATHER, None)

    (sources,) = (scan for scan in scans_of(plan, {"run_steps"}) if scan["Alias"] == "f")
    assert "step_id = ANY (s.sources)" in sources["Index Cond"]


def test_branches_of_a_wide_run_are_claimed_by_key(full: Database) -> None:
    """Else each batch of claims would read every step of its run."""
    plan = explain(full, sql.CLAIM_MANY, None)

    (steps,) = scans_of(plan, {"run_steps"})
    assert "step_id = ANY" in steps["Index Cond"]


def test_finishing_a_branch_of_a_wide_run_reads_its_own_rows_only(full: Database) -> None:
    with full.hot("acme") as hot:
        hot.script(f"{sql.READ_SLICE.definition}", begin=True)
        call = sql.READ_SLICE.call.rstrip(";")
        plan = run_explain(hot, f"EXPLAIN (ANALYZE, FORMAT JSON) {call}", (["b7", "join"], [1], "acme", "wide"))
        hot.rollback()

    assert [scan["Actual Rows"] for scan in scans_of(plan, {"run_steps"})] == [2]


def explain(
    database: Database,
    statement: Prepared | str,
    values: Params | None,
    *,
    role: HotRole = "llmteam_app",
    setting: str = "",
) -> dict[str, Any]:
    """The plan of ``statement`` under a setting; of a prepared one the plan for whatever values."""
    with database.hot("acme" if role == "llmteam_app" else None) as hot:
        hot.script(f"{setting}SET LOCAL plan_cache_mode = force_generic_plan", begin=True, role=role)
        if isinstance(statement, str):
            plan = run_explain(hot, f"EXPLAIN (FORMAT JSON) {statement.strip().rstrip(';')}", values or (), role)
        else:
            hot.script(f"DEALLOCATE ALL;{statement.definition}", role=role)
            nothing = ", ".join(["NULL"] * statement.text.count("%s"))
            plan = run_explain(hot, f"EXPLAIN (FORMAT JSON) EXECUTE {statement.name}({nothing})", (), role)
            hot.script("DEALLOCATE ALL", role=role)
        hot.rollback()
    return plan


def run_explain(hot: HotConnection, statement: str, values: Params, role: HotRole = "llmteam_app") -> dict[str, Any]:
    found = hot.script(statement, values, role=role)
    assert found is not None
    shown = found[0][0]
    plan: dict[str, Any] = (json.loads(shown) if isinstance(shown, str) else shown)[0]["Plan"]
    return plan


def found_by(scan: dict[str, Any]) -> str:
    """The condition by which an index finds the rows of a scan; empty when none does."""
    nested = (found_by(part) for part in scan.get("Plans", ()) if part["Node Type"].startswith("Bitmap"))
    return str(scan.get("Index Cond", "")) or " and ".join(nested)


def indexes_of(plan: dict[str, Any]) -> Iterator[str]:
    if "Index Name" in plan:
        yield plan["Index Name"]
    for part in plan.get("Plans", ()):
        yield from indexes_of(part)


def scans_of(plan: dict[str, Any], tables: set[str]) -> Iterator[dict[str, Any]]:
    if plan.get("Relation Name") in tables and plan["Node Type"] != "ModifyTable":
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans_of(part, tables)
