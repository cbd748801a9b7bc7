"""`llmteam audit`: what it says, in which form, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from llmteam.audit import AuditDraft, AuditEventType, PostgresAuditStore
from llmteam.crypto import SigningKey
from llmteam.db import Database
from tests.acceptance.command_line import DONE, FAILED, UNREACHABLE, USAGE, CommandLine
from tests.services import PostgresService, url_of

pytestmark = pytest.mark.timeout(120)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
KEY = SigningKey.generate()


@pytest.fixture(scope="module")
def llmteam(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line, with a database of its own: acme's chain holds, globex' and initech's were tampered with."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    url = own.create()
    created, denied = AuditEventType.DATA_CREATED, AuditEventType.ACCESS_DENIED
    with closing(Database(url)) as database:
        store = PostgresAuditStore(database, clock=lambda: NOW)
        for tenant in ("acme", "globex", "initech"):
            store.add(tenant, [AuditDraft(event_type=created, actor_id="ann", new_value={"n": 1}) for _ in range(3)])
        store.add("acme", [AuditDraft(event_type=denied, success=False, error_message="\x1b[31mno", actor_id="bob")])
        old = AuditDraft(event_type=created, timestamp=datetime(2020, 1, 1, tzinfo=UTC))
        for tenant in ("hooli", "umbrella"):
            store.add(tenant, [old] * 3)
        administrator = Database(url_of(postgres.superuser_url, database.url.database or ""))
    with closing(administrator), administrator.login_transaction() as connection:
        for statement in (
            "SET LOCAL session_replication_role = replica",
            "UPDATE llmteam.audit_log SET actor_id = 'mallory' WHERE tenant_id = 'globex' AND sequence_number = 2",
            "DELETE FROM llmteam.audit_log WHERE tenant_id = 'globex' AND sequence_number = 3",
            "UPDATE llmteam.audit_log SET new_value = NULL, metadata = NULL, salt = NULL WHERE tenant_id = 'initech'",
        ):
            connection.execute(text(statement))
    line = CommandLine(tmp_path_factory.mktemp("audit"), LLMTEAM_DATABASE_URL=url, LLMTEAM_BROKER_URL=valkey)
    (line.folder / "key.pem").write_bytes(KEY.to_pem())
    (line.folder / "pub.pem").write_bytes(KEY.verify_key.to_pem())
    (line.folder / "foreign.pem").write_bytes(SigningKey.generate().to_pem())
    yield line
    own.drop_all()


def test_a_chain_that_holds_is_told_in_a_line(llmteam: CommandLine) -> None:
    done = llmteam("audit", "verify", "--tenant", "acme")

    assert (done.returncode, done.stderr) == (DONE, "")
    assert done.stdout == "the audit chain of tenant acme holds: 4 records checked\n"


def test_each_fault_of_a_chain_is_listed_and_the_command_fails(llmteam: CommandLine) -> None:
    done = llmteam("audit", "verify", "--tenant", "globex")
    found = llmteam("audit", "verify", "--tenant", "globex", "--json")

    assert done.returncode == found.returncode == FAILED
    assert "2       altered" in done.stdout
    assert "3       truncated" in done.stdout
    document = json.loads(found.stdout)
    assert (document["valid"], document["missing"], document["faults_total"]) == (False, [3], 2)
    assert [fault["kind"] for fault in document["faults"]] == ["altered", "truncated"]


def test_a_part_of_a_chain_can_be_checked(llmteam: CommandLine) -> None:
    assert llmteam.json("audit", "verify", "--tenant", "globex", "--last", "1")["checked"] == 1


def test_erased_payloads_are_told_of(llmteam: CommandLine) -> None:
    done = llmteam("audit", "verify", "--tenant", "initech")

    assert done.returncode == DONE
    assert "the payloads of 3 records were erased" in done.stderr


def test_a_checkpoint_is_written_and_held_against_the_chain(llmteam: CommandLine) -> None:
    taken = llmteam("audit", "export", "--tenant", "acme", "--signing-key", "key.pem", "--checkpoint", "-o", "cp.json")
    assert (taken.returncode, taken.stderr) == (DONE, "")
    document = json.loads((llmteam.folder / "cp.json").read_text())
    (llmteam.folder / "forged.json").write_text(json.dumps({**document, "checksum": "00"}))
    given = ("audit", "verify", "--tenant", "acme", "--public-key", "pub.pem", "--checkpoint")

    assert llmteam(*given, "cp.json").returncode == DONE
    refused = llmteam(*given, "forged.json")
    assert refused.returncode == FAILED
    assert "not signed with the key" in refused.stderr
    unsigned = llmteam("audit", "verify", "--tenant", "acme", "--checkpoint", "forged.json")
    assert unsigned.returncode == FAILED
    assert "forged" in unsigned.stdout


def test_an_export_is_checked_without_any_server(llmteam: CommandLine) -> None:
    done = llmteam("audit", "export", "--tenant", "acme", "--signing-key", "key.pem")
    assert (done.returncode, done.stderr) == (DONE, "")
    (llmteam.folder / "acme.jsonl").write_text(done.stdout)
    (llmteam.folder / "bad.jsonl").write_text(done.stdout.replace('"actor_id":"bob"', '"actor_id":"eve"'))
    nowhere = {"LLMTEAM_DATABASE_URL": "postgresql://me@127.0.0.1:9/x", "LLMTEAM_BROKER_URL": "redis://127.0.0.1:9"}

    good = llmteam("audit", "verify", "--file", "acme.jsonl", "--public-key", "pub.pem", **nowhere)
    bad = llmteam("audit", "verify", "--file", "bad.jsonl", "--json", **nowhere)

    assert good.returncode == DONE, good.stderr
    assert f"records 1 to 4; signed by {KEY.verify_key.key_id}" in good.stderr
    assert bad.returncode == FAILED
    assert [fault["kind"] for fault in json.loads(bad.stdout)["faults"]] == ["altered"]


def test_a_chain_that_does_not_hold_is_not_exported(llmteam: CommandLine) -> None:
    done = llmteam("audit", "export", "--tenant", "globex")

    assert done.returncode == FAILED
    assert "record 2 is not what was written" in done.stderr


def test_a_report_counts_whole_days_and_steers_no_terminal(llmteam: CommandLine) -> None:
    done = llmteam("audit", "report", "--tenant", "acme", "--from", "2026-01-01", "--to", "2026-01-31")

    assert (done.returncode, done.stderr) == (DONE, "")
    assert "data.created" in done.stdout
    assert "2026-01-31  4" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_report_as_json_has_the_records_on_request(llmteam: CommandLine) -> None:
    period = ("--from", "2026-01-31T00:00:00", "--to", "2026-01-31T12:00:00")
    document = llmteam.json("audit", "report", "--tenant", "acme", *period, "--records")

    assert document["events_by_type"] == {"data.created": 3, "security.access_denied": 1}
    assert (document["security_incidents_total"], len(document["records"])) == (1, 4)
    assert document["chain_valid"] is True


def test_a_report_of_the_last_month_is_the_default(llmteam: CommandLine) -> None:
    document = llmteam.json("audit", "report", "--tenant", "acme")

    start, end = (datetime.fromisoformat(document[name]) for name in ("period_start", "period_end"))
    assert end - start == timedelta(days=30)


def test_what_would_be_removed_is_told_and_stays(llmteam: CommandLine) -> None:
    given = ("--tenant", "umbrella", "--signing-key", "key.pem", "--dry-run")

    would = json.loads(llmteam("audit", "prune", *given, "--json", LLMTEAM_AUDIT_RETENTION_DAYS="90").stdout)

    assert (would["removed"], would["up_to"], would["dry_run"]) == (3, 3, True)
    assert llmteam.json("audit", "verify", "--tenant", "umbrella")["removed"] == 0


def test_old_records_are_removed_behind_a_checkpoint_that_every_command_goes_by(llmteam: CommandLine) -> None:
    llmteam("tenants", "create", "hooli", "--audit-retention-days", "90")
    signed = ("--tenant", "hooli", "--signing-key", "key.pem")

    done = llmteam("audit", "prune", *signed, "--by", "ann")

    assert done.stdout == "3 audit records of tenant hooli are removed: older than 90 days\n", done.stderr
    plain = llmteam("audit", "verify", "--tenant", "hooli")
    assert plain.returncode == DONE
    assert "records up to 3 were removed by retention; signed by" in plain.stderr
    assert "not checked" in plain.stderr
    checked = llmteam("audit", "verify", "--tenant", "hooli", "--public-key", "pub.pem")
    assert (checked.returncode, "not checked" in checked.stderr) == (DONE, False)
    assert llmteam.json("audit", "report", "--tenant", "hooli")["removed_up_to"] == 3


def test_checkpoints_of_removals_are_held_against_the_keys_of_the_settings(llmteam: CommandLine) -> None:
    signed = ("--tenant", "hooli", "--signing-key", "key.pem")
    llmteam("audit", "prune", *signed, LLMTEAM_AUDIT_RETENTION_DAYS="90")

    by_settings = llmteam("audit", "verify", "--tenant", "hooli", LLMTEAM_AUDIT_KEYS="pub.pem")
    foreign = llmteam("audit", "verify", "--tenant", "hooli", LLMTEAM_AUDIT_KEYS="foreign.pem")

    assert (by_settings.returncode, "not checked" in by_settings.stderr) == (DONE, False)
    assert foreign.returncode == FAILED
    assert "3       forged" in foreign.stdout


def test_an_export_behind_a_removal_is_checked_without_any_server(llmteam: CommandLine) -> None:
    llmteam("tenants", "create", "hooli", "--audit-retention-days", "90")
    llmteam("audit", "prune", "--tenant", "hooli", "--signing-key", "key.pem")
    done = llmteam("audit", "export", "--tenant", "hooli", "--signing-key", "key.pem")
    (llmteam.folder / "hooli.jsonl").write_text(done.stdout)
    nowhere = {"LLMTEAM_DATABASE_URL": "postgresql://me@127.0.0.1:9/x", "LLMTEAM_BROKER_URL": "redis://127.0.0.1:9"}

    found = llmteam("audit", "verify", "--file", "hooli.jsonl", "--public-key", "pub.pem", **nowhere)

    assert found.returncode == DONE, found.stderr
    assert "records up to 3 were removed; signed by" in found.stderr


def test_nothing_is_removed_without_days_a_key_or_under_a_hold(llmteam: CommandLine) -> None:
    given = ("audit", "prune", "--tenant", "umbrella")

    unsigned = llmteam(*given)
    for_ever = llmteam(*given, "--signing-key", "key.pem")
    llmteam("tenants", "create", "umbrella", "--legal-hold")
    held = llmteam(*given, "--signing-key", "key.pem", LLMTEAM_AUDIT_RETENTION_DAYS="1")
    erased = llmteam("tenants", "erase", "umbrella", "--yes")
    llmteam("tenants", "update", "umbrella", "--no-legal-hold", "--audit-retention-days", "0")
    never = llmteam(*given, "--signing-key", "key.pem", LLMTEAM_AUDIT_RETENTION_DAYS="1")

    assert unsigned.returncode == USAGE
    assert "LLMTEAM_AUDIT_KEYS" in unsigned.stderr
    assert for_ever.stdout == never.stdout == "audit records of tenant umbrella are kept for ever\n"
    assert held.stdout == "tenant umbrella is under a legal hold: nothing is removed\n"
    assert (erased.returncode, "under a legal hold" in erased.stderr) == (FAILED, True)
    assert llmteam.json("audit", "verify", "--tenant", "umbrella")["removed"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "--checkpoint"),
        ("report", "--from", "2026-02-01", "--to", "2026-01-01"),
        ("verify", "--public-key", "key.pem"),
        ("verify", "--first", "0"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(llmteam: CommandLine, arguments: tuple[str, ...]) -> None:
    assert llmteam("audit", *arguments).returncode == USAGE


def test_a_database_that_is_away_is_told_apart_from_a_chain_that_does_not_hold(llmteam: CommandLine) -> None:
    done = llmteam("audit", "verify", LLMTEAM_DATABASE_URL="postgresql://me:hunter2@127.0.0.1:9/x")

    assert done.returncode == UNREACHABLE
    assert "cannot be reached" in done.stderr
    assert "hunter2" not in done.stderr
