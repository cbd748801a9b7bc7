"""`llmteam tenants`: what it says, in which form, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from llmteam.canvas.fleet import connect
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.runs import Start
from llmteam.settings import Settings
from tests.acceptance.command_line import DONE, FAILED, USAGE, CommandLine
from tests.services import PostgresService, redis_client

SEGMENT = SegmentDefinition.from_dict(
    {
        "segment_id": "one",
        "name": "One",
        "steps": [{"step_id": "a", "step_type": "transform", "config": {"expression": "1"}}],
    }
)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def llmteam(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    yield CommandLine(tmp_path_factory.mktemp("tenants"), LLMTEAM_DATABASE_URL=own.create(), LLMTEAM_BROKER_URL=valkey)
    own.drop_all()


def start(llmteam: CommandLine, tenant_id: str, **env: str) -> str:
    """A run that nobody works on."""
    runs = connect(Settings.load({**llmteam.env, **env}))
    try:
        return runs.start(Start(tenant_id, SEGMENT, 1))
    finally:
        runs.close()


def test_a_tenant_is_created_changed_shown_and_listed(llmteam: CommandLine) -> None:
    made = llmteam.json("tenants", "create", "acme", "--name", "Acme", "--tier", "professional", "--by", "ann")
    changed = llmteam.json("tenants", "update", "acme", "--max-runs-per-day", "7", "--enable", "beta")

    assert (made["tier"], made["version"], made["limits"]["max_concurrent_pipelines"]) == ("professional", 1, 10)
    assert (changed["limits"]["max_runs_per_day"], changed["version"], changed["name"]) == (7, 2, "Acme")
    assert "beta" in changed["limits"]["features"]
    shown = llmteam.json("tenants", "show", "acme")
    assert shown.pop("stored_bytes") > 0, "its audit trail"
    assert shown == changed
    assert "professional" in llmteam("tenants", "list").stdout
    assert [one["tenant_id"] for one in llmteam.json("tenants", "list")] == ["acme"]
    again = llmteam("tenants", "create", "acme")
    assert (again.returncode, "There is a tenant 'acme' already" in again.stderr) == (FAILED, True)
    report = llmteam.json("audit", "report", "--tenant", "acme")
    assert report["events_by_type"] == {"config.tenant_created": 1, "config.tenant_updated": 1}
    assert "ann" in report["events_by_actor"]


def test_wrong_words_are_refused(llmteam: CommandLine) -> None:
    assert llmteam("tenants", "create", "no id").returncode == USAGE
    assert llmteam("tenants", "create", "x", "--tier", "gold").returncode == USAGE
    assert llmteam("tenants", "show", "ghost").returncode == FAILED


def test_a_deactivated_tenant_starts_nothing_and_its_runs_are_cancelled_if_asked(llmteam: CommandLine) -> None:
    llmteam("tenants", "create", "idle", "--tier", "enterprise")
    run_id = start(llmteam, "idle")

    done = llmteam.json("tenants", "deactivate", "idle", "--runs", "cancel")

    assert done == {"tenant_id": "idle", "is_active": False, "runs": "cancel", "stopped": 1}
    assert llmteam.json("runs", "show", run_id, "--tenant", "idle")["status"] == "cancelled"
    refused = llmteam("run", llmteam.hello(), "--tenant", "idle")
    assert refused.returncode == FAILED
    assert "Tenant 'idle' is deactivated" in refused.stderr
    assert "idle" not in llmteam("tenants", "list").stdout
    assert "idle" in llmteam("tenants", "list", "--all").stdout


def test_a_tenant_without_a_record_has_the_limits_of_the_default_tier(llmteam: CommandLine) -> None:
    start(llmteam, "stranger", LLMTEAM_DEFAULT_TIER="free")

    refused = llmteam("run", llmteam.hello(), "--tenant", "stranger", LLMTEAM_DEFAULT_TIER="free")

    assert refused.returncode == FAILED
    assert "concurrent_pipelines: 1 of 1" in refused.stderr


def test_a_queued_run_is_explained(llmteam: CommandLine) -> None:
    llmteam("tenants", "create", "busy", "--tier", "free", "--when-full", "queue")
    start(llmteam, "busy")
    waiting = start(llmteam, "busy")

    told = llmteam("explain", waiting, "--tenant", "busy").stdout

    assert "Queued since" in told
    assert "tenant busy has as many open runs as it may" in told
    assert "Begins when its run does." in told


def test_what_a_tenant_owns_is_exported_then_erased(llmteam: CommandLine, valkey: str) -> None:
    llmteam("tenants", "create", "gone", "--tier", "enterprise")
    start(llmteam, "gone")
    with redis_client(valkey) as client:
        client.set("llmteam:values:gone:key", "1")
        client.set("llmteam:values:kept:key", "1")
        client.set("llmteam:snapshots:{gone}:run:r", "1")

    exported = llmteam("tenants", "export", "gone")
    asked = llmteam("tenants", "erase", "gone")
    erased = llmteam.json("tenants", "erase", "gone", "--yes")

    tables = {json.loads(line)["table"] for line in exported.stdout.splitlines()}
    assert tables >= {"tenants", "runs", "run_steps", "events", "definitions", "audit_log"}
    assert asked.returncode != DONE, "nobody said yes"
    assert erased["erased"]["runs cancelled"] == erased["erased"]["runs"] == erased["erased"]["values"] == 1
    with redis_client(valkey) as client:
        assert (client.exists("llmteam:values:gone:key"), client.exists("llmteam:values:kept:key")) == (0, 1)
        assert not client.exists("llmteam:snapshots:{gone}:run:r")
    checked = llmteam("audit", "verify", "--tenant", "gone")
    assert checked.returncode == DONE
    assert "holds" in checked.stdout
    assert llmteam("tenants", "show", "gone").returncode == FAILED
    assert llmteam("run", llmteam.hello(), "--tenant", "gone").returncode == FAILED
