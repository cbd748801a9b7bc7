"""Requests of a step: whom they tell of the trace, and that model SDKs tell nobody by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider

from llmteam.net import ConnectError, HttpClient, OutboundGuard, async_sdk_http_client
from llmteam.tracing import Claim, ids
from llmteam.tracing.otel import OpenTelemetryTracer
from tests.spans import Spans, said
from tests.unit.net.loopback import Loopback, serving

CLAIM = Claim("acme", "run-1", "shop", "a", "work", 1, 1, 1, datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        running.routes["/"] = lambda h: h.answer(body=b"here")
        running.routes["/busy"] = lambda h: h.answer(503)
        yield running


def tracer_on(provider: TracerProvider, *hosts: str) -> OpenTelemetryTracer:
    made = OpenTelemetryTracer(provider, provider.get_tracer("llmteam"), hosts)  # type: ignore[arg-type]
    made.begin(CLAIM, {})
    return made


def ask(server: Loopback, path: str, **headers: str) -> httpx2.Response:
    async def once() -> httpx2.Response:
        async with async_sdk_http_client(server.url, 5, guard=OutboundGuard()) as client:
            return await client.get(f"{server.url}{path}?key=canary", headers=headers)

    return asyncio.run(once())


def test_what_a_models_sdk_would_send_of_a_trace_stays_here(
    server: Loopback, provider: TracerProvider, spans: Spans
) -> None:
    with tracer_on(provider).working(CLAIM.ident):
        ask(server, "/", traceparent=f"00-{1:032x}-{2:016x}-01", baggage="tenant=acme")

    assert not {"traceparent", "tracestate", "baggage"} & set(server.received[0].headers)
    assert said(spans.one("GET"), "http.response.status_code", "server.address") == (200, "127.0.0.1")
    assert "canary" not in spans.text


def test_a_models_host_that_the_settings_name_is_told_of_the_trace(
    server: Loopback, provider: TracerProvider, spans: Spans
) -> None:
    with tracer_on(provider, "127.0.0.1").working(CLAIM.ident):
        ask(server, "/busy")

    told = ids.origin_of(server.received[0].headers["traceparent"])
    span = spans.one("GET")
    assert told is not None
    assert span.context is not None
    assert (told.trace_id, told.span_id) == (span.context.trace_id, span.context.span_id)
    assert said(span, "http.response.status_code", "error.type") == (503, "503")


def test_a_request_that_is_not_answered_says_what_kind_of_error(provider: TracerProvider, spans: Spans) -> None:
    client = HttpClient(OutboundGuard(allow_private=["127.0.0.1:1"]))

    with tracer_on(provider).working(CLAIM.ident), pytest.raises(ConnectError):
        client.request("POST", "http://127.0.0.1:1/hook/secret-token")

    assert said(spans.one("POST"), "error.type", "server.port") == ("ConnectError", 1)
    assert "secret-token" not in spans.text


def test_a_request_outside_of_steps_is_no_span(server: Loopback, spans: Spans) -> None:
    HttpClient(OutboundGuard(allow_private=[server.endpoint])).request("GET", server.url)

    assert spans.names == []
