"""Traces of runs for OpenTelemetry: one trace per run, whichever processes work on it. Off unless it is set up.

Ids are derived from what a run's rows say (:mod:`llmteam.tracing.ids`), so that workers agree on them and nothing of it
travels in messages. Only :mod:`llmteam.tracing.otel` imports OpenTelemetry, and only where traces are wanted.
"""

from llmteam.tracing.calls import Call, call, careful, sendable
from llmteam.tracing.models import Claim, Ident, Run, Tracer
from llmteam.tracing.process import FLUSH_SECONDS, check, flush, set_up, tracer

__all__ = [
    "FLUSH_SECONDS",
    "Call",
    "Claim",
    "Ident",
    "Run",
    "Tracer",
    "call",
    "careful",
    "check",
    "flush",
    "sendable",
    "set_up",
    "tracer",
]
