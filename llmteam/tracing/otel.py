"""Spans made with OpenTelemetry's SDK. The only module that imports it; loaded only where traces are wanted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer as SDKTracer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags

import llmteam
from llmteam.tracing import ids
from llmteam.tracing.attributes import cleaned, error_name, of_claim, of_run, shown
from llmteam.tracing.calls import careful, making_calls
from llmteam.tracing.export import provider_of

if TYPE_CHECKING:
    from llmteam.settings import Settings
    from llmteam.tracing.models import Attributes, Claim, Ident, Run, Value

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Outcomes of attempts that did what they were to do, or will be told of by another span.
_WELL = frozenset({"completed", "asked", "cancelled", "released"})

#: Ids of the span that is made next: its trace's, if it begins one, and its own.
_next_ids: ContextVar[tuple[int, int] | None] = ContextVar("llmteam_tracing_ids", default=None)


def tracer_of(settings: Settings | None, provider: TracerProvider | None) -> OpenTelemetryTracer | None:
    """A tracer on ``provider``, else on the global one, else on one of our own if ``settings`` want that."""
    found: object = provider or trace.get_tracer_provider()
    hosts: tuple[str, ...] = () if settings is None else settings.traces_hosts
    if not isinstance(found, TracerProvider):
        found = None if settings is None else provider_of(settings)
    if not isinstance(found, TracerProvider):
        return None
    made = found.get_tracer("llmteam", llmteam.__version__)
    return OpenTelemetryTracer(found, made, hosts) if isinstance(made, SDKTracer) else None


class _Ids(IdGenerator):
    """Gives the ids that are asked for, else those of ``others``."""

    def __init__(self, others: IdGenerator) -> None:
        self._others = others

    def generate_trace_id(self) -> int:
        wanted = _next_ids.get()
        return self._others.generate_trace_id() if wanted is None else wanted[0]

    def generate_span_id(self) -> int:
        wanted = _next_ids.get()
        return self._others.generate_span_id() if wanted is None else wanted[1]


class OpenTelemetryTracer:
    """A :class:`llmteam.tracing.models.Tracer`. ``hosts`` are those whom requests may tell of their trace."""

    def __init__(self, provider: TracerProvider, tracer: SDKTracer, hosts: tuple[str, ...] = ()) -> None:
        self._provider = provider
        self._tracer = tracer
        self._hosts = frozenset(host.lower() for host in hosts)
        if not isinstance(tracer.id_generator, _Ids):
            tracer.id_generator = _Ids(tracer.id_generator)
        self._lock = threading.Lock()
        self._open: dict[Ident, Span] = {}

    # -- attempts

    def begin(self, claim: Claim, attributes: Attributes) -> None:
        span = self._attempt(claim, attributes)
        with self._lock:
            self._open[claim.ident] = span

    @contextmanager
    def working(self, ident: Ident) -> Iterator[None]:
        with self._lock:
            span = self._open.get(ident)
        if span is None:
            yield
            return
        token, making = contexts.attach(trace.set_span_in_context(span)), making_calls.set(self._call)
        try:
            yield
        finally:
            making_calls.reset(making)
            contexts.detach(token)

    def is_open(self, ident: Ident) -> bool:
        with self._lock:
            return ident in self._open

    def end(self, claim: Claim, outcome: str, at: datetime, *, error_type: str | None = None) -> None:
        span = self._taken(claim.ident) or self._attempt(claim, {})
        self._close(span, outcome, at, error_type)

    def waited(self, claim: Claim, outcome: str, at: datetime, *, error_type: str | None = None) -> None:
        span = self._child(claim, f"wait {claim.step_id}", "wait", {"llmteam.waited_for": "person"})
        self._close(span, outcome, at, error_type)

    def drop(self, ident: Ident) -> None:
        self._taken(ident)

    def _taken(self, ident: Ident) -> Span | None:
        with self._lock:
            return self._open.pop(ident, None)

    def _attempt(self, claim: Claim, attributes: Attributes) -> Span:
        return self._child(claim, f"step {claim.step_id}", "step", attributes)

    def _child(self, claim: Claim, name: str, kind: str, attributes: Attributes) -> Span:
        """A span under that of the run, which may be made by another process, later."""
        root = self._place(claim.tenant_id, claim.run_id)
        own = ids.span_id(claim.tenant_id, claim.run_id, kind, claim.step_id, claim.visit, claim.fence)
        return self._made(
            name,
            (root.trace_id, own),
            under=root,
            attributes={**of_claim(claim), **attributes},
            start=claim.started_at,
        )

    @staticmethod
    def _close(span: Span, outcome: str, at: datetime, error_type: str | None) -> None:
        span.set_attribute("llmteam.outcome", outcome)
        if outcome not in _WELL:
            span.set_attribute("error.type", error_name(error_type or outcome))
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(at))

    # -- runs

    def ended(self, run: Run) -> None:
        root = self._place(run.tenant_id, run.run_id)
        links = [_context(origin.trace_id, origin.span_id, origin.sampled) for origin in self._origins(run)]
        attributes = of_run(run)
        if run.error_type is not None:
            attributes["error.type"] = error_name(run.error_type)
        span = self._made(
            f"run {run.segment_id}",
            (root.trace_id, root.span_id),
            attributes=attributes,
            start=run.started_at,
            links=links,
        )
        if run.status in ("failed", "timeout"):
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(run.finished_at))

    def _origins(self, run: Run) -> Iterator[ids.Origin]:
        """Where the run was started from, and the run that it repeats."""
        started_from = ids.origin_of(run.traceparent)
        if started_from is not None:
            yield started_from
        if run.root_run_id not in ("", run.run_id):
            root = self._place(run.tenant_id, run.root_run_id)
            yield ids.Origin(root.trace_id, root.span_id, root.trace_flags.sampled)

    def origin(self, tenant_id: str, run_id: str) -> str | None:
        current = trace.get_current_span().get_span_context()
        if not current.is_valid:
            return None
        own = ids.start_span_id(tenant_id, run_id)
        return ids.Origin(current.trace_id, own, current.trace_flags.sampled).traceparent

    def started(self, run: Run, traceparent: str) -> None:
        root, origin = self._place(run.tenant_id, run.run_id), ids.origin_of(traceparent)
        current = trace.get_current_span().get_span_context()
        if origin is None or not current.is_valid:
            return
        span = self._made(
            f"start {run.segment_id}",
            (origin.trace_id, origin.span_id),
            under=current,
            kind=SpanKind.PRODUCER,
            attributes=of_run(run),
            start=run.started_at,
            links=[root],
        )
        span.end(_nanoseconds(run.finished_at))

    def _place(self, tenant_id: str, run_id: str) -> SpanContext:
        """The run's own span as every process sees it: sampled or not, as its trace's id says."""
        trace_id = ids.trace_id(tenant_id, run_id)
        decision = self._tracer.sampler.should_sample(Context(), trace_id, "run").decision
        return _context(trace_id, ids.run_span_id(tenant_id, run_id), decision is Decision.RECORD_AND_SAMPLE)

    def _made(
        self,
        name: str,
        own: tuple[int, int],
        *,
        under: SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes,
        start: datetime,
        links: list[SpanContext] | None = None,
    ) -> Span:
        context = Context() if under is None else trace.set_span_in_context(NonRecordingSpan(under), Context())
        token = _next_ids.set(own)
        try:
            return self._tracer.start_span(
                shown(name),
                context,
                kind,
                cleaned(attributes),
                [Link(one) for one in links or ()],
                _nanoseconds(start),
            )
        finally:
            _next_ids.reset(token)

    # -- calls

    @contextmanager
    def _call(self, name: str, attributes: Attributes) -> Iterator[_SpanCall]:
        span: Span = trace.INVALID_SPAN
        with careful():
            span = self._tracer.start_span(shown(name), kind=SpanKind.CLIENT, attributes=cleaned(attributes))
        token = contexts.attach(trace.set_span_in_context(span))
        made = _SpanCall(span, self._hosts)
        try:
            yield made
        except BaseException as exc:
            made.failed(type(exc).__name__)
            raise
        finally:
            contexts.detach(token)
            with careful():
                span.end()

    # -- the end

    def flush(self, seconds: float) -> None:
        # The SDK does not keep to the time that it is given.
        flushing = threading.Thread(target=self._flush, args=(seconds,), name="llmteam-traces", daemon=True)
        try:
            flushing.start()
        except RuntimeError:
            return  # the interpreter is too far gone for threads
        flushing.join(seconds)

    def _flush(self, seconds: float) -> None:
        try:
            self._provider.force_flush(round(seconds * 1000))
        except Exception as exc:  # noqa: BLE001  # whatever an exporter raises, the process ends
            logger.debug("the last spans were not handed on: %s", type(exc).__name__)


class _SpanCall:
    """A :class:`llmteam.tracing.models.Call`."""

    def __init__(self, span: Span, hosts: frozenset[str]) -> None:
        self._span = span
        self._hosts = hosts

    def set(self, name: str, value: Value | None) -> None:
        self._span.set_attributes(cleaned({name: value}))

    def failed(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_name(error_type))
        self._span.set_status(StatusCode.ERROR)

    def headers(self, authority: str) -> dict[str, str]:
        host = authority.rpartition(":")[0] if authority[-1:].isdigit() and ":" in authority else authority
        if not self._hosts & {"*", authority.lower(), host.lower()}:
            return {}
        own = self._span.get_span_context()
        if not own.is_valid:
            return {}
        return {"traceparent": ids.Origin(own.trace_id, own.span_id, own.trace_flags.sampled).traceparent}


def _context(trace_id: int, span_id: int, sampled: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
