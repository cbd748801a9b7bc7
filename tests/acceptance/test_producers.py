"""Runs started by whoever has Celery or a blocking client, and worked on inside somebody else's Celery app."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from llmteam.canvas import EdgeDefinition, SegmentClient, SegmentDefinition, StepDefinition
from llmteam.crypto import sign_start
from llmteam.ids import new_id
from llmteam.settings import Settings
from tests.services import PostgresService
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
KEY = b"k" * 32
KEY_TEXT = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="


def greeting() -> SegmentDefinition:
    """Two steps in a row."""
    return SegmentDefinition(
        segment_id="greeting",
        name="Greeting",
        steps=[
            StepDefinition(step_id="name", step_type="transform", config={"expression": "input.name"}),
            StepDefinition(step_id="greet", step_type="transform", config={"mapping": {"text": "'Hello ' + input"}}),
        ],
        edges=[EdgeDefinition(source_step="name", target_step="greet")],
    )


@pytest.fixture(scope="module")
def installation(
    postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The variables of an installation whose only worker belongs to a foreign app; ``signed`` starts must be signed."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    variables = {
        "LLMTEAM_DATABASE_URL": own.create(),
        "LLMTEAM_BROKER_URL": valkey,
        "LLMTEAM_START_KEYS": f"signed={KEY_TEXT},open={KEY_TEXT}",
    }
    log = tmp_path_factory.mktemp("producers") / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "tests.foreign_app", "worker", "-P", "threads", "-c", "4"]
    command += ["-Q", "shop,llmteam.control,llmteam.io", "--without-gossip", "--without-mingle", "-l", "INFO"]
    with log.open("w") as out:
        worker = subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stdout=out, stderr=out)
    try:
        wait_until(lambda: "ready." in log.read_text() or worker.poll() is not None, "the worker is ready", timeout=30)
        assert worker.poll() is None, log.read_text()
        yield variables
    finally:
        worker.terminate()
        worker.wait(30)
        own.drop_all()


@pytest.fixture
def bare_app(installation: dict[str, str]) -> Iterator[Celery]:
    """An app that knows nothing of llmteam but the broker's address."""
    app = Celery("producer", broker=installation["LLMTEAM_BROKER_URL"], set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def client(installation: dict[str, str]) -> Iterator[SegmentClient]:
    with SegmentClient.connect(settings=Settings.load(installation), tenant_id="signed") as client:
        yield client


def send(app: Celery, run_id: str, **message: Any) -> None:
    fields = {"tenant_id": "signed", "segment": greeting().to_dict(), "input": {"name": "Ada"}, "run_id": run_id}
    app.send_task("llmteam.start_run", kwargs=fields | message, queue="llmteam.control")


def signature(run_id: str) -> str:
    return sign_start(KEY, "signed", greeting().to_dict(), {"name": "Ada"}, run_id)


def test_a_process_that_has_only_celery_starts_a_run(bare_app: Celery, client: SegmentClient) -> None:
    run_id = new_id()

    send(bare_app, run_id, signature=signature(run_id))

    wait_until(lambda: client.status(run_id) is not None, "the run is written", timeout=20)
    result = client.result(run_id, timeout=20)
    assert (result.status.value, result.outputs) == ("completed", {"output": {"text": "Hello Ada"}})


def test_a_start_may_say_who_asks_for_it_which_the_signature_covers(bare_app: Celery, client: SegmentClient) -> None:
    run_id, forged = new_id(), new_id()
    document, given = greeting().to_dict(), {"name": "Ada"}

    send(bare_app, forged, started_by="eve", signature=sign_start(KEY, "signed", document, given, forged))
    send(bare_app, forged, started_by="eve", signature=sign_start(KEY, "signed", document, given, forged, None, "bob"))
    send(bare_app, run_id, started_by="bob", signature=sign_start(KEY, "signed", document, given, run_id, None, "bob"))

    wait_until(lambda: client.status(run_id) is not None, "the run is written", timeout=20)
    header = client._runs.engine.store.header("signed", run_id)
    assert header is not None
    assert (header.options.started_by, header.options.max_retries) == ("bob", greeting().params.max_retries)
    assert client.status(forged) is None


def test_a_start_that_is_delivered_twice_starts_once(bare_app: Celery, client: SegmentClient) -> None:
    run_id, after = new_id(), new_id()

    for _ in range(2):
        send(bare_app, run_id, signature=signature(run_id))
    send(bare_app, after, signature=signature(after))

    wait_until(lambda: client.status(after) is not None, "the message behind both is read", timeout=20)
    client.result(after, timeout=20)
    events = client.result(run_id, timeout=20, events=True).events
    assert [event.event_type.value for event in events].count("segment.started") == 1


@pytest.mark.parametrize("forged", [None, "0" * 64])
def test_a_start_that_is_not_signed_with_its_tenants_key_is_refused(
    bare_app: Celery, client: SegmentClient, forged: str | None
) -> None:
    refused, after = new_id(), new_id()

    send(bare_app, refused, signature=forged)
    send(bare_app, after, signature=signature(after))

    wait_until(lambda: client.status(after) is not None, "the message behind the forged one is read", timeout=20)
    client.result(after, timeout=20)
    assert client.status(refused) is None


def test_a_blocking_client_runs_a_segment_to_its_end(client: SegmentClient) -> None:
    result = client.run(greeting(), {"name": "Grace"}, timeout=20)

    assert result.outputs == {"output": {"text": "Hello Grace"}}
    assert client.status(result.run_id) == "completed"


def test_the_foreign_app_keeps_its_own_tasks(installation: dict[str, str]) -> None:
    app = Celery("caller", broker=installation["LLMTEAM_BROKER_URL"], backend=installation["LLMTEAM_BROKER_URL"])
    app.conf.task_default_queue = "shop"

    doubled = app.send_task("shop.double", args=(21,)).get(timeout=20)

    assert doubled == 42
    app.close()
