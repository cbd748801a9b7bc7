"""Whether a process traces: off costs nothing, on is one setting, a provider of one's own comes first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

from llmteam import tracing
from llmteam.errors import ConfigurationError
from llmteam.settings import Settings
from llmteam.tracing import calls, ids, process
from llmteam.tracing.otel import OpenTelemetryTracer
from tests.spans import Spans

ROOT = Path(__file__).parents[3]

#: A run in this process, and what was loaded for it.
RUN = """
import asyncio, json, os, sys, threading
import llmteam.tasks.startup, llmteam.canvas.fleet
from llmteam.canvas import SegmentRunner
from tests.drawing import draw

async def main():
    runner = SegmentRunner()
    runner.register_handler("work", lambda ctx, config, data: 1)
    return await runner.run(draw("a -> b"), input_data=1)

PREPARE
result = asyncio.run(main())
print(json.dumps({
    "outputs": result.outputs,
    "loaded": sorted(name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "google")),
    "threads": [thread.name for thread in threading.enumerate()],
}))
"""


def ran(prepare: str = "", **env: str) -> dict[str, object]:
    code = RUN.replace("PREPARE", prepare)
    clean = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_without_a_collector_nothing_of_opentelemetry_is_loaded_for_a_run() -> None:
    found = ran()

    assert found["outputs"] == {"output": 1}
    assert found["loaded"] == []


def test_a_global_provider_of_the_process_takes_the_spans_without_being_told() -> None:
    prepare = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
exporter = ConsoleSpanExporter(formatter=lambda span: f"span {span.name}\\n", out=sys.stderr)
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""
    code = RUN.replace("PREPARE", prepare)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stderr.split("\n")[:3] == ["span step a", "span step b", "span run drawn"]


def test_what_is_not_installed_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match=r"LLMTEAM_TRACES is set.*pip install 'llmteam\[otel\]'"):
        tracing.check(Settings.load({"LLMTEAM_TRACES": "http://collector:4318"}))

    tracing.check(Settings.load({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}))


def test_a_call_outside_of_a_traced_step_is_no_span_and_carries_nothing() -> None:
    with tracing.call("GET", {}) as call:
        call.set("server.address", "a")
        call.failed("Error")
        headers = call.headers("example.com")

    assert headers == {}


@pytest.mark.parametrize(
    ("hosts", "authority", "told"),
    [
        ((), "api.example.com", False),
        (("api.example.com",), "api.example.com", True),
        (("API.example.com",), "api.example.com:8443", True),
        (("api.example.com:8443",), "api.example.com:8443", True),
        (("api.example.com:8443",), "api.example.com", False),
        (("example.com",), "api.example.com", False),
        (("[::1]",), "[::1]:8080", True),
        (("*",), "api.example.com", True),
    ],
)
def test_only_hosts_that_the_settings_name_are_told_of_the_trace(
    hosts: tuple[str, ...], authority: str, told: bool, provider: TracerProvider, spans: Spans
) -> None:
    tracer = OpenTelemetryTracer(provider, provider.get_tracer("llmteam"), hosts)  # type: ignore[arg-type]

    with tracer._call("GET", {}) as call:
        headers = call.headers(authority)

    origin = ids.origin_of(headers.get("traceparent"))
    assert (origin is not None) == told
    if origin is not None:
        assert origin.span_id == spans.one("GET").context.span_id  # type: ignore[union-attr]


def test_headers_by_which_a_library_tells_of_a_trace_are_taken_out() -> None:
    given = [(b"Traceparent", b"00-1"), (b"tracestate", b"a=1"), (b"baggage", b"tenant=acme"), (b"x-key", b"1")]

    assert calls.sendable(given) == [(b"x-key", b"1")]


def test_ids_of_others_spans_stay_random(provider: TracerProvider, spans: Spans) -> None:
    tracer = provider.get_tracer("shop")

    made = {tracer.start_span("one").get_span_context().span_id for _ in range(50)}

    assert len(made) == 50
