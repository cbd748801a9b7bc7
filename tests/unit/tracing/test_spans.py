"""The trace of a run in one process: what stands under what, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from llmteam import tracing
from llmteam.canvas import RunConfig, SegmentResult, SegmentRunner, SegmentStatus
from llmteam.canvas.handlers.http import HttpActionHandler
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.ports import Ports
from llmteam.events.models import EventType
from llmteam.net import HttpClient, OutboundGuard
from llmteam.runtime import Completion, CompletionRequest, Usage
from llmteam.runtime.context import RuntimeContext, StepContext
from llmteam.runtime.manager import RuntimeContextManager
from llmteam.tracing import ids
from tests.drawing import draw
from tests.looping import in_a_loop
from tests.spans import Spans, number, said
from tests.unit.net.loopback import Loopback, serving
from tests.waiting import wait_until_async

#: Stands in inputs, prompts, answers, queries, headers and error texts.
CANARY = "canary-5ba1"


class Model:
    """Answers with what it was asked."""

    name = "openai"
    model = "gpt-test"

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        raise AssertionError("chat is preferred")

    async def chat(self, request: CompletionRequest) -> Completion:
        return Completion(f"{CANARY} {request.messages[0].content}", Usage(11, 7), "gpt-test-2", "stop")


def plain(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Fails as often as its configuration says, with the canary in the error's text."""
    if ctx.attempt <= config.get("fails", 0):
        raise ValueError(f"{CANARY} is not good")
    return input_data


def counting(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Goes back to the loop's entry twice."""
    return Ports({"output": {"again": ctx.visit < 3}})


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        running.routes["/ok"] = lambda h: h.answer(200, CANARY.encode())
        running.routes["/bad"] = lambda h: h.answer(404, CANARY.encode())
        running.routes["/moved"] = lambda h: h.answer(302, location="/ok")
        yield running


@pytest.fixture
def runner(server: Loopback) -> SegmentRunner:
    made = SegmentRunner()
    made.register_handler("work", plain)
    made.register_handler("count", counting)
    client = HttpClient(OutboundGuard(allow_private=[server.endpoint]))
    made.register_handler("http_action", HttpActionHandler(client))
    return made


def runtime(run_id: str = "run-1", tenant_id: str = "acme") -> RuntimeContext:
    manager = RuntimeContextManager()
    manager.register_llm("gpt", Model())
    return manager.create_runtime(tenant_id, "", run_id=run_id)


async def ran(runner: SegmentRunner, segment: SegmentDefinition, run_id: str = "run-1", **config: Any) -> SegmentResult:
    config = {"retry_delay": 0.001, **config}
    return await runner.run(segment, runtime(run_id), {"secret": CANARY}, config=RunConfig(**config))


def with_types(segment: SegmentDefinition, **types: tuple[str, dict[str, Any]]) -> SegmentDefinition:
    """``segment`` with other types and configurations of some steps."""
    for step in segment.steps:
        if step.step_id in types:
            step.step_type, step.config = types[step.step_id]
    return segment


@in_a_loop
async def test_all_attempts_of_a_run_stand_under_it_in_one_trace(runner: SegmentRunner, spans: Spans) -> None:
    segment = draw(
        "a -> split",
        "split -> b -> all",
        "split -> c -> all",
        "all -> d",
        config={"b": {"fails": 2}},
        segment_id="shop",
    )

    result = await ran(runner, segment)

    root = spans.one("run shop")
    assert result.status is SegmentStatus.COMPLETED
    assert {span.context.trace_id for span in spans if span.context} == {ids.trace_id("acme", "run-1")}
    assert number(root) == (ids.run_span_id("acme", "run-1"), 0)
    assert said(root, "tenant_id", "run_id", "segment", "status", "steps_completed") == (
        ("acme", "run-1", "shop", "completed", 6)
    )
    assert spans.under(root) == sorted(f"step {name}" for name in ("a", "split", "b", "b", "b", "c", "all", "d"))
    assert [said(span, "attempt", "outcome", "error.type") for span in spans.named("step b")] == [
        (1, "retried", "ValueError"),
        (2, "retried", "ValueError"),
        (3, "completed", None),
    ]
    started = [event for event in result.events if event.event_type is EventType.STEP_STARTED]
    assert len(started) == len([name for name in spans.names if name.startswith("step ")])


@in_a_loop
async def test_spans_lie_within_that_of_the_run(runner: SegmentRunner, spans: Spans) -> None:
    await ran(runner, draw("a -> b -> c", segment_id="shop", config={"b": {"fails": 1}}))

    root = spans.one("run shop")
    assert all(
        (root.start_time or 0) <= (span.start_time or 0) <= (span.end_time or 0) <= (root.end_time or 0)
        for span in spans
    )


@in_a_loop
async def test_each_round_of_a_loop_has_its_span(runner: SegmentRunner, spans: Spans) -> None:
    segment = draw("a -> count", "count -[output.again]-> a", "count -[not output.again]-> b", segment_id="loop")

    result = await ran(runner, segment)

    assert result.status is SegmentStatus.COMPLETED
    assert [said(span, "visit")[0] for span in spans.named("step count")] == [1, 2, 3]
    assert len(spans.named("step b")) == 1


@in_a_loop
async def test_models_and_requests_stand_under_their_step_and_tell_no_contents(
    runner: SegmentRunner, spans: Spans, server: Loopback
) -> None:
    segment = with_types(
        draw("a -> b -> c", segment_id="calls"),
        a=("http_action", {"method": "GET", "url": f"{server.url}/moved?key={CANARY}", "headers": {"X-Key": CANARY}}),
        b=("llm_agent", {"llm_ref": "gpt", "prompt": f"What is {CANARY}?", "max_tokens": 50}),
    )

    result = await ran(runner, segment)

    assert result.status is SegmentStatus.COMPLETED, result.error
    request, chat = spans.one("GET"), spans.one("chat gpt-test")
    assert spans.under(spans.one("step a")) == ["GET"]
    assert spans.under(spans.one("step b")) == ["chat gpt-test"]
    assert (request.kind, chat.kind) == (SpanKind.CLIENT, SpanKind.CLIENT)
    assert said(request, "http.request.method", "server.address", "http.response.status_code") == (
        ("GET", "127.0.0.1", 200)
    )
    assert said(chat, "gen_ai.request.model", "gen_ai.response.model", "gen_ai.provider.name") == (
        ("gpt-test", "gpt-test-2", "openai")
    )
    assert said(chat, "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens") == (11, 7)
    assert CANARY not in spans.text
    assert all("traceparent" not in one.headers for one in server.received)


@in_a_loop
async def test_a_failed_run_says_what_kind_of_error_and_not_its_text(
    runner: SegmentRunner, spans: Spans, server: Loopback
) -> None:
    segment = with_types(
        draw("a -> b", segment_id="shop"), b=("http_action", {"method": "GET", "url": f"{server.url}/bad"})
    )

    await ran(runner, segment, max_retries=0)

    root, step, request = spans.one("run shop"), spans.one("step b"), spans.one("GET")
    assert {one.status.status_code for one in (root, step, request)} == {StatusCode.ERROR}
    assert {one.status.description for one in (root, step, request)} == {None}
    assert said(root, "status", "error.type") == ("failed", "HTTPStatusError")
    assert said(step, "outcome", "error.type") == ("failed", "HTTPStatusError")
    assert said(request, "http.response.status_code") == (404,)
    assert CANARY not in spans.text


@in_a_loop
async def test_a_cancelled_run_leaves_no_attempt_untold(runner: SegmentRunner, spans: Spans) -> None:
    began = asyncio.Event()

    async def endless(ctx: StepContext, config: dict[str, Any], input_data: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    runner.register_handler("work", endless)
    running = asyncio.create_task(ran(runner, draw("a", segment_id="shop")))
    await began.wait()

    await runner.cancel("run-1", tenant_id="acme")
    await running

    await wait_until_async(lambda: spans.named("step a"), "the span of the step")
    assert said(spans.one("run shop"), "status") == ("cancelled",)
    assert said(spans.one("step a"), "outcome") == ("cancelled",)
    assert spans.under(spans.one("run shop")) == ["step a"]


@in_a_loop
async def test_spans_of_a_handlers_own_stand_under_its_step(
    runner: SegmentRunner, spans: Spans, provider: TracerProvider
) -> None:
    def traced(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
        with provider.get_tracer("shop").start_as_current_span("price"):
            trace.get_current_span().set_attribute("kind", "net")
        return input_data

    runner.register_handler("work", traced)

    await ran(runner, draw("a", segment_id="shop"))

    assert spans.under(spans.one("step a")) == ["price"]


@in_a_loop
async def test_a_start_stands_in_the_trace_of_whoever_starts_and_both_know_each_other(
    runner: SegmentRunner, spans: Spans, provider: TracerProvider
) -> None:
    with provider.get_tracer("shop").start_as_current_span("order"):
        await ran(runner, draw("a", segment_id="shop"))

    order, start, root = spans.one("order"), spans.one("start shop"), spans.one("run shop")
    assert spans.under(order) == ["start shop"]
    assert start.kind is SpanKind.PRODUCER
    assert [link.context.span_id for link in start.links] == [number(root)[0]]
    assert [link.context.span_id for link in root.links] == [number(start)[0]]
    assert number(root)[1] == 0


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
@in_a_loop
async def test_a_run_is_traced_wholly_or_not_at_all(ratio: float) -> None:
    made = whole = 0
    for number_of_run in range(20):
        run_id = f"run-{number_of_run}"
        provider = TracerProvider(TraceIdRatioBased(ratio), shutdown_on_exit=False)
        exporter = with_exporter(provider)
        runner = SegmentRunner()
        runner.register_handler("work", plain)
        await ran(runner, draw("a -> b", segment_id="shop"), run_id)
        made += bool(exporter.names)
        whole += exporter.names == ["run shop", "step a", "step b"]
    tracing.set_up()

    assert made == whole
    assert {0.0: made == 0, 0.5: 0 < made < 20, 1.0: made == 20}[ratio]


def with_exporter(provider: TracerProvider) -> Spans:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.set_up(provider=provider)
    return Spans(exporter)


class Broken:
    """Whatever an exporter or a sampler may do."""

    def on_start(self, span: ReadableSpan, parent_context: object = None) -> None:
        raise RuntimeError("broken")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("broken")

    def _on_ending(self, span: ReadableSpan) -> None:
        raise RuntimeError("broken")


@in_a_loop
async def test_what_goes_wrong_with_spans_changes_nothing_about_the_run(
    runner: SegmentRunner, provider: TracerProvider, spans: Spans, server: Loopback
) -> None:
    provider.add_span_processor(Broken())  # type: ignore[arg-type]
    segment = with_types(
        draw("a -> b -> c", segment_id="shop", config={"b": {"fails": 1}}),
        a=("http_action", {"method": "GET", "url": f"{server.url}/ok"}),
    )

    result = await ran(runner, segment)

    assert result.status is SegmentStatus.COMPLETED
