"""`llmteam explain --check` finds each kind of broken row among runs of two tenants, and nothing among sound ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmteam.canvas.execution import MAX_RETRY_AFTER
from llmteam.canvas.graph import Graph
from llmteam.canvas.handlers.human_task import ask_person
from llmteam.canvas.pauses import begin_pause
from llmteam.canvas.postgres import PostgresRunStore, checks
from llmteam.canvas.postgres.checks import RULES, Broken, Findings, PostgresChecks
from llmteam.canvas.postgres.sweeps import PostgresSweeps
from llmteam.canvas.recovery import Recovery
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.surgery import Surgery
from llmteam.db import Database
from llmteam.events import EventQuery
from llmteam.events.postgres import PostgresEventStore
from llmteam.human import InteractionResponse
from llmteam.human.rules import Answer, respond
from llmteam.ids import new_id
from llmteam.wakeup import MemoryWakeup
from tests.conformance.desk import TENANT, Desk, new_run
from tests.contracts.test_run_stores_agree import Mover
from tests.drawing import draw
from tests.services import PostgresService, url_of
from tests.unit.canvas.random_graphs import Answers, graphs, orders

ROW = draw("a -> b -> c")
WIDE = draw("s -> split_1", *(f"split_1 -> b{number} -> all_1" for number in range(4)), "all_1 -> end")
ASKS = draw("human_1.approved -> b")
LOOP = draw("a -> if_1", "if_1.true -> a", "if_1.false -> z")


@pytest.fixture(scope="module")
def full(postgres: PostgresService) -> Iterator[Database]:
    """Runs of every kind, named after how far they are."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    database = Database(own.create())
    desk = Desk(PostgresRunStore(database), PostgresEventStore(database))
    fill(desk)
    yield database
    database.close()
    own.drop_all()


def fill(desk: Desk) -> None:
    desk.start(ROW, run_id="started", timeout_seconds=600.0)
    desk.start(ROW, run_id="running")
    desk.claim("running", "a")
    desk.start(ROW, run_id="retrying", max_retries=3, retry_delay=60.0)
    desk.engine.failed(desk.claim("retrying", "a"), ValueError("broken"))
    desk.start(ROW, run_id="failed")
    desk.engine.failed(desk.claim("failed", "a"), ValueError("broken"))
    desk.start(ROW, run_id="completed", timeout_seconds=600.0)
    desk.do("completed", "a", "b", "c")
    desk.start(WIDE, run_id="wide")
    desk.do("wide", "s", "split_1", "b0")
    desk.claim("wide", "b1")
    desk.start(WIDE, run_id="cancelled")
    desk.do("cancelled", "s", "split_1", "b0")
    desk.engine.end(TENANT, "cancelled", SegmentStatus.CANCELLED)
    desk.start(LOOP, run_id="looping")
    desk.do("looping", "a", answer=True)
    desk.do("looping", "if_1", answer={"true": 1})
    assert desk.engine.submit(replace(new_run(ROW, "started"), tenant_id="globex"))
    fill_recovered(desk)
    fill_asking(desk)


def fill_recovered(desk: Desk) -> None:
    surgery, recovery = Surgery(desk.engine, MemoryWakeup()), Recovery(desk.engine)
    desk.start(WIDE, run_id="pausing", timeout_seconds=600.0)
    desk.do("pausing", "s", "split_1")
    desk.claim("pausing", "b1")
    header = desk.store.header(TENANT, "pausing")
    assert header is not None
    until = desk.engine.clock() + timedelta(seconds=30)
    desk.store.apply(header, [], lambda moment: begin_pause(moment, until), {}, now=desk.engine.clock())
    for run_id in ("paused", "resumed", "given-up"):
        desk.start(WIDE, run_id=run_id, timeout_seconds=600.0, max_retries=3, retry_delay=60.0)
        desk.do(run_id, "s", "split_1")
        desk.claim(run_id, "b0")
        desk.engine.failed(desk.claim(run_id, "b1"), ValueError("broken"))
        assert surgery.pause(TENANT, run_id, grace=0.0) is not None
    surgery.resume(TENANT, "resumed")
    desk.engine.end(TENANT, "given-up", SegmentStatus.CANCELLED)
    desk.start(ROW, run_id="lost")
    for _ in range(2):
        assert recovery.lose(TENANT, "lost", ("a", 1), desk.claim("lost", "a").fence)
    desk.start(ROW, run_id="poisoned")
    for _ in range(5):
        assert recovery.lose(TENANT, "poisoned", ("a", 1), desk.claim("poisoned", "a").fence)
    desk.start(ROW, run_id="handed-back")
    assert recovery.hand_back(desk.claim("handed-back", "a"))
    desk.start(ROW, run_id="to-be-retried")
    desk.do("to-be-retried", "a")
    desk.engine.failed(desk.claim("to-be-retried", "b"), ValueError("broken"))
    surgery.retry(TENANT, "to-be-retried", new_run_id="retried")
    surgery.fork(TENANT, "completed", "b", new_run_id="forked")


def fill_asking(desk: Desk) -> None:
    for run_id in ("asking", "answered", "asked-and-paused"):
        desk.start(ASKS, run_id=run_id, timeout_seconds=600.0)
        execution = desk.claim(run_id, "human_1")
        desk.engine.answered(execution, ask_person(execution.ctx, execution.config, execution.input))
    case = desk.store.interactions.case_of_step(TENANT, "answered", "human_1", 1)
    assert case is not None
    answer = Answer(InteractionResponse(request_id=case.request.request_id, responder_id="ann", approved=True))
    now = desk.engine.clock()
    desk.store.interactions.apply(TENANT, case.request.request_id, lambda found: respond(found, answer, now))
    assert Surgery(desk.engine, MemoryWakeup()).pause(TENANT, "asked-and-paused", grace=0.0) is not None


def look(database: Database, page_runs: int = checks.PAGE_RUNS) -> Findings:
    return PostgresChecks(database, lease=timedelta(seconds=30), retry=MAX_RETRY_AFTER).check(page_runs)


@pytest.fixture
def broken(full: Database, postgres: PostgresService) -> Iterator[psycopg2.extensions.cursor]:
    """A superuser's cursor; what it does is put back afterwards."""
    url = url_of(postgres.superuser_url, full.url.database or "").replace("+psycopg2", "")
    tables = ("runs", "run_steps", "events", "interactions")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        for table in tables:
            cursor.execute(f"CREATE TEMP TABLE kept_{table} AS SELECT * FROM llmteam.{table}")
        yield cursor
        for table in tables:
            cursor.execute(f"TRUNCATE llmteam.{table}; INSERT INTO llmteam.{table} SELECT * FROM kept_{table}")


STEP = "UPDATE llmteam.run_steps SET {} WHERE tenant_id = 'acme' AND run_id = '{}' AND step_id = '{}'"
RUN = "UPDATE llmteam.runs SET {} WHERE tenant_id = 'acme' AND run_id = '{}'"
#: What is done to the rows, and where the rule that it breaks finds it.
DAMAGES = [
    ("step-has-owner", [STEP.format("owner = NULL", "started", "a")], "started", "a"),
    ("step-has-owner", [STEP.format("owner = NULL", "started", "c")], "started", "c"),
    ("step-has-wake-up", [STEP.format("wake_at = NULL", "started", "a")], "started", "a"),
    ("step-has-wake-up", [STEP.format("wake_at = NULL", "retrying", "a")], "retrying", "a"),
    ("step-has-wake-up", [STEP.format("wake_at = NULL", "running", "a")], "running", "a"),
    ("owner-fits-state", [STEP.format("owner = 'queue'", "started", "b")], "started", "b"),
    ("owner-fits-state", [STEP.format("owner = 'lease'", "started", "a")], "started", "a"),
    ("owner-fits-state", [STEP.format("owner = 'queue'", "running", "a")], "running", "a"),
    ("owner-fits-state", [STEP.format("owner = 'pause', wake_at = NULL", "started", "a")], "started", "a"),
    ("owner-fits-state", [STEP.format("state = 'waiting'", "started", "a")], "started", "a"),
    ("owner-fits-state", [STEP.format("owner = 'queue'", "paused", "b3")], "paused", "b3"),
    ("pause-freezes", [STEP.format("wake_at = now()", "paused", "b3")], "paused", "b3"),
    ("pause-is-drained", [STEP.format("state = 'running', owner = 'lease', holder = 'x', lease_until = now()", "paused",
                                      "b3"), RUN.format("running = 1", "paused")], "paused", None),
    ("pause-is-known", [RUN.format("snapshot_id = NULL", "paused")], "paused", None),
    ("pause-is-known", [RUN.format("wake_at = deadline", "paused")], "paused", None),
    ("pause-is-known", [RUN.format("wake_at = NULL", "pausing")], "pausing", None),
    ("pause-is-known", [RUN.format("paused_at = NULL", "pausing")], "pausing", None),
    ("lease-is-held", [STEP.format("holder = NULL", "running", "a")], "running", "a"),
    ("lease-is-held", [STEP.format("lease_until = NULL", "running", "a")], "running", "a"),
    ("lease-is-of-running", [STEP.format("holder = 'x'", "started", "a")], "started", "a"),
    ("lease-in-reach", [STEP.format("lease_until = now() + interval '2 minutes'", "running", "a")], "running", "a"),
    ("wake-up-in-reach", [STEP.format("wake_at = now() + interval '2 minutes'", "running", "a")], "running", "a"),
    ("wake-up-in-reach", [STEP.format("wake_at = now() + interval '7 minutes'", "started", "a")], "started", "a"),
    ("wake-up-in-reach", [STEP.format("wake_at = now() + interval '2 days'", "retrying", "a")], "retrying", "a"),
    ("join-is-not-stuck", [STEP.format("undecided = 0", "wide", "all_1")], "wide", "all_1"),
    ("step-lets-go", [STEP.format("owner = 'queue'", "completed", "a")], "completed", "a"),
    ("step-lets-go", [STEP.format("wake_at = now()", "wide", "s")], "wide", "s"),
    ("step-lets-go", [STEP.format("lease_until = now()", "cancelled", "b1")], "cancelled", "b1"),
    ("run-ends-whole", [STEP.format("state = 'pending', owner = 'inputs'", "cancelled", "end")], "cancelled", "end"),
    ("run-lets-go", [RUN.format("wake_at = now()", "completed")], "completed", None),
    ("counters-agree", [RUN.format("open = open + 1", "started")], "started", None),
    ("counters-agree", [RUN.format("running = running - 1", "running")], "running", None),
    ("counters-agree", [RUN.format("completed = 2", "completed")], "completed", None),
    ("counters-agree", [RUN.format("failed = 0", "failed")], "failed", None),
    ("counters-agree", [RUN.format("terminals = 0", "completed")], "completed", None),
    ("counters-agree", ["DELETE FROM llmteam.run_steps WHERE run_id = 'completed'"], "completed", None),
    ("run-moves", [STEP.format("state = 'pending', owner = 'inputs', wake_at = NULL, undecided = 1", "started", "a")],
     "started", None),
    ("deadline-wakes", [RUN.format("wake_at = NULL", "started")], "started", None),
    ("deadline-wakes", [RUN.format("wake_at = deadline + interval '1 hour'", "started")], "started", None),
    ("events-are-whole", ["DELETE FROM llmteam.events WHERE run_id = 'completed' AND seq = 2"], "completed", None),
    ("events-are-whole", [RUN.format("next_seq = next_seq + 1", "wide")], "wide", None),
    ("person-was-asked", ["DELETE FROM llmteam.interactions WHERE run_id = 'asking'"], "asking", "human_1"),
    ("person-was-asked", ["DELETE FROM llmteam.interactions WHERE run_id = 'asked-and-paused'"], "asked-and-paused",
     "human_1"),
    ("answer-moves", [STEP.format("wake_at = now() + interval '1 day'", "answered", "human_1")], "answered", "human_1"),
    ("request-is-awaited", [STEP.format("state = 'ready', owner = 'queue', wake_at = now()", "asking", "human_1")],
     "asking", "human_1"),
]  # fmt: skip
#: What breaks another rule cannot but break these too.
FOLLOWS = {"run-ends-whole": {"counters-agree"}, "owner-fits-state": {"step-has-wake-up"}}


def test_sound_runs_of_every_kind_break_no_rule(full: Database) -> None:
    found = look(full)

    assert (found.rows, found.counts) == ([], {})
    assert (found.runs, found.steps) == (22, 39 + 4 * 8 + 6 * 3 + 3 * 2)


@pytest.mark.parametrize(("rule", "damage", "run_id", "step_id"), DAMAGES)
def test_a_broken_row_is_found_by_its_rule(
    full: Database, broken: psycopg2.extensions.cursor, rule: str, damage: list[str], run_id: str, step_id: str | None
) -> None:
    for statement in damage:
        broken.execute(statement)
        assert broken.rowcount > 0

    found = look(full)

    assert Broken(TENANT, run_id, step_id, 1 if step_id else None, rule) in found.rows
    assert set(found.counts) - FOLLOWS.get(rule, set()) == {rule}
    assert found.counts == {name: sum(row.rule == name for row in found.rows) for name in found.counts}


def test_a_lease_that_a_sweep_has_just_taken_away_is_sound(full: Database, broken: psycopg2.extensions.cursor) -> None:
    broken.execute(STEP.format("wake_at = now()", "running", "a") + " AND lease_until > now()")
    broken.execute("UPDATE llmteam.run_steps SET lease_until = now() WHERE run_id = 'running' AND step_id = 'a'")

    taken = PostgresSweeps(full).take_expired(10)

    assert [(one.run_id, one.lost) for one in taken] == [("running", True)]
    assert look(full).rows == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(graphs(), st.integers(0, 2**16), orders(), st.sampled_from((0.0, 0.2)), st.integers(0, 1), st.integers(0, 25))
def test_no_state_that_a_run_can_be_in_breaks_a_rule(
    database: Database,
    drawn: Graph,
    seed: int,
    choose: Callable[[int], int],
    rate: float,
    retries: int,
    moves: int,
) -> None:
    run = Mover(PostgresRunStore(database), PostgresEventStore(database), drawn, new_run(drawn.definition, new_id()))
    answers = Answers(drawn, seed, rate)

    while moves and (due := run.due()):
        run.move(*due[choose(len(due))], answers, retries)
        moves -= 1

    found = look(database)
    assert (found.rows, found.counts) == ([], {})
    assert found.runs > 0


def test_every_rule_is_broken_by_some_damage() -> None:
    assert {rule for rule, *_ in DAMAGES} == {rule.name for rule in RULES}


def test_what_is_found_does_not_hang_on_where_pages_end(full: Database, broken: psycopg2.extensions.cursor) -> None:
    broken.execute("UPDATE llmteam.run_steps SET owner = NULL WHERE owner = 'inputs'")

    pages = [look(full, page_runs) for page_runs in (1, 2, 5, 100)]

    assert all(page == pages[-1] for page in pages)
    assert {row.tenant_id for row in pages[0].rows} == {"acme", "globex"}
    assert pages[0].counts == {"step-has-owner": len(pages[0].rows)}


def test_rows_beyond_the_first_hundred_are_counted(full: Database, broken: psycopg2.extensions.cursor) -> None:
    broken.execute(
        "INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, visit, state, queue, owner, undecided) "
        "SELECT 'acme', 'started', 'more' || n, 1, 'pending', 'q', NULL, 1 FROM generate_series(1, 250) n"
    )

    found = look(full)

    assert len(found.rows) == checks.NAMED
    assert found.counts == {"step-has-owner": 250, "counters-agree": 1}


def test_looking_needs_no_right_that_the_sweeper_lacks_and_leaves_everything_as_it_is(full: Database) -> None:
    events = PostgresEventStore(full)
    before = (PostgresRunStore(full).steps(TENANT, "wide"), len(events.select(EventQuery(tenant_id=TENANT))))

    look(full)

    assert (PostgresRunStore(full).steps(TENANT, "wide"), len(events.select(EventQuery(tenant_id=TENANT)))) == before
