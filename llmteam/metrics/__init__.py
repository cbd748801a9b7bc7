"""What this package counts, for Prometheus. Off, and next to free, until :func:`enable` or ``LLMTEAM_HEALTH``.

Labels are bounded and never name a tenant, a run, an address or a text.
"""

from __future__ import annotations

from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from llmteam.metrics.instruments import Counter, Histogram, Instrument, MetricsNotInstalledError, Switch, values_of
from llmteam.metrics.models import (
    BUILD_INFO,
    DELAY_SECONDS,
    GAUGES,
    LIMIT,
    MODEL,
    OTHER,
    QUEUE,
    ROUND_TRIP_SECONDS,
    STEP_TYPE,
    SWEEP,
    WORK_SECONDS,
    Label,
    Metric,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

__all__ = ["GAUGES", "METRICS", "OTHER", "MetricsNotInstalledError", "asking", "disable", "enable", "gauge", "is_on"]


def _counter(name: str, text: str, *labels: Label) -> Counter:
    return Counter(Metric(name, "counter", text, labels))


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: Label) -> Histogram:
    return Histogram(Metric(name, "histogram", text, labels, buckets))


RUNS_STARTED = _counter("llmteam_runs_started_total", "Runs that this process started or admitted.")
RUNS_ENDED = _counter(
    "llmteam_runs_ended_total",
    "Runs that this process ended.",
    Label("status", ("completed", "failed", "cancelled", "timeout")),
)
STEPS = _counter(
    "llmteam_steps_total",
    "Steps that are over. Those that end with their run, when it fails or is cancelled, are not among them.",
    STEP_TYPE,
    Label("outcome", ("completed", "failed", "skipped")),
)
STEP_ATTEMPTS = _counter("llmteam_step_attempts_total", "Claims of steps: each is one call of a handler.", STEP_TYPE)
STEP_RETRIES = _counter("llmteam_step_retries_total", "Attempts that failed and are followed by another.", STEP_TYPE)
STEPS_DELAYED = _counter(
    "llmteam_steps_delayed_total",
    "Steps that were due and had to wait for room under a limit, or for a circuit.",
    Label("reason", ("limit", "circuit")),
)
STEPS_LOST = _counter("llmteam_steps_lost_total", "Steps that were taken from a worker that had vanished.", STEP_TYPE)
STEPS_RELEASED = _counter("llmteam_steps_released_total", "Steps that a stopping worker handed back.", STEP_TYPE)
STEP_SECONDS = _histogram(
    "llmteam_step_seconds",
    "Seconds from claim to result of an attempt; where a person answers, until then.",
    WORK_SECONDS,
    STEP_TYPE,
)
CLAIM_DELAY = _histogram(
    "llmteam_claim_delay_seconds",
    "Seconds from due to claimed, of first attempts and of attempts whose moment had been set.",
    DELAY_SECONDS,
    QUEUE,
)
CLAIMS_REFUSED = _counter("llmteam_claims_refused_total", "Claims of steps that another worker had taken first.")
RESULTS_REFUSED = _counter(
    "llmteam_results_refused_total", "Results that came too late: the claim they were for held the step no more."
)
SWEEPS = _counter("llmteam_sweeps_total", "Sweeps that ended.", SWEEP)
SWEEP_FOUND = _counter("llmteam_sweep_found_total", "What sweeps found to move.", SWEEP)
MODEL_CALLS = _counter(
    "llmteam_model_calls_total", "Questions to language models.", MODEL, Label("outcome", ("answered", "failed"))
)
MODEL_SECONDS = _histogram("llmteam_model_call_seconds", "Seconds of a question to a model.", WORK_SECONDS, MODEL)
MODEL_TOKENS = _counter(
    "llmteam_model_tokens_total",
    "Tokens, as models reported them.",
    MODEL,
    Label("direction", ("input", "output")),
)
HTTP_REQUESTS = _counter(
    "llmteam_http_requests_total",
    "Outbound HTTP requests, redirects not counted; refused: by our own rules, error: no answer.",
    Label("status_class", ("2xx", "3xx", "4xx", "5xx", "refused", "error")),
)
NOTIFICATIONS = _counter(
    "llmteam_notifications_total",
    "Attempts to tell people something.",
    Label("channel"),
    Label("outcome", ("delivered", "failed", "dead", "postponed")),
)
CIRCUIT_CHANGES = _counter(
    "llmteam_circuit_changes_total",
    "Changes of circuits to this state that were made by calls of this process.",
    LIMIT,
    Label("state", ("closed", "open", "half_open")),
)
AUDIT_RECORDS = _counter("llmteam_audit_records_total", "Records that this process appended to audit trails.")
ROUND_TRIPS = _histogram(
    "llmteam_database_round_trip_seconds", "Seconds of one script of the engine in Postgres.", ROUND_TRIP_SECONDS
)

_INSTRUMENTS = [value for value in list(globals().values()) if isinstance(value, Instrument)]
_switch = Switch(_INSTRUMENTS)

#: Where nobody names a model.
DEFAULT_MODEL = "default"

#: All that is told anywhere: by processes that count, and by beat of the whole installation.
METRICS = (
    *(instrument.metric for instrument in _INSTRUMENTS),
    *GAUGES,
    BUILD_INFO,
)


def enable(registry: CollectorRegistry | None = None) -> None:
    """Count what this process does, in ``registry`` or prometheus_client's default one; a second call does nothing.

    For programs that run or start segments themselves and have an exposition of their own. Workers of
    ``llmteam worker`` do it when there is an address for it. Raises :class:`MetricsNotInstalledError`.
    """
    _switch.turn_on(registry)


def disable() -> None:
    """Stop counting and leave the registry."""
    _switch.turn_off()


def is_on() -> bool:
    """Whether anything is counted; what only serves counting can be left out otherwise."""
    return _switch.is_on


def gauge(name: str) -> Metric:
    """The gauge of this name."""
    return next(metric for metric in GAUGES if metric.name == name)


class Tokens(Protocol):
    """What a model read and wrote."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...


class ModelCall:
    """One question to a model, under the name by which it was asked for."""

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._began = perf_counter()

    def answered(self, model: str | None, usage: Tokens | None) -> None:
        """It answered, as ``model``. Only names that ever did are told: any other text may stand in a segment."""
        name = self._model or model or DEFAULT_MODEL
        MODEL_CALLS.add(name, "answered")
        MODEL_SECONDS.observe(perf_counter() - self._began, name)
        if usage is not None:
            MODEL_TOKENS.add(name, "input", value=usage.input_tokens)
            MODEL_TOKENS.add(name, "output", value=usage.output_tokens)

    def failed(self) -> None:
        """It did not."""
        name = values_of(MODEL).known(self._model or DEFAULT_MODEL)
        MODEL_CALLS.add(name, "failed")
        MODEL_SECONDS.observe(perf_counter() - self._began, name)


@contextmanager
def asking(model: str | None) -> Iterator[ModelCall]:
    """A question to ``model`` for the block, which says when it was answered; an error counts as none."""
    call = ModelCall(model)
    try:
        yield call
    except BaseException:
        call.failed()
        raise
