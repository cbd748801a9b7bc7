"""Audit records in Postgres: written with the change they tell of, one after the other, and never changed again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from llmteam.audit import AuditDraft, AuditEventType, AuditRecord, PostgresAuditStore
from llmteam.audit.postgres import CONDITION, append_in, append_with, write_in
from llmteam.db import ConstraintError, Database, StatementError
from llmteam.db.hot import Script
from llmteam.ids import utc_now
from tests.services import owner_transaction

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def drafts(*resources: str, key: str | None = None) -> list[AuditDraft]:
    return [
        AuditDraft(event_type=AuditEventType.PIPELINE_STARTED, resource_id=one, metadata={"n": 1}, idempotency_key=key)
        for one in resources
    ]


def append(database: Database, tenant: str, given: Sequence[AuditDraft]) -> list[AuditRecord]:
    with database.hot(tenant) as hot:
        hot.script("SELECT 1", begin=True)
        records = append_in(hot, tenant, given, now=NOW)
        hot.script("COMMIT")
    return records


def test_records_follow_each_other_over_transactions_and_tenants_apart(database: Database) -> None:
    first = append(database, "acme", drafts("a", "b"))
    other = append(database, "globex", drafts("x"))
    second = append(database, "acme", drafts("c"))

    assert [record.sequence_number for record in (*first, *second)] == [1, 2, 3]
    assert first[0].previous_checksum == other[0].previous_checksum == ""
    assert second[0].previous_checksum == first[1].checksum
    assert all(record.verify_integrity() and record.timestamp == NOW for record in (*first, *other, *second))


def test_an_append_takes_two_round_trips_however_many_records(database: Database) -> None:
    append(database, "acme", drafts("warm", key="warm"))
    with database.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
        before = database.round_trips

        append_in(hot, "acme", [*drafts("a", "b", "c"), *drafts("d", key="d")], now=NOW)

        assert database.round_trips - before == 2


def test_what_is_rolled_back_leaves_no_gap(database: Database) -> None:
    with database.hot("acme") as hot:
        hot.script("SELECT 1", begin=True)
        append_in(hot, "acme", drafts("lost"), now=NOW)
        hot.rollback()

    (record,) = append(database, "acme", drafts("kept"))

    assert (record.sequence_number, record.previous_checksum) == (1, "")


def test_a_known_key_gives_the_record_that_is_there(database: Database) -> None:
    (first,) = append(database, "acme", drafts("a", key="k"))

    again, fresh = append(database, "acme", [*drafts("changed", key="k"), *drafts("b", key="l")])
    twice = append(database, "acme", drafts("c", "d", key="m"))
    (foreign,) = append(database, "globex", drafts("a", key="k"))

    assert again == first
    assert (fresh.sequence_number, fresh.resource_id) == (2, "b")
    assert twice[0] == twice[1]
    assert foreign.sequence_number == 1


def test_a_key_that_comes_twice_at_once_is_recorded_once(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: append(database, "acme", drafts("a", key="k"))[0], range(24)))

    assert len({record.record_id for record in made}) == 1


def test_appends_of_one_tenant_take_turns_from_the_first_on(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: append(database, "acme", drafts(str(n)))[0], range(40)))

    made.sort(key=lambda record: record.sequence_number)
    assert [record.sequence_number for record in made] == list(range(1, 41))
    for before, record in pairwise(made):
        assert record.previous_checksum == before.checksum


def test_nothing_is_not_recorded(database: Database) -> None:
    with database.hot("acme") as hot:
        assert append_in(hot, "acme", [], now=utc_now()) == []


@pytest.mark.parametrize("statement", ["UPDATE {} SET checksum = ''", "DELETE FROM {}", "TRUNCATE {}"])
def test_records_are_neither_changed_nor_deleted_by_tenants_sweeps_or_the_owner(
    database: Database, statement: str
) -> None:
    append(database, "acme", drafts("a"))
    sql = statement.format("llmteam.audit_log")

    with database.hot("acme") as hot, pytest.raises(StatementError, match="permission denied"):
        hot.script(sql)
    with database.hot(None) as hot:
        if statement.startswith("DELETE"):
            assert not hot.script(f"{sql} RETURNING 1", role="llmteam_sweeper"), "not without a checkpoint"
        else:
            with pytest.raises(StatementError, match="permission denied"):
                hot.script(sql, role="llmteam_sweeper")
    with pytest.raises(StatementError, match="only ever added"), owner_transaction(database) as connection:
        connection.exec_driver_sql(sql)


def test_the_end_of_a_chain_only_moves_on(database: Database) -> None:
    append(database, "acme", drafts("a", "b"))

    for statement, said in (
        ("UPDATE llmteam.audit_heads SET sequence_number = 1", "only moves on"),
        ("UPDATE llmteam.audit_heads SET tenant_id = 'globex'", "permission denied"),
        ("DELETE FROM llmteam.audit_heads", "permission denied"),
        ("TRUNCATE llmteam.audit_heads", "permission denied"),
    ):
        with database.hot("acme") as hot, pytest.raises(StatementError, match=said):
            hot.script(statement)
    for statement in ("DELETE FROM llmteam.audit_heads", "TRUNCATE llmteam.audit_heads"):
        with pytest.raises(StatementError, match="only ever added"), owner_transaction(database) as connection:
            connection.exec_driver_sql(statement)


def test_a_number_is_given_once_whoever_writes_the_row(database: Database) -> None:
    append(database, "acme", drafts("a"))
    insert = (
        "INSERT INTO llmteam.audit_log (tenant_id, sequence_number, record_id, timestamp, event_type, severity, "
        "checksum, previous_checksum, hash_version) VALUES ('acme', 1, 'r', now(), 'data.created', 'info', '', '', 1)"
    )

    with database.hot("acme") as hot, pytest.raises(ConstraintError, match="audit_log_pkey"):
        hot.script(insert)


def test_a_record_that_the_database_links_is_the_one_that_would_be_linked_here(database: Database) -> None:
    append(database, "acme", drafts("first"))
    text = AuditDraft(
        event_type=AuditEventType.DATA_UPDATED,
        actor_id="Zoë 'x' \\ %s $1 \N{SNOWMAN}",
        new_value={"a": [1, {"%": None}]},
    )
    script = Script()

    write_in(script, "acme", [*drafts("a"), text, *drafts("b")], now=NOW)
    with database.hot("acme") as hot:
        script.run(hot)
    with database.tenant_transaction("globex") as connection:
        append_with(connection, "globex", [text], now=NOW)

    found = PostgresAuditStore(database)
    assert [getattr(one, "resource_id", "") for one in found.links("acme", 1, 9)] == ["first", "a", "", "b"]
    assert found.check("acme").valid
    assert found.check("globex").checked == 1
    assert found.check("globex").valid


def test_appending_with_a_script_costs_no_round_trip_of_its_own(database: Database) -> None:
    script = Script()
    write_in(script, "acme", drafts("a", "b"), now=NOW)
    with database.hot("acme") as hot:
        script.run(hot)
    again = Script()
    write_in(again, "acme", drafts("c"), now=NOW)
    before = database.round_trips

    with database.hot("acme") as hot:
        again.run(hot)

    assert database.round_trips - before == 1


def test_whoever_links_a_record_all_of_them_make_one_chain(database: Database) -> None:
    def by_script(name: str) -> None:
        script = Script()
        write_in(script, "acme", drafts(name, f"{name}-again"), now=NOW)
        with database.hot("acme") as hot:
            script.run(hot)

    def by_connection(name: str) -> None:
        with database.tenant_transaction("acme") as connection:
            append_with(connection, "acme", drafts(name), now=NOW)

    def by_hand(name: str) -> None:
        append(database, "acme", drafts(name, key=name))

    with ThreadPoolExecutor(6) as pool:
        ways = [by_script, by_connection, by_hand] * 20
        list(pool.map(lambda way, number: way(f"r{number}"), ways, range(len(ways))))

    found = PostgresAuditStore(database).check("acme")
    assert (found.valid, found.checked) == (True, 80)


def test_a_conditional_record_is_written_only_on_yes(database: Database) -> None:
    for answer in ("no", "yes", ""):
        script = Script().add(f"SELECT set_config('{CONDITION}', %s, true);", answer)
        write_in(script, "acme", drafts(answer or "none"), now=NOW, conditional=True)
        with database.hot("acme") as hot:
            script.run(hot)

    store = PostgresAuditStore(database)
    assert [getattr(one, "resource_id", "") for one in store.links("acme", 1, 9)] == ["yes"]
    assert store.check("acme").valid
