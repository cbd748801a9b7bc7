"""`llmteam keys`: what it says, what it changes, and how it ends; and the key that an embedded home makes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from llmteam.audit import AuditQuery, PostgresAuditStore
from llmteam.crypto import MasterKeys
from llmteam.db import Database
from llmteam.keys import PostgresKeyStore, TenantKeys
from tests.acceptance.command_line import DONE, USAGE, CommandLine

pytestmark = pytest.mark.timeout(120)

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)
PLACE = ("context", ("run", "agent", "card"))


def setting(*keys: tuple[str, bytes]) -> str:
    return ",".join(f"{key_id}:{base64.b64encode(raw).decode()}" for key_id, raw in keys)


@pytest.fixture
def line(database_url: str, clean_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    return CommandLine(
        tmp_path_factory.mktemp("keys"),
        LLMTEAM_DATABASE_URL=database_url,
        LLMTEAM_BROKER_URL=clean_valkey,
        LLMTEAM_ENCRYPTION_KEYS=setting(NEW, OLD),
    )


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url)) as database:
        yield database


def keys_with(database: Database, *masters: tuple[str, bytes]) -> TenantKeys:
    return TenantKeys(PostgresKeyStore(database), MasterKeys(masters))


def test_a_master_key_is_changed_without_touching_what_was_sealed(line: CommandLine, database: Database) -> None:
    sealed = {name: keys_with(database, OLD).vault(name).seal(*PLACE, b"4111") for name in ("acme", "globex")}
    assert line.json("keys", "list") == [{"master_id": "old", "data_keys": 2, "configured": True}]

    done = line("keys", "rewrap")

    assert (done.returncode, done.stderr) == (DONE, "2 data keys were wrapped anew\n")
    assert line.json("keys", "rewrap") == {"rewrapped": 0}
    assert line.json("keys", "list") == [{"master_id": "new", "data_keys": 2, "configured": True}]
    for name, value in sealed.items():
        assert keys_with(database, NEW).vault(name).open(*PLACE, value) == b"4111"


def test_a_missing_master_key_is_told_and_the_way_out_too(line: CommandLine, database: Database) -> None:
    keys_with(database, OLD).current("acme")

    done = line("keys", "list", LLMTEAM_ENCRYPTION_KEYS=setting(NEW))
    failed = line("keys", "rewrap", LLMTEAM_ENCRYPTION_KEYS=setting(NEW))

    assert "MISSING" in done.stdout
    assert failed.returncode == USAGE
    assert "'old' is not in LLMTEAM_ENCRYPTION_KEYS" in failed.stderr


def test_a_tenant_gets_a_fresh_data_key(line: CommandLine, database: Database) -> None:
    keys = keys_with(database, NEW)
    before = keys.vault("acme").seal(*PLACE, b"4111")
    keys.destroy("globex")

    renewed = [line.json("keys", "renew", name)["key_id"] for name in ("acme", "globex")]

    fresh = keys_with(database, NEW)
    assert [fresh.current(name).key_id for name in ("acme", "globex")] == renewed
    assert fresh.vault("acme").open(*PLACE, before) == b"4111"
    (told,) = PostgresAuditStore(database).select(AuditQuery(tenant_id="acme"))
    assert (told.event_type.name, told.action, told.resource_id) == ("CONFIG_CHANGED", "renew", renewed[0])
    assert line("keys", "renew", "no such tenant!").returncode != DONE


def test_without_keys_nothing_is_listed_and_renewing_says_what_to_set(line: CommandLine) -> None:
    assert line("keys", "list").stderr == "no data key was made yet\n"

    done = line("keys", "renew", "acme", LLMTEAM_ENCRYPTION_KEYS="")

    assert done.returncode == USAGE
    assert "openssl rand -base64 32" in done.stderr


def test_no_command_shows_a_key(line: CommandLine, database: Database) -> None:
    keys_with(database, OLD).current("acme")
    shown = [line("keys", "list"), line("keys", "rewrap"), line("keys", "renew", "acme"), line("doctor", "--json")]

    for done in shown:
        for _, raw in (OLD, NEW):
            assert base64.b64encode(raw).decode() not in done.stdout + done.stderr
    assert "the master key new encrypts; old still decrypt" in shown[-1].stdout


def test_the_doctor_tells_of_a_master_key_that_is_needed_and_not_set(line: CommandLine, database: Database) -> None:
    keys_with(database, OLD).current("acme")

    found = [line("doctor", "--json", LLMTEAM_ENCRYPTION_KEYS=setting(*keys)) for keys in ((NEW, OLD), (NEW,))]

    checks = [
        {check["name"]: check["outcome"] for check in json.loads(done.stdout)["checks"]}["data keys"] for done in found
    ]
    assert checks == ["ok", "failed"]
