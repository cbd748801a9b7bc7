"""The API of runs: what it gives, and what each bad request gets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from llmteam.audit import AuditRecord
from llmteam.canvas import SegmentDefinition
from llmteam.db import Database
from llmteam.tenancy import TenantConfig, TenantContext, TenantTier
from llmteam.tenancy.postgres import PostgresTenantStore
from tests.following import refused
from tests.integration.web.runs_site import PAIR, RunsSite, row, runs_site


@pytest.fixture
def place(database_url: str, clean_valkey: str) -> Iterator[RunsSite]:
    with runs_site(database_url, clean_valkey) as place:
        yield place


def test_a_run_is_started_and_says_where_it_is(place: RunsSite) -> None:
    response = place.api("olga").post("/runs", {"segment": PAIR, "input": {"a": 1}})

    assert response.status_code == 201
    run_id = response.json()["run_id"]
    assert response.headers["Location"] == f"/api/runs/{run_id}"
    assert response.json()["status"] == "running"
    header = place.runs.engine.store.header("acme", run_id)
    assert header is not None
    assert header.options.started_by == "olga"
    assert header.options.max_retries == SegmentDefinition.from_dict(PAIR).params.max_retries


@pytest.mark.parametrize("name", ["run_id", "idempotency_key"])
def test_a_start_that_is_repeated_gives_the_run_that_is_there(place: RunsSite, name: str) -> None:
    asked = {"segment": PAIR, "input": {"a": 1}, name: "order-17"}
    first = place.api().post("/runs", asked)

    again = place.api("otto").post("/runs", asked)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["run_id"] == first.json()["run_id"]
    assert again.headers["Location"] == first.headers["Location"]
    assert len(place.api().get("/runs").json()["runs"]) == 1


def test_a_start_under_a_taken_name_with_other_input_is_refused_and_names_the_run(place: RunsSite) -> None:
    run_id = place.start(idempotency_key="order-17")

    told = refused(place.api().post("/runs", {"segment": PAIR, "input": {"a": 2}, "idempotency_key": "order-17"}), 409)

    assert told["run_id"] == run_id
    assert "other input" in told["detail"]
    assert len(place.api().get("/runs").json()["runs"]) == 1


def test_a_start_may_replace_the_run_that_has_its_key(place: RunsSite) -> None:
    first = place.start(idempotency_key="order-17")

    second = place.start(idempotency_key="order-17", if_open="restart")

    assert second != first
    assert place.api().get(f"/runs/{first}").json()["run"]["status"] == "cancelled"


def test_an_unsound_definition_is_refused_with_every_problem_and_its_path(place: RunsSite) -> None:
    segment = {
        **PAIR,
        "steps": [{**PAIR["steps"][0], "config": {"expression": "(("}}, {"step_id": "second", "step_type": "teleport"}],
        "edges": [{"source_step": "first", "target_step": "nowhere"}],
    }

    told = refused(place.api().post("/runs", {"segment": segment}), 422)

    found = {(one["path"], one["code"]) for one in told["errors"]}
    assert ("$.segment.steps[1].step_type", "UNKNOWN_TYPE") in found
    assert ("$.segment.edges[0].target_step", "INVALID_REFERENCE") in found
    assert any(path.startswith("$.segment.steps[0].config") for path, _ in found)
    assert place.api().get("/runs").json()["runs"] == []


def test_a_document_that_is_no_segment_is_refused_with_what_it_lacks(place: RunsSite) -> None:
    told = refused(place.api().post("/runs", {"segment": {"name": "x", "steps": 7}}), 422)

    assert {one["path"] for one in told["errors"]} == {"$.segment.segment_id", "$.segment.steps"}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$.segment"),
        ({"segment": "unpublished"}, "$.segment"),
        ({"segment": PAIR, "run_id": "no spaces"}, ""),
        ({"segment": PAIR, "idempotency_key": "two\nlines"}, ""),
        ({"segment": PAIR, "input": {"x": "\x00"}}, "$.input"),
        ({"segment": PAIR, "if_open": "shrug"}, "$.if_open"),
        ({"segment": PAIR, "inputs": 1}, "$.inputs"),
    ],
)
def test_a_start_that_cannot_be_is_refused_with_the_place(place: RunsSite, body: object, path: str) -> None:
    told = refused(place.api().post("/runs", body), 422)

    assert len(told["detail"].split()) > 2, "a sentence"
    assert not path or any(one["path"].startswith(path) for one in told["errors"]), told
    assert place.api().get("/runs").json()["runs"] == []


def test_a_start_over_a_limit_says_which(place: RunsSite, database: Database) -> None:
    config = TenantConfig("acme", "Acme", TenantTier.ENTERPRISE, max_concurrent_pipelines=1)
    PostgresTenantStore(database).add(config)
    place.start()

    told = refused(place.api().post("/runs", {"segment": PAIR}), 429)

    assert (told["limit_type"], told["current"], told["maximum"]) == ("concurrent_pipelines", 1, 1)


def test_a_start_that_needs_a_feature_and_whatever_a_deactivated_tenant_sets_in_motion_are_forbidden(
    place: RunsSite, database: Database
) -> None:
    run_id = place.start()
    assert place.api().post(f"/runs/{run_id}/pause", {}).status_code == 200
    store = PostgresTenantStore(database)
    store.add(TenantConfig("acme", "Acme", TenantTier.FREE, max_concurrent_pipelines=9))
    asks = {
        "segment_id": "asks",
        "name": "Asks",
        "steps": [
            {
                "step_id": "ask",
                "step_type": "human_task",
                "config": {"task_type": "approval", "title": "Go on?", "assignee_ref": "ann"},
            }
        ],
    }

    assert "human_interaction" in refused(place.api().post("/runs", {"segment": asks}), 403)["detail"]
    store.put(TenantConfig("acme", "Acme", TenantTier.FREE, is_active=False))

    for path, body in (("/runs", {"segment": PAIR}), (f"/runs/{run_id}/resume", {})):
        assert "is deactivated" in refused(place.api().post(path, body), 403)["detail"]
    assert place.api().post(f"/runs/{run_id}/cancel", {}).status_code == 200


def test_a_body_that_is_too_large_is_refused(place: RunsSite) -> None:
    told = refused(place.api().post("/runs", {"segment": PAIR, "input": "x" * 2_000_000}), 413)

    assert "1,000,000 bytes" in told["detail"]
    assert place.api().get("/runs").json()["runs"] == []


def test_a_published_segment_is_started_by_its_name_and_an_archived_one_not(place: RunsSite) -> None:
    registry = place.runs.registry
    assert registry is not None
    registry.put("acme", SegmentDefinition.from_dict({**PAIR, "version": "1"}), "ann")
    run_id = place.start("pair@1")
    registry.retire("acme", "pair", "1")

    told = refused(place.api().post("/runs", {"segment": "pair@1"}), 409)

    assert "archived" in told["detail"]
    shown = place.api().get(f"/runs/{run_id}").json()
    assert (shown["graph"]["name"], shown["graph"]["version"]) == ("Pair", "1")


def test_runs_are_paged_newest_first_without_a_gap_or_a_double(place: RunsSite) -> None:
    started = [place.start() for _ in range(7)]
    place.api().post(f"/runs/{started[0]}/cancel")
    seen: list[str] = []
    cursor, pages = None, 0

    while pages == 0 or cursor:
        page = place.api().get("/runs", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [run["run_id"] for run in page["runs"]]
        cursor, pages = page["next"], pages + 1
        if pages == 1:
            place.start()  # newer than the page that was read: it shifts nothing

    assert seen == started[::-1]
    assert pages == 3
    running = place.api().get("/runs?status=running&segment=pair").json()["runs"]
    assert started[0] not in {run["run_id"] for run in running}
    assert place.api().get("/runs?segment=other").json() == {"runs": [], "next": None}


@pytest.mark.parametrize(
    "query", ["cursor=abc", "cursor=MjAyNg==", "limit=0", "status=lost", "sort=name", "segment=%00"]
)
def test_a_list_that_cannot_be_is_refused(place: RunsSite, query: str) -> None:
    told = refused(place.api().get(f"/runs?{query}"), 422)

    assert told["errors"][0]["path"] == f"query.{query.partition('=')[0]}"


def test_a_run_is_shown_with_its_graph_and_the_states_of_its_steps(place: RunsSite) -> None:
    run_id = place.start()
    place.do(run_id, "first", answer={"sum": 2})

    shown = place.api().get(f"/runs/{run_id}").json()

    assert shown["run"]["run_id"] == run_id
    assert [step["title"] for step in shown["graph"]["steps"]] == ["First of all", "second"]
    assert shown["graph"]["steps"][0]["position"] == {"x": 10, "y": 20}
    assert shown["graph"]["entrypoint"] == "first"
    assert shown["graph"]["edges"][0]["target_step"] == "second"
    assert {step["step_id"]: step["state"] for step in shown["steps"]} == {"first": "completed", "second": "ready"}
    assert [step["output"] for step in shown["steps"]] == [None, None]
    assert (shown["input"], shown["outputs"], shown["requests"]) == (None, None, [])
    assert "expression" not in str(shown["graph"]), "configuration may hold what is nobody's business"


def test_what_a_run_took_and_gave_is_shown_on_request(place: RunsSite) -> None:
    run_id = place.start()
    place.do(run_id, "first", answer={"sum": 2})
    place.do(run_id, "second", answer=4)

    shown = place.api().get(f"/runs/{run_id}?outputs=true").json()

    assert shown["input"] == {"a": 1}
    assert shown["outputs"] == {"output": 4}
    assert {step["step_id"]: step["output"] for step in shown["steps"]} == {
        "first": {"sum": 2},
        "second": 4,
    }


def test_a_run_shows_the_open_requests_to_people(place: RunsSite) -> None:
    run_id = place.start()
    with TenantContext("acme"):
        manager = place.site.manager
        asked = asyncio.run(manager.request_approval("Pay?", assignee="ann", run_id=run_id))
        over = asyncio.run(manager.request_approval("Old", assignee="ann", run_id=run_id))
        asyncio.run(manager.cancel(over.request_id, by="olga"))

    found = place.api().get(f"/runs/{run_id}").json()["requests"]

    assert [one["request_id"] for one in found] == [asked.request_id]


def test_a_run_is_paused_with_a_snapshot_resumed_and_cancelled(place: RunsSite) -> None:
    run_id, api = place.start(), place.api()

    paused = api.post(f"/runs/{run_id}/pause", {"grace": 0})
    again = api.post(f"/runs/{run_id}/pause")
    resumed = api.post(f"/runs/{run_id}/resume")
    cancelled = api.post(f"/runs/{run_id}/cancel")
    twice = api.post(f"/runs/{run_id}/cancel")

    answers = [paused, again, resumed, cancelled, twice]
    assert [one.status_code for one in answers] == [200] * 5
    assert [one.json()["status"] for one in answers] == ["paused", "paused", "running", "cancelled", "cancelled"]
    assert paused.json()["snapshot_id"] == again.json()["snapshot_id"] != None  # noqa: E711  # one chain
    assert resumed.json()["snapshot_id"] is None


def test_a_run_that_is_not_as_it_must_be_stays_as_it_is(place: RunsSite) -> None:
    over, running = place.start(row("only")), place.start()
    place.do(over, "only")

    refusals = [
        *(refused(place.api().post(f"/runs/{over}/{what}"), 409) for what in ("cancel", "pause", "resume")),
        refused(place.api().post(f"/runs/{running}/resume"), 409),
    ]

    assert all("is completed" in told["detail"] for told in refusals[:3])
    assert place.api().get(f"/runs/{over}").json()["run"]["status"] == "completed"
    assert place.api().get(f"/runs/{running}").json()["run"]["status"] == "running"


def test_another_tenants_runs_and_segments_are_not_there(place: RunsSite) -> None:
    run_id = place.start()
    assert place.runs.registry is not None
    place.runs.registry.put("acme", SegmentDefinition.from_dict(PAIR))
    api = place.api(tenant="globex")

    refusals = [refused(api.get(f"/runs/{run_id}{what}"), 404) for what in ("", "/events", "?outputs=true")]
    refusals += [refused(api.post(f"/runs/{run_id}/{what}"), 404) for what in ("cancel", "pause", "resume")]

    unknown = refused(api.get("/runs/unknown"), 404)
    assert {told["detail"].replace(run_id, "unknown") for told in refusals} == {unknown["detail"]}
    assert api.get("/runs").json()["runs"] == []
    assert api.get("/segments").json()["segments"] == []
    assert refused(api.get("/segments/pair"), 404)["detail"]
    assert refused(api.post("/runs", {"segment": "pair"}), 422)["errors"][0]["path"] == "$.segment"
    assert place.api().get(f"/runs/{run_id}").json()["run"]["status"] == "running"


def test_who_is_no_operator_sees_and_steers_nothing_but_the_catalog(place: RunsSite) -> None:
    run_id, api = place.start(), place.site.api("ann", "finance")

    looks = ["/runs", f"/runs/{run_id}", f"/runs/{run_id}/events", "/segments", "/segments/pair"]
    refusals = [refused(api.get(path), 403) for path in looks]
    refusals += [refused(api.post(f"/runs/{run_id}/{what}"), 403) for what in ("cancel", "pause", "resume")]
    refusals.append(refused(api.post("/runs", {"segment": PAIR}), 403))

    assert all("operators" in told["detail"] for told in refusals)
    assert api.get("/catalog").status_code == 200
    denied = [one for one in records(place) if one.event_type.value == "security.access_denied"]
    assert {(one.actor_id, one.error_message, one.success) for one in denied} == {("ann", "not an operator", False)}
    assert [(one.action, one.run_id) for one in denied[1:3]] == [
        ("GET /api/runs/{run_id}", run_id),
        ("GET /api/runs/{run_id}/events", run_id),
    ]
    assert len(denied) == len(refusals), "no two of them are alike"
    assert [run["status"] for run in place.api().get("/runs").json()["runs"]] == ["running"]


def test_run_ids_with_slashes_have_addresses_too(place: RunsSite) -> None:
    response = place.api().post("/runs", {"segment": PAIR, "run_id": "orders/2026/17"})

    assert response.headers["Location"] == "/api/runs/orders/2026/17"
    assert place.api().get("/runs/orders/2026/17").json()["run"]["run_id"] == "orders/2026/17"
    assert place.api().post("/runs/orders/2026/17/cancel").json()["status"] == "cancelled"


def test_the_catalog_has_each_type_with_its_schema(place: RunsSite) -> None:
    found = place.api().get("/catalog").json()

    types = {one["type_id"]: one for one in found["types"]}
    assert {"transform", "condition", "human_task", "llm_agent"} <= set(types)
    assert types["transform"]["config_schema"]["properties"]["expression"]
    assert found == place.runs.catalog.export_for_ui()


def test_published_segments_are_listed_and_shown_with_their_definition(place: RunsSite) -> None:
    registry = place.runs.registry
    assert registry is not None
    for version in ("1", "2", "3"):
        registry.put("acme", SegmentDefinition.from_dict({**PAIR, "version": version}), "ann")
    registry.retire("acme", "pair", "3")

    listed = place.api().get("/segments").json()["segments"]
    everything = place.api().get("/segments?archived=true").json()["segments"]
    latest = place.api().get("/segments/pair").json()
    first = place.api().get("/segments/pair?version=1").json()

    assert [one["reference"] for one in listed] == ["pair@2", "pair@1"]
    assert [one["version"] for one in everything] == ["3", "2", "1"]
    assert latest["segment"]["version"] == "2"
    assert latest["segment"]["published_by"] == "ann"
    assert SegmentDefinition.from_dict(first["definition"]) == SegmentDefinition.from_dict({**PAIR, "version": "1"})
    assert refused(place.api().get("/segments/pair?version=9"), 404)


def records(place: RunsSite) -> list[AuditRecord]:
    """What the audit trail of the tenant has, in order."""
    return [one for one in place.runs.engine.store.audit.links("acme", 1, 999) if isinstance(one, AuditRecord)]


def test_who_starts_and_steers_a_run_is_in_the_audit_trail(place: RunsSite) -> None:
    run_id = place.start()

    place.api("otto").post(f"/runs/{run_id}/pause", {"grace": 0})
    place.api("olga").post(f"/runs/{run_id}/resume")
    place.api("otto").post(f"/runs/{run_id}/cancel")

    assert [(one.event_type.value, one.actor_id) for one in records(place)] == [
        ("pipeline.started", "olga"),
        ("pipeline.paused", "otto"),
        ("pipeline.resumed", "olga"),
        ("pipeline.cancelled", "otto"),
    ]
