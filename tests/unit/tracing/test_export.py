"""The way to a collector: what is said of one that is away, and that nobody waits for one that hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from llmteam import tracing
from llmteam.settings import Settings
from llmteam.tracing import Claim, process
from llmteam.tracing.export import ToCollector, provider_of
from tests.collector import collecting

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CLAIM = Claim("acme", "run-1", "shop", "a", "work", 1, 1, 1, NOW)


class Moody(SpanExporter):
    """Succeeds and fails as told."""

    def __init__(self, *results: bool) -> None:
        self.results = list(results)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS if self.results.pop(0) else SpanExportResult.FAILURE


def test_a_collector_that_is_away_is_told_of_once_and_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    exporter = ToCollector(Moody(True, False, False, True, True), "http://collector:4318/***")
    caplog.set_level(logging.INFO, "llmteam.tracing")

    for _ in range(5):
        exporter.export([ReadableSpan("one"), ReadableSpan("two")])

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "http://collector:4318/*** takes spans again; 4 were lost" in caplog.text


def test_spans_that_were_not_sent_yet_are_sent_at_the_end_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    with collecting() as collector:
        tracing.set_up(Settings.load({"LLMTEAM_TRACES": collector.url}))
        tracer = tracing.tracer()
        assert tracer is not None
        tracer.begin(CLAIM, {})
        tracer.end(CLAIM, "completed", NOW)
        assert collector.bodies == []

        tracing.flush(20)

        assert collector.names_of("run-1") == {"step a": 1}
    tracing.set_up()


def test_the_end_of_a_process_does_not_wait_for_a_collector_that_hangs() -> None:
    released, asked = threading.Event(), threading.Event()

    class Hanging(TracerProvider):
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            asked.set()
            return released.wait()

    tracing.set_up(provider=Hanging(shutdown_on_exit=False))
    assert tracing.tracer() is not None

    tracing.flush(0.05)

    assert asked.is_set()
    assert not released.is_set()
    released.set()
    tracing.set_up()


def test_a_process_names_itself_and_its_version_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load({"LLMTEAM_TRACES": "http://127.0.0.1:9"})
    default = provider_of(settings)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-workers")
    named = provider_of(settings)

    assert default is not None
    assert named is not None
    assert default.resource.attributes["service.name"] == "llmteam"
    assert named.resource.attributes["service.name"] == "shop-workers"
    default.shutdown()
    named.shutdown()


def test_a_forked_child_makes_a_tracer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Moody()))
    tracing.set_up(provider=provider)
    ours = tracing.tracer()
    real = process.os.getpid()

    monkeypatch.setattr(process.os, "getpid", lambda: real + 1)
    theirs = tracing.tracer()

    assert ours is not None
    assert theirs is not None
    assert theirs is not ours
    assert tracing.tracer() is theirs
    tracing.set_up()
