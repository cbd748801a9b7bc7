"""Pure: ids of traces and spans that every process derives alike, and the header that carries them.

The trace of a run is named by a hash of its tenant and id, a span in it by a hash of what it stands for. A worker thus
knows the parent of what it does without being told, and whatever is told twice has the same id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmteam import codec

#: Part of every hash; another one would give all runs other traces.
_NAMESPACE = "llmteam.trace.1"
#: Version 00 of the W3C's Trace Context, section 3.2.
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Origin:
    """A span of somebody else."""

    trace_id: int
    span_id: int
    sampled: bool

    @property
    def traceparent(self) -> str:
        """What :func:`origin_of` reads."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def trace_id(tenant_id: str, run_id: str) -> int:
    """The trace of a run: 16 bytes, never zero."""
    return _hashed("run", tenant_id, run_id) >> 128 or 1


def run_span_id(tenant_id: str, run_id: str) -> int:
    """The span of the run itself, under which all others stand: 8 bytes, never zero."""
    return span_id(tenant_id, run_id, "run")


def start_span_id(tenant_id: str, run_id: str) -> int:
    """The span of its start, which stands in the trace of whoever started it."""
    return span_id(tenant_id, run_id, "start")


def span_id(tenant_id: str, run_id: str, kind: str, *parts: str | int) -> int:
    """The span for something of a run that ``kind`` and ``parts`` name: 8 bytes, never zero."""
    return _hashed("span", tenant_id, run_id, kind, *parts) >> 192 or 1


def _hashed(*parts: str | int) -> int:
    return int(codec.digest(codec.canonical([_NAMESPACE, *parts])), 16)


def origin_of(traceparent: object) -> Origin | None:
    """The span that a ``traceparent`` names; None for whatever is none."""
    match = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    if match is None:
        return None
    trace, span, flags = (int(part, 16) for part in match.groups())
    return Origin(trace, span, bool(flags & 1)) if trace and span else None
