"""The watch names each row that breaks a rule once, and takes a server that is away for no finding."""

from __future__ import annotations

from datetime import timedelta

from chaos.watch import Watch, watching
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.postgres.checks import PostgresChecks
from llmteam.db import Database
from llmteam.events.postgres import PostgresEventStore
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw


def test_rows_that_break_a_rule_are_named_once_until_the_block_ends(database: Database, database_url: str) -> None:
    desk = Desk(PostgresRunStore(database), PostgresEventStore(database))
    run_id = desk.start(draw("a -> b"))

    with watching(database_url, lease=4.0) as watch, database.hot(TENANT) as session:
        session.script("UPDATE llmteam.run_steps SET owner = NULL WHERE step_id = 'b'")

    assert list(watch.broken) == [f"{run_id}: step-has-owner, step b#1"]
    assert watch.looks >= 1


def test_rows_that_keep_the_rules_are_no_finding(database: Database, database_url: str) -> None:
    desk = Desk(PostgresRunStore(database), PostgresEventStore(database))
    desk.do(desk.start(draw("a -> b")), "a", "b")

    with watching(database_url, lease=4.0) as watch:
        pass

    assert (watch.looks, list(watch.broken)) == (1, [])


def test_a_server_that_is_away_is_no_finding(database_url: str) -> None:
    nowhere = Database(database_url.partition("?")[0] + "?host=/nowhere")
    watch = Watch()

    watch.look(PostgresChecks(nowhere, lease=timedelta(seconds=4), retry=timedelta(seconds=4)))

    assert (watch.looks, list(watch.broken)) == (0, [])
    nowhere.close()
