"""The examples that ship with the package run as they are."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files

import pytest

from llmteam.canvas import HumanTaskHandler, SegmentResult, SegmentRunner, SegmentStatus, validate_segment
from llmteam.events import EventType
from llmteam.examples import EXAMPLES, Example, ExampleFailedError
from llmteam.examples.ticket_triage import resources
from llmteam.human import HumanInteractionManager, MemoryInteractionStore
from llmteam.net import BaseUrlClient
from llmteam.runtime import OfflineProvider, ResourceNotFoundError, default_manager
from tests.unit.runtime.model_server import ModelServer, Received, Reply, chat_completion
from tests.waiting import wait_until_async

PAYING = {"team", "business", "enterprise"}


@pytest.fixture
def example() -> Example:
    return EXAMPLES["ticket-triage"]


@pytest.fixture
def env(example: Example) -> Iterator[dict[str, str]]:
    with example.environment() as env:
        yield env


@pytest.fixture
def service(env: dict[str, str]) -> Iterator[BaseUrlClient]:
    client = BaseUrlClient(env["LLMTEAM_EXAMPLE_URL"])
    yield client
    client.close()


def run(example: Example, **given: object) -> SegmentResult:
    """A run in this process, with the people whom it asks."""
    return asyncio.run(with_people(example, given or example.input))


async def with_people(example: Example, given: object) -> SegmentResult:
    manager, runner = HumanInteractionManager(MemoryInteractionStore()), SegmentRunner()
    runner.register_handler("human_task", HumanTaskHandler(manager))
    people = asyncio.create_task(example.people(manager))
    result = await runner.run(example.segment(), input_data=given)
    people.cancel()
    return result


def tickets() -> list[dict[str, str]]:
    return json.loads(files("llmteam.examples.ticket_triage").joinpath("tickets.json").read_text("utf-8"))


def first_in_line() -> dict[str, str]:
    urgent = [t for t in tickets() if t["status"] == "open" and t["priority"] == "high" and t["plan"] in PAYING]
    return min(urgent, key=lambda t: t["created_at"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_found_by_its_own_name_and_validates_without_a_remark(name: str) -> None:
    example = EXAMPLES[name]

    assert example.name == name
    assert example.summary.endswith(".")
    assert validate_segment(example.segment()).messages == []


def test_the_tickets_are_many_different_and_in_order() -> None:
    all_tickets = tickets()

    assert len(all_tickets) >= 200
    assert len({t["id"] for t in all_tickets}) == len(all_tickets)
    assert len({t["body"] for t in all_tickets}) == len(all_tickets)
    assert len({t["language"] for t in all_tickets}) >= 5
    assert [t["created_at"] for t in all_tickets] == sorted(t["created_at"] for t in all_tickets)


def test_the_example_runs_in_process_and_the_service_has_its_outcome(
    example: Example, env: dict[str, str], service: BaseUrlClient
) -> None:
    result = run(example)

    assert result.status is SegmentStatus.COMPLETED, result.error
    (outcome,) = service.send("GET", "/outcomes").json()["outcomes"]
    assert outcome == result.outputs["output"]
    assert outcome["ticket_id"] == first_in_line()["id"]
    assert outcome["ticket_id"] in example.check(env, result)


def test_a_person_approves_of_what_wakes_somebody_and_says_why(example: Example, env: dict[str, str]) -> None:
    result = run(example)

    outcome = result.outputs["output"]
    assert (outcome["action"], outcome["approved_by"]) == ("escalate", "duty-manager@example.com")
    assert outcome["note"].startswith("Go ahead")
    told = [event.event_type for event in result.events]
    assert told.count(EventType.HUMAN_TASK_CREATED) == told.count(EventType.HUMAN_TASK_COMPLETED) == 1


def test_what_a_person_rejects_is_answered_instead(example: Example, env: dict[str, str]) -> None:
    async def rejecting() -> SegmentResult:
        manager, runner = HumanInteractionManager(MemoryInteractionStore()), SegmentRunner()
        runner.register_handler("human_task", HumanTaskHandler(manager))
        running = asyncio.create_task(runner.run(example.segment(), input_data=example.input))
        core = manager.store.core
        (asked,) = await wait_until_async(lambda: core.open_requests("default"), "the person to be asked")
        await manager.respond(asked.request_id, "duty-manager@example.com", approved=False, reason="it can wait")
        return await running

    result = asyncio.run(rejecting())

    outcome = result.outputs["output"]
    assert (outcome["action"], outcome["note"]) == ("answer", "it can wait")
    assert outcome["ticket_id"] in example.check(env, result)


def test_three_models_are_asked_about_the_same_ticket_and_say_that_they_are_none(
    example: Example, env: dict[str, str]
) -> None:
    result = run(example)

    asked = [e for e in result.events if e.event_type is EventType.STEP_COMPLETED and e.step_type == "llm_agent"]
    assert sorted(e.step_id or "" for e in asked) == ["category", "reply", "urgency"]
    assert {e.payload["usage"]["model"] for e in asked} == {"offline"}
    outcome = result.outputs["output"]
    assert "no model" in outcome.get("draft", outcome.get("reply"))


def test_run_after_run_works_through_the_queue_over_both_branches_until_nothing_is_left(
    example: Example, env: dict[str, str], service: BaseUrlClient
) -> None:
    waiting = sum(t["status"] == "open" and t["priority"] == "high" and t["plan"] in PAYING for t in tickets())

    results = [run(example) for _ in range(waiting)]
    last = run(example)

    outcomes = service.send("GET", "/outcomes").json()["outcomes"]
    assert [o["ticket_id"] for o in outcomes] == [r.outputs["output"]["ticket_id"] for r in results]
    assert {o["action"] for o in outcomes} == {"escalate", "answer"}
    assert last.status is SegmentStatus.COMPLETED
    assert last.outputs == {"output": []}


def test_the_outcome_that_a_run_claims_must_be_with_the_service(example: Example) -> None:
    with example.environment():
        result = run(example)

    with example.environment() as fresh, pytest.raises(ExampleFailedError, match="none of them is that of run"):
        example.check(fresh, result)


def test_a_run_that_failed_has_left_nothing_to_praise(example: Example, env: dict[str, str]) -> None:
    result = run(example, state="open")

    assert result.status is SegmentStatus.FAILED
    with pytest.raises(ExampleFailedError, match="failed"):
        example.check(env, result)


def test_an_outcome_that_is_posted_again_is_filed_once(service: BaseUrlClient) -> None:
    outcome = {"ticket_id": first_in_line()["id"], "action": "answer"}
    posts = [service.send("POST", "/outcomes", json=outcome, headers={"Idempotency-Key": "k"}) for _ in range(2)]

    assert [post.status for post in posts] == [201, 200]
    assert posts[0].json() == posts[1].json()
    assert service.send("GET", "/outcomes").json() == {"outcomes": [posts[0].json()]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/outcomes", b"{", 400),
        ("POST", "/outcomes", b"[]", 400),
        ("POST", "/outcomes", b'{"ticket_id": "T-1"}', 404),
        ("POST", "/tickets", b"{}", 404),
        ("GET", "/", None, 404),
    ],
)
def test_the_service_says_what_it_does_not_take(
    service: BaseUrlClient, method: str, path: str, body: bytes | None, status: int
) -> None:
    answer = service.send(method, path, data=body)

    assert answer.status == status
    assert answer.json()["error"]


def test_nothing_stays_registered_after_the_example(example: Example) -> None:
    with example.environment():
        assert isinstance(default_manager().llms.get(resources.MODEL), OfflineProvider)

    with pytest.raises(ResourceNotFoundError):
        default_manager().clients.get(resources.SERVICE)


class Triager(ModelServer):
    """A model that finds every ticket critical."""

    def _next(self, received: Received) -> Reply:
        self.received.append(received)
        form = received.json.get("response_format")
        if form is None:
            return chat_completion("We are on it.")
        subject = form["json_schema"]["schema"]["required"][0]
        return chat_completion(
            json.dumps({subject: {"category": "outage", "level": "critical"}[subject], "reason": "!"})
        )


def test_a_model_that_the_environment_names_is_asked_instead(monkeypatch: pytest.MonkeyPatch, example: Example) -> None:
    with Triager().running() as model:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{model.url}/v1")
        monkeypatch.setenv("LLMTEAM_EXAMPLE_MODEL", "small-one")
        with example.environment() as env:
            result = run(example)
            said = example.check(env, result)

    assert [one.json["model"] for one in model.received] == ["small-one"] * 3
    assert result.outputs["output"]["draft"] == "We are on it."
    assert said.endswith("escalate (outage, critical)")


def test_what_workers_import_registers_from_the_environment_or_says_what_is_missing(
    example: Example, env: dict[str, str]
) -> None:
    code = f"import {example.imports[0]}; from llmteam.runtime import default_manager as m; print(m().clients.list())"

    def python(extra: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True, check=False)

    assert python(env).stdout == "['ticket_service']\n"
    assert "LLMTEAM_EXAMPLE_URL is not set" in python({}).stderr


def test_the_service_can_be_started_by_itself() -> None:
    command = [sys.executable, "-m", "llmteam.examples.ticket_triage.service"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url, _, said = process.stdout.readline().partition(" ")
            service = BaseUrlClient(url)

            assert said == "serves 220 tickets\n"
            assert len(service.send("GET", "/tickets").json()["tickets"]) == 220
        finally:
            process.terminate()
