"""Teams whose workers are killed in every turn: each turn counts once, and no decision is taken twice that stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from llmteam.canvas import SegmentResult
from llmteam.canvas.models import SegmentDefinition
from llmteam.ids import utc_now
from llmteam.licensing import License, LicenseTier
from llmteam.licensing.postgres import PostgresLicenseStore
from tests.acceptance.place import TENANT, Place, place, told
from tests.services import PostgresService, redis_client
from tests.teams import agent, in_order, rule, segment, team
from tests.unit.runtime.model_server import ModelServer, chat_completion

pytestmark = pytest.mark.timeout(240)

NAMES = ("a", "b", "c")
#: The decisions of a team in which each agent works once, and the ends of its turns.
DECISIONS = [("team", visit) for visit in range(1, len(NAMES) + 2)]
TURNS = [("team__turn", visit) for visit in range(1, len(NAMES) + 1)]


def teamed(**agents: Any) -> SegmentDefinition:
    """A team of three; ``agents`` adds to the configuration of each."""
    return segment(team([agent(name, "traced", **agents) for name in NAMES], strategy=in_order("a b c")))


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    server = ModelServer()
    said = [{"decision": "route", "targets": [name], "reason": f"{name} is next"} for name in NAMES]
    server.script = [chat_completion(json.dumps(one)) for one in (*said, {"decision": "end", "reason": "enough"})]
    with server.running():
        yield server


@pytest.fixture(scope="module")
def here(
    postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory, model: ModelServer
) -> Iterator[Place]:
    """A place with a fleet of processes, which sweep by themselves and ask the model."""
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    asked = {"OPENAI_BASE_URL": f"{model.url}/v1", "OPENAI_API_KEY": "sk-test"}
    with (
        place(tmp_path_factory.mktemp("teams"), own.create(), valkey, **asked) as here,
        here.line.started("worker", "--pool", "prefork", "--concurrency", "6") as worker,
    ):
        worker.wait_for("ready: llmteam.default", timeout=60)
        yield here
    own.drop_all()


@pytest.fixture(scope="module")
def runs(here: Place, model: ModelServer) -> dict[str, str]:
    """All runs of this module at once, since each waits for leases; by what is killed in them."""
    for point, keys in (("claim.after", DECISIONS), ("apply.before", TURNS)):
        for step_id, visit in keys:
            here.arm(point, "decisions" if keys is DECISIONS else "turns", f"{step_id}#{visit}")
    for step_id, visit in DECISIONS:
        here.arm("apply.after", "led", f"{step_id}#{visit}")
    strategy = {"model": "gpt-test"}
    led = segment(team([agent(name, "traced") for name in NAMES], strategy=strategy))
    tier = License.of_operator(LicenseTier.ENTERPRISE, utc_now())
    licence = replace(tier, limits={"max_parallel_agents": 2})
    PostgresLicenseStore(here.database).put(TENANT, licence, "", utc_now())
    at_once = [rule("len(execution_history) == 0", "parallel", *NAMES), rule("true", "end")]
    wide = segment(team([agent(name, "traced") for name in NAMES], *at_once))
    return {
        "nothing": here.start(teamed(), "nothing"),
        "agents": here.start(teamed(die="kill", times=1), "agents"),
        "decisions": here.start(teamed(), "decisions"),
        "turns": here.start(teamed(), "turns"),
        "led": here.start(led, "led"),
        "wide": here.start(wide, "wide"),
    }


def outcome(result: SegmentResult) -> dict[str, Any]:
    """What a team gave, without its times."""
    assert result.error is None, result.error
    found = dict(result.outputs["output"])
    del found["seconds"]
    found["history"] = [{**entry, "timestamp": ""} for entry in found["history"]]
    return found


def counted(result: SegmentResult) -> dict[tuple[str | None, str], int]:
    """What may happen once only."""
    return {key: count for key, count in told(result).items() if key[1] not in ("step.started", "step.lost")}


@pytest.mark.parametrize("killed", ["agents", "decisions", "turns"])
def test_a_team_survives_a_kill_in_every_turn_and_counts_each_turn_once(
    here: Place, runs: dict[str, str], killed: str
) -> None:
    undisturbed, result = here.ended(runs["nothing"]), here.ended(runs[killed])

    lost = {(event.step_id, event.visit) for event in result.events if event.event_type == "step.lost"}
    agents = [(f"team__{name}", visit) for visit, name in enumerate(NAMES, start=1)]
    # A lease of two seconds may also end because the machine is busy.
    assert lost >= set({"agents": agents, "decisions": DECISIONS, "turns": TURNS}[killed])
    assert outcome(result) == outcome(undisturbed)
    assert counted(result) == counted(undisturbed)
    assert [entry.get("completed") for entry in outcome(result)["history"]] == [["a"], ["b"], ["c"], None]
    assert [event.seq for event in result.events] == list(range(1, len(result.events) + 1))


def test_no_more_agents_work_at_once_than_the_tenants_licence_allows(here: Place, runs: dict[str, str]) -> None:
    found = outcome(here.ended(runs["wide"]))

    assert (found["turns"], found["history"][0]["completed"]) == (2, ["a", "b", "c"])


def test_a_model_is_not_asked_again_for_a_decision_that_stands(
    here: Place, runs: dict[str, str], model: ModelServer
) -> None:
    result = here.ended(runs["led"])

    assert all(here.passed("apply.after", "led", f"{step_id}#{visit}") for step_id, visit in DECISIONS)
    found = outcome(result)
    assert [entry["decision"]["reason"] for entry in found["history"]] == [
        *("a is next", "b is next", "c is next", "enough")
    ]
    assert len(model.received) == len(DECISIONS)
    assert found["tokens"] == 8 * len(DECISIONS)
    assert (found["stopped_by"], found["turns"]) == ("end", 3)
    decisions = [event.payload["decision"] for event in result.events if "decision" in event.payload]
    assert [one["metadata"]["model"] for one in decisions] == ["m-1"] * len(DECISIONS)
