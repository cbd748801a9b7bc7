"""The way of spans to a collector: OTLP over HTTP, in batches, in a thread; steps never wait for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

import llmteam
from llmteam.variables import mask_path

if TYPE_CHECKING:
    from llmteam.settings import Settings

logger = logging.getLogger(__name__)

#: Milliseconds that a span waits for others at most, unless the SDK's own variable says otherwise.
_DELAY_MS = 1000.0
_DELAY_VARIABLE = "OTEL_BSP_SCHEDULE_DELAY"


def provider_of(settings: Settings) -> TracerProvider | None:
    """A provider that sends to the collector of ``settings``; None when they name none."""
    if settings.traces is None:
        return None
    sampler = None if settings.traces_ratio is None else TraceIdRatioBased(settings.traces_ratio)
    # Its end is ours: the SDK's own would hold up the process for as long as a collector hangs.
    provider = TracerProvider(sampler, _resource(), shutdown_on_exit=False)
    delay = None if os.environ.get(_DELAY_VARIABLE) else _DELAY_MS
    exporter = ToCollector(OTLPSpanExporter(settings.traces), mask_path(settings.traces))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay))
    return provider


def _resource() -> Resource:
    """Who makes the spans; the variables of OpenTelemetry (``OTEL_SERVICE_NAME``, …) count more."""
    told = dict(Resource.create({}).attributes)
    if str(told.get("service.name", "")).startswith("unknown_service"):
        del told["service.name"]
    return Resource({"service.name": "llmteam", "service.version": llmteam.__version__, **told})


class ToCollector(SpanExporter):
    """Hands on to ``exporter``; of a collector that is away it tells once, not at every batch."""

    def __init__(self, exporter: SpanExporter, where: str) -> None:
        self._exporter = exporter
        self._where = where
        self._lost = 0
        # Each try at each batch would be a line.
        noisy = logging.getLogger("opentelemetry.exporter.otlp.proto.http")
        if noisy.level == logging.NOTSET and not logging.getLogger().isEnabledFor(logging.DEBUG):
            noisy.setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                logger.info("%s takes spans again; %d were lost", self._where, self._lost)
            self._lost = 0
        else:
            if not self._lost:
                logger.warning("%s takes no spans, and they are lost; LLMTEAM_LOG_LEVEL=DEBUG says why", self._where)
            self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)
