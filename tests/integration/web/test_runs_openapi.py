"""Requests that Schemathesis makes for runs: each is answered as the OpenAPI document says, none breaks it."""

from __future__ import annotations

import zlib

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from llmteam.canvas import MemorySegmentRegistry, SegmentDefinition
from llmteam.canvas.runs import Runs, Start
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.stores import MemoryRunStore
from llmteam.events import MemoryEventStore
from llmteam.human import HumanInteractionManager, MemoryInteractionStore
from llmteam.web import Parts, create_app
from tests.conformance.desk import Desk
from tests.integration.web.runs_site import PAIR
from tests.site import KEY, Site

EVENTS = MemoryEventStore()
DESK = Desk(MemoryRunStore(sink=EVENTS.add), EVENTS)
REGISTRY = MemorySegmentRegistry()
REGISTRY.put("acme", SegmentDefinition.from_dict(PAIR))
RUNS = Runs(DESK.engine, EVENTS, EVENTS.wakeup, registry=REGISTRY)
PARTS = Parts(HumanInteractionManager(MemoryInteractionStore()), [KEY], runs=RUNS)
TOKEN = Site("", PARTS).token("olga", "operators")
#: A generated body is no segment that runs, and a name or place that is generated is none that there is.
UNSAID = [positive_data_acceptance]
OURS = r"^/api/(runs|segments|catalog)"

schema = schemathesis.openapi.from_asgi("/api/openapi.json", create_app(PARTS)).include(path_regex=OURS)


def a_run(number: int, *, over: bool) -> str:
    """A run, over or not, paused or not."""
    run_id = RUNS.start(Start("acme", SegmentDefinition.from_dict(PAIR), {"a": number}))
    if over:
        RUNS.engine.end("acme", run_id, SegmentStatus.CANCELLED)
    elif number % 2:
        RUNS.surgery.pause("acme", run_id, 0)
    return run_id


@schema.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """Three of four cases are about a run or segment that there is; streams are of runs that are over, as they end."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    parameters = case.path_parameters
    number = zlib.crc32(repr((parameters, case.body)).encode("utf-8", "replace"))
    if number % 4 and "run_id" in parameters:
        parameters["run_id"] = a_run(number // 4, over=case.path.endswith("/events") or number % 8 == 1)
    if number % 4 and "segment_id" in parameters:
        parameters["segment_id"] = "pair"
    if number % 4 and case.method == "POST" and isinstance(case.body, dict) and "segment" in case.body:
        case.body["segment"] = "pair" if number % 2 else PAIR
    return case


@schema.parametrize()
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operation_answers_as_its_description_says(case: schemathesis.Case) -> None:
    case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, excluded_checks=UNSAID)


def test_every_operation_was_described_field_by_field() -> None:
    document = create_app(PARTS).openapi()
    ours = {
        path: ways for path, ways in document["paths"].items() if path.startswith(("/api/runs", "/api/seg", "/api/cat"))
    }

    assert {f"{method.upper()} {path}" for path, ways in ours.items() for method in ways} == {
        "GET /api/runs",
        "POST /api/runs",
        "GET /api/runs/{run_id}",
        "GET /api/runs/{run_id}/events",
        "POST /api/runs/{run_id}/cancel",
        "POST /api/runs/{run_id}/pause",
        "POST /api/runs/{run_id}/resume",
        "GET /api/catalog",
        "GET /api/segments",
        "GET /api/segments/{segment_id}",
    }
    for ways in ours.values():
        for operation in ways.values():
            assert operation["description"], operation["operationId"]
    assert all(model["description"] for model in document["components"]["schemas"].values() if "properties" in model)
