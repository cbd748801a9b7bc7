"""Runs as traces: two real workers, a collector on loopback, and what happens when either goes away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llmteam import tracing
from llmteam.canvas import SegmentDefinition, SegmentResult
from llmteam.events import EventType
from llmteam.tracing import ids
from tests.acceptance.command_line import DONE, Started
from tests.acceptance.place import TENANT, Place, place
from tests.collector import Collector, Told, collecting
from tests.drawing import draw
from tests.services import PostgresService, redis_client
from tests.unit.net.loopback import Loopback, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

#: Stands in the input, a prompt, a query, a header and an answer of each run.
CANARY = "canary-7c31"
#: Branches of the wide run: as many as both workers run at once.
BRANCHES = 4


@dataclass
class Fleet:
    """Two workers that send their spans to one collector, and a service that their steps call."""

    place: Place
    collector: Collector
    service: Loopback
    workers: tuple[Started, Started]


@pytest.fixture(scope="module")
def fleet(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    folder = tmp_path_factory.mktemp("traces")
    with collecting() as collector, serving() as service:
        service.routes["/ok"] = lambda h: h.answer(200, CANARY.encode())
        variables = {"LLMTEAM_TRACES": collector.url, "LLMTEAM_ALLOW_PRIVATE_NETWORKS": service.endpoint}
        with (
            place(folder, own.create(), valkey, **variables) as here,
            here.line.started("worker", "--concurrency", "2", LLMTEAM_TRACES_HOSTS="127.0.0.1") as first,
            here.line.started("worker", "--pool", "prefork", "--concurrency", "2") as second,
        ):
            first.wait_for("ready: llmteam.control", timeout=60)
            second.wait_for("ready: llmteam.default", timeout=60)
            yield Fleet(here, collector, service, (first, second))
    tracing.set_up()
    own.drop_all()


def with_types(segment: SegmentDefinition, **types: tuple[str, dict[str, object]]) -> SegmentDefinition:
    for step in segment.steps:
        if step.step_id in types:
            step.step_type, step.config = types[step.step_id]
    return segment


def traced(fleet: Fleet, run_id: str, attempts: int) -> list[Told]:
    """The run's trace, once so many attempts and the run itself are told."""

    def complete() -> bool:
        names = fleet.collector.names_of(run_id)
        return sum(count for name, count in names.items() if name.startswith("step ")) >= attempts and any(
            name.startswith("run ") for name in names
        )

    wait_until(complete, f"the trace of run {run_id}", timeout=30)
    return fleet.collector.of_run(run_id)


def started(result: SegmentResult) -> int:
    """Attempts by the events table."""
    return sum(event.event_type is EventType.STEP_STARTED for event in result.events)


def check_whole(run_id: str, spans: list[Told]) -> None:
    """One trace, one root, each attempt directly under it, nobody without a parent, no id twice."""
    (root,) = [span for span in spans if not span.parent_id]
    known = {span.span_id for span in spans}
    assert {span.trace_id for span in spans} == {f"{ids.trace_id(TENANT, run_id):032x}"}
    assert root.span_id == f"{ids.run_span_id(TENANT, run_id):016x}"
    assert {span.parent_id for span in spans if span.name.startswith(("step ", "wait "))} == {root.span_id}
    assert [span.name for span in spans if span is not root and span.parent_id not in known] == []
    assert len(known) == len(spans)


def test_the_attempts_of_all_workers_make_one_trace(fleet: Fleet) -> None:
    branches = [f"split -> b{number} -> all" for number in range(BRANCHES)]
    segment = draw(
        "a -> split",
        *branches,
        "all -> z",
        work="traced",
        segment_id="wide",
        config={f"b{number}": {"gate": True, "fail": int(number == 0)} for number in range(BRANCHES)},
    )
    run_id = fleet.place.start(segment, "wide")
    pids = {fleet.place.wait_for(run_id, f"b{number}").pid for number in range(BRANCHES)}
    fleet.place.open(run_id)

    result = fleet.place.ended(run_id)
    spans = traced(fleet, run_id, started(result))

    check_whole(run_id, spans)
    steps = [span for span in spans if span.name.startswith("step ")]
    assert result.status.value == "completed"
    assert len(steps) == started(result) == BRANCHES + 5
    assert len({span.worker for span in steps}) >= len(pids) == BRANCHES
    assert [span.said("attempt", "outcome") for span in spans if span.name == "step b0"] == [
        (1, "retried"),
        (2, "completed"),
    ]
    (root,) = [span for span in spans if span.name == "run wide"]
    assert root.said("status", "steps_completed", "segment") == ("completed", BRANCHES + 4, "wide")
    assert all(root.start <= span.start <= span.end <= root.end for span in spans)


def test_calls_of_steps_are_told_without_their_contents(fleet: Fleet) -> None:
    segment = with_types(
        draw("ask -> get", segment_id="calls", work="traced"),
        ask=("llm_agent", {"llm_ref": "offline", "prompt": f"Who is {CANARY}?"}),
        get=("http_action", {"method": "GET", "url": f"{fleet.service.url}/ok?q={CANARY}", "headers": {"x-k": CANARY}}),
    )
    run_id = fleet.place.start(segment, "calls", input_data={"text": CANARY})

    result = fleet.place.ended(run_id)
    spans = traced(fleet, run_id, 2)

    assert result.status.value == "completed", result.error
    check_whole(run_id, spans)
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"run calls", "step ask", "step get", "chat", "GET"}
    assert by_name["chat"].parent_id == by_name["step ask"].span_id
    assert by_name["GET"].parent_id == by_name["step get"].span_id
    assert by_name["GET"].said("http.response.status_code", "server.address") == (200, "127.0.0.1")
    assert by_name["chat"].said("gen_ai.response.model", "gen_ai.usage.output_tokens") == ("offline", 0)
    assert CANARY.encode() not in b"".join(fleet.collector.bodies)
    told = ids.origin_of(fleet.service.received[-1].headers["traceparent"])
    assert told is not None
    assert (f"{told.trace_id:032x}", f"{told.span_id:016x}") == (by_name["GET"].trace_id, by_name["GET"].span_id)


def test_an_attempt_whose_worker_was_killed_is_told_as_lost_and_the_next_stands_beside_it(fleet: Fleet) -> None:
    config = {"a": {"die": "kill", "times": 1}}
    run_id = fleet.place.start(draw("a -> b", work="traced", segment_id="killed", config=config), "killed")

    result = fleet.place.ended(run_id)
    spans = traced(fleet, run_id, started(result))

    check_whole(run_id, spans)
    lost, again = [span for span in spans if span.name == "step a"]
    assert started(result) == 3
    assert (lost.said("outcome", "error.type"), lost.failed) == (("lost", "lost"), True)
    assert (again.said("outcome", "losses"), again.failed) == (("completed", 1), False)
    assert lost.end <= again.start


def test_a_cancelled_run_is_told_with_what_ran_in_it(fleet: Fleet) -> None:
    config = {"a": {"gate": True}}
    run_id = fleet.place.start(draw("a -> b", work="traced", segment_id="stopped", config=config), "stopped")
    fleet.place.wait_for(run_id, "a")

    assert fleet.place.client.cancel(run_id)
    fleet.place.open(run_id)

    spans = traced(fleet, run_id, 1)
    check_whole(run_id, spans)
    assert [span.said("status", "outcome") for span in spans] == [("cancelled", None), (None, "cancelled")]


def test_a_collector_that_hangs_holds_up_neither_steps_nor_the_end_of_a_worker(fleet: Fleet) -> None:
    fleet.collector.answers.clear()
    before = len(fleet.collector.bodies)
    try:
        runs = [fleet.place.start(draw("a -> b -> c", work="traced", segment_id="on")) for _ in range(10)]
        ends = [fleet.place.ended(run_id) for run_id in runs]
        wait_until(lambda: fleet.collector.waiting >= 2, "workers that wait for the collector")

        assert {result.status.value for result in ends} == {"completed"}
        assert sum(started(result) for result in ends) == 30
        assert len(fleet.collector.bodies) == before
        assert fleet.workers[1].end(signal.SIGTERM, timeout=30) == DONE
    finally:
        fleet.collector.answers.set()
