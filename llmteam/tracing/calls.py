"""Spans of calls to others, for code that knows nothing of traces: nothing happens outside of a traced step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from llmteam.tracing.models import Attributes, Call

logger = logging.getLogger(__name__)

__all__ = ["Call", "call", "careful", "making_calls", "sendable"]

#: Makes the span of a call; None where no traced step is worked on.
making_calls: ContextVar[Callable[[str, Attributes], AbstractContextManager[Call]] | None] = ContextVar(
    "llmteam_tracing_calls", default=None
)

#: Headers that tell others of a trace (W3C Trace Context, W3C Baggage).
_CARRIERS = frozenset({"traceparent", "tracestate", "baggage"})


class _Untraced:
    """A call of which nobody is told."""

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def set(self, name: str, value: object) -> None:
        return None

    def failed(self, error_type: str) -> None:
        return None

    def headers(self, authority: str) -> dict[str, str]:
        return {}


_UNTRACED = _Untraced()


def call(name: str, attributes: Attributes) -> AbstractContextManager[Call]:
    """A span for the block, under that of the step; nothing outside of traced steps."""
    make = making_calls.get()
    return _UNTRACED if make is None else make(name, attributes)


@contextmanager
def careful() -> Iterator[None]:
    """What goes wrong with telling of something changes nothing about it."""
    try:
        yield
    except Exception as exc:  # processors, samplers and exporters may be anybody's
        logger.warning("a span was not made: %s", type(exc).__name__, exc_info=exc)


def sendable(headers: Iterable[tuple[bytes, Any]]) -> list[tuple[bytes, Any]]:
    """``headers`` of a library that would tell its server of a trace by itself, without those."""
    return [(name, value) for name, value in headers if name.decode("latin-1").lower() not in _CARRIERS]
