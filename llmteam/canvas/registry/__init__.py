"""Published segments: per tenant, immutable by content hash, started by ``id`` or ``id@version``."""

from __future__ import annotations

from llmteam.canvas.registry.stores import (
    DEFAULT_TENANT,
    MemorySegmentRegistry,
    PublishedSegment,
    SegmentRegistry,
    SegmentVersion,
    parse_reference,
)

__all__ = [
    "DEFAULT_TENANT",
    "MemorySegmentRegistry",
    "PublishedSegment",
    "SegmentRegistry",
    "SegmentVersion",
    "parse_reference",
]
