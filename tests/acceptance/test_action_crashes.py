"""Workers that are killed around an action: what was done is not done again, and what is in doubt is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmteam.actions import PostgresAttemptStore
from llmteam.audit import PostgresAuditStore
from llmteam.canvas import SegmentDefinition, StepDefinition
from llmteam.ids import new_id
from tests.acceptance.place import TENANT, Place, place, told
from tests.acting import NOTE
from tests.services import PostgresService, redis_client

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def here(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    imports = "tests.failpoints,tests.mishaps,tests.acting"
    with (
        place(tmp_path_factory.mktemp("actions"), own.create(), valkey, LLMTEAM_IMPORTS=imports) as here,
        here.line.started("worker", "--pool", "prefork", "--concurrency", "2") as worker,
    ):
        worker.wait_for("ready: llmteam.default", timeout=60)
        yield here
    own.drop_all()


def segment(path: Path, run_id: str) -> SegmentDefinition:
    config = {"action": NOTE, "payload": {"path": str(path), "run_id": run_id}}
    step = StepDefinition(step_id="act", step_type="action", config=config)
    return SegmentDefinition(segment_id="acting", name="Acting", steps=[step], edges=[])


def audited(here: Place, run_id: str) -> list[tuple[str, bool]]:
    records = PostgresAuditStore(here.database).links(TENANT, 1, 1000)
    found = [record for record in records if getattr(record, "run_id", "") == run_id]
    return [(str(one.event_type.value), one.success) for one in found if one.resource_type == "external_action"]


def test_an_action_that_was_completed_is_not_taken_again(here: Place, tmp_path: Path) -> None:
    run_id = new_id()
    here.arm("apply.before", run_id, "act")

    here.start(segment(tmp_path / "notes", run_id), run_id)
    result = here.ended(run_id)

    assert here.passed("apply.before", run_id, "act")
    assert (result.status.value, result.outputs["output"]) == ("completed", {"lines": 1})
    assert (tmp_path / "notes").read_text() == "done\n"
    assert told(result)["act", "step.lost"] >= 1
    (attempt,) = PostgresAttemptStore(here.database).records(TENANT, run_id)
    assert attempt.status.value == "completed"
    assert audited(here, run_id) == [("action.invoked", True), ("action.completed", True)]


def test_an_action_in_whose_middle_a_worker_dies_is_taken_again_under_its_key(here: Place, tmp_path: Path) -> None:
    run_id = new_id()
    here.arm("action", run_id, "act")

    here.start(segment(tmp_path / "notes", run_id), run_id)
    result = here.ended(run_id)

    assert here.passed("action", run_id, "act")
    assert result.outputs["output"] == {"lines": 2}
    lost, made = PostgresAttemptStore(here.database).records(TENANT, run_id)
    assert (lost.error_type, made.status.value) == ("AttemptLost", "completed")
    assert lost.call.idempotency_key == made.call.idempotency_key
    assert audited(here, run_id) == [("action.invoked", True), ("action.invoked", True), ("action.completed", True)]
