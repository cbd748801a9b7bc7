"""Finished spans as a test looks at them: by name, and who stands under whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@dataclass(frozen=True)
class Spans:
    """Those that an exporter has taken."""

    exporter: InMemorySpanExporter

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self.exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self)

    def named(self, name: str) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted((span for span in self if span.name == name), key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def under(self, parent: ReadableSpan) -> list[str]:
        """Names of what stands directly under a span."""
        return sorted(span.name for span in self if span.parent is not None and number(span)[1:] == number(parent)[:1])

    @property
    def text(self) -> str:
        """All that they say."""
        return "\n".join(span.to_json() for span in self)


def number(span: ReadableSpan) -> tuple[int, int]:
    """The span's own id and that of its parent, 0 for none."""
    assert span.context is not None
    return span.context.span_id, span.parent.span_id if span.parent is not None else 0


def said(span: ReadableSpan, *names: str) -> tuple[object, ...]:
    """The values of these attributes; ``llmteam.`` may be left out."""
    attributes = span.attributes or {}
    return tuple(attributes.get(name, attributes.get(f"llmteam.{name}")) for name in names)
